"""Activations that clip, such as ReLU6: their shape is known, and tracing computes it from eight other operations.

For free sizes each of these is an expression to be looked through, together a seventh of what exporting a network of
such activations takes.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch._decomp import decomposition_table

_CLIP = torch.ops.aten.hardtanh.default


@contextmanager
def shapes_at_once() -> Iterator[None]:
    """Let tracing take the shape of what is clipped from what it was; no value is computed by this."""
    computed = decomposition_table.get(_CLIP)
    if computed is None:  # a version of PyTorch that has another way
        yield
        return
    decomposition_table[_CLIP] = lambda image, *_: torch.empty_like(image)
    try:
        yield
    finally:
        decomposition_table[_CLIP] = computed
