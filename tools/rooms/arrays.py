"""The arrays that rooms are made of: 32-bit floats, as Mitsuba has them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]


def vector(values: Sequence[float]) -> Array:
    """A point, direction or colour."""
    return np.array(values, np.float32)
