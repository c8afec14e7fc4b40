"""From stored values to network inputs: one rule for training, evaluation and prediction."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from polymodal.data.bands import thinned
from polymodal.data.content import LAYOUTS, PAGES, Content, FileSpec, honouring
from polymodal.data.label_files import LabelFiles
from polymodal.data.labels import Color, LabelCode, class_numbers, input_code
from polymodal.data.parts import KINDS, ModalitySpec, TargetSpec
from polymodal.data.ranges import Range, range_of
from polymodal.data.values import plain
from polymodal.errors import DataError
from polymodal.names import affix

UNITS = ("depth", "raw")
"""Kinds whose numbers mean something in a unit of the user's, where others have a full scale."""

EXACT = ("depth", "label")
"""Kinds between whose values there is no third: interpolating them would invent surfaces at every edge."""

_ROWS = 256
"""So many rows at a time are searched for a measurement, as those of a large file are unpacked when they are taken."""

ENDS = {"image": (0.0, 1.0), "normal": (-1.0, 1.0)}
"""Full scale of the kinds that have one."""

ROUNDING = 0.01
"""So far beyond it may floating-point values lie."""

STORED = ("1-bit", "8-bit", "integer", "floating-point")
"""Forms of stored numbers; `integer` are those of 16 bits and more."""

_FULL_SCALE = {"bool": 1.0, "uint8": 255.0, "uint16": 65535.0}


_ALWAYS = ("kind", "channels", "scale", "unit", "invalid", "mean", "std", "classes")
"""What every model says of an input; older ones lack the rest."""


@dataclass(frozen=True)
class InputSpec(FileSpec):
    """How the files of one modality become an input; kept with every trained model.

    Args:
        channels: Of the input: those of the files, or the number of classes for kind label.
        mean: Of each channel, in scaled values.
        std: Like `mean`.
        stored: In what form the files of depth and raw hold their numbers, one of `STORED`; others are refused, as
            theirs cannot mean the same. Empty where it is not known.
        seen: Between which values nearly all pixels of the training files lie (depth and raw), or None.
        map: Pairs of a stored number and its class (label).
        colors: Of each class, by which files of three channels are read (label).
        resize: How many times as high and as wide as its files the others of a sample are, to whose size it is brought;
            None where it must have that size.
        scaling: What files declare that their numbers are to be scaled by, as of a `Content`; None where that does not
            matter.
    """

    channels: int
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    stored: str = ""
    seen: Range | None = None
    map: tuple[tuple[int, int], ...] = ()
    colors: tuple[Color, ...] = ()
    resize: tuple[float, float] | None = None
    scaling: str | None = ""

    def __post_init__(self) -> None:
        # Without statistics the values stay what they are.
        object.__setattr__(self, "mean", tuple(self.mean) or (0.0,) * self.channels)
        object.__setattr__(self, "std", tuple(self.std) or (1.0,) * self.channels)
        object.__setattr__(self, "classes", tuple(self.classes))
        object.__setattr__(self, "resize", self.resize and (float(self.resize[0]), float(self.resize[1])))
        object.__setattr__(self, "map", tuple((stored, number) for stored, number in self.map))
        object.__setattr__(self, "colors", tuple((red, green, blue) for red, green, blue in self.colors))

    @property
    def code(self) -> LabelCode:
        """How label files store classes."""
        return input_code(self.classes, self.map, self.colors, self.invalid)

    @classmethod
    def of(cls, part: ModalitySpec | TargetSpec, channels: int) -> "InputSpec":
        """As a data set declares it, without statistics."""
        return cls(**part.common, channels=channels, map=part.code.map, colors=part.code.colors)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        values = {name: plain(value) for name, value in asdict(self).items()}
        coded = {name: values.pop(name) for name in ("map", "colors")}
        return values | {name: value for name, value in coded.items() if value}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "InputSpec":
        """The inverse of `as_dict`.

        Raises:
            DataError: When a value is missing, unknown or cannot be right.
        """
        # What no later version added: a default would be another meaning.
        missing = [key for key in _ALWAYS if key not in values]
        missing += [key for key in ("mean", "std") if key in values and not values[key]]
        if missing:
            raise DataError(f"input: {missing[0]}: missing. Expected the values of an InputSpec, got {dict(values)}.")
        try:
            invalid = None if values["invalid"] is None else float(values["invalid"])
            # Models of earlier versions do not say what their files declared.
            said = {"scaling": None, **values, "invalid": invalid, "seen": Range.from_dict(values.get("seen"))}
            spec = cls(**said)
            right = (
                spec.kind in KINDS
                and spec.layout in (None, *LAYOUTS)
                and spec.pages in (None, *PAGES)
                and type(spec.channels) is int
                and spec.channels > 0
                and len(spec.mean) == len(spec.std) == spec.channels
                and all(text == "" or affix(text) for text in (spec.prefix, spec.suffix))
                and isinstance(spec.unit, str)
                and isinstance(spec.scaling, str | None)
                and len(spec.classes) == (spec.channels if spec.kind == "label" else 0)
                and {number for _, number in spec.map} <= set(range(len(spec.classes)))
                and len(spec.colors) in (0, len(spec.classes))
                and all(math.isfinite(value) for value in (spec.scale, *spec.mean, *spec.std))
                and min(spec.std) > 0
                and spec.scale > 0
                and (spec.resize is None or 0 < min(spec.resize) <= max(spec.resize) < math.inf)
                and spec.stored in ("", *STORED)
                and (spec.seen is None or len(spec.seen.low) == len(spec.seen.high) == spec.channels)
            )
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise DataError(f"input: expected the values of an InputSpec, got {dict(values)} ({error!r}).") from error
        if not right:
            raise DataError(f"input: expected the values of an InputSpec, got {dict(values)}.")
        return spec


