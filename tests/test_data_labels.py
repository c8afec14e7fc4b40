"""What label files hold becomes the right class, or is refused with what to write instead; never another class."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fixtures_data import edit, make_folder, target_of
from polymodal.data import Augment, DatasetSpec, FolderDataset, InputSpec, check, prepare_input
from polymodal.data.labels import NO_IGNORE, LabelCode, class_numbers
from polymodal.errors import DataError

RED, GREEN, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 0)
AB = ("a", "b")


def read(code: LabelCode, values, dtype=np.uint8) -> list:
    """The classes of one row of stored values."""
    return class_numbers(np.array([[values]], dtype), code, "x.png")[0].tolist()


def refused(code: LabelCode, values, dtype=np.uint8) -> str:
    with pytest.raises(DataError, match=r"^x\.png: ") as caught:
        read(code, values, dtype)
    return str(caught.value)


@pytest.fixture
def root(tmp_path):
    return make_folder(tmp_path / "data", modalities=["rgb"])


def write_labels(root, change, ending: str = ".png") -> None:
    """Store every label in another way: `change` takes and returns (H, W) or (H, W, 3)."""
    for file in sorted((root / "label").iterdir()):
        stored = change(np.array(Image.open(file)))
        file.unlink()
        if ending == ".npy":
            np.save(file.with_suffix(ending), stored)
        else:
            Image.fromarray(stored).save(file)


def targets(root) -> torch.Tensor:
    """All training labels as a user gets them, with the ignored ones as 255."""
    data = FolderDataset(root, "train")
    labels = torch.stack([target_of(data[i]) for i in range(len(data))])
    return torch.where(labels == data.target.ignore, 255, labels)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.uint16, np.int16, np.int32, np.int64, np.float32, np.float64])
def test_class_numbers_are_read_from_every_type(dtype):
    assert read(LabelCode(AB), [0, 1, 1], dtype) == [0, 1, 1]


def test_plain_labels_keep_their_small_type_and_their_ignore_value():
    """A cache of a large set must not grow, and models of earlier versions must see the same numbers."""
    code = LabelCode(AB, ignored=(255,))
    found = class_numbers(np.array([[[0, 255, 1]]], np.uint8), code, "x.png")
    assert found.dtype == np.uint8
    assert found.tolist() == [[0, 255, 1]]
    assert found.flags.c_contiguous


@pytest.mark.parametrize(
    ("ignored", "index"),
    [
        ((), NO_IGNORE),
        ((255,), 255),
        ((0,), 0),  # a class of its own, such as "void": scores know that no truth has it
        ((0, 255), 0),
        ((254, 255), 254),
        ((-1,), NO_IGNORE),
        ((-100, 65535), 65535),
        ((float("nan"),), NO_IGNORE),
    ],
)
def test_all_ignored_values_become_one_number(ignored, index):
    code = LabelCode(("void", "a", "b"), ignored=ignored)
    assert code.ignore == index
    for value in ignored:
        assert read(code, [1, value, 2], np.float64) == [1, index, 2]


@pytest.mark.parametrize("value", [-1, -100])
def test_negative_values_can_be_ignored(root, value):
    write_labels(root, lambda label: np.where(label == 255, value, label.astype(np.int16)), ".npy")
    edit(root, lambda d: d["target"].update(ignore=value))
    expected = targets(make_folder(root.parent / "other", modalities=["rgb"]))
    assert torch.equal(targets(root), expected)
    assert not any(defect for defect in check(root) if not defect.note)
    sample = FolderDataset(root, "train", augment=Augment(scale=(0.5, 0.5)))[0]
    assert set(target_of(sample).unique().tolist()) <= {0, 1, NO_IGNORE}


def test_sparse_ids_are_mapped(root):
    """Ids of a larger catalogue: without the map every class above the last would be refused, or another class."""
    expected = targets(root)
    write_labels(root, lambda label: np.choose(np.minimum(label, 2), [7, 1, 255]).astype(np.uint8))
    edit(root, lambda d: d["target"].update(map={7: 0, 1: 1}))
    assert torch.equal(targets(root), expected)
    assert not any(defect for defect in check(root) if not defect.note)


def test_ignored_values_are_those_of_the_file_not_of_the_map():
    """The stored 0 is void and the stored 1 is class 0: ignoring 0 must not ignore class 0."""
    code = LabelCode(AB, map=((1, 0), (7, 1)), ignored=(0,))
    assert read(code, [0, 1, 7]) == [NO_IGNORE, 0, 1]


def test_a_value_that_the_map_lacks_is_refused_by_name():
    message = refused(LabelCode(AB, map=((1, 0), (7, 1)), ignored=(255,)), [1, 0, 3, 255])
    assert "the values 1, 7 of `map` (2 classes; ignore: 255), got 0, 3 at 2 pixel(s)" in message


def test_several_stored_values_may_be_one_class():
    assert read(LabelCode(AB, map=((1, 0), (2, 0), (300, 1))), [2, 1, 300], np.uint16) == [0, 0, 1]


@given(st.dictionaries(st.integers(-1000, 70000), st.integers(0, 3), min_size=1, max_size=8), st.data())
def test_map_is_obeyed_for_any_values(pairs, data):
    code = LabelCode(("a", "b", "c", "d"), map=tuple(pairs.items()))
    stored = data.draw(st.lists(st.sampled_from(sorted(pairs)), min_size=1, max_size=9))
    for dtype in (np.int32, np.float32):
        assert read(code, stored, dtype) == [pairs[value] for value in stored]


def test_masks_of_0_and_255_say_what_to_write():
    """The remedy must be one that works: `ignore: 255` would make a set without any person."""
    message = refused(LabelCode(("background", "person")), [0, 255, 255])
    assert "ignore: none is declared" in message
    assert "If 255 is the class 'person', write `map: {0: 0, 255: 1}`" in message
    assert read(LabelCode(("background", "person"), map=((0, 0), (255, 1))), [0, 255]) == [0, 1]


@pytest.mark.parametrize(
    ("values", "part"),
    [([0, 0.5], "got 0.5 at 1"), ([0, float("nan")], "Declare `ignore: .nan`"), ([float("inf")], "got inf")],
)
def test_floats_that_are_no_class_are_refused(values, part):
    """Truncated, the 0.5 of a mask that was resized would be background."""
    assert part in refused(LabelCode(AB), values, np.float32)


@pytest.mark.parametrize("ignore", [[list(BLACK)], list(BLACK)])
def test_labels_stored_as_colours(root, ignore):
    """If this breaks, a colour that is ignored is taken for three numbers, and class 0 is ignored instead."""
    expected = targets(root)
    colors = np.array([RED, GREEN, BLACK], np.uint8)
    write_labels(root, lambda label: colors[np.minimum(label, 2)])
    edit(root, lambda d: d["target"].update(colors=[list(RED), list(GREEN)], ignore=ignore))
    assert torch.equal(targets(root), expected)
    assert not any(defect for defect in check(root) if not defect.note)


def test_declared_colours_change_nothing_for_files_of_numbers(root):
    """They are how predictions are shown, as ever."""
    expected = targets(root)
    edit(root, lambda d: d["target"].update(colors=[list(RED), list(RED)]))
    assert torch.equal(targets(root), expected)
    assert DatasetSpec.load(root).target.colors == (RED, RED)


def colored(code: LabelCode, *colors) -> list:
    return class_numbers(np.array([colors], np.uint8).transpose(2, 0, 1), code, "x.png")[0].tolist()


def test_an_unknown_colour_is_named_with_its_pixels():
    code = LabelCode(AB, colors=(RED, GREEN))
    assert colored(code, GREEN, RED) == [1, 0]
    with pytest.raises(DataError, match=r"got 2 other\(s\) at 3 pixel\(s\): \[0, 0, 0\], \[1, 2, 3\]") as caught:
        colored(code, RED, BLACK, (1, 2, 3), BLACK)
    assert "`ignore: [[0, 0, 0], [1, 2, 3]]`" in str(caught.value)


def test_two_classes_of_one_colour_cannot_be_told_apart():
    with pytest.raises(DataError, match=r"gives \[255, 0, 0\] to a, b"):
        colored(LabelCode(AB, colors=(RED, RED)), RED)


def test_coloured_files_without_colours_say_that_they_can_be_declared():
    with pytest.raises(DataError, match=r"or, with `colors` declared, three of 8 bits.* got 3"):
        colored(LabelCode(AB), RED)


def test_labels_as_an_input_obey_the_same_rules():
    spec = InputSpec("label", 2, invalid=0, classes=AB, map=((4, 0), (9, 1)), colors=(RED, GREEN))
    spec = InputSpec.from_dict(json.loads(json.dumps(spec.as_dict())))
    hot, valid = prepare_input(np.array([[[4, 0, 9]]], np.uint8), spec, "x.png")
    assert hot[:, 0].tolist() == [[1, 0, 0], [0, 0, 1]]
    assert valid.tolist() == [[[True, False, True]]]
    hot, _ = prepare_input(np.array([[GREEN, RED]], np.uint8).transpose(2, 0, 1), spec, "x.png")
    assert hot[:, 0].tolist() == [[0, 1], [1, 0]]
    with pytest.raises(DataError, match=r"x.png: .*invalid: 0.* got 5"):
        prepare_input(np.array([[[5]]], np.uint8), spec, "x.png")
    with pytest.raises(DataError, match=r"got 1\.7"):
        prepare_input(np.array([[[1.7]]], np.float32), InputSpec("label", 2, classes=AB), "x.npy")


def test_the_map_of_an_input_holds_where_it_is_the_target(root):
    write_labels(root, lambda label: np.choose(np.minimum(label, 2), [7, 1, 0]).astype(np.uint8))
    parts = {"folder": "label", "kind": "label", "classes": ["a", "b"], "map": {7: 0, 1: 1}, "invalid": 0}
    edit(root, lambda d: (d["modalities"].update(parts=parts), d.update(target="parts")))
    expected = targets(make_folder(root.parent / "other", modalities=["rgb"]))
    assert torch.equal(targets(root), expected)
