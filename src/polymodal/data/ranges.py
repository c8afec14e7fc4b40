"""What values a modality's files reach, and files whose numbers cannot mean the same as the others'."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import accumulate

import torch
from torch import Tensor

SHARE = 0.01
"""So much of a file's pixels at either end is left out, as single ones may be anything."""

FACTOR = 5.0
"""Ranges that lie so many times apart are of different units: Kelvin and degrees Celsius are about 7 times, metres and
millimetres 1000 times, 8 and 16 bits 257 times."""

_PIXELS = 20_000


@dataclass(frozen=True)
class Range:
    """Between which values nearly all pixels lie.

    Args:
        low: Of each channel, in scaled values.
        high: Like `low`.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]

    @classmethod
    def from_dict(cls, values: Mapping[str, Sequence[float]] | None) -> "Range | None":
        """The inverse of `dataclasses.asdict`; None of None."""
        return None if values is None else cls(tuple(map(float, values["low"])), tuple(map(float, values["high"])))

    def apart(self, other: "Range") -> bool:
        """Whether a channel's ranges lie so far from each other that their numbers are of different units."""
        ours, theirs = zip(self.low, self.high, strict=True), zip(other.low, other.high, strict=True)
        return any(_apart(*sorted(pair)) for pair in zip(ours, theirs, strict=True))

    def holds(self, value: float) -> bool:
        """Whether a value lies within that of any channel."""
        return any(low <= value <= high for low, high in zip(self.low, self.high, strict=True))

    def __str__(self) -> str:
        """As messages show it."""
        return "; ".join(f"{low:.4g} to {high:.4g}" for low, high in zip(self.low, self.high, strict=True))


def joined(one: Range | None, other: Range | None) -> Range | None:
    """The range that holds both; None holds nothing."""
    if one is None or other is None:
        return one or other
    return Range(tuple(map(min, one.low, other.low)), tuple(map(max, one.high, other.high)))


def range_of(values: Tensor, valid: Tensor) -> Range | None:
    """The range of one file's values.

    Args:
        values: (C, H, W).
        valid: bool (1, H, W), where something was measured.

    Returns:
        None where nothing was.
    """
    measured = values.flatten(1)[:, valid.flatten()]
    if not measured.shape[1]:
        return None
    some = measured[:, :: -(-measured.shape[1] // _PIXELS)].float()
    low, high = torch.quantile(some, torch.tensor([SHARE, 1 - SHARE]), dim=1)
    return Range(tuple(low.tolist()), tuple(high.tolist()))


def strangers(ranges: Mapping[str, Range]) -> tuple[list[str], Range] | None:
    """The files whose values lie apart from those of the others.

    Args:
        ranges: By file, all of equal channels.

    Returns:
        The fewer files, and the range of the others; None when all belong together.
    """
    channels = len(next(iter(ranges.values())).low) if ranges else 0
    for channel in range(channels):
        files = sorted(ranges, key=lambda file: ranges[file].low[channel])
        lows, highs = [ranges[file].low[channel] for file in files], [ranges[file].high[channel] for file in files]
        reached, top = list(accumulate(highs, max)), list(accumulate(reversed(highs), max))[::-1]
        for cut in range(1, len(files)):
            if _apart((lows[0], reached[cut - 1]), (lows[cut], top[cut])):
                few, many = sorted((files[:cut], files[cut:]), key=len)
                others = reduce(joined, (ranges[file] for file in many), None)
                assert others is not None
                return sorted(few), others
    return None


def _apart(lower: tuple[float, float], upper: tuple[float, float]) -> bool:
    """Whether two intervals, the lower first, are disjoint and far from each other.

    On one side of 0 by the factor between them; elsewhere, where none is, by a gap that is wider than either.
    """
    gap = upper[0] - lower[1]
    if gap <= 0:
        return False
    if lower[0] >= 0:
        return upper[0] >= FACTOR * lower[1]
    if upper[1] <= 0:
        return lower[1] <= FACTOR * upper[0]
    return gap > max(lower[1] - lower[0], upper[1] - upper[0])
