"""Large images in overlapping windows: which there are, and how what is predicted in them becomes one."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from polymodal.errors import ConfigError

Size = tuple[int, int]

Part = tuple[slice, slice]
"""Rows and columns of an image."""


@dataclass(frozen=True)
class Windows:
    """Parts of one size that cover an image and overlap.

    Args:
        size: Height and width of the part that the network sees at a time; an axis of an image that is shorter is seen
            whole.
        stride: From one window to the next; None for two thirds of the window. The last one ends with the image.

    Raises:
        ConfigError: When a value cannot work.
    """

    size: Size
    stride: Size | None = None

    def __post_init__(self) -> None:
        for option, size in (("--window", self.size), ("--stride", self.stride)):
            if size is not None and not _is_size(size):
                raise ConfigError(f"{option}: expected a height and a width above 0, got {size}.")
        if self.stride and any(stride > side for stride, side in zip(self.stride, self.size, strict=True)):
            raise ConfigError(
                f"--stride: expected at most the window, {listed(self.size)}, got {listed(self.stride)}: pixels "
                "between two windows would have no prediction."
            )

    def starts(self, size: Size) -> tuple[list[int], list[int]]:
        """The first rows and the first columns of the windows on an image; each row meets each column."""
        return self._starts(size, 0), self._starts(size, 1)

    def cover(self, size: Size) -> bool:
        """Whether one window holds a whole image."""
        return all(own <= side for own, side in zip(size, self.size, strict=True))

    def _starts(self, size: Size, axis: int) -> list[int]:
        stride = self.stride[axis] if self.stride else max(1, round(self.size[axis] * 2 / 3))
        last = max(0, size[axis] - self.size[axis])
        return [min(start, last) for start in range(0, last + stride, stride)]


def _is_size(value: Any) -> bool:
    return isinstance(value, tuple | list) and len(value) == 2 and all(type(side) is int and side > 0 for side in value)


def windows_of(size: Size | None, stride: Size | None) -> Windows | None:
    """The windows that were asked for; None for the whole image.

    Raises:
        ConfigError: When a value cannot work, or there is a stride alone.
    """
    if size is None and stride is not None:
        raise ConfigError("--stride: there is no window to move; give --window H,W, too.")
    return None if size is None else Windows(size, stride)


def blended(
    predict: Callable[[Part], dict[str, Tensor]], size: Size, windows: Windows
) -> Iterator[tuple[Part, dict[str, Tensor]]]:
    """The weighted mean of what is predicted in all windows over a pixel, part by part as it is finished.

    A window's weight falls in a line along each axis from its middle to its borders, where a network has seen one side
    of a pixel alone. Of an image, what later windows still add to is kept and no more: as high as windows overlap.

    Args:
        predict: What is averaged, (C, h, w) by name, of one window.
        size: Height and width of the image.
        windows: Which there are.

    Yields:
        Parts that cover the image, from left to right and then downwards, and their means, (C, h, w) by name.
    """
    starts = windows.starts(size)
    rows = _cuts(starts[0], windows.size[0], size[0])
    columns = _cuts(starts[1], windows.size[1], size[1])
    below: dict[int, dict[str, Tensor]] = {}  # by the first column, what the next row of windows adds to
    for row in rows:
        beside: dict[str, Tensor] = {}
        for column in columns:
            found = predict((slice(row.start, row.stop), slice(column.start, column.stop)))
            weights = row.weights[:, None] * column.weights
            for name in found:
                sums = found[name] * weights.to(found[name])
                if name in beside:
                    sums[..., : beside[name].shape[-1]] += beside[name]
                beside[name] = sums[..., column.done - column.start :].clone()
                sums = sums[..., : column.done - column.start]
                above = below.setdefault(column.start, {})
                if name in above:
                    sums[:, : above[name].shape[1]] += above[name]
                above[name] = sums[:, row.done - row.start :].clone()
                found[name] = sums[:, : row.done - row.start].clone()
            yield (slice(row.start, row.done), slice(column.start, column.done)), found


@dataclass(frozen=True)
class _Cut:
    """A window along one axis: where it lies, where no later one adds to it, and its share of each pixel's sum."""

    start: int
    stop: int
    done: int
    weights: Tensor


def _cuts(starts: Sequence[int], window: int, length: int) -> list[_Cut]:
    side = min(window, length)
    ramp = torch.arange(side) + 0.5
    weights = torch.minimum(ramp, ramp.flip(0)).double()
    total = torch.zeros(length, dtype=weights.dtype)
    for start in starts:
        total[start : start + side] += weights
    ends = [*starts[1:], length]
    return [
        _Cut(start, start + side, end, weights / total[start : start + side])
        for start, end in zip(starts, ends, strict=True)
    ]


def listed(values: Sequence[float]) -> str:
    """Numbers as an option takes them."""
    return ",".join(f"{value:g}" for value in values)
