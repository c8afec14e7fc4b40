"""Where an image enters a plain network: found by a pass without any arithmetic, as layers may stand in any order."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from polymodal.errors import FusionError

SIZES = (64, 256)
"""Heights and widths to try: some networks take no image as small as the first."""


@dataclass(frozen=True)
class Entrance:
    """The way into a network.

    Attributes:
        name: The dotted name of the first convolution that runs.
        conv: That convolution.
        channels: The channels of the images that the network takes.
        direct: Whether the convolution sees these channels, not others that were made of them.
    """

    name: str
    conv: nn.Conv2d
    channels: int
    direct: bool = True


def entrance(network: nn.Module, batch: int = 1) -> Entrance:
    """Find the way into a network, which is not changed.

    A network that does not run on tensors without values is taken to begin with the first convolution that it holds.

    Args:
        network: A plain network, or one whose norms are private already.
        batch: Samples that it takes at least, the modalities M when some of its layers know of them.

    Raises:
        FusionError: When it has no convolution.
    """
    convolutions = {name: module for name, module in network.named_modules() if isinstance(module, nn.Conv2d)}
    if not convolutions:
        raise FusionError("The network has no Conv2d, so there is no way in for images.")
    held, conv = next(iter(convolutions.items()))
    # With any number of channels the first convolution is reached, which tells how many there should have been.
    given = conv.in_channels
    for size in SIZES:
        if (reached := _reached(network, conv.weight.new_empty(batch, given, size, size, device="meta"))) is not None:
            held, seen = reached
            conv = convolutions[held]
            return Entrance(held, conv, conv.in_channels * given // seen, direct=seen == given)
    return Entrance(held, conv, given)


def other_readers(network: nn.Module, way_in: Entrance) -> list[str]:
    """The layers beside the first convolution that read what it reads, by dotted name, as far as they can be seen."""
    seen: list[Tensor] = []
    readers: list[str] = []

    def note(name: str, arguments: tuple[Any, ...]) -> None:
        if name == way_in.name and not seen:
            seen.append(arguments[0])
        elif seen and any(argument is seen[0] for argument in arguments):
            readers.append(name)

    for size in SIZES:
        image = way_in.conv.weight.new_empty(1, way_in.channels, size, size, device="meta")
        if _watched(network, image, note):
            break
    return list(dict.fromkeys(readers))


def ghost(network: nn.Module) -> nn.Module:
    """A copy in eval mode on the meta device, where tensors have shapes and no values, so that it takes no memory."""
    known: dict[int, Any] = {}
    for parameter in network.parameters():
        known[id(parameter)] = nn.Parameter(torch.empty_like(parameter, device="meta"), parameter.requires_grad)
    for buffer in network.buffers():
        known[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(network, known).eval()


class _Reached(Exception):  # noqa: N818 - no error
    """Ends a pass at the first convolution."""


def _reached(network: nn.Module, image: Tensor) -> tuple[str, int] | None:
    """The first convolution that runs and the channels that it sees; None when none is reached."""
    found: list[tuple[str, int]] = []

    def note(name: str, arguments: tuple[Any, ...]) -> None:
        if isinstance(network.get_submodule(name), nn.Conv2d):
            found.append((name, arguments[0].shape[1]))
            raise _Reached

    _watched(network, image, note)
    return found[0] if found else None


def _watched(network: nn.Module, image: Tensor, note: Callable[[str, tuple[Any, ...]], None]) -> bool:
    """Report every layer before it runs in a copy of a network; whether the pass came to its end."""
    try:
        copied = ghost(network)
        for name, module in copied.named_modules():
            if isinstance(module, nn.Conv2d) or next(module.children(), None) is None:
                module.register_forward_pre_hook(lambda _, arguments, name=name: note(name, arguments))
        with torch.no_grad():
            copied(image)
    except Exception:  # whatever a network does on such an image: what it did until then was reported
        return False
    return True
