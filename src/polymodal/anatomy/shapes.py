"""Shapes found at once: most of the time of a run without values went into arithmetic on nothing."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_aten: Any = torch.ops.aten


class ByShapes(TorchDispatchMode):
    """While it is entered, layers on the meta device say at once what shape they return.

    PyTorch works out norms, activations and resizing there step by step, in Python, which takes milliseconds for each.
    Whatever is not sure, such as a shape that a layer would refuse, is left to it.
    """

    def __torch_dispatch__(
        self, operation: Any, types: Any, given: tuple[Any, ...] = (), named: Mapping[str, Any] | None = None
    ) -> Any:
        answer = _ANSWERS.get(operation)
        if answer is not None and not named and given[0].is_meta and given[0].is_floating_point():
            found = answer(*given)
            if found is not None:
                return found
        return operation(*given, **(named or {}))


def _resized(x: Tensor, size: Sequence[int], *_: Any) -> Tensor | None:
    return x.new_empty(*x.shape[:2], *size) if x.dim() == 2 + len(size) and min(*size, *x.shape) > 0 else None


def _batch_norm(x: Tensor, *given: Any) -> Any:
    training = given[4]  # behind weight, bias, mean and variance
    kept = x.new_empty(x.shape[1] if training else 0)
    return torch.empty_like(x), kept, kept.clone()


def _group_norm(x: Tensor, *given: Any) -> Any:
    groups = given[5]  # behind weight, bias, samples, channels and positions
    kept = x.new_empty(x.shape[0], groups)
    return torch.empty_like(x), kept, kept.clone()


def _layer_norm(x: Tensor, shape: Sequence[int], *_: Any) -> Any:
    before = x.dim() - len(shape)
    if tuple(x.shape[before:]) != tuple(shape):
        return None
    kept = x.new_empty(*x.shape[:before], *(1 for _ in shape))
    return torch.empty_like(x, memory_format=torch.contiguous_format), kept, kept.clone()


_ACTIVATIONS = (
    "relu", "hardtanh", "hardswish", "hardsigmoid", "gelu", "mish", "elu", "leaky_relu", "clamp", "softplus",
)  # fmt: skip
_RESIZINGS = ("upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d")
_ANSWERS: dict[Any, Callable[..., Any]] = {
    _aten.native_batch_norm.default: _batch_norm,
    _aten.native_group_norm.default: _group_norm,
    _aten.native_layer_norm.default: _layer_norm,
    **{getattr(_aten, name).default: _resized for name in _RESIZINGS},
    **{getattr(_aten, name).default: lambda x, *_: torch.empty_like(x) for name in _ACTIVATIONS},
    **{getattr(_aten, f"{name}_").default: lambda x, *_: x for name in _ACTIVATIONS if hasattr(_aten, f"{name}_")},
}
