"""Strips of TIFF files that are images of a format of their own, which claim a size of their own."""

import io
import struct

import imagecodecs
import numpy as np
import pytest
import tifffile

from polymodal.data.claims import claimed_size
from polymodal.data.content import FileSpec
from polymodal.data.reading import decode
from polymodal.errors import DataError

COMPRESSION = tifffile.COMPRESSION
ENCODERS = {
    "WebP": (COMPRESSION.WEBP, imagecodecs.webp_encode, 3),
    "JPEG XL": (COMPRESSION.JPEGXL, imagecodecs.jpegxl_encode, 1),
    "JPEG XL in boxes": (COMPRESSION.JPEGXL, lambda a: imagecodecs.jpegxl_encode(a, usecontainer=True), 1),
    "JPEG 2000": (COMPRESSION.JPEG2000, imagecodecs.jpeg2k_encode, 1),
    "LERC": (COMPRESSION.LERC, imagecodecs.lerc_encode, 1),
    "PNG": (COMPRESSION.PNG, imagecodecs.png_encode, 1),
    "JPEG XR": (COMPRESSION.JPEGXR, imagecodecs.jpegxr_encode, 1),
}


def image(height: int, width: int, channels: int) -> np.ndarray:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def holding(strip: bytes, compression: int, channels: int, height: int, width: int) -> bytes:
    """A TIFF file of one strip that says what its image is."""
    photometric = 2 if channels == 3 else 1
    said = {256: width, 257: height, 258: 8, 259: compression, 262: photometric, 273: 200, 277: channels, 278: height}
    tags = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in {**said, 279: len(strip)}.items())
    return (b"II*\0\x08\0\0\0" + struct.pack("<H", 9) + tags + bytes(4)).ljust(200, b"\0") + strip


@pytest.mark.parametrize("name", ENCODERS)
def test_a_strip_that_claims_more_than_its_place_is_refused(name):
    """If this breaks, a file of some kilobytes fills the memory while 64 x 64 pixels are announced."""
    compression, encode, channels = ENCODERS[name]
    sound = holding(encode(image(24, 40, channels)), compression, channels, 24, 40)
    assert decode(sound, "a.tif", FileSpec("image")).array.shape == (channels, 24, 40)
    for size in ((25, 40), (24, 41), (600, 900)):
        strip = encode(image(*size, channels))
        assert claimed_size(compression, strip) == size
        with pytest.raises(DataError, match=r"40x24 pixels \(width x height\) claims to have"):
            decode(holding(strip, compression, channels, 24, 40), "a.tif", FileSpec("image"))
    with pytest.raises(DataError, match="does not tell its size"):
        decode(holding(b"some words", compression, channels, 24, 40), "a.tif", FileSpec("image"))


def test_tiles_that_go_beyond_an_image_are_read():
    stream = io.BytesIO()
    tifffile.imwrite(stream, image(20, 40, 3), photometric="rgb", compression="webp", tile=(16, 16))
    assert decode(stream.getvalue(), "a.tif", FileSpec("image")).array.shape == (3, 20, 40)
