"""PNG and JPEG: decoders that raise on damaged bytes, and only after the header was looked at."""

import io
import struct
import warnings
from collections.abc import Iterator

import imagecodecs
import numpy as np
from PIL import ExifTags, Image
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from polymodal.data.content import Content, FileSpec, RefusedError, check_pixels, check_unpacked, full_scale, seen

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
JPEG_SIGNATURE = b"\xff\xd8\xff"

_GREY, _RGB, _PALETTE, _ALPHA, _RGBA = 0, 2, 3, 4, 6  # of these two, either has alpha
_CHANNELS = {_GREY: 1, _RGB: 3, _PALETTE: 3, _ALPHA: 2}
_METADATA = (b"Raw profile type exif", b"XML:com.adobe.xmp")

# Of the frame header there are several, by the way of compression; three numbers of their range mean something else.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_APP1, _APP2, _SCAN, _LS, _END = 0xE1, 0xE2, 0xDA, 0xF7, b"\xff\xd9"
_CMYK = 4

_MAX_SCANS = 50
"""Passes over one picture. Encoders write some ten; of one colour a thousand take kilobytes, and minutes to decode."""


def decode_png(data: bytes, reading: FileSpec) -> Content:
    """A PNG file; (C, H, W) not yet upright.

    Raises:
        Exception: Of the decoder, when the file is damaged.
        RefusedError: When it is an animation, too large, or has colours that are transparent.
    """
    if len(data) < 33:
        raise ValueError("cut off in its header")
    width, height = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))
    bits, color, interlaced = data[24], data[25], data[28]
    check_pixels(width, height)
    check_unpacked(width * height * _CHANNELS.get(color, 4) * max(bits, 8) // 8)
    transparent, entries, orientation = b"", 0, 1
    for kind, start, stop in _chunks(data):
        if kind == b"acTL" and (frames := int.from_bytes(data[start : start + 4], "big")) > 1:
            raise RefusedError(f"an animation of {frames} pictures. Save the one that is meant as a file of its own")
        if kind == b"tRNS":
            transparent = data[start:stop]
        if kind == b"PLTE":
            entries = (stop - start) // 3
        if kind == b"eXIf" or (kind in (b"tEXt", b"zTXt", b"iTXt") and data.startswith(_METADATA, start, stop)):
            orientation = _orientation(PngImageFile, data)
    if color == _PALETTE:
        image: Image.Image = PngImageFile(io.BytesIO(data))
        indices = channels_first(np.array(image))
        if not seen(reading):
            palette = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)[:entries]
            return Content(indices, orientation=orientation, palette=palette)
        if (highest := int(indices.max())) >= entries:
            raise ValueError(f"a pixel has the colour {highest} of a palette of {entries}")
        image = image.convert("RGBA" if transparent else "RGB")
        return Content(channels_first(np.array(image)), image.mode == "RGBA", orientation=orientation)
    level = int.from_bytes(transparent, "big") if transparent and color == _GREY else None
    if bits < 8:
        array = np.array(PngImageFile(io.BytesIO(data)))[None]  # stretched to 0 to 255
        if bits == 1:
            array = array.view(np.uint8) > 0  # else a bool of Pillow's, which is no other module's true
        step = 255 // ((1 << bits) - 1)
        if bits > 1 and not seen(reading):
            array //= step
        elif bits > 1 and level is not None:
            level *= step
        return Content(array, nodata=level, orientation=orientation)
    # The decoder of all forms prints a warning for each file that is interlaced; that of the usual ones does not.
    usual = interlaced and bits == 8 and color in (_GREY, _RGB, _RGBA) and not transparent
    array = channels_first(imagecodecs.spng_decode(data) if usual else imagecodecs.png_decode(data))
    if transparent:
        # Of one grey or one colour that is transparent the decoder has made an alpha channel.
        array, opacity = array[:-1], array[-1]
        if level is None and not opacity.all():
            raise RefusedError("one of its colours is declared transparent. Save the file without transparency")
    return Content(array, color >= _ALPHA and reading.kind != "raw", level, orientation=orientation)


