"""Whether the rows of what a layer is given belong to the samples of the batch, in their order, each by itself."""

import copy
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from polymodal.anatomy.entrance import Entrance
from polymodal.anatomy.meta import ghost, sizes_of
from polymodal.anatomy.norms import axes_of
from polymodal.anatomy.shapes import ByShapes

_BATCH = 11
"""How many images are tried: a prime, of which no number of windows or patches is a multiple by chance."""

_Seen = list[tuple[str, Tensor]]
_Size = tuple[int, ...]


def misplaced(
    network: nn.Module, way_in: Entrance, layers: Mapping[str, nn.Module]
) -> tuple[str, tuple[int, ...]] | None:
    """A layer that is given other rows than those of one sample after the other, and the shape of what it is given.

    A pass on tensors without values shows shapes. A second one shows whose the rows are, be they the windows of images
    or what an attention made of all samples: of two samples one is not a number, and whatever is made of it is none
    either. It takes arithmetic, and what takes maps `(N, C, H, W)` alone needs none if there is one for each image.

    Args:
        network: A plain network. It is not changed.
        way_in: Where images enter it.
        layers: Its layers that may be private, by dotted name.

    Returns:
        The first such layer; None where there is none, or nothing could be seen.
    """
    sizes = list(sizes_of(network, way_in.axes))
    seen = _first(sizes, lambda size: _given(ghost(network), way_in.image(size, batch=_BATCH), layers))
    for name, x in seen or []:
        if x.dim() < 2 or x.shape[0] % _BATCH:
            return name, tuple(x.shape)
    several = {name for name, x in seen or [] if x.shape[0] > _BATCH}
    unsure = {name: layer for name, layer in layers.items() if name in several or not _takes_maps_alone(layer)}
    if not unsure or way_in.conv.weight.is_meta:
        return None
    traced = _first(sizes, lambda size: _given(copy.deepcopy(network).eval(), _half_not_a_number(way_in, size), unsure))
    for name, x in traced or []:
        if x.shape[0] % 2 or x[: x.shape[0] // 2].isnan().any():
            return name, tuple(x.shape)
    return None


def _first(sizes: Iterable[_Size], attempt: Callable[[_Size], _Seen]) -> _Seen | None:
    """What is seen at the first size at which a network runs; None when at none."""
    for size in sizes:
        with suppress(Exception):  # whatever a network does on such images
            return attempt(size)
    return None


def _takes_maps_alone(layer: nn.Module) -> bool:
    return axes_of(layer) == (4,) or isinstance(layer, nn.Conv2d)


def _given(network: nn.Module, images: Tensor, layers: Mapping[str, nn.Module]) -> _Seen:
    """What a network gives its layers, call by call."""
    seen: _Seen = []
    for name in layers:
        network.get_submodule(name).register_forward_pre_hook(
            lambda _, given, name=name: seen.append((name, given[0].detach()))
        )
    with torch.no_grad(), ByShapes():
        network(images)
    return seen


def _half_not_a_number(way_in: Entrance, size: _Size) -> Tensor:
    """Two images, of which the second has no value that is a number."""
    like: Any = way_in.conv.weight
    images = torch.zeros_like(way_in.image(size, batch=2), device=like.device)
    images[1] = torch.nan
    return images
