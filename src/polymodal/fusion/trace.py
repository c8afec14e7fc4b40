"""What runs when in a network, and what its encoder returns: found by one pass without any arithmetic."""

from dataclasses import dataclass, field
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from polymodal.errors import FusionError, PolymodalError
from polymodal.nn import PrivateConv2d
from polymodal.nn.ensemble import map_tensors
from polymodal.nn.entrance import SIZES, entrance, ghost


@dataclass
class Trace:
    """One forward pass of a plain network.

    Attributes:
        finished: For every module that ran, by dotted name, the moment at which it last finished.
        outputs: The tensors that a module returned, where it returned one tensor.
        encoder: The name of the encoder; empty when the network has none.
        features: The tensors that the encoder returned, in order.
        read: The indices of those that the network's output depends on.
        image: The image that the network was given; some encoders return it, too.
    """

    finished: dict[str, int] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)
    encoder: str = ""
    features: list[Tensor] = field(default_factory=list)
    read: set[int] = field(default_factory=set)
    image: Tensor = field(default_factory=lambda: torch.empty(0, device="meta"))

    def origins(self, tensor: Tensor) -> list[str]:
        """The modules that returned this very tensor, innermost first; none when it came from elsewhere."""
        return [name for name, output in self.outputs.items() if output is tensor]


def trace(network: nn.Module, modalities: int = 1) -> Trace:
    """Run a network on the meta device, where tensors have shapes and no values.

    Args:
        network: A plain network, or one whose norms are private already. It is not changed.
        modalities: M, for a folded image of one sample.

    Raises:
        FusionError: When it runs on no image that was tried.
    """
    copied = ghost(network).requires_grad_()
    channels, dtype = (
        _channels(network, modalities),
        next(p.dtype for p in network.parameters() if p.is_floating_point()),
    )
    problem: Exception | None = None
    for size in SIZES:
        try:
            return _run(copied, torch.empty(modalities, channels, size, size, dtype=dtype, device="meta"))
        except (RuntimeError, ValueError, NotImplementedError, PolymodalError) as error:
            problem = error
    raise FusionError(
        f"The network {type(network).__name__} ran on no image of {channels} channels and {SIZES} pixels a side, so "
        f"what its stages return is not known: {problem}"
    )


def _run(network: nn.Module, image: Tensor) -> Trace:
    found = Trace(image=image)
    found.encoder = next((name for name, _ in network.named_children() if name in ("encoder", "backbone")), "")
    handles = []
    clock, indices = count(), count()

    def watched(feature: Tensor) -> Tensor:
        # The encoder's next stage reads the feature itself, so only a decoder's gradient comes by its alias.
        alias, index = feature.view_as(feature), next(indices)
        if alias.requires_grad:
            alias.register_hook(lambda _: found.read.add(index))
        return alias

    def note(name: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> Any:
            found.finished[name] = next(clock)
            if isinstance(output, Tensor):
                found.outputs[name] = output
            if not name or name != found.encoder:
                return None
            found.features = tensors(output)
            return map_tensors(watched, output)

        return hook

    for name, module in network.named_modules():
        handles.append(module.register_forward_hook(note(name)))
    try:
        with torch.enable_grad():
            torch.stack([tensor.sum() for tensor in tensors(network(image))]).sum().backward()
    finally:
        for handle in handles:
            handle.remove()
    return found


def _channels(network: nn.Module, modalities: int) -> int:
    """The channels that a network takes."""
    width = next((module.width for module in network.modules() if isinstance(module, PrivateConv2d)), None)
    return width or entrance(network, modalities).channels


def tensors(output: Any) -> list[Tensor]:
    """The tensors in what an encoder returns: one, or a list, tuple or dict of them."""
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, dict):
        return [tensor for value in output.values() for tensor in tensors(value)]
    if isinstance(output, list | tuple):
        return [tensor for value in output for tensor in tensors(value)]
    return []
