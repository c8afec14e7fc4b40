"""What an image within another file says of its size, by its first bytes: its decoder unpacks what it claims."""

from collections.abc import Callable

from tifffile import COMPRESSION, TIFF

Size = tuple[int, int]
"""Height and width."""


def claimed_size(compression: int, data: bytes) -> Size | None:
    """The size that a strip or tile of a TIFF file claims itself; None where nobody can tell.

    Args:
        compression: As TIFF counts them; of those that hold whole images of a format of its own.
        data: The strip or tile.
    """
    reader = _READERS.get(compression)
    try:
        return reader(data) if reader else None
    except (IndexError, ValueError):  # it ends too early, or lacks what is looked for
        return None


def _number(data: bytes, at: int, size: int, order: str = "little") -> int:
    """Unsigned, of so many bytes."""
    if len(data) < at + size:
        raise IndexError
    return int.from_bytes(data[at : at + size], "big" if order == "big" else "little")


def _webp(data: bytes) -> Size:
    """RFC 9649: a lossy, a lossless, or an extended file."""
    kind = data[12:16]
    if kind == b"VP8 ":
        return _number(data, 28, 2) & 0x3FFF, _number(data, 26, 2) & 0x3FFF
    if kind == b"VP8L":
        bits = _number(data, 21, 4)
        return 1 + (bits >> 14 & 0x3FFF), 1 + (bits & 0x3FFF)
    if kind == b"VP8X":
        return 1 + _number(data, 27, 3), 1 + _number(data, 24, 3)
    raise ValueError


def _jpeg_2000(data: bytes) -> Size:
    """ISO 15444-1, A.5.1: the reference grid, whose origin the image may not start at."""
    at = data.index(b"\xff\x4f\xff\x51") + 8
    return _number(data, at + 4, 4, "big"), _number(data, at, 4, "big")


def _lerc(data: bytes) -> Size:
    """Esri's header of its second version, whose parts have come in this order since its third."""
    at = data.index(b"Lerc2 ") + 6
    first = at + (8 if _number(data, at, 4) >= 3 else 4)  # behind the version, and a checksum
    return _number(data, first, 4), _number(data, first + 4, 4)


def _png(data: bytes) -> Size:
    at = data.index(b"IHDR") + 4
    return _number(data, at + 4, 4, "big"), _number(data, at, 4, "big")


def _jpeg_xr(data: bytes) -> Size:
    """ISO 29199-2, A.7: a directory of entries of 12 bytes."""
    start = _number(data, 4, 4)
    entries = {
        _number(data, at, 2): _number(data, at + 8, 4)
        for at in (start + 2 + 12 * entry for entry in range(_number(data, start, 2)))
    }
    if not {0xBC80, 0xBC81} <= entries.keys():
        raise ValueError
    return entries[0xBC81], entries[0xBC80]


def _jpeg_xl(data: bytes) -> Size:
    """ISO 18181-1, its size header, with the lowest bits first."""
    at = data.index(b"\xff\x0a", 0 if data[:2] == b"\xff\x0a" else data.index(b"jxlc" if b"jxlc" in data else b"jxlp"))
    bits, taken = _number(data, at + 2, 9), 0

    def take(count: int) -> int:
        nonlocal taken
        taken += count
        return bits >> taken - count & (1 << count) - 1

    small = take(1)

    def side() -> int:
        return 8 * (1 + take(5)) if small else 1 + take((9, 13, 18, 30)[take(2)])

    height, ratio = side(), take(3)
    if not ratio:
        return height, side()
    over, under = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))[ratio - 1]
    return height, height * over // under


_READERS: dict[int, Callable[[bytes], Size]] = {
    COMPRESSION.WEBP: _webp,
    COMPRESSION.JPEGXL: _jpeg_xl,
    COMPRESSION.JPEGXL_DNG: _jpeg_xl,
    COMPRESSION.JPEG2000: _jpeg_2000,
    COMPRESSION.APERIO_JP2000_YCBC: _jpeg_2000,
    COMPRESSION.APERIO_JP2000_RGB: _jpeg_2000,
    COMPRESSION.JPEG_2000_LOSSY: _jpeg_2000,
    COMPRESSION.LERC: _lerc,
    COMPRESSION.PNG: _png,
    COMPRESSION.JPEGXR: _jpeg_xr,
    COMPRESSION.JPEGXR_NDPI: _jpeg_xr,
}

_JPEGS = (COMPRESSION.OJPEG, COMPRESSION.JPEG, COMPRESSION.ALT_JPEG, COMPRESSION.JPEG_LOSSY)
SIZED = frozenset({*map(int, TIFF.IMAGE_COMPRESSIONS), COMPRESSION.LERC} - {*_JPEGS})
"""Compressions of TIFF whose strips and tiles are images with a size of their own, beside those of JPEG."""