def decode_jpeg(data: bytes, reading: FileSpec) -> Content:
    """A JPEG file; (C, H, W) not yet upright.

    Raises:
        Exception: Of the decoder, when the file is damaged.
        RefusedError: When it is too large, or in CMYK and of a kind whose values are no colours.
    """
    bits, colors, metadata, scan = 8, 0, False, 0
    notes: tuple[str, ...] = ()
    for marker, start, stop in _segments(data):
        if marker in _FRAMES:
            _check_frame(data, start)
            bits, colors = data[start], data[start + 5]
        elif marker == _LS:
            raise RefusedError("JPEG-LS, and other JPEG is read. Save it as PNG")
        elif marker == _APP1:
            metadata = True
        elif marker == _APP2 and data.startswith(b"MPF\0", start):
            notes = ("holds further pictures (previews, depth or a second view) beside the main one, which is read",)
        scan = stop
    # A decoder fills up what is missing with grey.
    if data.rfind(_END, scan) < 0:
        raise ValueError("cut off: its end is missing")
    _check_scans(data, scan)
    orientation = _orientation(JpegImageFile, data) if metadata else 1
    if colors == _CMYK:
        if not seen(reading):
            raise RefusedError(f"CMYK, whose four inks are no values of kind {reading.kind}. Save what is meant as PNG")
        array = np.array(JpegImageFile(io.BytesIO(data)).convert("RGB"))
        notes = (*notes, CMYK_NOTE)
    elif colors in (1, 3):
        array = imagecodecs.jpeg8_decode(data)
        array = full_scale(array, bits) if seen(reading) else array
    else:
        raise RefusedError(f"{colors} colours, and grey, RGB and CMYK are read. Save it as PNG")
    return Content(channels_first(array), notes=notes, orientation=orientation, lossy="JPEG")


def check_jpeg(data: bytes) -> None:
    """Refuse a JPEG stream within another file, which decoders unpack at the size that it claims itself.

    Raises:
        RefusedError: It claims too much.
        ValueError: It is damaged.
    """
    for marker, start, stop in _segments(data):
        if marker in _FRAMES:
            _check_frame(data, start)
        elif marker == _SCAN:
            _check_scans(data, stop)


def _check_frame(data: bytes, start: int) -> None:
    height, width = (int.from_bytes(data[at : at + 2], "big") for at in (start + 1, start + 3))
    check_pixels(width, height)


def _check_scans(data: bytes, behind: int) -> None:
    """Refuse too many passes, counted from behind the header of the first one."""
    if (scans := 1 + data.count(b"\xff\xda", behind)) > _MAX_SCANS:
        raise RefusedError(f"{scans} scans, and up to {_MAX_SCANS} are read. Save it anew")


CMYK_NOTE = "CMYK: its inks are read as RGB, without a colour profile"


def encode_png(array: np.ndarray) -> bytes:
    """A PNG file of (H, W) with 8 or 16 bits, or of (H, W, 3 or 4) with 8."""
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


def channels_first(array: np.ndarray) -> np.ndarray:
    """(H, W) or (H, W, C) as (C, H, W), without copying it."""
    return array[None] if array.ndim == 2 else np.moveaxis(array, 2, 0)


def _orientation(reader: type[ImageFile], data: bytes) -> int:
    """As the Exif or XMP data say; damaged ones say nothing, and viewers show such a picture as it is stored."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # else Pillow warns of every damaged one
        try:
            return int(reader(io.BytesIO(data)).getexif().get(ExifTags.Base.Orientation, 1))
        except (SyntaxError, ValueError, TypeError, KeyError, OverflowError, struct.error):
            return 1


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """The kind, the start and the end of every part of a PNG file."""
    position = len(PNG_SIGNATURE)
    while position + 8 <= len(data):
        start = position + 8
        stop = start + int.from_bytes(data[position : position + 4], "big")
        yield data[position + 4 : start], start, stop
        position = stop + 4


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """The marker, the start and the end of every part of a JPEG file, up to the first compressed pixels."""
    position = 2
    while position + 4 <= len(data):
        marker = data[position + 1]
        if data[position] != 0xFF:
            raise ValueError("damaged before its pixels begin")
        if marker == 0xFF:  # a byte that only fills
            position += 1
            continue
        stop = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        yield marker, position + 4, stop
        if marker == _SCAN:
            return
        position = stop
    raise ValueError("cut off before its pixels begin")
