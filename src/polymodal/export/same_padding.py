"""TensorFlow's "SAME" padding as timm computes it, for a graph that takes images of many sizes.

It depends on the size of the input, which for free sizes is an expression that grows from layer to layer, until tracing
a network takes longer than anybody waits. Where the size is a multiple of the stride, as behind smp's own padding to
multiples of 32, it is a number.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.fx.experimental.symbolic_shapes import statically_known_true

_HOME, _NAME = "timm.layers.padding", "get_same_padding"


@contextmanager
def numbers_where_known() -> Iterator[None]:
    """Let timm's layers pad by a number wherever the stride is known to divide the size; the same one as before."""
    home = sys.modules.get(_HOME)
    computed = getattr(home, _NAME, None)
    if computed is None:  # no layer of timm's is there, or of a version that pads in another way
        yield
        return

    def padding(size: Any, kernel_size: int, stride: int, dilation: int) -> Any:
        if isinstance(size, torch.SymInt) and statically_known_true(size % stride == 0):
            return max((kernel_size - 1) * dilation + 1 - stride, 0)
        return computed(size, kernel_size, stride, dilation)

    setattr(home, _NAME, padding)
    try:
        yield
    finally:
        setattr(home, _NAME, computed)
