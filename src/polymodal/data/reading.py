"""The one reader of files, for training, check, statistics, prediction and all else, so that they cannot disagree."""

import io
import math
import re
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np

from polymodal.data.content import Content, FileSpec, RefusedError, check_pixels
from polymodal.data.files import EXTENSIONS, MASK, masked
from polymodal.data.pictures import JPEG_SIGNATURE, PNG_SIGNATURE, decode_jpeg, decode_png
from polymodal.data.tiff import SIGNATURES, decode_tiff
from polymodal.documents import MAX_FILE, read_bytes
from polymodal.errors import DataError

_NPY_SIGNATURE = b"\x93NUMPY"
_FEW = 16
"""So many channels, or fewer, show by the shape of an array which axis they are."""

_OTHERS = {
    "WebP": rb"RIFF....WEBP",
    "GIF": rb"GIF8",
    "BMP": rb"BM.{4}\0\0\0\0",
    "JPEG 2000": rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51",
    "JPEG XL": rb"\0\0\0\x0cJXL |\xff\x0a",
    "HEIF or AVIF": rb".{4}ftyp",
    "OpenEXR": rb"\x76\x2f\x31\x01",
    "Radiance HDR": rb"#\?(RADIANCE|RGBE)",
    "PNM or PFM": rb"P[1-7Ff]\s",
    "Photoshop": rb"8BPS",
    "PDF": rb"%PDF",
    "HDF5": rb"\x89HDF",
    "MATLAB": rb"MATLAB \d",
    "zip or npz": rb"PK\x03\x04",
    "gzip": rb"\x1f\x8b",
    "web page": rb"\s*<(!doctype html|!DOCTYPE html|!DOCTYPE HTML|html|HTML)",
    "Git LFS pointer": rb"version https://git-lfs",
}
"""What files are mistaken for, by how they begin."""


def read_array(
    path: str | Path, *, labels: bool = False, layout: str | None = None, pages: str | None = None
) -> np.ndarray:
    """An image or array file, upright, without an alpha channel that hides nothing; docs/reading-files.md has it all.

    Args:
        path: A PNG, JPEG, TIFF or npy file, whatever its ending of these.
        labels: Whether the values are class numbers: a palette then gives its indices, not its colours.
        layout: Of an npy file of three axes: "chw" or "hwc"; None where the shape leaves no doubt.
        pages: "bands" for a TIFF file whose equal pages are the channels of one image.

    Returns:
        (C, H, W), in the file's own type: bool for 1-bit images, 8 or 16-bit unsigned, or what TIFF and npy hold.

    Raises:
        DataError: When the file does not exist, is damaged, is of another format or leaves in doubt what it means.
    """
    reading = FileSpec("label" if labels else "image", layout=layout, pages=pages)
    return read_content(path, reading).channels(None, str(path))


def read_content(path: str | Path, reading: FileSpec) -> Content:
    """Like `read_array`, with all that the file says of itself."""
    return decode(stored_bytes(Path(path)), str(path), reading)


def stored_bytes(path: Path) -> bytes:
    """The bytes of a file as `decode` takes them.

    Raises:
        DataError: It is no file, or cannot be read, or has a mask beside it.
    """
    if path.with_name(path.name + MASK).exists():
        raise masked(str(path))
    try:
        return read_bytes(path, MAX_FILE)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from error


