"""What a reader is told of a file, and what the file tells of itself."""

from dataclasses import KW_ONLY, dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np

from polymodal.documents import MAX_FILE
from polymodal.errors import DataError

MAX_PIXELS = 2**27
"""So many pixels, 11585 x 11585, may a file hold: a whole tile of Sentinel-2 (10980 x 10980), and little more.

Its header is asked before anything is decoded: of one colour, a file of some kilobytes can hold them all.
"""

LAYOUTS = ("chw", "hwc")
"""Where the channels of an array of three axes stand: first, or last."""

PAGES = ("bands",)
"""What several equal pages of a TIFF file can be: the channels of one image."""

_SEEN_KINDS = ("image", "normal")


@dataclass(frozen=True)
class FileSpec:
    """What is common to `ModalitySpec`, `TargetSpec` and `InputSpec`: how files are called and read, what they hold.

    Args:
        kind: What its values are, one of `KINDS`.
        scale: Factor from stored values to `unit` (depth and raw).
        unit: Of the scaled values, for people to read.
        invalid: Stored value of a pixel without measurement, in all of its channels.
        classes: Names of the class numbers (label).
        bits: Of the stored values, 8 or 16; files of others are refused. None takes both.
        prefix: What stands before the last part of the key in the names of the files.
        suffix: What stands behind the key there.
        layout: Of npy files of three axes, one of `LAYOUTS`; None takes those whose shape leaves no doubt.
        pages: Of TIFF files, one of `PAGES`; None takes those of one image alone.
    """

    kind: str
    _: KW_ONLY
    scale: float = 1.0
    unit: str = ""
    invalid: float | None = None
    classes: tuple[str, ...] = ()
    bits: int | None = None
    prefix: str = ""
    suffix: str = ""
    layout: str | None = None
    pages: str | None = None

    @property
    def common(self) -> dict[str, Any]:
        """All of this by name, for another specification of the same files."""
        return {field.name: getattr(self, field.name) for field in fields(FileSpec)}


def seen(spec: FileSpec) -> bool:
    """Whether values are those that a person sees; numbers of the other kinds are taken as they are stored."""
    return spec.kind in _SEEN_KINDS


@dataclass(frozen=True)
class Content:
    """A decoded file.

    Args:
        array: (C, H, W), upright.
        alpha: Whether the last channel is the opacity of the others.
        nodata: The value that the file itself declares to be no measurement.
        notes: What was done about things that the file says, for people.
        orientation: As Exif counts it, of an array that is not upright yet.
        palette: The colours (n, 3), 8 bits, of the indices that the array holds; None of an array that holds none.
        lossy: How it was compressed, if its numbers may only be near those that were saved.
        scaling: The scale and the offset that it declares for its numbers, in words; empty where these are neutral.
    """

    array: np.ndarray
    alpha: bool = False
    nodata: float | None = None
    notes: tuple[str, ...] = ()
    orientation: int = 1
    palette: np.ndarray | None = None
    lossy: str = ""
    scaling: str = ""

    def channels(self, expected: int | None, file: str) -> np.ndarray:
        """The array without an alpha channel that hides nothing.

        Args:
            expected: Channels of the modality, where they are known: alpha that they count stays.
            file: Its name, for messages.

        Raises:
            DataError: When some pixels are transparent, and the modality has no channel for that.
        """
        if not self.alpha or expected == len(self.array):
            return self.array
        opacity = self.array[-1]
        full = 1 if opacity.dtype.kind in "bf" else np.iinfo(opacity.dtype).max
        if (opacity == full).all():
            return self.array[:-1]
        if expected is None:
            return self.array
        raise DataError(
            f"{file}: some pixels are transparent, and the modality's channels, {expected}, count no alpha. Save the "
            "file without its alpha channel, or give every file of the modality one that is not opaque."
        )


class RefusedError(ValueError):
    """A sound file that says of itself what cannot be followed; the message ends in the remedy, without a full stop."""


Spec = TypeVar("Spec", bound=FileSpec)


def honouring(spec: Spec, content: Content) -> Spec:
    """What the values of one file mean: its own no-data value counts where the data set declares no `invalid`."""
    return spec if spec.invalid is not None or content.nodata is None else replace(spec, invalid=content.nodata)


def check_pixels(width: int, height: int) -> None:
    """Refuse what would fill the memory before it is decoded.

    Raises:
        RefusedError: When a header claims more than `MAX_PIXELS`.
    """
    if width * height > MAX_PIXELS:
        raise RefusedError(
            f"says to have {width}x{height} pixels (width x height), and up to {MAX_PIXELS} are read. Cut it into parts"
        )


def check_unpacked(size: int) -> None:
    """Refuse values of many channels that a header announces, before they are unpacked.

    Args:
        size: Bytes of all values.

    Raises:
        RefusedError: They are more than a file of unpacked values may have.
    """
    if size > MAX_FILE:
        raise RefusedError(
            f"says to hold {size} bytes of values, and up to {MAX_FILE} are read. Cut it into parts, or leave out "
            "channels"
        )


def full_scale(array: np.ndarray, bits: int) -> np.ndarray:
    """Unsigned numbers of odd bits, as 2, 4 or 12, stretched to all of their 8 or 16-bit type, as they are seen."""
    top = np.iinfo(array.dtype).max
    if bits == array.dtype.itemsize * 8:
        return array
    return np.rint(array * (top / ((1 << bits) - 1))).astype(array.dtype)
