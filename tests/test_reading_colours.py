"""What a picture says of itself is followed: the values are those that Pillow, a second reader, shows of the file."""

import io
import struct
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from polymodal.data import read_array
from polymodal.data.content import FileSpec
from polymodal.data.reading import decode
from polymodal.errors import DataError

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (6, 9)).astype(np.uint8)
COLOURS = RNG.integers(0, 256, (6, 9, 3)).astype(np.uint8)
INKS = RNG.integers(0, 256, (6, 9, 4)).astype(np.uint8)


def stored(image: Image.Image, kind: str, **settings) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def tiff(array: np.ndarray, **settings) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, **settings)
    return buffer.getvalue()


def shown(data: bytes, mode: str) -> np.ndarray:
    """(C, H, W) as Pillow shows the file."""
    array = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert(mode))
    return array[None] if array.ndim == 2 else np.moveaxis(array, 2, 0)


def read(data: bytes, kind: str = "image") -> np.ndarray:
    return decode(data, "a.png", FileSpec(kind)).array


def png(
    width: int, height: int, bits: int, color: int, rows: bytes, *chunks: tuple[bytes, bytes], interlaced: int = 0
) -> bytes:
    """A PNG file from its packed rows, each with its filter byte."""
    header = (b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, interlaced))
    parts = (header, *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts
    )


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
@pytest.mark.parametrize("meaning", ["image", "label", "raw"])
def test_orientation_is_that_of_viewers_for_every_kind(orientation, kind, meaning):
    """If this breaks, a telephone's picture lies on its side against its label, and the scores fall without a word."""
    exif = Image.Exif()
    exif[274] = orientation
    for image, mode in ((Image.fromarray(GREY), "L"), (Image.fromarray(COLOURS), "RGB")):
        data = stored(image, kind, exif=exif) if kind != "TIFF" else stored(image, kind, tiffinfo={274: orientation})
        content = decode(data, "a.png", FileSpec(meaning))
        assert np.array_equal(content.array, shown(data, mode))
        assert bool(content.notes) == (orientation > 1)


def test_orientation_in_xmp_and_behind_the_pixels_of_a_png():
    """Image programs write it there, and viewers follow it."""
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="6"></a></x:xmpmeta>'
    jpeg = stored(Image.fromarray(COLOURS), "JPEG", xmp=xmp)
    assert np.array_equal(read(jpeg), shown(jpeg, "RGB"))
    exif = Image.Exif()
    exif[274] = 6
    plain, body = stored(Image.fromarray(GREY), "PNG"), exif.tobytes()[6:]
    chunk = struct.pack(">I", len(body)) + b"eXIf" + body + struct.pack(">I", zlib.crc32(b"eXIf" + body))
    late = plain[:-12] + chunk + plain[-12:]
    assert np.array_equal(read(late), np.rot90(GREY, -1)[None])


