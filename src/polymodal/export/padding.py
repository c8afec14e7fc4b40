"""The "same" padding of TensorFlow, as timm computes it from the size of every image, while a graph is captured."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import SymInt
from torch.fx.experimental.symbolic_shapes import statically_known_true


@contextmanager
def quick_same_padding() -> Iterator[None]:
    """Let timm pad by a number where it is the same for all sizes that a graph is captured for.

    A network that takes multiples of 32 halves them evenly, so that the padding before each strided layer is a
    constant. Computed from the size, it makes the expressions of all sizes behind it so long that they take minutes.
    """
    timm = sys.modules.get("timm.layers.padding")
    if timm is None:  # so no network here has a layer of it
        yield
        return
    by_size = timm.get_same_padding

    def padding(side: Any, kernel: int, stride: int, dilation: int) -> Any:
        if isinstance(side, SymInt) and statically_known_true(side % stride == 0):
            return max((kernel - 1) * dilation + 1 - stride, 0)
        return by_size(side, kernel, stride, dilation)

    timm.get_same_padding = padding  # type: ignore[attr-defined]
    try:
        yield
    finally:
        timm.get_same_padding = by_size  # type: ignore[attr-defined]
