"""`data check`: one test for each defect that a user wants to know of before training for hours."""

import shutil

import numpy as np
import pytest
from PIL import Image

from fixtures_data import edit, make_archive, make_folder
from polymodal.data import Defect, check
from polymodal.errors import DataError


@pytest.fixture
def root(tmp_path):
    root = make_folder(tmp_path / "data")
    edit(root, lambda d: d["modalities"]["bands"].update(invalid=float("nan")))
    return root


def image(root, file: str, value, shape=(24, 32), dtype=np.uint8) -> None:
    array = np.empty(shape, dtype)
    array[...] = value
    Image.fromarray(array).save(root / file)


def only(root, file: str, *parts: str) -> None:
    """There is one defect, in this file, and the archive of the folder has the same one."""
    for place in (root, make_archive(root)):
        (defect,) = check(place)
        assert defect.file == file
        assert not defect.note
        for part in parts:
            assert part in defect.problem


def test_sound_folder_has_none(root):
    assert check(root) == []


def test_missing_file(root):
    (root / "depth/0003.png").unlink()
    only(root, "depth/0003", "no file for the key '0003'")


def test_two_files_for_one_key(root):
    image(root, "rgb/0003.png", 3)
    only(root, "rgb/0003", "two files", "0003.jpg and 0003.png")


def test_unreadable_file(root):
    (root / "normal/0003.png").write_bytes(b"x")
    only(root, "normal/0003.png", "cannot be read as PNG")


def test_size_mismatch(root):
    image(root, "label/0003.png", 1, (24, 30))
    only(root, "label/0003.png", "the size of rgb/0003.jpg, 32x24", "30x24")


def test_other_channels(root):
    array = np.random.default_rng(0).integers(0, 255, (24, 32)).astype(np.uint8)
    Image.fromarray(array).save(root / "rgb/0003.jpg")
    only(root, "rgb/0003.jpg", "expected 3 channel(s)", "got 1")


def test_labels_out_of_range(root):
    image(root, "label/0003.png", np.arange(32) % 4)
    only(root, "label/0003.png", "from 0 to 1", "got 2, 3")


def test_all_labels_ignored(root):
    image(root, "label/0003.png", 255)
    only(root, "label/0003.png", "every pixel is labelled as ignored")


def test_nan_that_is_not_declared(root):
    edit(root, lambda d: d["modalities"]["bands"].pop("invalid"))
    defects = check(root)
    assert len(defects) == 9
    assert defects[3] == Defect(
        "bands/0003.npy", "4 pixel(s) are NaN or infinite. Declare `invalid: .nan` if that means not measured."
    )


def test_constant_image(root):
    image(root, "grey/0003.png", 30000, dtype=np.uint16)
    only(root, "grey/0003.png", "constant: every value is 30000")


def test_depth_without_measurement(root):
    image(root, "depth/0003.png", 0, dtype=np.uint16)
    only(root, "depth/0003.png", "no pixel holds a measurement")