def test_damaged_exif_is_no_orientation():
    damaged = stored(Image.fromarray(GREY), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff" + bytes(4))
    assert read(damaged).shape == (1, 6, 9)


@pytest.mark.parametrize("kind", ["image", "label"])
def test_min_is_white_is_inverted(kind):
    """If this breaks, a mask says background where the object is."""
    for array, mode in ((GREY, "L"), (GREY > 99, "1")):
        data = tiff(array, photometric="miniswhite")
        assert np.array_equal(read(data, kind), shown(data, mode))
    data = stored(Image.fromarray(GREY > 99), "TIFF", tiffinfo={262: 0})
    assert np.array_equal(read(data, kind), shown(data, "1"))
    deep = GREY.astype(np.uint16) * 200
    assert np.array_equal(read(tiff(deep, photometric="miniswhite"), kind), 65535 - deep[None])


@pytest.mark.parametrize("kind", ["depth", "raw"])
def test_min_is_white_is_refused_for_measurements(kind):
    """Whether they count upwards or downwards nobody can tell; half of all guesses would be wrong."""
    with pytest.raises(DataError, match=r"a.png: min-is-white.* Save it as min-is-black"):
        read(tiff(GREY, photometric="miniswhite"), kind)
    with pytest.raises(DataError, match=r"min-is-white with 1 channel.* float32"):
        read(tiff(GREY.astype("f4"), photometric="miniswhite"))


@pytest.mark.parametrize("kind", ["image", "label", "raw", "depth"])
def test_a_palette_is_colours_for_an_image_and_numbers_elsewhere(kind):
    """If this breaks, a network learns from numbers of colours that mean nothing."""
    table = RNG.integers(0, 256, (3, 256)).astype(np.uint16) * 257
    deep = tiff(GREY, photometric="palette", colormap=table)
    assert np.array_equal(read(deep, kind), shown(deep, "RGB") if kind == "image" else GREY[None])
    rows = b"".join(b"\0" + row.tobytes() for row in GREY[:, :4])
    few = png(8, 6, 4, 3, rows, (b"PLTE", bytes(range(48))))
    numbers = np.stack([GREY[:, :4] >> 4, GREY[:, :4] & 15], 2).reshape(1, 6, 8)
    assert np.array_equal(read(few, kind), shown(few, "RGB") if kind == "image" else numbers)


def test_a_palette_table_of_8_bits_is_not_black():
    table = np.tile(np.arange(256, dtype=np.uint16), (3, 1))
    assert np.array_equal(read(tiff(GREY, photometric="palette", colormap=table)), np.stack([GREY] * 3))


def test_cmyk_is_read_as_pillow_shows_it():
    """If this breaks, a scanned print has four channels and its colours are inverted."""
    for data in (
        stored(Image.fromarray(INKS, "CMYK"), "JPEG", quality=95),
        stored(Image.fromarray(INKS, "CMYK"), "TIFF"),
        tiff(INKS, photometric="separated"),
    ):
        assert np.array_equal(read(data), shown(data, "RGB"))
        (note,) = decode(data, "a.jpg", FileSpec("image")).notes
        assert note.startswith("CMYK")
    with pytest.raises(DataError, match="CMYK, whose four inks are no values of kind depth"):
        read(stored(Image.fromarray(INKS, "CMYK"), "JPEG"), "depth")
    with pytest.raises(DataError, match=r"4 inks of uint16.* Save it as RGB"):
        read(tiff(INKS.astype(np.uint16), photometric="separated"))


def test_ycbcr_is_read_through_jpeg_and_refused_elsewhere():
    jpeg = tiff(COLOURS, photometric="ycbcr", compression="jpeg", subsampling=(1, 1))
    assert np.abs(read(jpeg).astype(int) - shown(jpeg, "RGB")).max() <= 1
    for settings in ({"photometric": "ycbcr", "subsampling": (1, 1)}, {"photometric": "cielab"}):
        with pytest.raises(DataError, match=r"a.png: its colours are (YCBCR|CIELAB).* Save it as RGB"):
            read(tiff(COLOURS, **settings))


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("kind", ["image", "label", "raw"])
def test_grey_of_few_bits_is_seen_by_images_and_counted_elsewhere(bits, kind):
    """If this breaks, 4-bit pictures are refused or nearly black, or class 3 is read as 51."""
    packed = GREY[:, :4]
    numbers = np.unpackbits(packed, axis=1).reshape(6, -1, bits) @ (1 << np.arange(bits)[::-1])
    data = png(numbers.shape[1], 6, bits, 0, b"".join(b"\0" + row.tobytes() for row in packed))
    expected = shown(data, "1" if bits == 1 else "L") if kind == "image" else numbers[None]
    assert np.array_equal(read(data, kind), expected)


@pytest.mark.parametrize("bits", [4, 12])
def test_tiff_of_odd_bits_is_seen_at_its_full_scale(bits):
    """If this breaks, 12-bit pictures are 16 times as dark as they are."""
    numbers = (GREY.astype(np.uint16) * 16 >> (12 - bits)).astype(np.uint8 if bits == 4 else np.uint16)
    packed = "".join(format(number, f"0{bits}b") for row in numbers[:, :8] for number in row)
    data = bytearray(tiff(np.zeros((6, bits), np.uint8), photometric="minisblack", metadata=None))
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as file:
        tags = file.pages[0].tags
        start = tags["StripOffsets"].value[0]
        offsets = {name: tags[name].valueoffset for name in ("ImageWidth", "BitsPerSample")}
    data[start : start + 6 * bits] = int(packed, 2).to_bytes(6 * bits, "big")
    data[offsets["ImageWidth"]] = 8
    data[offsets["BitsPerSample"]] = bits
    top = 255 if bits == 4 else 65535
    assert np.array_equal(read(bytes(data)), np.rint(numbers[None, :, :8] * (top / (2**bits - 1))))
    assert np.array_equal(read(bytes(data), "raw"), numbers[None, :, :8])


def test_a_jpeg_of_12_bits_is_seen_at_its_full_scale():
    """If this breaks, such pictures are 16 times as dark as they are."""
    numbers = GREY.astype(np.uint16) << 4
    data = imagecodecs.ljpeg_encode(numbers, bitspersample=12)
    assert np.array_equal(read(data), np.rint(numbers[None] * (65535 / 4095)))
    assert np.array_equal(read(data, "depth"), numbers[None])
    with pytest.raises(DataError, match="JPEG-LS"):
        read(imagecodecs.jpegls_encode(GREY))


def test_an_interlaced_png_is_read_without_a_line_for_each(capfd):
    """If this breaks, the decoder writes a warning into the progress bar for every file in every epoch."""
    rows = b""
    for top, left, down, across in ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2)):
        rows += b"".join(b"\0" + row.tobytes() for row in COLOURS[top::down, left::across] if row.size)
    data = png(9, 6, 8, 2, rows + b"".join(b"\0" + row.tobytes() for row in COLOURS[1::2]), interlaced=1)
    assert np.array_equal(read(data), COLOURS.transpose(2, 0, 1))
    assert capfd.readouterr().err == ""


