"""A value that seems to mean that nothing was measured, and counts as measured, since nobody has declared it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from polymodal.data.bands import thinned
from polymodal.data.inputs import ENDS, UNITS, InputSpec, where_measured

_FAR = 1e10
"""No measurement is as large, in any unit; -3.4e38 and 1e30 are."""


@dataclass(frozen=True)
class Undeclared:
    """What is doubtful of a file's values.

    Args:
        value: As dataset.yaml would declare it.
        why: What makes it doubtful, for the middle of a sentence.
        how: How the data set says that nothing was measured there, the beginning of a sentence.
        sure: Whether no sensor and no program gives such a value for a measurement.
    """

    value: str
    why: str
    how: str
    sure: bool

    @property
    def remedy(self) -> str:
        """For whoever describes the data set; a sentence without its full stop."""
        return f"{self.value} {self.why}, and counts as measured. {self.how} if it means that nothing was"


def undeclared(raw: np.ndarray, spec: InputSpec) -> Undeclared | None:
    """The smallest or the largest of a file's values, where it can hardly be a measurement as all the others.

    It is one of the numbers that stand for "nothing", such as -9999, 65535 and -3.4e38, and farther from the next value
    than all others are from each other; or a distance that is not above 0. Several pixels hold it. In `raw` values 0
    and what has 8 bits are left alone: most maps of edges, counts or masks hold one background and little else.

    Args:
        raw: (C, H, W).
        spec: What the values mean in this file.
    """
    some = thinned(raw)
    counted = spec.kind in UNITS or (spec.kind in ENDS and raw.dtype.kind == "f")
    if not counted or raw.dtype == bool:
        return None
    measured = where_measured(some, spec)
    for channel in some:
        values = channel.ravel() if measured is None else channel[measured[0]]
        for end in (values.min(), values.max()) if values.size else ():
            others = values[values != end]
            if others.size > values.size - 2:
                continue
            means_nothing = _means_nothing(float(end), raw.dtype)
            if spec.kind == "depth" and end <= 0:
                return Undeclared(_text(end), "is no distance", _how(end, some, spec), means_nothing)
            if means_nothing and _apart(float(end), others):
                saturated = raw.dtype.kind != "f" and end == np.iinfo(raw.dtype).max
                return Undeclared(_text(end), "lies far from all other values", _how(end, some, spec), not saturated)
    return None


def warn_of_undeclared(raw: np.ndarray, spec: InputSpec, folder: str) -> None:
    """Warn of a value of a file, once for all files of a folder that hold the same one."""
    if doubt := undeclared(raw, spec):
        rank_zero_warn(f"{folder}: {doubt.remedy}; `polymodal data check` names the files.")


def _text(value: np.generic) -> str:
    """For YAML, a number with an exponent has a point, too."""
    return str(value) if "." in str(value) else str(value).replace("e", ".0e")


def _apart(end: float, others: np.ndarray) -> bool:
    low, high = (float(others.min()), float(others.max())) if others.size else (0.0, 0.0)
    return max(low - end, end - high) > high - low > 0


def _means_nothing(value: float, dtype: np.dtype[Any]) -> bool:
    """Whether programs write such a number where nothing was measured: the end of a type, nines, beyond reason."""
    whole = np.iinfo(dtype) if dtype.kind != "f" and dtype.itemsize > 1 else None
    if whole and value != 0 and value in (whole.min, whole.max):
        return True
    digits = f"{abs(value):.0f}"
    return abs(value) >= _FAR or value in (-32768, -32767) or (len(digits) > 3 and set(digits) == {"9"})


def _how(value: np.generic, some: np.ndarray, spec: InputSpec) -> str:
    """How to declare it: one number does for all channels, and a pixel lacks all of them or none."""
    if spec.invalid is None and ((some == value).all(0) == (some == value).any(0)).all():
        return f"Declare `invalid: {_text(value)}`"
    return f"Store {'NaN' if spec.invalid is None else f'{spec.invalid:.9g}'} in all channels instead"