def decode(data: bytes, file: str, reading: FileSpec) -> Content:
    """Like `read_content`, from the bytes of the file named `file`."""
    ending = PurePosixPath(file).suffix.lower()
    if ending not in EXTENSIONS:
        raise DataError(f"{file}: expected a file that ends in one of {', '.join(EXTENSIONS)}.")
    name = _format(data)
    try:
        match name:
            case "PNG":
                content = decode_png(data, reading)
            case "JPEG":
                content = decode_jpeg(data, reading)
            case "TIFF":
                content = decode_tiff(data, reading)
            case "npy":
                content = Content(_decode_npy(data, reading))
            case _:
                raise ValueError(f"{name}; PNG, JPEG, TIFF and npy are read")
    except RefusedError as error:
        raise DataError(f"{file}: {error}.") from error
    except Exception as error:  # every decoder has its own errors; to the user they are all the same
        reason = (str(error).strip().split("\n")[0] or type(error).__name__).removesuffix(".")
        known = name if name in ("PNG", "JPEG", "TIFF", "npy") else ending[1:].upper()
        raise DataError(f"{file}: cannot be read as {known} ({reason}). Replace the file.") from error
    array = content.array
    if array.dtype.kind not in "buif" or array.size == 0:
        raise DataError(f"{file}: expected numbers, got {array.dtype} of shape {array.shape}.")
    if array.dtype == bool:  # some decoders, and some files, say yes by other bytes than 1
        content = replace(content, array=array.view(np.uint8) != 0)
    if not array.dtype.isnative:
        content = replace(content, array=array.astype(array.dtype.newbyteorder("=")))
    return _upright(content)


def _format(data: bytes) -> str:
    """The format that the content shows, whatever the ending of the name, or what is wrong with it."""
    if data.startswith(PNG_SIGNATURE):
        return "PNG"
    if data.startswith(JPEG_SIGNATURE):
        return "JPEG"
    if data.startswith(SIGNATURES):
        return "TIFF"
    if data.startswith(_NPY_SIGNATURE):
        return "npy"
    if not data:
        return "it is empty, 0 bytes"
    others = (name for name, start in _OTHERS.items() if re.match(start, data[:64], re.DOTALL))
    return next((f"its content is {name}" for name in others), "its content is of no known format")


def _upright(content: Content) -> Content:
    """Turned and mirrored as Exif's orientation says (TIFF 6.0, tag 274); other numbers than 1 to 8 say nothing."""
    if content.orientation not in range(2, 9):
        return content
    array = content.array
    if content.orientation >= 5:
        array = array.swapaxes(1, 2)
    rows = content.orientation in (3, 4, 7, 8)
    columns = content.orientation in (2, 3, 6, 7)
    array = array[:, :: -1 if rows else 1, :: -1 if columns else 1]
    note = f"orientation {content.orientation}: it is turned as viewers show it"
    return replace(content, array=np.ascontiguousarray(array), notes=(*content.notes, note), orientation=1)


def _decode_npy(data: bytes, reading: FileSpec) -> np.ndarray:
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, columns, dtype = header(stream)
    if dtype.hasobject:
        raise ValueError(f"expected numbers, got {dtype}")
    if len(shape) not in (2, 3):
        raise ValueError(f"expected two or three axes, got shape {shape}")
    if (claimed := math.prod(shape) * dtype.itemsize) > len(data) - stream.tell():
        raise ValueError(f"cut off: {claimed} bytes of values are announced, and {len(data) - stream.tell()} are there")
    plane = len(shape) == 2
    last = not plane and (reading.layout == "hwc" if reading.layout else not _channels_lead(shape))
    height, width = shape[:2] if last else shape[-2:]
    check_pixels(width, height)
    array = np.frombuffer(data, dtype, math.prod(shape), stream.tell()).reshape(shape, order="F" if columns else "C")
    return array[None] if plane else np.ascontiguousarray(np.moveaxis(array, 2, 0) if last else array)


def _channels_lead(shape: tuple[int, ...]) -> bool:
    """Whether the channels are the first axis: the few of an end, where the other two axes are at least twice as long.

    Raises:
        RefusedError: When they may be the first as well as the last axis.
    """
    ends = [axis for axis in (0, 2) if shape[axis] <= _FEW and 2 * shape[axis] <= min(shape[1], shape[2 - axis])]
    if len(ends) != 1:
        raise RefusedError(
            f"the shape {shape} does not tell which axis the channels are. Declare `layout: chw` or `layout: hwc` in "
            "dataset.yaml"
        )
    return ends[0] == 0
