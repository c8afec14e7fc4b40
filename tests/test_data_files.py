"""Files: whatever a user's tool wrote is read with the values it holds, or refused by name."""

import io
import pickle
import zipfile
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from fixtures_data import make_archive, make_folder
from polymodal.data import Store, read_array
from polymodal.data.content import FileSpec
from polymodal.data.labels import LabelCode, class_numbers
from polymodal.data.reading import decode
from polymodal.errors import DataError

RNG = np.random.default_rng(0)


def png(image: Image.Image, **settings) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **settings)
    return buffer.getvalue()


def array(data: bytes, file: str, kind: str = "image") -> np.ndarray:
    return decode(data, file, FileSpec(kind)).array


@given(arrays(np.uint16, (5, 7, 3)), st.sampled_from([np.uint8, np.uint16]), st.sampled_from([1, 3]))
def test_png_keeps_every_bit(values, dtype, channels):
    values = np.ascontiguousarray(values.astype(dtype)[..., :channels])
    read = array(imagecodecs.png_encode(values.squeeze(-1) if channels == 1 else values), "a.PNG")
    assert read.dtype == dtype
    assert np.array_equal(read, np.moveaxis(values, 2, 0))


@pytest.mark.parametrize("colors", [2, 3, 9, 200])
def test_palette_gives_indices_as_label_and_colours_as_image(colors):
    """PIL stores small palettes with 1, 2 or 4 bits a pixel, which torchvision unpacks wrongly."""
    indices = RNG.integers(0, colors, (9, 11)).astype(np.uint8)
    image = Image.fromarray(indices)
    table = RNG.integers(0, 256, (colors, 3))
    image.putpalette(table.astype(np.uint8).tobytes())
    data = png(image)
    assert np.array_equal(array(data, "a.png", "label"), indices[None])
    assert np.array_equal(array(data, "a.png"), np.moveaxis(table[indices], 2, 0))


def test_one_bit_mask_is_zero_and_one():
    """Also in its bytes, which are 255 as some decoders give them, and a class that nobody declared."""
    mask = RNG.random((9, 11)) > 0.5
    stream = io.BytesIO()
    np.save(stream, (mask * np.uint8(255)).view(bool))
    for data, name in ((png(Image.fromarray(mask)), "a.png"), (stream.getvalue(), "a.npy")):
        read = array(data, name, "label")
        assert read.dtype == bool
        assert np.array_equal(read.view(np.uint8), mask[None])
        assert np.array_equal(class_numbers(read, LabelCode(("no", "yes")), name), mask)


def test_jpeg_colour_and_grey():
    for shape in ((8, 9), (8, 9, 3)):
        buffer = io.BytesIO()
        Image.fromarray(np.full(shape, 90, np.uint8)).save(buffer, "JPEG")
        read = array(buffer.getvalue(), "a.jpeg")
        assert read.shape == ((1, 8, 9) if len(shape) == 2 else (3, 8, 9))
        assert np.abs(read.astype(int) - 90).max() <= 2


@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2", "i2", "f4"])
@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("channels", [1, 3, 20])
def test_tiff_of_any_layout(tmp_path, dtype, planar, channels):
    values = (100 * RNG.random((8, 9, channels))).astype(dtype)
    stored = np.moveaxis(values, 2, 0) if planar else values
    stored = stored[0] if planar and channels == 1 else stored[..., 0] if channels == 1 else stored
    settings = {"photometric": "minisblack", "planarconfig": None if planar or channels == 1 else "contig"}
    tifffile.imwrite(tmp_path / "a.tif", stored, **settings)
    read = read_array(tmp_path / "a.tif")
    assert np.array_equal(read, np.moveaxis(values, 2, 0))
    assert read.dtype.isnative


