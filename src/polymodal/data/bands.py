"""Pictures a part at a time, so that what is computed of a large one takes no multiple of its memory."""

import math
from collections.abc import Iterator

import numpy as np

_VALUES = 2**22
"""Of a part: most pictures are one."""


def bands(array: np.ndarray) -> Iterator[np.ndarray]:
    """The rows of (C, H, W), so many at a time that they hold at most `_VALUES`, without copying them."""
    rows = max(1, _VALUES // max(1, array.shape[0] * array.shape[2]))
    for start in range(0, array.shape[1], rows):
        yield array[:, start : start + rows]


def thinned(array: np.ndarray) -> np.ndarray:
    """(C, H, W) with every second, third, ... row and column, so that it holds at most `_VALUES`; all of most."""
    step = math.ceil(math.sqrt(array.size / _VALUES))
    return array[:, ::step, ::step]