def settled(content: Content, spec: InputSpec, file: str) -> tuple[np.ndarray, InputSpec]:
    """A file's values and their meaning, both as the file itself says where the data set leaves it open.

    Args:
        content: The file.
        spec: What the values of the modality mean.
        file: Its name, for messages.

    Returns:
        Its channels, (C, H, W), and the `InputSpec` of this file alone: its own no-data value is `invalid` where none
        is declared.

    Raises:
        DataError: When pixels are transparent that must not be, or labels are stored as they cannot be, or pictures
            have another full scale.
    """
    own = replace(honouring(spec, content), scaling=content.scaling)
    if spec.kind == "label":
        LabelFiles(spec.code).check(content, file)
        return content.channels(1, file), own
    raw = content.channels(spec.channels, file)
    _check_full_scale(raw, own, file)
    return raw, own


def _check_full_scale(raw: np.ndarray, spec: InputSpec, file: str) -> None:
    """Refuse floating-point pictures of 0 to 255, and the like, which beside others would be 255 times as bright."""
    if spec.kind not in ENDS or raw.dtype.kind != "f" or not isinstance(raw, np.ndarray):  # not to unpack a large one
        return
    low, high = ENDS[spec.kind]
    least, most = low, high
    if any(spec.mean) or any(one != 1 for one in spec.std):  # a model may have been trained with such files alone
        reach = [(mean - 4 * std, mean + 4 * std) for mean, std in zip(spec.mean, spec.std, strict=True)]
        least, most = min(low, *(one for one, _ in reach)), max(high, *(one for _, one in reach))
    some = thinned(raw)
    measured = where_measured(some, spec)
    beyond = (some != some.clip(least - ROUNDING, most + ROUNDING)).any(0, keepdims=True)
    counted = beyond if measured is None else beyond[measured]
    if counted.sum() > 0.5 * counted.size:
        raise DataError(
            f"{file}: most of its values lie beyond {low:g} to {high:g}, the full scale of kind {spec.kind} in "
            f"{raw.dtype}. Scale them to that, store them with 8 or 16 bits, or declare kind raw, which has none."
        )


def prepare_input(raw: np.ndarray, spec: InputSpec, file: str) -> tuple[Tensor, Tensor]:
    """A file's content as a network input.

    Args:
        raw: (C, H, W) as `read_array` gives it.
        spec: What the values mean.
        file: Its name, for messages.

    Returns:
        The normalised input, float32 (C, H, W), 0 where nothing was measured, and the bool mask (1, H, W) of the
        pixels where something was.

    Raises:
        DataError: When the channels or the type of the file are not those of `spec`.
    """
    values, valid = to_values(raw, spec, file)
    return normalise(values, valid, spec), valid


