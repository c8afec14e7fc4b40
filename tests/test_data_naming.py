"""What files are called: prefixes and suffixes around a key, and what a user is told where a file is missing."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixtures_data import edit, make_folder
from polymodal.data import DatasetSpec, FolderDataset, InputSpec, Store, check
from polymodal.data.content import FileSpec
from polymodal.data.naming import key_of, name_of
from polymodal.errors import DataError

PARTS = st.text("ab_0.", min_size=1, max_size=4)


def called(prefix: str = "", suffix: str = "") -> FileSpec:
    return FileSpec("image", prefix=prefix, suffix=suffix)


@given(st.lists(PARTS, min_size=1, max_size=3).map("/".join), st.text("a_/", max_size=4), st.text("b_", max_size=3))
def test_a_name_gives_back_its_key(key, prefix, suffix):
    """If this breaks, predict takes one scene's depth for another's."""
    part = called(prefix, suffix)
    assert key_of(name_of(key, part), part) == key


@pytest.mark.parametrize(
    ("name", "prefix", "suffix", "key"),
    [
        ("town/rgb_1", "rgb_", "", "town/1"),
        ("rgb_town/1", "rgb_", "", None),
        ("1/rgb", "", "/rgb", "1"),
        ("cam/rgb/1", "rgb/", "", "cam/1"),
        ("rgb_", "rgb_", "", None),
        ("1_depth", "", "_d", None),
    ],
)
def test_prefix_and_suffix_stand_around_the_last_part(name, prefix, suffix, key):
    assert key_of(name, called(prefix, suffix)) == key


def prefixed(root):
    """A data set whose files lie in one folder, `rgb_0001.jpg` beside `depth_0001.png` and `label_0001.png`."""
    make_folder(root, modalities=["rgb", "depth"], splits={"train": 3, "val": 2})
    for name in ("rgb", "depth", "label"):
        for file in list((root / name).iterdir()):
            file.rename(root / f"{name}_{file.name}")
        (root / name).rmdir()

    def declare(content):
        for name, part in {**content["modalities"], "label": content["target"]}.items():
            part.update(folder=".", prefix=f"{name}_")

    edit(root, declare)
    return root


def test_prefixes_tell_the_modalities_of_one_folder_apart(tmp_path):
    """If this breaks, data as many cameras write it must be renamed first."""
    root = prefixed(tmp_path / "set")
    spec = DatasetSpec.load(root)
    assert spec.file(spec.modalities["depth"], "0001") == "depth_0001.png"
    assert spec.file(spec.target, "0001") == "label_0001.png"
    dataset = FolderDataset(root, "train")
    assert dataset[0]["inputs"]["rgb"].shape[0] == 3
    assert dataset.inputs["depth"].prefix == "depth_"
    assert InputSpec.from_dict(dataset.inputs["depth"].as_dict()) == dataset.inputs["depth"]
    assert check(root) == []


def test_files_of_no_split_are_found_behind_prefixes(tmp_path):
    """If this breaks, every file of a data set with prefixes is called unused, or none is."""
    root = prefixed(tmp_path / "set")
    (root / "rgb_0009.jpg").write_bytes((root / "rgb_0001.jpg").read_bytes())
    (root / "0001.jpg").write_bytes((root / "rgb_0001.jpg").read_bytes())
    assert {(defect.file, defect.note) for defect in check(root)} == {("rgb_0009.jpg", True), ("0001.jpg", True)}


def test_descriptions_of_earlier_models_have_no_prefix(tmp_path):
    """If this breaks, models trained before prefixes cannot be loaded."""
    values = InputSpec("image", 3).as_dict()
    del values["prefix"], values["suffix"]
    assert InputSpec.from_dict(values) == InputSpec("image", 3)
    with pytest.raises(DataError, match="expected the values of an InputSpec"):
        InputSpec.from_dict({**values, "prefix": 3})


@pytest.mark.parametrize(
    ("key", "part", "files", "said"),
    [
        ("0001", called(), ["rgb_0001", "rgb_0002"], "rgb_0001 would match with `prefix: rgb_`"),
        ("1", called(), ["rgb_11", "rgb_1_left"], "rgb_1_left would match with `prefix: rgb_` and `suffix: _left`"),
        ("0001", called("", "_d"), ["0001"], "0001 would match with neither prefix nor suffix (KEY_d is declared)"),
        ("0001", called(), ["train/0001"], "The key 'train/0001' would match train/0001"),
        ("rgb_0001", called("depth_"), ["depth_0001"], "The key '0001' would match depth_0001"),
        ("rgb_0001", called(), ["depth_0001"], "With the key '0001', depth_0001 would match with `prefix: depth_`"),
        ("1", called("depth_"), ["depth_0", "rgb_1"], "The folder has depth_0.png, rgb_1.png."),
        ("x", called(), list("abcdwyz"), "7 files, among them d.png, w.png, y.png, z.png."),
        ("x", called(), [], "no file in this folder"),
    ],
)
def test_a_missing_file_is_told_with_what_is_there_and_what_would_match(key, part, files, said, tmp_path):
    """If this breaks, a user with files named otherwise is told that they are missing, and not why."""
    for file in files:
        (tmp_path / "x" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "x" / f"{file}.png").touch()
    with pytest.raises(DataError) as refused:
        Store(tmp_path).find("x", key, part)
    assert said in str(refused.value)
    assert "would match" in said or "would match" not in str(refused.value)
    assert not files or f"{sorted(files)[-1]}.png" in str(refused.value)


def test_names_that_only_look_the_same_are_told_apart_in_words(tmp_path):
    """If this breaks, a folder from another system has a file of the very name that is said to be missing."""
    root = make_folder(tmp_path / "data", modalities=("rgb",))
    composed, apart = unicodedata.normalize("NFC", "café"), unicodedata.normalize("NFD", "café")
    for folder in ("rgb", "label"):
        (file,) = (root / folder).glob("0002.*")
        file.rename(file.with_name(f"{apart}{file.suffix}"))
    keys = (root / "splits/train.txt").read_text().replace("0002", composed)
    (root / "splits/train.txt").write_text(keys, encoding="utf-8")
    spec = DatasetSpec.load(root)
    with pytest.raises(DataError, match=r"only looks the same.* NFD of Unicode, those of the key in NFC"):
        spec.file(spec.modalities["rgb"], composed)
    (root / "splits/val.txt").write_text(f"{apart}\n", encoding="utf-8")
    assert any("looks the same as another key" in defect.problem for defect in check(root))


@pytest.mark.parametrize(
    ("key", "name", "said"),
    [
        (unicodedata.normalize("NFC", "café"), unicodedata.normalize("NFD", "café"), "only looks the same"),
        ("Town", "town", "differs in large and small letters"),
    ],
)
def test_an_optional_file_of_another_spelling_is_not_absent(tmp_path, key, name, said):
    """If this breaks, a folder from another system is trained on without a sensor that it has, and without a word."""
    root = make_folder(tmp_path / "data", modalities=("rgb",))
    (file,) = (root / "rgb").glob("0002.*")
    file.rename(file.with_name(f"{name}{file.suffix}"))
    (label,) = (root / "label").glob("0002.*")
    label.rename(label.with_name(f"{key}{label.suffix}"))
    train = root / "splits/train.txt"
    train.write_text(train.read_text().replace("0002", key), encoding="utf-8")
    (root / "dataset.yaml").write_text(
        (root / "dataset.yaml").read_text().replace("rgb:\n", "rgb:\n    optional: true\n")
    )
    spec = DatasetSpec.load(root)
    assert not spec.lacks("rgb", key)
    with pytest.raises(DataError, match=said):
        spec.file(spec.modalities["rgb"], key)
    assert any(said in defect.problem for defect in check(root))
