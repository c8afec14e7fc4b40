"""How files store classes, and the one way from there to class numbers.

A file of one channel holds numbers: those of the classes (of a palette, its indices), or what `map` translates to them.
A file of three channels holds the classes' colours, which `colors` declares. Behind this file there are only class
numbers from 0 on, and one number for all that is ignored.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from polymodal.data import values
from polymodal.data.bands import bands
from polymodal.errors import DataError

NO_IGNORE = -1
"""The ignore index where no value of the files can be it; padding still is."""

_SHOWN = 8
"""How many values a message lists."""

Color = values.Color


@dataclass(frozen=True)
class LabelCode:
    """How files store classes.

    Args:
        classes: Names by class number.
        map: Pairs of a stored number and its class; empty where the files hold class numbers.
        colors: Red, green and blue of each class, by which files of three channels are read; empty when not declared.
        ignored: Stored numbers, NaN among them, and colours that are no class, as the files hold them: before `map`.
        key: Under which `ignored` is declared, for messages.
    """

    classes: tuple[str, ...]
    map: tuple[tuple[int, int], ...] = ()
    colors: tuple[Color, ...] = ()
    ignored: tuple[int | float | Color, ...] = ()
    key: str = "ignore"

    @property
    def ignore(self) -> int:
        """The one number of all ignored pixels behind `class_numbers`.

        That of a class which is ignored itself, as scores must know that no truth is of it; else a declared value that
        can be no class, as people know it from the files.
        """
        free = [value for value in self.ignored if isinstance(value, int) and value >= len(self.classes)]
        return next(iter([*self.ignored_classes, *free]), NO_IGNORE)

    @property
    def ignored_classes(self) -> list[int]:
        """Class numbers that are ignored themselves."""
        return [] if self.map else [v for v in self.ignored if isinstance(v, int) and 0 <= v < len(self.classes)]

    @property
    def numbers(self) -> dict[float, int]:
        """Class or ignore index by stored number."""
        known: dict[float, int] = dict(self.map or zip(*2 * [range(len(self.classes))], strict=True))
        ignore = self.ignore
        return known | {value: ignore for value in self.ignored if not isinstance(value, tuple)}

    def check(self, at: Callable[[str], str]) -> "LabelCode":
        """Refuse what contradicts itself.

        Args:
            at: Says where a key of dataset.yaml stands.

        Returns:
            Itself.

        Raises:
            DataError: With the key and the remedy.
        """
        if self.colors and len(self.colors) != len(self.classes):
            raise DataError(
                f"{at('colors')}: expected one colour for each of {len(self.classes)} classes, got {len(self.colors)}."
            )
        beyond = [number for _, number in self.map if not 0 <= number < len(self.classes)]
        if beyond:
            raise DataError(
                f"{at('map')}: expected classes from 0 to {len(self.classes) - 1}, got {_some(beyond)}. It translates "
                f"stored values to class numbers; a value that is no class belongs under `{self.key}`."
            )
        named = {*dict(self.map), *self.colors}
        both = [value for value in self.ignored if value in named]
        if both:
            raise DataError(
                f"{at(self.key)}: {_some(both)} is a class by `map` or `colors`, too. Remove it from one of them."
            )
        if len(self.ignored_classes) > 1:
            raise DataError(
                f"{at(self.key)}: {_some(self.ignored_classes)} are classes. Leave them out of `classes`, and say by "
                "`map` which stored value each of the others has, such as `map: {2: 0, 3: 1}`."
            )
        return self


def input_code(
    classes: tuple[str, ...], map: tuple[tuple[int, int], ...], colors: tuple[Color, ...], invalid: float | None
) -> LabelCode:
    """How the files of an input store classes, whose unlabelled pixels have one value, `invalid`."""
    ignored = () if invalid is None else (int(invalid) if float(invalid).is_integer() else float(invalid),)
    return LabelCode(classes, map, colors, ignored, key="invalid")


def class_numbers(array: np.ndarray, code: LabelCode, file: str) -> np.ndarray:
    """The class of every pixel.

    Args:
        array: (C, H, W) as it was read.
        code: How the file stores classes.
        file: Its name, for messages.

    Returns:
        Class numbers and `code.ignore`, whole numbers of the smallest type that holds all of them, (H, W).

    Raises:
        DataError: The file has channels of neither numbers nor colours, or holds a value that is no class; with the
            values and the remedy.
    """
    colored = array.shape[0] == 3 and array.dtype == np.uint8 and bool(code.colors)
    if not colored and array.shape[0] != 1:
        declared = "" if code.colors else "with `colors` declared, "
        raise DataError(
            f"{file}: expected one channel of whole class numbers or, {declared}three of 8 bits, a colour for each "
            f"class, got {array.shape[0]} channel(s) of {array.dtype}."
        )
    known = _packed(code, file) if colored else code.numbers
    parts = [_translated(_plane(band), known) for band in bands(array)]
    if any(outside.any() for _, outside in parts):
        unknown, others = _held(array, [outside for _, outside in parts])
        said = _unknown_colors(unknown, code) if colored else _unknown_numbers(unknown, others, code)
        raise DataError(f"{file}: {said}")
    return np.ascontiguousarray(np.concatenate([numbers for numbers, _ in parts]))


def palette(classes: int) -> tuple[Color, ...]:
    """Colours that tell up to 255 classes apart, the same ones every time.

    The colour map of the Pascal VOC development kit, in which bit k of the three colours comes from bits 3k, 3k + 1 and
    3k + 2 of the class number; but class 0, which is black there and the background in most data sets, is light grey,
    a colour that no other class has.
    """

    def color(number: int) -> Color:
        red, green, blue = (sum((number >> 3 * k + c & 1) << 7 - k for k in range(8)) for c in range(3))
        return red, green, blue

    return ((200, 200, 200), *(color(number) for number in range(1, classes)))[:classes]


def _packed(code: LabelCode, file: str) -> dict[float, int]:
    """Class or ignore index by stored colour, as one number."""
    for color, count in Counter(code.colors).items():
        if count > 1:
            names = ", ".join(name for name, one in zip(code.classes, code.colors, strict=True) if one == color)
            raise DataError(
                f"{file}: its three channels are colours of classes, and `colors` gives {_some([color])} to {names}. "
                "Give each class a colour of its own."
            )
    known = {color: number for number, color in enumerate(code.colors)}
    known |= {value: code.ignore for value in code.ignored if isinstance(value, tuple)}
    return {red << 16 | green << 8 | blue: number for (red, green, blue), number in known.items()}


def _plane(array: np.ndarray) -> np.ndarray:
    """One number a pixel, (H, W): the stored one, or that of a colour."""
    if len(array) == 1:
        return array[0].view(np.uint8) if array.dtype == bool else array[0]
    red, green, blue = array.astype(np.int32)
    return red << 16 | green << 8 | blue


def _translated(plane: np.ndarray, known: Mapping[float, int]) -> tuple[np.ndarray, np.ndarray]:
    """The classes of (H, W), and where there is none.

    They are looked up in a table of all values that its type can hold, or of those that occur where that is too many.
    """
    if plane.dtype.kind in "ui" and plane.dtype.itemsize <= 2:
        low, high = np.iinfo(plane.dtype).min, np.iinfo(plane.dtype).max
        stored = np.arange(low, high + 1, dtype=plane.dtype)
        place = plane if low == 0 else plane.astype(np.intp) - low
    else:
        stored, place = np.unique(plane, return_inverse=True)
        place = place.reshape(plane.shape)
    ends = min(known.values()), max(known.values())
    numbers = np.zeros(len(stored), np.result_type(*map(np.min_scalar_type, ends)))
    unknown = np.ones(len(stored), bool)
    # All at once: thousands of classes, each compared with all values of a file, would take minutes.
    held = {value: number for value, number in known.items() if can_hold(plane.dtype, value)}
    values, classes = np.array(list(held), plane.dtype), np.array(list(held.values()), numbers.dtype)
    at = np.searchsorted(stored, values).clip(max=len(stored) - 1)
    there = stored[at] == values
    numbers[at[there]], unknown[at[there]] = classes[there], False
    for nan in filter(math.isnan, known):
        here = np.isnan(stored)
        numbers[here], unknown[here] = known[nan], False
    return numbers[place], unknown[place]


def can_hold(kind: np.dtype[Any], value: float) -> bool:
    """Whether an array of a type may hold a stored value."""
    if kind.kind == "f":
        return abs(value) <= np.finfo(kind).max or not math.isfinite(value)
    limits = np.iinfo(np.uint8 if kind.kind == "b" else kind)
    return float(value).is_integer() and limits.min <= value <= limits.max


def _held(array: np.ndarray, outside: Sequence[np.ndarray]) -> tuple[Counter[float], set[float]]:
    """How often each stored value occurs where the masks of the bands hold, and which occur elsewhere."""
    unknown: Counter[float] = Counter()
    known: set[float] = set()
    for band, mask in zip(bands(array), outside, strict=True):
        plane = _plane(band)
        found, counts = np.unique(plane[mask], return_counts=True)
        unknown.update(dict(zip(found.tolist(), counts.tolist(), strict=True)))
        known.update(np.unique(plane[~mask]).tolist())
    return unknown, known


def _unknown_numbers(unknown: Mapping[float, int], known: set[float], code: LabelCode) -> str:
    """What is wrong with stored values, given how often each occurs, and the known ones that do."""
    found = sorted(unknown)
    numbers = code.numbers
    seen = {numbers.get(value) for value in known}
    unseen = [number for number in range(len(code.classes)) if number not in seen]
    if any(math.isnan(value) for value in found):
        remedy = f"Declare `{code.key}: .nan` if NaN means unlabelled."
    elif not all(float(value).is_integer() for value in found):
        remedy = "Class numbers are whole; what was interpolated between two of them is neither."
    elif len(found) == len(unseen) == 1:
        value, name = _some(found), code.classes[unseen[0]]
        remedy = (
            f"If {value} is the class {name!r}, write `{translation(code, int(found[0]), unseen[0])}`; if it is no "
            f"class, `{code.key}: {value}`."
        )
    else:
        remedy = (
            "Mend the file, list more classes, say by `map` which stored value is which class, or declare the value of "
            f"unlabelled pixels as `{code.key}`."
        )
    last = len(code.classes) - 1
    keys = _some([value for value, _ in code.map])
    expected = f"the values {keys} of `map`" if code.map else f"labels from 0 to {last}"
    ignored = _some([value for value in code.ignored if not isinstance(value, tuple)]) or "none is declared"
    return (
        f"expected {expected} ({len(code.classes)} classes; {code.key}: {ignored}), got {_some(found)} at "
        f"{sum(unknown.values())} pixel(s). {remedy}"
    )


def _unknown_colors(unknown: Mapping[float, int], code: LabelCode) -> str:
    often = sorted(map(int, unknown), key=lambda value: (-unknown[value], value))
    found = [(value >> 16, value >> 8 & 255, value & 255) for value in often]
    declare = f" or, if they are no class, declare them: `{code.key}: [{_some(found)}]`" if len(found) <= _SHOWN else ""
    return (
        f"expected the colours of {len(code.classes)} classes, got {len(found)} other(s) at "
        f"{sum(unknown.values())} pixel(s): {_some(found)}. Mend the file or `colors`{declare}."
    )


def translation(code: LabelCode, value: int, number: int) -> str:
    """The `map` of dataset.yaml that adds a stored value of a class."""
    known = dict(code.map) or {same: same for same in range(len(code.classes)) if same != number}
    return f"map: {{{_some([f'{stored}: {to}' for stored, to in sorted((known | {value: number}).items())])}}}"


def _some(items: Sequence[int | float | Color | str]) -> str:
    """Values as dataset.yaml would hold them, for messages."""
    return ", ".join(map(_text, items[:_SHOWN])) + (", ..." if len(items) > _SHOWN else "")


def _text(item: int | float | Color | str) -> str:
    if isinstance(item, float):
        return ".nan" if math.isnan(item) else f"{item:.17g}" if item.is_integer() else f"{item:g}"
    return str(list(item)) if isinstance(item, tuple) else str(item)
