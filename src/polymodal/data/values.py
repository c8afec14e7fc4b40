"""What a key of `dataset.yaml` may hold: each function returns the value, or says in a ValueError what it expects."""

import math
import re
from collections.abc import Callable
from typing import Any, TypeVar
from unicodedata import normalize

from polymodal.names import path_below

T = TypeVar("T")

Color = tuple[int, int, int]
"""Red, green and blue, 0 to 255."""


def text(value: Any) -> str:
    """A text that is not empty."""
    if not isinstance(value, str) or not value:
        raise ValueError("a text")
    return value


def folder(value: Any) -> str:
    """A path within the data set, without a slash at its end."""
    return path_below(text(value)).rstrip("/")


def number(value: Any) -> float:
    """A number; YAML's yes and no are none."""
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d+[eE][+-]?\d+", value):
        raise ValueError("a number (for YAML one with an exponent has a point, too: 1.0e-3)")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("a number")
    return float(value)


def positive(value: Any) -> float:
    """A finite number above 0."""
    if not 0 < number(value) < math.inf:
        raise ValueError("a number above 0")
    return float(value)


def flag(value: Any) -> bool:
    """Yes or no."""
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def flag_or_texts(value: Any) -> bool | tuple[str, ...]:
    """Yes or no for all, or a list of those for which it is yes."""
    if isinstance(value, bool):
        return value
    try:
        return texts(value)
    except ValueError as error:
        raise ValueError(f"true, false or {error}") from error


def integer(value: Any) -> int:
    """A whole number."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("a whole number")
    return value


def unlabelled(value: Any) -> tuple[int | float | Color, ...]:
    """One stored value, or a list of them: whole numbers, .nan or colours."""
    if not (found := tuple(map(_stored, value if isinstance(value, list) else [value]))):
        raise ValueError("a whole number, .nan, or a list of these and of [red, green, blue]")
    return found


def unlabelled_colors(value: Any) -> tuple[int | float | Color, ...]:
    """`unlabelled`, where three numbers are one colour."""
    return unlabelled([value] if _is_color(value) else value)


def _stored(value: Any) -> int | float | Color:
    if isinstance(value, float) and math.isnan(value):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if _is_color(value):
        return tuple(value)
    if type(value) is not int:
        raise ValueError("a whole number, .nan, or a list of these and of [red, green, blue]")
    return value


def pairs(value: Any) -> tuple[tuple[int, int], ...]:
    """Whole numbers and what each becomes, at least one."""
    if not isinstance(value, dict) or not value or not all(type(n) is int for pair in value.items() for n in pair):
        raise ValueError("stored values and their class numbers, such as {0: 0, 255: 1}")
    return tuple(value.items())


def numbers(value: Any) -> tuple[float, ...]:
    """One finite number or a list of them, as a tuple."""
    try:
        found = tuple(number(item) for item in (value if isinstance(value, list) else [value]))
    except ValueError:
        found = ()
    if not found or not all(map(math.isfinite, found)):
        raise ValueError("a number, or a list of one for each channel")
    return found


def positives(value: Any) -> tuple[float, ...]:
    """`numbers` above 0."""
    if min(numbers(value)) <= 0:
        raise ValueError("numbers above 0")
    return numbers(value)


def bits(value: Any) -> int:
    """How many bits a stored value has."""
    if value not in (8, 16):
        raise ValueError("8 or 16")
    return int(value)


def interval(value: Any) -> tuple[float, float]:
    """Two finite numbers, the smaller first."""
    low, high = numbers(value) if isinstance(value, list) and len(value) == 2 else (0.0, 0.0)
    if not low < high:
        raise ValueError("a list of two numbers, the smaller first")
    return low, high


def number_or_none(value: Any) -> float | None:
    """A number, "nan" for one that JSON has no word for, or nothing."""
    return math.nan if value == "nan" else None if value is None else number(value)


def plain(value: Any) -> Any:
    """A value for JSON, which has no word for NaN, a number that equals nothing, and no tuples."""
    if isinstance(value, float) and math.isnan(value):
        return "nan"
    return list(map(plain, value)) if isinstance(value, tuple) else value


def one_of(known: tuple[str, ...]) -> Callable[[Any], str]:
    """One of a few words."""

    def convert(value: Any) -> str:
        if value not in known:
            raise ValueError(" or ".join(known))
        return str(value)

    return convert


def or_none(convert: Callable[[Any], T]) -> Callable[[Any], T | None]:
    """What `convert` takes, or nothing."""
    return lambda value: None if value is None else convert(value)


def texts(value: Any) -> tuple[str, ...]:
    """Different texts, at least one."""
    if not isinstance(value, list) or not value or not all(isinstance(item, str) and item for item in value):
        raise ValueError("a list of texts (in quotes where YAML would read a number, yes or no)")
    if len({normalize("NFC", item) for item in value}) < len(value):
        same = "" if len(set(value)) < len(value) else " (two look the same and differ in how accents are written)"
        raise ValueError(f"different names{same}")
    return tuple(value)


def texts_or_none(value: Any) -> tuple[str, ...]:
    """`texts`, or an empty list."""
    return () if value == [] else texts(value)


def colors(value: Any) -> tuple[Color, ...]:
    """Red, green and blue of each class."""
    if not isinstance(value, list) or not all(map(_is_color, value)):
        raise ValueError("a list of [red, green, blue], each from 0 to 255")
    return tuple((red, green, blue) for red, green, blue in value)


def _is_color(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(type(c) is int and 0 <= c <= 255 for c in value)