def test_compressed_tiff(tmp_path):
    values = RNG.integers(0, 9, (16, 16, 3)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tiff", values, compression="lzw", photometric="rgb")
    assert np.array_equal(read_array(tmp_path / "a.tiff"), np.moveaxis(values, 2, 0))


@pytest.mark.parametrize("shape", [(8, 9), (4, 8, 9), (8, 9, 4)])
def test_npy_with_channels_first_or_last(tmp_path, shape):
    values = RNG.random(shape)
    np.save(tmp_path / "a.npy", values)
    expected = values[None] if len(shape) == 2 else values if shape[0] == 4 else np.moveaxis(values, 2, 0)
    assert np.array_equal(read_array(tmp_path / "a.npy"), expected)


def test_npy_never_runs_what_it_holds(tmp_path):
    class Hostile:
        def __reduce__(self):
            return (pytest.fail, ("ran",))

    np.save(tmp_path / "a.npy", np.array([Hostile()], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=r"a\.npy"):
        read_array(tmp_path / "a.npy")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.npy"])
@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n" + bytes(40)])
def test_damaged_file_is_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name}: cannot be read"):
        read_array(tmp_path / name)


def test_a_damaged_member_of_an_archive_is_named(tmp_path):
    """Else the user sees a traceback of zlib and no file."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("depth/0.png", bytes(range(256)) * 40)
    content = bytearray((tmp_path / "a.zip").read_bytes())
    content[60:90] = b"\xff" * 30
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(DataError, match=r"a.zip/depth/0.png: cannot be read"):
        Store(tmp_path / "a.zip").read("depth/0.png")


def test_cut_off_file_is_named():
    data = imagecodecs.png_encode(RNG.integers(0, 255, (40, 40, 3)).astype(np.uint8))
    with pytest.raises(DataError, match=r"a\.png: cannot be read as PNG"):
        array(data[: len(data) // 2], "a.png")


def test_other_files_and_other_values_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"a.bmp: expected a file that ends in"):
        array(b"", "a.bmp")
    with pytest.raises(DataError, match=r"gone.png: cannot be read"):
        read_array(tmp_path / "gone.png")
    for values, problem in (
        (np.zeros((2, 2), complex), "numbers"),
        (np.zeros(3), "axes"),
        (np.zeros((0, 2)), "numbers"),
    ):
        np.save(tmp_path / "a.npy", values)
        with pytest.raises(DataError, match=problem):
            read_array(tmp_path / "a.npy")


def test_store_finds_files_below_folders_and_refuses_doubles(tmp_path):
    root = make_folder(tmp_path / "data", modalities=["rgb"])
    (root / "rgb/town").mkdir()
    (root / "rgb/0000.jpg").rename(root / "rgb/town/a.b.jpg")
    (root / "rgb/0001.PNG").write_bytes(b"")
    (root / "rgb/notes.txt").write_text("")
    for store in (Store(root), Store(make_archive(root))):
        assert store.find("rgb", "town/a.b") == store.find(".", "rgb/town/a.b") == "rgb/town/a.b.jpg"
        assert "notes" not in store.keys("rgb")
        assert not store.keys("nothing")
        with pytest.raises(DataError, match=r"rgb: two files for the key '0001': 0001.PNG and 0001.jpg"):
            store.find("rgb", "0001")
        with pytest.raises(DataError, match="without the file name's ending"):
            store.find("rgb", "0002.jpg")
        with pytest.raises(DataError, match=r"there is no such file"):
            store.read("rgb/gone.jpg")


def test_what_a_killed_command_or_a_system_left_is_no_sample(tmp_path):
    """Else `data check` names files that nobody can see, and a domain of Taskonomy has samples that no other has."""
    root = make_folder(tmp_path / "data", modalities=["rgb"])
    before = Store(root).keys("rgb").keys()
    for name in (".4711.0001.png", "._0001.jpg"):
        (root / "rgb" / name).write_bytes(b"half")
    assert Store(root).keys("rgb").keys() == Store(make_archive(root)).keys("rgb").keys() == before


def test_a_file_is_read_once_for_its_checksum_as_long_as_it_stays(tmp_path, monkeypatch):
    """Scores say on which files they were counted; if this breaks, every scoring reads them all again."""
    (tmp_path / "a.npy").write_bytes(b"one")
    store, read = Store(tmp_path), []
    monkeypatch.setattr(Store, "read", lambda self, file: read.append(file) or (self.path / file).read_bytes())
    assert store.checksum("a.npy") == store.checksum("a.npy") == zlib.crc32(b"one")
    assert len(read) == 1
    (tmp_path / "a.npy").write_bytes(b"other")
    assert store.checksum("a.npy") == zlib.crc32(b"other")
    (tmp_path / "a.npy").unlink()
    with pytest.raises(DataError, match=r"a\.npy: cannot be read"):
        store.checksum("a.npy")


def test_archive_travels_to_workers(tmp_path):
    """Loader workers that shared one open archive would read each other's bytes."""
    store = Store(make_archive(make_folder(tmp_path / "data", modalities=["rgb"])))
    content = store.read("rgb/0000.jpg")
    assert pickle.loads(pickle.dumps(store)).read("rgb/0000.jpg") == content


def test_missing_embedded_set_is_explained(monkeypatch, tmp_path):
    monkeypatch.setattr("polymodal.data.files.resources.files", lambda package: tmp_path)
    with pytest.raises(DataError, match="rooms: this installation lacks"):
        Store("rooms")
