"""What TIFF and npy files say of themselves: pages, no-data and axes, in one way for training, check and prediction."""

import io
import struct
import tracemalloc
import zlib
from contextlib import suppress

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fixtures_data import edit, make_folder
from polymodal.data import DatasetSpec, FolderDataset, InputSpec, TargetSpec, check, content, read_array
from polymodal.data.content import FileSpec
from polymodal.data.inputs import settled, to_values
from polymodal.data.large_tiff import large_tiff
from polymodal.data.reading import decode
from polymodal.data.statistics import compute
from polymodal.errors import DataError

RNG = np.random.default_rng(0)
SMALL = RNG.integers(0, 256, (12, 16)).astype(np.uint8)
LARGE = np.kron(SMALL, np.ones((2, 2), np.uint8))
LOWEST = float(np.finfo(np.float32).min)


def pages(*written: tuple[np.ndarray, dict]) -> bytes:
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as file:
        for array, said in written:
            file.write(array, **{"photometric": "minisblack", "metadata": None} | said)
    return buffer.getvalue()


def read(data: bytes, **how) -> np.ndarray:
    return decode(data, "a.tif", FileSpec(**{"kind": "image"} | how)).array


@pytest.mark.parametrize(
    "data",
    [
        pages((SMALL, {"subfiletype": 1}), (LARGE, {})),
        pages((LARGE, {}), (SMALL, {"subfiletype": 1})),
        pages((SMALL, {}), (LARGE, {})),
        pages((LARGE, {"subifds": 1}), (SMALL, {"subfiletype": 1})),
        pages((SMALL, {"subfiletype": 1, "subifds": 1}), (LARGE, {})),
    ],
)
def test_the_full_resolution_is_read_wherever_it_stands(data):
    """If this breaks, a thumbnail is trained on, or a picture is refused for its overviews."""
    assert np.array_equal(read(data), LARGE[None])


