"""What dataset.yaml would say of label files that nobody has described yet: their classes, and the colours of these."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from polymodal.data.content import FileSpec
from polymodal.data.label_files import LabelFiles
from polymodal.data.labels import Color, LabelCode
from polymodal.data.reading import read_content
from polymodal.data.track import track
from polymodal.errors import DataError

FILES = 1000
"""So many files are read."""

CLASSES = 256
"""Labels are never of more different values."""

_ANY = LabelCode(tuple(f"label {number}" for number in range(CLASSES)))


def describe_labels(folder: str, files: Sequence[Path]) -> tuple[dict[str, Any], str]:
    """Guess what label files hold.

    Args:
        folder: Theirs, for messages.
        files: All of them.

    Returns:
        Keys of `dataset.yaml`, and in words what was guessed.

    Raises:
        DataError: One cannot be read, or they hold what can be no classes.
    """
    some = files[:: -(-len(files) // FILES)]
    counted = f"{len(some)} of {len(files)} files read" if len(some) < len(files) else f"{len(files)} files read"
    palettes, shown = LabelFiles(_ANY), _Shown()
    numbers: set[float] = set()
    colors: set[Color] = set()
    for file in track(some, f"labels in {folder}"):
        content = read_content(file, FileSpec("label"))
        palettes.check(content, str(file))
        array = content.channels(1, str(file))
        if array.shape[0] == 1:
            numbers |= _numbers(array, str(file))
            if content.palette is not None:
                shown.add(content.palette, np.unique(array))
        elif array.shape[0] == 3 and array.dtype == np.uint8:
            colors |= _colors(array)
        else:
            raise DataError(
                f"{file}: expected labels of one channel or, as colours, of three with 8 bits, got {array.shape[0]} "
                f"channel(s) of {array.dtype}. Store class numbers, or take the folder away."
            )
        if len(numbers) + len(colors) > CLASSES:
            raise DataError(
                f"{file}: more than {CLASSES} different labels: this cannot be a map of classes. Store labels without "
                "loss, as PNG, or take the folder away."
            )
    if numbers and colors:
        raise DataError(
            f"{some[0].parent}: some files hold class numbers and others colours. Store all of them in one way."
        )
    if colors:
        entry = {"kind": "label", "classes": _classes(len(colors)), "colors": [list(color) for color in sorted(colors)]}
        return entry, f"labels of {len(colors)} colours ({counted}); name the classes in this order"
    entry, stored, said = _described(some[0].parent, numbers, counted)
    if (offered := shown.colors(stored)) is not None:
        return entry | {"colors": offered}, f"{said}; their colours are those of the files' palettes"
    return entry, said


class _Shown:
    """The colours that palettes give to numbers, as long as all files agree."""

    def __init__(self) -> None:
        self._table = np.zeros((0, 3), np.uint8)
        self._agree = True

    def add(self, palette: np.ndarray, used: np.ndarray) -> None:
        """One more palette, and the indices of it that occur."""
        both = used[used < min(len(palette), len(self._table))]
        self._agree &= bool((palette[both] == self._table[both]).all())
        self._table = max(self._table, palette, key=len)

    def colors(self, numbers: Sequence[int]) -> list[list[int]] | None:
        """A colour for each number; None where there is none, two have the same, or all are the grey of their number.

        Programs that have no colours to tell write such greys, which nobody can tell apart.
        """
        if not self._agree or not all(0 <= number < len(self._table) for number in numbers):
            return None
        found = self._table[list(numbers)].tolist()
        plain = all(color == [number] * 3 for color, number in zip(found, numbers, strict=True))
        return None if plain or len(set(map(tuple, found))) < len(found) else found


def _numbers(array: np.ndarray, file: str) -> set[float]:
    """The whole numbers, and NaN, that a file holds."""
    found = np.unique(array).tolist()
    if odd := [value for value in found if not math.isnan(value) and not float(value).is_integer()]:
        raise DataError(
            f"{file}: expected whole class numbers, got {odd[0]:g}, such as interpolation makes. Store labels from "
            "their source, or take the folder away."
        )
    return {math.nan if math.isnan(value) else int(value) for value in found}


def _colors(array: np.ndarray) -> set[Color]:
    red, green, blue = array.astype(np.int32)
    return {(value >> 16, value >> 8 & 255, value & 255) for value in np.unique(red << 16 | green << 8 | blue).tolist()}


def _described(folder: Path, numbers: set[float], counted: str) -> tuple[dict[str, Any], list[int], str]:
    """Of class numbers: keys of dataset.yaml, the stored number of each class, and in words what was guessed."""
    found = sorted(int(value) for value in numbers if not math.isnan(value))
    nan = [math.nan] if len(found) < len(numbers) else []
    if found == [0, 255] and not nan:
        masks = {"kind": "label", "map": {0: 0, 255: 1}, "classes": ["background", "foreground"]}
        return masks, found, f"masks of 0 and 255 ({counted}), taken for two classes"
    ignored = [*(value for value in found if value < 0 or (value == 255 and value > len(found))), *nan]
    stored = [value for value in found if value not in ignored]
    if not stored:
        raise DataError(
            f"{folder}: no pixel is labelled: all are {' or '.join(map(str, ignored))} ({counted}). Put labels there, "
            "or take the folder away."
        )
    entry: dict[str, Any] = {"kind": "label"}
    said = f"labels {', '.join(map(str, found[:12]))}{', ...' if len(found) > 12 else ''} ({counted})"
    if ignored:
        entry["ignore"] = ignored[0] if len(ignored) == 1 else ignored
        said += f", {' and '.join(map(str, ignored))} taken for unlabelled"
    highest = max(stored)
    if highest >= 2 * len(stored):
        entry["map"] = {value: number for number, value in enumerate(stored)}
        entry["classes"] = [f"label {value}" for value in stored]
        return entry, stored, f"{said}, numbered anew; name the classes"
    return entry | {"classes": _classes(highest + 1)}, list(range(highest + 1)), f"{said}; name the classes"


def _classes(count: int) -> list[str]:
    return [f"class {number}" for number in range(count)]