def to_values(raw: np.ndarray, spec: InputSpec, file: str) -> tuple[Tensor, Tensor]:
    """The first half of `prepare_input`: values before normalisation, the mean where nothing was measured.

    image: 0 to 1; depth and raw: in `unit`; normal: each axis from -1 to 1; label: one channel per class, 0 or 1.
    Floating-point files of kind image or normal hold these values already.
    """
    if spec.kind == "label":
        return _one_hot(raw, spec, file)
    if raw.shape[0] != spec.channels:
        raise DataError(
            f"{file}: expected {spec.channels} channel(s) for this modality of kind {spec.kind}, "
            f"got {raw.shape[0]}. All files of a modality have the same channels."
        )
    if spec.bits is not None and raw.dtype.name != f"uint{spec.bits}":
        raise DataError(
            f"{file}: expected {spec.bits}-bit unsigned values for this modality, got {raw.dtype}. A program that "
            "saved the file again has changed its values: put the original in its place."
        )
    if spec.stored and stored(raw) != spec.stored:
        raise DataError(
            f"{file}: expected {spec.stored} numbers, as in the other files of this modality, got {raw.dtype}: they "
            "cannot mean the same. Store all of its files in one form, or predict with their own scale (--scale)."
        )
    measured = where_measured(raw, spec)
    valid = torch.ones(1, *raw.shape[1:], dtype=torch.bool) if measured is None else torch.from_numpy(measured)

    values = torch.from_numpy(raw.astype(np.float32))
    if spec.kind in UNITS:
        if spec.scale != 1:
            values.mul_(spec.scale)
    elif raw.dtype.kind != "f":
        if raw.dtype.name not in _FULL_SCALE:
            raise DataError(
                f"{file}: expected 8 or 16-bit unsigned or floating-point values for kind {spec.kind}, "
                f"got {raw.dtype}. Use kind raw with a scale for other numbers."
            )
        values.div_(_FULL_SCALE[raw.dtype.name])
        if spec.kind == "normal":
            values.mul_(2).sub_(1)
    if measured is not None:
        values = torch.where(valid, values, torch.tensor(spec.mean)[:, None, None])
    return values, valid


def reached(raw: np.ndarray, spec: InputSpec, file: str) -> Range | None:
    """Between which values nearly all pixels of a file lie; the arguments are those of `to_values`."""
    return range_of(*to_values(thinned(raw), spec, file))


def normalise(values: Tensor, valid: Tensor, spec: InputSpec) -> Tensor:
    """The second half of `prepare_input`: (values - mean) / std, and 0 where nothing was measured. Changes `values`."""
    if spec.kind != "label":
        values.sub_(torch.tensor(spec.mean)[:, None, None]).div_(torch.tensor(spec.std)[:, None, None])
    return values if valid.all() else values.masked_fill_(~valid, 0.0)


def stored(raw: np.ndarray) -> str:
    """In which of the forms `STORED` a file holds its numbers; with another form, they have another scale or unit."""
    return {"b": "1-bit", "f": "floating-point"}.get(raw.dtype.kind, "8-bit" if raw.dtype.itemsize == 1 else "integer")


def check_sizes(sizes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse files of one sample that are not aligned.

    Args:
        sizes: Height and width by file.

    Raises:
        DataError: With two files and their sizes.
    """
    first, size = next(iter(sizes.items()), ("", ()))
    for file, other in sizes.items():
        if other != size:
            remedy = (
                "one of them is turned, as by an orientation that it declares (Exif): save it upright"
                if other == size[::-1]
                else "a modality that only has another resolution can be declared with `resize: true`"
            )
            raise DataError(
                f"{file}: expected the size of {first}, {size[1]}x{size[0]} (width x height), "
                f"got {other[1]}x{other[0]}. All files of one sample must be aligned pixel by pixel; {remedy}."
            )


def where_measured(raw: np.ndarray, spec: InputSpec) -> np.ndarray | None:
    """Pixels (1, H, W) with a measurement; None for all of them, which costs nothing to find out for most files."""
    measured = np.isfinite(raw).all(0, keepdims=True) if raw.dtype.kind == "f" else None
    if spec.invalid is not None:
        present = (raw != spec.invalid).any(0, keepdims=True)
        measured = present if measured is None else measured & present
    return None if measured is None or measured.all() else measured


def measures_nothing(raw: np.ndarray, spec: InputSpec) -> bool:
    """Whether no pixel of (C, H, W) holds a measurement, as when a sensor is dead."""
    parts = chain([thinned(raw)], (raw[:, top : top + _ROWS, :] for top in range(0, raw.shape[1], _ROWS)))
    found = (where_measured(part, spec) for part in parts)  # the first part alone shows it of most files
    return all(measured is not None and not measured.any() for measured in found)


def _one_hot(raw: np.ndarray, spec: InputSpec, file: str) -> tuple[Tensor, Tensor]:
    labels = torch.from_numpy(class_numbers(raw, spec.code, file).astype(np.int64))
    valid = labels != spec.code.ignore
    hot = F.one_hot(labels.where(valid, 0), len(spec.classes)).permute(2, 0, 1).float()
    return hot * valid, valid[None]
