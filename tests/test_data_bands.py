"""Large pictures are worked on in parts: whatever their number, what is found is that of the whole."""

import gc
import sys

import numpy as np
import pytest
import tifffile
from PIL import Image

from fixtures_data import make_folder
from polymodal.data import bands, statistics
from polymodal.data.check import check
from polymodal.data.content import FileSpec
from polymodal.data.labels import LabelCode, class_numbers
from polymodal.data.reading import decode, stored_bytes
from polymodal.errors import DataError


def test_what_is_found_in_parts_is_what_the_whole_holds(tmp_path, monkeypatch):
    """If this breaks, statistics, defects and classes of large pictures are other ones than those of small pictures."""
    make_folder(tmp_path, size=(16, 24), modalities=("rgb", "depth"), splits={"train": 2, "val": 1})
    Image.fromarray(np.full((16, 24, 3), 7, np.uint8)).save(tmp_path / "rgb/0001.jpg")
    whole, defects = statistics.compute(tmp_path), check(tmp_path)
    monkeypatch.setattr(bands, "_VALUES", 100)
    parts, found = statistics.compute(tmp_path), check(tmp_path)
    for name, moments in whole.items():
        assert parts[name].mean == pytest.approx(moments.mean)
        assert parts[name].std == pytest.approx(moments.std)
    assert found == defects != []
    assert str(found.classes.lines()) == str(defects.classes.lines())


@pytest.mark.parametrize("colors", [(), ((0, 0, 0), (255, 0, 0))])
def test_unknown_labels_of_all_parts_are_told(monkeypatch, colors):
    code = LabelCode(("a", "b"), colors=colors)
    array = np.zeros((3 if colors else 1, 6, 8), np.uint8)
    array[0, 1], array[0, ::5, ::7] = 255 if colors else 1, 9
    told = []
    for most in (2**22, 30):
        monkeypatch.setattr(bands, "_VALUES", most)
        with pytest.raises(DataError) as refused:
            class_numbers(array, code, "x.png")
        told.append(str(refused.value))
    assert told[0] == told[1]
    assert "at 4 pixel(s)" in told[0]


def test_a_label_of_one_bit_is_a_class(tmp_path):
    """If this breaks, masks as many programs save them hold a class 255 that nobody has declared."""
    Image.fromarray(np.eye(4, dtype=bool)).save(tmp_path / "a.png")
    content = decode(stored_bytes(tmp_path / "a.png"), "a.png", FileSpec("label"))
    assert np.array_equal(class_numbers(content.array, LabelCode(("a", "b")), "a.png"), np.eye(4))


def test_the_bytes_of_a_tiff_file_are_let_go(tmp_path):
    """Else a loader holds those of many, until garbage is collected."""
    tifffile.imwrite(tmp_path / "a.tif", np.eye(4, dtype=np.uint8))
    data = stored_bytes(tmp_path / "a.tif")
    gc.disable()
    try:
        held = sys.getrefcount(data)
        decode(data, "a.tif", FileSpec("image"))
        assert sys.getrefcount(data) == held
    finally:
        gc.enable()