def test_depth_that_was_saved_again_with_8_bits(root):
    with Image.open(root / "depth/0003.png") as file:
        depth = np.asarray(file)
    image(root, "depth/0003.png", depth // 256)
    only(root, "depth/0003.png", "uint8, where the first file has uint16")


def test_a_target_in_another_unit_than_its_range(root):
    """Every pixel would be the largest value, which a network predicts at once, with excellent scores."""
    edit(root, lambda d: d["modalities"]["depth"].update(scale=1.0, range=[0, 4]))
    edit(root, lambda d: d.update(target="depth"))
    defects = [defect for defect in check(root) if not defect.note]
    assert len(defects) == 9
    assert "lie beyond the target's range, 0 to 4: is the scale right?" in defects[0].problem


def test_class_number_input_out_of_range(root):
    shutil.copytree(root / "label", root / "parts")
    edit(root, lambda d: d["modalities"].update(parts={"folder": "parts", "kind": "label", "classes": ["a", "b"]}))
    assert {defect.file for defect in check(root)} == {f"parts/{n:04d}.png" for n in range(9)}


def test_key_in_two_splits(root):
    with (root / "splits/val.txt").open("a") as file:
        file.write("0003\n")
    only(root, "0003", "two splits, 'train' and 'val'")


def test_key_twice_in_one_split(root):
    with (root / "splits/val.txt").open("a") as file:
        file.write("0007\n")
    only(root, "0007", "2 times in the split 'val'")


def test_files_of_no_split_are_only_a_note_of_each_modality(root):
    """A line for each would bury the defects of a large folder."""
    image(root, "grey/9999.png", 1)
    assert check(root) == [Defect("grey/9999.png", "in no split.", note=True)]
    for name in ("grey/9997.png", "grey/9998.png", "label/9999.png"):
        image(root, name, 1)
    assert {defect.problem for defect in check(root)} == {"in no split (2 more like it).", "in no split."}


def test_every_defect_is_found_in_one_go(root):
    (root / "depth/0003.png").unlink()
    (root / "rgb/0003.jpg").write_bytes(b"")
    image(root, "label/0008.png", 9)
    assert [defect.file for defect in check(root)] == ["rgb/0003.jpg", "depth/0003", "label/0008.png"]


def test_wrong_description_is_an_error_not_a_defect(root):
    edit(root, lambda d: d.pop("target"))
    with pytest.raises(DataError, match="target: missing"):
        check(root)


def test_copies_of_training_samples_in_the_validation_split(root):
    """A network is praised for what it has seen; frames that were exported twice have other names."""
    for file in sorted(root.rglob("0007.*")):
        shutil.copy(file.with_name(f"0002{file.suffix}"), file)
    only(root, "0007", "the same files as 0002 of the split 'train'", "is in 'val': scores would not count")


def test_copies_within_a_split_are_a_note_and_one_equal_file_is_nothing(root):
    for file in sorted(root.rglob("0004.*")):
        shutil.copy(file.with_name(f"0002{file.suffix}"), file)
    assert [(defect.file, defect.note) for defect in check(root)] == [("0004", True)]
    shutil.copy(root / "depth/0001.png", root / "depth/0004.png")
    assert check(root) == []


def test_files_of_a_format_that_is_not_read_are_told_of_where_samples_may_lack_them(root):
    """Depth as EXR was taken for absent: a training on colour alone."""
    edit(root, lambda d: d["modalities"]["depth"].update(optional=True))
    for number in (3, 4):
        (root / f"depth/{number:04d}.png").rename(root / f"depth/{number:04d}.exr")
    assert Defect(
        "depth", "2 file(s) such as 0003.exr are left out, as no .png, .jpg, .jpeg, .tif, .tiff, .npy.", True
    ) in (check(root))


def test_pictures_of_8_and_of_16_bits_in_one_modality_are_noted(root):
    """12 bits in a file of 16 are a sixteenth of the light of all others."""
    (file,) = (root / "grey").glob("0004.*")
    array = np.array(Image.open(file))
    Image.fromarray((array.astype(np.uint16) >> (8 * (array.dtype.itemsize - 1))).astype(np.uint8)).save(file)
    (note,) = check(root)
    assert (note.file, note.note) == (f"grey/{file.name}", True)
    assert "uint8, where the first file has uint16" in note.problem


def test_an_invalid_that_no_number_of_the_files_can_be_is_noted(root):
    """In metres instead of as it is stored, it means nothing, and each hole is a surface."""
    edit(root, lambda d: d["modalities"]["depth"].update(invalid=65.535))
    found = [defect for defect in check(root) if "`invalid: 65.535`" in defect.problem]
    assert [(defect.file, defect.note) for defect in found] == [("depth/0000.png", True)]
    edit(root, lambda d: d["modalities"]["depth"].update(invalid=0))
    assert check(root) == []


def test_measurements_in_jpeg_are_noted(root):
    for file in (root / "depth").iterdir():
        Image.fromarray((np.array(Image.open(file)) >> 5).astype(np.uint8)).save(file.with_suffix(".jpg"))
        file.unlink()
    assert [defect.note for defect in check(root) if "compressed as JPEG, which changes numbers" in defect.problem] == [
        True
    ]
