"""A network without its values, to see how it runs: on the meta device, where tensors have shapes alone."""

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from polymodal.anatomy.convolutions import Convolution
from polymodal.anatomy.shapes import ByShapes

_USUAL = (256, 224, 384, 512, 518, 448, 128, 96, 32)
"""Sides of images to try on a network that takes none of the size that is tried first, nor says of which it takes."""
_LARGEST = 256**3
"""Values of an image's channel that are tried: volumes of the larger sides would not fit into memory."""

Before = Callable[[str, tuple[Any, ...]], None]
"""Is told the name of a layer before it runs, and its arguments."""
After = Callable[[str, tuple[Any, ...], Any], Any]
"""Is told the name of a module after it ran, its arguments and its result; a value that it returns replaces that."""


def ghost(network: nn.Module) -> nn.Module:
    """A copy in eval mode on the meta device, where tensors have shapes and no values, so that it takes no memory."""
    known: dict[int, Any] = {}
    for parameter in network.parameters():
        known[id(parameter)] = nn.Parameter(torch.empty_like(parameter, device="meta"), parameter.requires_grad)
    for buffer in network.buffers():
        known[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(network, known).eval()


def watched(network: nn.Module, image: Tensor, before: Before, after: After | None = None) -> Any:
    """Run a ghost of a network, and report what runs.

    Args:
        network: A plain network. It is not changed.
        image: On the meta device.
        before: Is told of every convolution, and of every layer that holds no others.
        after: Is told of every module.

    Returns:
        What the network returns.

    Raises:
        Exception: Whatever the network raises.
    """
    copied = ghost(network)
    handles = []
    for name, module in copied.named_modules():
        if isinstance(module, Convolution) or next(module.children(), None) is None:
            handles.append(module.register_forward_pre_hook(lambda _, given, name=name: before(name, given)))
        if after is not None:
            handles.append(module.register_forward_hook(lambda _, given, output, name=name: after(name, given, output)))
    try:
        with ByShapes():
            return copied(image)
    finally:  # a backward pass may run layers again
        for handle in handles:
            handle.remove()


def sizes_of(network: nn.Module, axes: int) -> Iterator[tuple[int, ...]]:
    """Sizes of images to try on a network, of so many axes: a small one, those that it says are its own, usual ones.

    Some networks take no image as small as the first, some only those of one size, which transformers keep as
    `img_size` (timm) or `image_size` (transformers).
    """
    said = (getattr(module, name, None) for module in network.modules() for name in ("img_size", "image_size"))
    tried: set[tuple[int, ...]] = set()
    for size in (64, *said, *_USUAL):
        sides: tuple[Any, ...] = tuple(size) if isinstance(size, tuple | list) else (size,) * axes
        known = len(sides) == axes and all(isinstance(side, int) and side > 0 for side in sides)
        if known and sides not in tried and math.prod(sides) <= _LARGEST:
            tried.add(sides)
            yield sides