def test_equal_pages_are_bands_where_the_data_set_says_so_and_refused_elsewhere():
    """If this breaks, only the first of several bands is seen, and nobody is told."""
    data = pages((SMALL, {}), (SMALL // 2, {}), (SMALL // 3, {}))
    with pytest.raises(DataError, match=r"a.tif: 3 pages of equal size.* Declare `pages: bands`"):
        read(data)
    assert np.array_equal(read(data, pages="bands"), np.stack([SMALL, SMALL // 2, SMALL // 3]))
    buffer = io.BytesIO()
    Image.fromarray(SMALL).save(buffer, "TIFF", save_all=True, append_images=[Image.fromarray(SMALL // 2)])
    with pytest.raises(DataError, match="2 pages of equal size"):
        read(buffer.getvalue())
    assert np.array_equal(read(buffer.getvalue(), pages="bands"), np.stack([SMALL, SMALL // 2]))
    assert read(pages((SMALL, {})), pages="bands").shape == (1, 12, 16)
    with pytest.raises(DataError, match="2 pages that are no bands"):
        read(pages(*[(np.dstack([SMALL] * 3), {"photometric": "rgb"})] * 2), pages="bands")


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        ({"extratags": [(274, "H", 1, 6, True)]}, {}, "orientations, 1 and 6"),
        ({"extratags": [(42113, "s", 0, "0", True)]}, {"extratags": [(42113, "s", 0, "9", True)]}, "values, 0 and 9"),
        ({}, {"photometric": "miniswhite"}, "colours, MINISBLACK and MINISWHITE"),
    ],
)
def test_bands_that_contradict_each_other_are_refused(one, other, said):
    """If this breaks, what the first page says of itself is done to all."""
    with pytest.raises(DataError, match=f"its pages declare different .*{said}"):
        read(pages((SMALL, one), (SMALL, other)), pages="bands")


def test_no_data_of_a_later_band_counts():
    data = pages((SMALL, {}), (SMALL, {"extratags": [(42113, "s", 0, "9", True)]}))
    assert decode(data, "a.tif", FileSpec("raw", pages="bands")).nodata == 9


@pytest.mark.parametrize("values", [(0.01, 1), (1, 0.01)])
def test_the_scale_of_any_band_is_told(values):
    items = "".join(f'<Item name="SCALE" sample="{n}" role="scale">{value}</Item>' for n, value in enumerate(values))
    tag = (42112, "s", 0, f"<GDALMetadata>{items}</GDALMetadata>", True)
    (note,) = decode(pages((SMALL, {"extratags": [tag]})), "a.tif", FileSpec("raw")).notes
    assert note == "declares the scale 0.01, which dataset.yaml alone can apply"


def test_a_stack_that_says_what_its_axes_are_is_believed():
    stack = np.stack([SMALL, SMALL // 2])
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, stack, imagej=True, metadata={"axes": "ZYX"})
    with pytest.raises(DataError, match="2 pages of equal size"):
        read(buffer.getvalue())
    assert np.array_equal(read(buffer.getvalue(), pages="bands"), stack)
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, stack, imagej=True, metadata={"axes": "CYX"})
    assert np.array_equal(read(buffer.getvalue()), stack)


def test_pictures_of_other_shapes_in_one_file_are_refused():
    with pytest.raises(DataError, match=r"2 pictures of different shapes.* as a file of its own"):
        read(pages((LARGE, {}), (SMALL[:, :4], {})))


def test_pages_that_lead_in_a_circle_and_too_many_of_them_are_refused(monkeypatch):
    """Else one changed byte, where the next page is said to be, is followed for ever."""
    data = bytearray(pages((np.zeros((4, 6), np.uint8), {}), (np.ones((4, 6), np.uint8), {})))
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        first, last = file.pages[0].offset, file.pages[1]
        place = last.offset + 2 + 12 * len(last.tags)  # behind the tags stands where the next page is
    for target in (first, last.offset):
        data[place : place + 4] = target.to_bytes(4, "little")
        with pytest.raises(DataError, match="its pages lead in a circle"):
            read(bytes(data))
    monkeypatch.setattr("polymodal.data.tiff.MAX_TAGS", 20)
    data[place : place + 4] = bytes(4)
    with pytest.raises(DataError, match="more than 20 tags"):
        read(bytes(data))


def test_tiles_that_are_announced_and_not_there_are_refused():
    """Else one changed byte of the width is worked on for minutes, and the rest of the picture is zeros."""
    data = bytearray(pages((np.ones((16, 32), np.uint8), {"tile": (16, 16), "compression": "zlib"})))
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        place = file.pages[0].tags[256].valueoffset
    assert read(bytes(data)).shape == (1, 16, 32)
    data[place : place + 4] = (2**22).to_bytes(4, "little")
    with pytest.raises(DataError, match="262144 strips or tiles are announced, and 2 are there"):
        read(bytes(data))


def test_a_mask_page_that_hides_pixels_is_refused():
    hidden = SMALL > 40
    with pytest.raises(DataError, match="its mask leaves pixels out"):
        read(pages((SMALL, {}), (hidden, {"subfiletype": 4, "photometric": "mask"})))
    assert read(pages((SMALL, {}), (hidden | True, {"subfiletype": 4, "photometric": "mask"}))).shape == (1, 12, 16)


@pytest.mark.parametrize(
    ("text", "hole", "dtype"),
    [
        ("0", 0, np.uint16),
        ("-9999", -9999, np.int16),
        ("-9999", -9999, np.float32),
        ("-3.4028234663852886e+38", LOWEST, np.float32),
        ("-3.40282346638529e+38", LOWEST, np.float32),
        ("-1.79769313486232e+308", LOWEST, np.float32),
        ("-3.4e38", np.float32(-3.4e38), np.float32),
        ("nan", np.nan, np.float32),
        ("inf", np.inf, np.float32),
    ],
)
def test_no_data_of_the_file_is_no_measurement_anywhere(tmp_path, text, hole, dtype):
    """If this breaks, -9999 m are a depth: mean, deviation and every input are wrong, and the scores plausible."""
    root = make_folder(tmp_path / "data", modalities=["rgb"])
    (root / "height").mkdir()
    edit(root, lambda d: d["modalities"].update(height={"folder": "height", "kind": "depth"}))
    values = RNG.integers(10, 90, (9, 24, 32)).astype(dtype)
    values[:, :3] = hole
    for number, array in enumerate(values):
        tifffile.imwrite(root / f"height/{number:04d}.tif", array, extratags=[(42113, "s", 0, text, True)])
    moments = compute(root)["height"]
    assert moments.mean[0] == pytest.approx(values[:6, 3:].mean(dtype=np.float64), rel=1e-6)
    sample = FolderDataset(root, "train", ["height"])[0]
    assert not sample["valid"]["height"][:, :3].any()
    assert sample["valid"]["height"][:, 3:].all()
    assert not sample["inputs"]["height"][:, :3].any()
    (note,) = [defect for defect in check(root) if defect.file.startswith("height")]
    assert note.note
    assert "to be no data, and dataset.yaml declares no `invalid`" in note.problem
    assert "8 more" in note.problem
    edit(root, lambda d: d["modalities"]["height"].update(invalid=12345))
    problems = [defect for defect in check(root) if "declares `invalid: 12345`" in defect.problem]
    unheld = text == "nan"  # which equals nothing, and is no measurement anyway
    assert len(problems) == (1 if unheld else 9)
    assert all(defect.note == unheld for defect in problems)


def test_no_data_follows_what_is_done_to_the_values():
    tag = [(42113, "s", 0, "0", True)]
    grey = np.array([[0, 7, 255]], np.uint8)
    for settings_, left in (({"photometric": "miniswhite"}, [255, 248, 0]), ({}, [0, 7, 255])):
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, grey, extratags=tag, **settings_)
        found = decode(buffer.getvalue(), "a.tif", FileSpec("image"))
        raw, spec = settled(found, InputSpec("image", 1), "a.tif")
        assert raw.ravel().tolist() == left
        assert to_values(raw, spec, "a.tif")[1].tolist() == [[[False, True, True]]]


def test_no_data_of_a_label_is_held_against_what_is_ignored(tmp_path):
    root = make_folder(tmp_path / "data", modalities=["rgb"])
    for file in sorted((root / "label").iterdir()):
        label = read_array(file, labels=True)[0]
        file.unlink()
        tifffile.imwrite(file.with_suffix(".tif"), label, extratags=[(42113, "s", 0, "0", True)])
    (note,) = check(root)
    assert note.note
    assert "0 to be no data, and `ignore` in dataset.yaml does not: it counts as the class 'class 0'" in note.problem


@pytest.mark.parametrize("shape", [(64, 64, 64), (200, 64, 64), (200, 64, 60), (12, 64, 16), (4, 5, 6)])
def test_an_npy_cube_is_read_as_declared_and_never_guessed(tmp_path, shape):
    """If this breaks, a cube of 200 bands is a picture of 200 rows."""
    cube = RNG.random(shape)
    np.save(tmp_path / "a.npy", cube)
    with pytest.raises(DataError, match=r"a.npy: the shape .*Declare `layout: chw` or `layout: hwc`"):
        read_array(tmp_path / "a.npy")
    assert np.array_equal(read_array(tmp_path / "a.npy", layout="chw"), cube)
    assert np.array_equal(read_array(tmp_path / "a.npy", layout="hwc"), np.moveaxis(cube, 2, 0))


def test_how_files_are_read_is_declared_in_the_data_set_and_kept_with_the_model(tmp_path):
    """If this breaks, `predict` reads files another way than training did."""
    root = make_folder(tmp_path / "data", modalities=["bands"])
    edit(root, lambda d: d["modalities"]["bands"].update(layout="hwc", pages="bands"))
    (spec,) = FolderDataset(root, "train").inputs.values()
    assert (spec.layout, spec.pages) == ("hwc", "bands")
    assert InputSpec.from_dict(spec.as_dict()) == spec
    old = {key: value for key, value in spec.as_dict().items() if key not in ("layout", "pages")}
    assert InputSpec.from_dict(old).layout is None
    target = DatasetSpec.load(root).target
    target = TargetSpec("label", "label", classes=target.classes, colors=target.colors, pages="bands")
    assert TargetSpec.from_dict(target.as_dict()).pages == "bands"
    edit(root, lambda d: d["modalities"]["bands"].update(layout="whc"))
    with pytest.raises(DataError, match=r"modalities.bands.layout: expected chw or hwc, got 'whc'"):
        DatasetSpec.load(root)


def test_check_tells_once_what_was_done_to_many_files(tmp_path):
    """Dropped alpha and turned pictures are worth a line, not a thousand."""
    root = make_folder(tmp_path / "data", modalities=["rgb"])
    exif = Image.Exif()
    exif[274] = 3
    for number in range(9):
        array = RNG.integers(0, 256, (24, 32, 4)).astype(np.uint8)
        array[..., 3] = 255
        (root / f"rgb/{number:04d}.jpg").unlink()
        Image.fromarray(array).save(root / f"rgb/{number:04d}.png", exif=exif)
    assert [(defect.file, defect.problem, defect.note) for defect in check(root)] == [
        ("rgb/0000.png", "orientation 3: it is turned as viewers show it (8 more like it).", True),
        ("rgb/0000.png", "its alpha channel is opaque and left out (8 more like it).", True),
    ]
    assert FolderDataset(root, "train")[0]["inputs"]["rgb"].shape[0] == 3
    array[0, 0, 3] = 0
    Image.fromarray(array).save(root / "rgb/0004.png")
    (defect,) = [defect for defect in check(root) if not defect.note]
    assert (defect.file, "some pixels are transparent" in defect.problem) == ("rgb/0004.png", True)
    with pytest.raises(DataError, match=r"0004.png: some pixels are transparent"):
        FolderDataset(root, "train")[4]


@pytest.mark.parametrize(
    ("start", "said"),
    [
        (b"", "it is empty, 0 bytes"),
        (b"RIFF\x10\0\0\0WEBPVP8 ", "its content is WebP"),
        (b"GIF89a", "its content is GIF"),
        (b"version https://git-lfs.github.com/spec/v1\n", "its content is Git LFS pointer"),
        (b"\x89HDF\r\n\x1a\n", "its content is HDF5"),
    ],
)
@pytest.mark.parametrize("ending", ["png", "jpg", "tif", "npy"])
def test_the_content_tells_the_format_and_others_are_named(start, said, ending):
    with pytest.raises(DataError, match=rf"a.{ending}: cannot be read as {ending.upper()} \({said}.*PNG, JPEG, TIFF"):
        decode(start, f"a.{ending}", FileSpec("image"))


@pytest.mark.parametrize("ending", ["png", "jpg", "tif", "npy"])
def test_a_wrong_ending_does_not_matter(ending):
    buffer = io.BytesIO()
    np.save(buffer, SMALL)
    for data in (imagecodecs.png_encode(SMALL), pages((SMALL, {})), buffer.getvalue()):
        assert np.array_equal(decode(data, f"a.{ending}", FileSpec("image")).array, SMALL[None])


def test_a_header_that_claims_too_much_is_refused_before_decoding(monkeypatch):
    """One rule for all: 72 bytes that claim 50000 x 50000 pixels once ended the process."""
    monkeypatch.setattr(content, "MAX_PIXELS", 100)
    buffer = io.BytesIO()
    np.save(buffer, SMALL)
    files = [buffer.getvalue(), pages((SMALL, {}))]
    for image in (SMALL, SMALL > 9, SMALL % 4):
        for kind in ("PNG", "JPEG"):
            if image.dtype == bool and kind == "JPEG":
                continue
            buffer = io.BytesIO()
            picture = Image.fromarray(image)
            if kind == "PNG" and image.max() < 4 and image.dtype != bool:
                picture.putpalette(bytes(range(12)))
            picture.save(buffer, kind)
            files.append(buffer.getvalue())
    for data in files:
        with pytest.raises(DataError, match=r"a.png: says to have 16x12 pixels.* up to 100 are read"):
            decode(data, "a.png", FileSpec("image"))


def _claims(width: int, height: int) -> dict[str, bytes]:
    """Small files whose headers claim a size, in each format and by each of its headers."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    jpeg = imagecodecs.jpeg8_encode(SMALL)
    at = jpeg.index(b"\xff\xc0") + 5
    jpeg = jpeg[:at] + struct.pack(">HH", height, width) + jpeg[at + 4 :]
    npy = io.BytesIO()
    np.lib.format.write_array_header_1_0(npy, {"descr": "|u1", "fortran_order": False, "shape": (height, width)})
    size = {256: width, 257: height}
    return {
        "png": png,
        "jpeg": jpeg,
        "npy": npy.getvalue(),
        "tiff": _tags(size),
        "tiff of planes": _tags({256: 16, 257: 12, 277: 2**31}),
        "tiff of tiles": _tags({256: 16, 257: 12, 322: 2**20, 323: 2**20}),
        "tiff of a volume": _tags({256: 16, 257: 12, 32997: 2**30}),
        "jpeg in tiff": _tags({256: 16, 257: 12, 259: 7}, jpeg),
    }


def _tags(changed: dict[int, int], data: bytes = b"x") -> bytes:
    """A TIFF file of these tags."""
    values = {256: 16, 257: 12, 258: 8, 259: 8, 262: 1, 273: 8, 277: 1, 278: 2**31, 279: len(data)} | changed
    if 322 in values:
        values |= {324: values.pop(273), 325: values.pop(279)}
    data += b"\0" * (len(data) % 2)
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(values.items()))
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(values)) + entries + b"\0" * 4


@pytest.mark.parametrize("case", _claims(1, 1))
def test_a_header_that_lies_takes_no_memory(case):
    """If this breaks, a file of some bytes fills the memory of whoever looks at it."""
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"pixels|bytes of values"):
            decode(_claims(65000, 65000)[case], "a.png", FileSpec("image"))
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("part", ["grey", "label"])
def test_a_file_larger_than_the_others_of_its_sample_is_refused_by_its_header(tmp_path, part):
    """If this breaks, one picture among thousands fills the memory before it is seen to be misplaced."""
    root = make_folder(tmp_path / "data", modalities=("grey", "normal"), splits={"train": 2})
    (root / part / "0000.png").write_bytes(_claims(9000, 9000)["png"])
    problems = [str(problem) for problem in check(root)]
    assert any("9000x9000" in problem for problem in problems), problems
    assert not any("cannot be read" in problem for problem in problems), problems


def test_a_jpeg_of_thousands_of_scans_is_refused_before_decoding():
    """If this breaks, a file of some kilobytes is decoded for minutes."""
    buffer = io.BytesIO()
    Image.fromarray(SMALL).save(buffer, "JPEG", progressive=True)
    picture = buffer.getvalue()
    scan = picture[picture.rindex(b"\xff\xda") : -2]
    with pytest.raises(DataError, match=r"\d\d\d scans, and up to 50 are read"):
        decode(picture[:-2] + 100 * scan + b"\xff\xd9", "a.jpg", FileSpec("image"))


def _encoded() -> list[bytes]:
    color = np.dstack([SMALL, SMALL // 2, SMALL // 3])
    found = [imagecodecs.png_encode(SMALL), imagecodecs.png_encode(SMALL.astype(np.uint16) * 257)]
    found += [imagecodecs.png_encode(color), imagecodecs.jpeg8_encode(color), imagecodecs.jpeg8_encode(SMALL)]
    buffer = io.BytesIO()
    np.save(buffer, color)
    return [*found, buffer.getvalue(), pages((color, {"photometric": "rgb", "compression": "lzw"}))]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(_encoded()), st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 7)), min_size=1, max_size=3))
def test_flipped_bits_are_an_error_or_an_image_and_never_the_end(data, flips):
    """Libraries that trust what they read end the process with a segmentation fault: no word, no result."""
    damaged = bytearray(data)
    for place, bit in flips:
        damaged[int(place * len(data))] ^= 1 << bit
    with suppress(DataError):
        assert decode(bytes(damaged), "a.png", FileSpec("image")).array.ndim == 3


def test_a_jpeg_that_was_cut_off_is_refused():
    """Decoders fill up the rest with grey, which a network would learn."""
    data = imagecodecs.jpeg8_encode(LARGE)
    for share in (0.3, 0.6, 0.95):
        with pytest.raises(DataError, match=r"a.jpg: cannot be read as JPEG \(.*(cut off|its pixels)"):
            decode(data[: int(len(data) * share)], "a.jpg", FileSpec("image"))


def test_a_mask_beside_a_file_is_refused(tmp_path):
    """If this breaks, pixels that GDAL's mask hides are trained on and predicted from as if they had been measured."""
    root = make_folder(tmp_path / "data", modalities=("rgb",))
    (file,) = (root / "rgb").glob("0002.*")
    mask = file.with_name(f"{file.name}.msk")
    mask.write_bytes(pages((SMALL, {})))
    spec = DatasetSpec.load(root)
    with pytest.raises(DataError, match=rf"{mask.name}: this mask of {file.name}, as GDAL writes them, is not read"):
        spec.file(spec.modalities["rgb"], "0002")
    assert any("this mask" in defect.problem for defect in check(root))
    with pytest.raises(DataError, match="gdalwarp -dstnodata"):
        read_array(file)
    alone = tmp_path / "a.tif"
    alone.write_bytes(pages((LARGE, {})))
    assert large_tiff(alone, FileSpec("raw")) is not None
    (tmp_path / "a.tif.msk").touch()
    assert large_tiff(alone, FileSpec("raw")) is None


def test_a_no_data_value_beside_a_file_is_named(tmp_path):
    """If this breaks, a user who declared holes by GDAL trains on them as measured, and data check finds nothing."""
    root = make_folder(tmp_path / "data", modalities=("rgb",))
    (file,) = (root / "rgb").glob("0002.*")
    beside = file.with_name(f"{file.name}.aux.xml")
    beside.write_text("<PAMDataset><PAMRasterBand><NoDataValue>0</NoDataValue></PAMRasterBand></PAMDataset>")
    assert any("declares a no-data value, which is not read" in defect.problem for defect in check(root) if defect.note)
    beside.write_text("<PAMDataset><PAMRasterBand><Metadata/></PAMRasterBand></PAMDataset>")
    assert not any("no-data" in defect.problem for defect in check(root))
