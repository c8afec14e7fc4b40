"""A scene predicted at once or window by window, and what its maps are put together in."""

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
from torch import Tensor

from polymodal.data import InputSpec, resize_inputs
from polymodal.runs.opened import Opened
from polymodal.tasks.overlay import LARGEST
from polymodal.tasks.windows import Part, Size, Windows, blended


def predicted_parts(
    opened: Opened,
    raw: Mapping[str, np.ndarray],
    specs: Mapping[str, InputSpec],
    files: Mapping[str, str],
    windows: Windows | None,
    takes: Callable[[Size], Size | None],
) -> Iterator[tuple[Part, dict[str, Tensor]]]:
    """What is predicted of a scene, all of it at once or, where it is larger than a window, part by part.

    A window is a scene of its own: it is normalised, and resized where the model resizes, as a whole one would be.

    Args:
        opened: The model.
        raw: (C_m, H, W) by modality, aligned.
        specs: What the values mean, by modality.
        files: Names for messages, by modality.
        windows: Which there are; None for all at once.
        takes: To which size images of a size are resized; None for their own.

    Yields:
        Parts that cover the scene, from left to right and then downwards, and predictions (C, h, w) by name.

    Raises:
        DataError: The network cannot take the images.
    """
    height, width = size = size_of(raw)

    def predict(part: Part) -> dict[str, Tensor]:
        own = {name: array[:, part[0], part[1]] for name, array in raw.items()}
        images = resize_inputs(own, specs, files, takes(size_of(own)))[0]
        found = opened.predict({name: image[None] for name, image in images.items()}, size_of(own), subset=True)
        return {name: found.pop(name)[0] for name in list(found)}

    if windows is None or windows.cover(size):
        whole = (slice(0, height), slice(0, width))
        yield whole, predict(whole)
        return
    output = opened.output

    def summands(part: Part) -> dict[str, Tensor]:
        found = predict(part)
        return {name: output.to_blend(found.pop(name)) for name in list(found)}  # each goes before the next one comes

    for part, means in blended(summands, size, windows):
        yield part, {name: output.from_blend(mean) for name, mean in means.items()}


def size_of(raw: Mapping[str, np.ndarray]) -> Size:
    """Height and width of a scene, of which all files are aligned."""
    height, width = next(iter(raw.values())).shape[-2:]
    return height, width


def step_of(size: Size) -> int:
    """Every how many rows and columns of a large scene its picture for people shows."""
    return math.ceil(max(size) / LARGEST)


class Thinned:
    """An array put together from parts, with every `step`th row and column of them.

    Args:
        size: Height and width of what the parts cover.
        step: 1 for all of it.

    Attributes:
        array: What there is of it; once the first part is there.
    """

    array: np.ndarray

    def __init__(self, size: Size, step: int = 1) -> None:
        self._shape = tuple(-(-side // step) for side in size)
        self._step = step

    def put(self, part: Part, pixels: np.ndarray) -> None:
        """Take over a part, (h, w) or (h, w, C)."""
        if not hasattr(self, "array"):
            self.array = np.zeros((*self._shape, *pixels.shape[2:]), pixels.dtype)
        step = self._step
        skipped = tuple(slice(-side.start % step, None, step) for side in part)
        self.array[tuple(slice(-(-side.start // step), -(-side.stop // step)) for side in part)] = pixels[skipped]


class OnDisk:
    """An array put together from parts in a file, of which no more is in memory than the rows that are not finished.

    Args:
        file: It is made here, and is nobody's but the caller's.
        size: Height and width of what the parts cover.
    """

    def __init__(self, file: Path, size: Size) -> None:
        self._file = file
        self._size = size

    def put(self, part: Part, pixels: np.ndarray) -> None:
        """Take over a part, (h, w) or (h, w, C); they come from left to right and then downwards."""
        rows, columns = part
        if columns.start == 0:
            self._rows = np.empty((rows.stop - rows.start, self._size[1], *pixels.shape[2:]), pixels.dtype)
        self._rows[:, columns] = pixels
        if columns.stop == self._size[1]:
            with self._file.open("ab") as stream:
                stream.write(self._rows.data)

    @property
    def array(self) -> np.ndarray:
        """All of it, read from the file as it is needed."""
        shape = (*self._size, *self._rows.shape[2:])
        return np.memmap(self._file, self._rows.dtype, "r", shape=shape)