def test_an_index_without_a_colour_is_no_picture_and_a_number_elsewhere():
    data = png(2, 1, 8, 3, b"\0\1\2", (b"PLTE", bytes(6)))
    with pytest.raises(DataError, match="a pixel has the colour 2 of a palette of 2"):
        read(data)
    assert read(data, "label").tolist() == [[[1, 2]]]


@pytest.mark.parametrize("opacity", [255, 0])
def test_alpha_behind_more_than_colours_is_alpha(opacity):
    """As GDAL writes red, green, blue, infrared and alpha; else what is transparent is trained on."""
    alpha = np.full_like(GREY, 255)
    alpha[0] = opacity
    bands = np.dstack([COLOURS, GREY, alpha])
    content = decode(tiff(bands, photometric="rgb", extrasamples=[0, 2]), "a.tif", FileSpec("image"))
    assert content.channels(None, "a.tif").shape[0] == (4 if opacity == 255 else 5)
    with pytest.raises(DataError, match="its alpha is not the last channel"):
        read(tiff(bands, photometric="rgb", extrasamples=[2, 0]))
    assert read(tiff(bands, photometric="rgb", extrasamples=[2, 0]), "raw").shape[0] == 5


def test_an_opaque_alpha_is_dropped_and_another_is_told(tmp_path):
    """If this breaks, one file saved with alpha ends a training, or a mask of holes becomes a colour."""
    opaque = np.dstack([COLOURS, np.full_like(GREY, 255)])
    holed = opaque.copy()
    holed[2, 3, 3] = 0
    for name, file in (("PNG", stored), ("TIFF", stored)):
        solid, open_ = (decode(file(Image.fromarray(a), name), "a.png", FileSpec("image")) for a in (opaque, holed))
        assert np.array_equal(solid.channels(3, "a.png"), COLOURS.transpose(2, 0, 1))
        assert np.array_equal(solid.channels(None, "a.png"), COLOURS.transpose(2, 0, 1))
        assert np.array_equal(solid.channels(4, "a.png"), opaque.transpose(2, 0, 1))
        assert np.array_equal(open_.channels(4, "a.png"), holed.transpose(2, 0, 1))
        with pytest.raises(DataError, match=r"a.png: some pixels are transparent.* without its alpha"):
            open_.channels(3, "a.png")
    Image.fromarray(np.dstack([GREY, np.full_like(GREY, 255)]), "LA").save(tmp_path / "a.png")
    assert np.array_equal(read_array(tmp_path / "a.png"), GREY[None])


def test_four_bands_that_are_no_alpha_stay_four():
    """If this breaks, the infrared band of a satellite's picture is taken for opacity."""
    bands = np.dstack([COLOURS, np.full_like(GREY, 255)])
    for kind in ("image", "raw"):
        content = decode(tiff(bands, photometric="minisblack", planarconfig="contig"), "a.tif", FileSpec(kind))
        assert content.channels(None, "a.tif").shape == (4, 6, 9)
    content = decode(stored(Image.fromarray(bands), "PNG"), "a.png", FileSpec("raw"))
    assert content.channels(None, "a.png").shape == (4, 6, 9)


def test_transparency_of_one_level_is_no_data_and_of_a_palette_alpha():
    """GDAL writes a PNG's no-data value that way."""
    data = stored(Image.fromarray(GREY), "PNG", transparency=int(GREY[0, 0]))
    content = decode(data, "a.png", FileSpec("depth"))
    assert content.array.shape == (1, 6, 9)
    assert content.nodata == GREY[0, 0]
    with pytest.raises(DataError, match="one of its colours is declared transparent"):
        read(stored(Image.fromarray(COLOURS), "PNG", transparency=tuple(map(int, COLOURS[0, 0]))))
    image = Image.fromarray(GREY % 4)
    image.putpalette(bytes(range(12)))
    data = stored(image, "PNG", transparency=bytes([255, 0, 255, 255]))
    content = decode(data, "a.png", FileSpec("image"))
    assert content.alpha
    assert np.array_equal(content.array, shown(data, "RGBA"))
    assert np.array_equal(read(data, "label"), GREY[None] % 4)
