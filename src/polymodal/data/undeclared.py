"""A value that seems to mean that nothing was measured, and counts as measured, since nobody has declared it."""

from dataclasses import dataclass

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from polymodal.data.bands import thinned
from polymodal.data.inputs import ENDS, UNITS, InputSpec, where_measured


@dataclass(frozen=True)
class Undeclared:
    """What is doubtful of a file's values.

    Args:
        value: As dataset.yaml would declare it.
        why: What makes it doubtful, for the middle of a sentence.
        sure: Whether no sensor and no program gives such a value for a measurement.
    """

    value: str
    why: str
    sure: bool

    @property
    def remedy(self) -> str:
        """For whoever describes the data set; a sentence without its full stop."""
        return (
            f"{self.value} {self.why}, and counts as measured. Declare `invalid: {self.value}` if it means that "
            "nothing was"
        )


def undeclared(raw: np.ndarray, spec: InputSpec) -> Undeclared | None:
    """The smallest or the largest of a file's values, where it can hardly be a measurement as all the others.

    It is held by several pixels, and farther from the next value than all others are from each other, as are -9999,
    65535 and -3.4e38; or it is a distance that is not above 0. In `raw` values 0 and what has 8 bits are left alone:
    most maps of edges, counts or masks hold one background and little else.

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
            if spec.kind == "depth" and end <= 0:
                return Undeclared(_text(end), "is no distance", bool(end < 0))
            if _apart(float(end), others) and _strange(float(end), raw, spec):
                saturated = raw.dtype.kind != "f" and end == np.iinfo(raw.dtype).max
                return Undeclared(_text(end), "lies far from all other values", sure=not saturated)
    return None


def warn_of_undeclared(raw: np.ndarray, spec: InputSpec, folder: str) -> None:
    """Warn of a value of a file, once for all files of a folder that hold it."""
    if doubt := undeclared(raw, spec):
        rank_zero_warn(f"{folder}: {doubt.remedy}; `polymodal data check` names the files.")


def _text(value: np.generic) -> str:
    """For YAML, a number with an exponent has a point, too."""
    return str(value) if "." in str(value) else str(value).replace("e", ".0e")


def _apart(end: float, others: np.ndarray) -> bool:
    low, high = (float(others.min()), float(others.max())) if others.size else (0.0, 0.0)
    return max(low - end, end - high) > high - low > 0


def _strange(end: float, raw: np.ndarray, spec: InputSpec) -> bool:
    """Whether a value that lies apart is not what a background, or light, has in such a file."""
    if spec.kind in ENDS:
        low, high = ENDS[spec.kind]
        return not low <= end <= high
    return spec.kind == "depth" or (end != 0 and raw.dtype.itemsize > 1)
