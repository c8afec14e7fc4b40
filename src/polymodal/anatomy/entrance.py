"""Where an image enters a plain network: found by a pass without any arithmetic, as layers may stand in any order."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from polymodal.anatomy.convolutions import Convolution, convolution_of
from polymodal.anatomy.meta import sizes_of, watched
from polymodal.errors import FusionError


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
    conv: Convolution
    channels: int
    direct: bool = True

    @property
    def axes(self) -> int:
        """How many axes an image has beside its channels: 2, 3 for volumes, 1 for signals."""
        return len(self.conv.kernel_size)

    def image(self, size: Sequence[int], channels: int | None = None, batch: int = 1) -> Tensor:
        """Images `(batch, C, *size)` without values, as the network takes them unless other channels are said."""
        return self.conv.weight.new_empty(batch, channels or self.channels, *size, device="meta")


def entrance(network: nn.Module) -> Entrance:
    """Find the way into a network, which is not changed.

    A network that does not run on tensors without values is taken to begin with the first convolution that it holds.

    Args:
        network: A plain network.

    Raises:
        FusionError: When it has no convolution.
    """
    kind = convolution_of(network)
    convolutions = {name: module for name, module in network.named_modules() if isinstance(module, kind)}
    if not convolutions:
        raise FusionError("The network has no convolution, so there is no way in for images.")
    held, conv = next(iter(convolutions.items()))
    # With most numbers of channels the first convolution is reached, which tells how many there should have been.
    guess = Entrance(held, conv, conv.in_channels)
    for count, size in product(dict.fromkeys((conv.in_channels, 3, 1)), sizes_of(network, guess.axes)):
        if (reached := _reached(network, guess.image(size, count), kind)) is not None:
            name, seen = reached
            conv = convolutions[name]
            return Entrance(name, conv, conv.in_channels * count // seen, direct=seen == count)
    return guess


class _Reached(Exception):  # noqa: N818 - no error
    """Ends a pass at the first convolution."""


def _reached(network: nn.Module, image: Tensor, kind: type[Convolution]) -> tuple[str, int] | None:
    """The first convolution that runs and the channels that it sees; None when none is reached."""
    found: list[tuple[str, int]] = []

    def note(name: str, arguments: tuple[Any, ...]) -> None:
        if isinstance(network.get_submodule(name), kind):
            found.append((name, arguments[0].shape[1]))
            raise _Reached

    with suppress(Exception), torch.no_grad():  # whatever a network does on such an image
        watched(network, image, note)
    return found[0] if found else None
