"""dataset.yaml: a user's mistake in it is named by file and key, and what is right is read as it is meant."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fixtures_data import edit, make_archive, make_folder, target_of
from polymodal.data import DatasetSpec, FolderData, FolderDataset, TargetSpec, palette
from polymodal.data.check import check
from polymodal.data.labels import NO_IGNORE
from polymodal.errors import DataError


@pytest.fixture
def root(tmp_path):
    return make_folder(tmp_path / "data")


def refused(root: Path, *parts: str) -> None:
    with pytest.raises(DataError) as caught:
        DatasetSpec.load(root)
    for part in (str(root), *parts):
        assert part in str(caught.value)


def test_everything_declared_is_read(root):
    spec = DatasetSpec.load(root)
    assert tuple(spec.modalities) == ("rgb", "grey", "depth", "normal", "bands")
    depth = spec.modalities["depth"]
    assert (depth.kind, depth.scale, depth.unit, depth.invalid) == ("depth", 0.001, "m", 0)
    assert spec.target.classes == ("class 0", "class 1")
    assert spec.target.ignore == 255
    assert spec.target.colors == palette(2)
    assert {split: len(keys) for split, keys in spec.splits.items()} == {"train": 6, "val": 3}


def test_archive_reads_like_its_folder(root):
    folder, archive = DatasetSpec.load(root), DatasetSpec.load(make_archive(root))
    assert (archive.modalities, archive.target, archive.splits) == (folder.modalities, folder.target, folder.splits)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda d: d.update(modalitys={}), ["unknown key 'modalitys'", "did you mean 'modalities'?"]),
        (lambda d: d["modalities"]["depth"].update(scael=2), ["modalities.depth", "'scael'", "did you mean 'scale'?"]),
        (lambda d: d["modalities"]["rgb"].update(scale=2), ["modalities.rgb", "'scale' for kind image"]),
        (lambda d: d["target"].update(colours=[]), ["target", "did you mean 'colors'?"]),
        (lambda d: d["modalities"]["depth"].update(scale="big"), ["modalities.depth.scale", "a number", "'big' (str)"]),
        (lambda d: d["modalities"]["depth"].update(scale="1e-3"), ["modalities.depth.scale", "1.0e-3"]),
        (lambda d: d["modalities"]["rgb"].update(folder="/rgb"), ["modalities.rgb.folder", "from the root"]),
        (lambda d: d["modalities"]["depth"].update(scale=0), ["modalities.depth.scale", "above 0"]),
        (lambda d: d["modalities"]["depth"].update(std=[0]), ["modalities.depth.std", "above 0"]),
        (
            lambda d: d["modalities"]["rgb"].update(mean=["a"]),
            ["modalities.rgb.mean", "a list of one for each channel"],
        ),
        (lambda d: d["modalities"]["rgb"].update(kind="picture"), ["modalities.rgb.kind", "image, depth", "'picture'"]),
        (lambda d: d["modalities"]["rgb"].update(kind=["image"]), ["modalities.rgb.kind", "(list)"]),
        (lambda d: d["modalities"]["rgb"].pop("folder"), ["modalities.rgb.folder: missing"]),
        (lambda d: d.pop("target"), ["target: missing"]),
        (lambda d: d.update(modalities={}), ["modalities", "at least one modality"]),
        (lambda d: d.update(modalities=["rgb"]), ["modalities", "keys and values", "(list)"]),
        (lambda d: d["modalities"].update({"a b": {}}), ["'a b'", "letters"]),
        (lambda d: d["modalities"].update({1: {}}), ["modalities", "1 (int)", "quotes"]),
        (lambda d: d["modalities"].update(ensemble={}), ["ensemble"]),
        (lambda d: d["modalities"]["rgb"].update(kind="label"), ["modalities.rgb.classes: missing"]),
        (lambda d: d["target"].pop("classes"), ["target.classes: missing"]),
        (lambda d: d["target"].update(classes=[True, False]), ["target.classes", "quotes"]),
        (lambda d: d["target"].update(classes=["a", "a"]), ["target.classes", "different names"]),
        (lambda d: d["target"].update(ignore="255"), ["target.ignore", "whole number", "'255' (str)"]),
        (lambda d: d["target"].update(ignore=0.5), ["target.ignore", "whole number", "0.5"]),
        (lambda d: d["target"].update(ignore=[]), ["target.ignore", "whole number"]),
        (lambda d: d["target"].update(ignore=[0, 1]), ["target.ignore: 0, 1 are classes", "`map: {2: 0, 3: 1}`"]),
        (lambda d: d["target"].update(map={1: 0, 7: 2}), ["target.map", "from 0 to 1, got 2"]),
        (lambda d: d["target"].update(map={1: 0, 255: 1}), ["target.ignore: 255 is a class by `map`"]),
        (lambda d: d["target"].update(map=[1, 7]), ["target.map", "{0: 0, 255: 1}"]),
        (lambda d: d["target"].update(map={True: 0}), ["target.map", "{0: 0, 255: 1}"]),
        (lambda d: d["target"].update(colors=[[0, 0, 0]]), ["target.colors", "2 classes", "got 1"]),
        (lambda d: d["target"].update(colors=[[0, 0, 256], [0, 0, 0]]), ["target.colors", "from 0 to 255"]),
        (lambda d: d.update(splits={}), ["splits", "at least one"]),
        (lambda d: d["splits"].update(test="splits/test.txt"), ["splits.test", "splits/test.txt"]),
    ],
)
def test_mistake_is_named(root, change, parts):
    edit(root, change)
    refused(root, "dataset.yaml", *parts)


def test_two_modalities_of_one_name_are_refused_with_the_line(root):
    file = root / "dataset.yaml"
    file.write_text(file.read_text().replace("  depth:\n", "  rgb:\n", 1))
    refused(root, "dataset.yaml, line ", "'rgb' is there twice")


def test_a_key_that_is_no_name_is_refused_with_the_line(root):
    file = root / "dataset.yaml"
    file.write_text(file.read_text().replace("  depth:\n", "  ? [depth]\n  :\n", 1))
    refused(root, "dataset.yaml, line ", "a key is a list or a mapping")


def test_empty_split_is_refused(root):
    (root / "splits/val.txt").write_text("\n \n")
    refused(root, "splits/val.txt", "'val' is empty")


@pytest.mark.parametrize("content", [b"modalities: [", b"- 1", b"", b"\xff\xfe\xff", b"!!python/object:os.system {}"])
def test_no_yaml_is_refused(root, content):
    (root / "dataset.yaml").write_bytes(content)
    refused(root, "dataset.yaml")


def test_missing_description_and_missing_folder_are_refused(tmp_path):
    refused(tmp_path / "nowhere", "there is no such data set", "rooms")
    refused(tmp_path, "dataset.yaml: missing")
    (tmp_path / "data.zip").write_bytes(b"no archive")
    refused(tmp_path / "data.zip", "damaged")


@pytest.mark.parametrize("kind", ["image", "depth"])
def test_target_for_translation_is_read(root, kind):
    edit(root, lambda d: d.update(target={"folder": "rgb", "kind": kind}))
    assert DatasetSpec.load(root).target == TargetSpec(kind, "rgb")


def test_without_ignore_no_label_of_a_file_is_ignored(root):
    edit(root, lambda d: d["target"].pop("ignore"))
    assert DatasetSpec.load(root).target.ignore == NO_IGNORE < 0


def test_asking_for_what_is_not_there_names_what_is(root):
    spec = DatasetSpec.load(root)
    assert spec.select(None) == tuple(spec.modalities)
    assert spec.select(["depth", "rgb"]) == ("depth", "rgb")
    for names, message in (
        (["dept"], "did you mean 'depth'? It has rgb, grey"),
        ([], "at least one of rgb"),
        (["rgb", "rgb"], "different names"),
    ):
        with pytest.raises(DataError, match=re.escape(message)):
            spec.select(names)
    with pytest.raises(DataError, match=r"no split 'test'.*train, val"):
        spec.keys("test")


def test_target_survives_the_model_folder(root):
    target = DatasetSpec.load(root).target
    assert TargetSpec.from_dict(target.as_dict()) == target
    with pytest.raises(DataError, match=r"target: ignore"):
        TargetSpec.from_dict(target.as_dict() | {"ignore": "x"})


@given(st.integers(1, 255))
def test_palette_tells_classes_apart(classes):
    assert len(set(palette(classes)) | {(0, 0, 0)}) == classes + 1


def several(root: Path) -> Path:
    """The data set with its labels and an image as targets, by name."""

    def change(content: dict) -> None:
        content["targets"] = {
            "labels": content.pop("target"),
            "far": content["modalities"].pop("depth") | {"range": [0, 10]},
        }

    edit(root, change)
    return root


def test_several_targets_are_declared_by_name_and_one_is_chosen(tmp_path):
    """If this breaks, a second target needs a second copy of the data set, or another one is learned than was meant."""
    root = make_folder(tmp_path / "own", size=(16, 24), modalities=("rgb", "depth"))
    alone = target_of(FolderDataset(root, "train")[0])
    spec = DatasetSpec.load(several(root))
    assert list(spec.targets) == ["labels", "far"]
    assert torch.equal(target_of(FolderDataset(root, "train", target="labels")[0]), alone)
    sample = FolderDataset(root, "train", target="far")[0]
    assert target_of(sample).shape == (1, 16, 24)
    assert list(sample["inputs"]) == ["rgb"]
    assert not check(root)
    for make in (lambda: FolderDataset(root, "train"), lambda: FolderData(str(root)).setup()):
        with pytest.raises(DataError, match=r"targets: there are labels, far, .*--data\.target labels"):
            make()
    with pytest.raises(DataError, match=r"has no target and no modality 'depth'.*It has labels, far, rgb"):
        FolderDataset(root, "train", target="depth")
    Image.fromarray(np.full((16, 24), 7, np.uint8)).save(root / "label" / f"{spec.splits['train'][0]}.png")
    assert [defect.problem for defect in check(root) if "label" in defect.file]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.update(target=c["targets"]["labels"]), r"targets: there is a target beside it"),
        (lambda c: c.update(targets={}), "targets: expected at least one target, got none"),
        (lambda c: c["targets"].update(rgb=c["targets"]["labels"]), r"targets\.rgb: a modality has this name, too"),
        (lambda c: c["targets"]["far"].update(kind="label"), r"targets\.far: unknown key"),
    ],
)
def test_targets_that_cannot_be_told_apart_are_refused(tmp_path, change, said):
    root = several(make_folder(tmp_path / "own", size=(16, 24), modalities=("rgb", "depth")))
    edit(root, change)
    with pytest.raises(DataError, match=said):
        DatasetSpec.load(root)
