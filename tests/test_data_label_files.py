"""Label files whose numbers cannot be classes are named by check, training and prediction, never trained on."""

import io

import numpy as np
import pytest
import tifffile
from PIL import Image

from fixtures_data import edit, make_folder
from polymodal.data import FolderDataset, InputSpec, check
from polymodal.data.content import FileSpec
from polymodal.data.inputs import settled
from polymodal.data.label_files import require_lossless
from polymodal.data.reading import decode
from polymodal.errors import DataError

BLACK, RED, VOID = (0, 0, 0), (255, 0, 0), (9, 9, 9)


@pytest.fixture
def root(tmp_path):
    """Palette labels of two classes; index 2 is ignored."""
    root = make_folder(tmp_path / "data", modalities=["rgb"], splits={"train": 2, "val": 2})
    edit(root, lambda d: d["target"].update(ignore=2))
    for number in range(4):
        save(root, number, (BLACK, RED, VOID))
    return root


def save(root, number: int, palette, kind: str = "png") -> None:
    """Write a label whose classes are black and red, at whatever index the palette has these."""
    classes = np.zeros((24, 32), np.uint8)
    classes[4:12, 4:12], classes[0] = 1, 2
    place = [palette.index(color) for color in (BLACK, RED, VOID)]
    indices = np.array(place, np.uint8)[classes]
    file = root / "label" / f"{number:04d}"
    for old in file.parent.glob(f"{file.name}.*"):
        old.unlink()
    if kind == "tif":
        table = np.zeros((3, 256), np.uint16)
        table[:, : len(palette)] = np.array(palette, np.uint16).T * 257
        tifffile.imwrite(file.with_suffix(".tif"), indices, photometric="palette", colormap=table)
    else:
        image = Image.fromarray(indices, "P")
        image.putpalette(np.array(palette, np.uint8).tobytes())
        image.save(file.with_suffix(".png"))


def refusals(root) -> list[str]:
    """By training, one sample after the other."""
    found = []
    for dataset in (FolderDataset(root, split) for split in ("train", "val")):
        for index in range(len(dataset)):
            try:
                dataset[index]
            except DataError as error:
                found.append(str(error))
    return found


@pytest.mark.parametrize("kind", ["png", "tif"])
def test_a_palette_in_another_order_is_no_training_data(root, kind):
    """If this breaks, each file's indices mean other classes, and the network learns to confuse them."""
    assert not refusals(root)
    assert not [defect for defect in check(root) if not defect.note]
    save(root, 1, (RED, BLACK, VOID), kind)
    (refused,) = refusals(root)
    assert "its palette shows the class 'class 0' in the colour [255, 0, 0]" in refused
    assert "label/0000.png is the class 'class 1'" in refused
    (defect,) = (defect for defect in check(root) if not defect.note)
    assert defect.file == f"label/0001.{kind}"
    assert defect.problem in refused


def test_one_index_in_two_colours_is_no_training_data(root):
    """Each file numbers its own few colours from 0 on, so that a class is whatever else a file shows."""
    image = Image.fromarray(np.array(Image.open(root / "label/0001.png")), "P")
    image.putpalette([*BLACK, 0, 0, 255, *VOID])
    image.save(root / "label/0001.png")
    (refused,) = refusals(root)
    assert "its palette shows the class 'class 1' in the colour [0, 0, 255], and" in refused
    assert "label/0000.png in [255, 0, 0]: its indices seem to be numbered anew" in refused
    (defect,) = (defect for defect in check(root) if not defect.note)
    assert defect.problem in refused


def test_declared_colours_are_what_a_palette_is_held_against(root):
    """If this breaks, files of colours among files of indices are decoded by two rules that contradict each other."""
    edit(root, lambda d: d["target"].update(colors=[list(BLACK), list(RED)], ignore=[2, list(VOID)]))
    assert not refusals(root)
    save(root, 0, (RED, BLACK, VOID))
    (refused,) = refusals(root)
    assert "label/0000.png" in refused
    assert "which by `colors` is the class 'class 1'" in refused


def test_colours_that_tell_nothing_refuse_nothing(root):
    """A palette that has a colour twice, other colours than those of the others, or colours for display alone."""
    save(root, 0, (BLACK, RED, VOID, BLACK))
    save(root, 1, (VOID, BLACK, RED, VOID, BLACK, RED))
    edit(root, lambda d: d["target"].update(colors=[list(RED), list(RED)]))
    grey = Image.open(root / "label/0003.png")
    Image.fromarray(np.array(grey)).save(root / "label/0003.png")
    edit(root, lambda d: d["target"].update(ignore=[0, 2], map={1: 0, 5: 1}))
    assert not refusals(root)


def test_labels_in_jpeg_are_named(root):
    """If this breaks, a border between 1 and 3 is a rim of class 2."""
    file = root / "label/0001.png"
    Image.fromarray(np.array(Image.open(file))).save(file.with_suffix(".jpg"))
    file.unlink()
    (refused,) = refusals(root)
    assert "label/0001.jpg: compressed as JPEG" in refused
    assert [defect.problem in refused for defect in check(root) if not defect.note] == [True]
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.ones((16, 16), np.uint8), compression="jpeg")
    content = decode(buffer.getvalue(), "a.tif", FileSpec("label"))
    with pytest.raises(DataError, match=r"^a\.tif: compressed as JPEG"):  # as `predict` reads an input
        settled(content, InputSpec("label", 2, classes=("a", "b")), "a.tif")


@pytest.mark.parametrize("compression", ["jpeg2000", "jpegxl", "webp", "lerc"])
def test_labels_in_what_may_have_losses_are_named(compression):
    stream = io.BytesIO()
    photo = {"photometric": "rgb" if compression == "webp" else "minisblack"}
    tifffile.imwrite(
        stream, np.ones((16, 16, 3) if compression == "webp" else (16, 16), np.uint8), **photo, compression=compression
    )
    content = decode(stream.getvalue(), "a.tif", FileSpec("label"))
    with pytest.raises(DataError, match=f"compressed as {compression.upper()}"):
        require_lossless(content, "a.tif")


def test_a_no_data_value_that_no_pixel_can_hold_says_nothing():
    """If this breaks, check and training print lines about files in which nothing is wrong."""
    for text, dtype, expected in (("nan", np.uint8, None), ("-9999", np.uint16, None), ("7.0", np.uint8, 7)):
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, np.ones((4, 6), dtype), extratags=[(42113, "s", 0, text, True)])
        assert decode(buffer.getvalue(), "a.tif", FileSpec("depth")).nodata == expected


def test_several_pages_are_counted_as_they_are():
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as file:
        file.write(np.zeros((20, 30, 3), np.uint8), photometric="rgb")
        file.write(np.zeros((20, 30), np.float32))
    with pytest.raises(DataError, match="2 pages of equal size"):
        decode(buffer.getvalue(), "a.tif", FileSpec("image"))
