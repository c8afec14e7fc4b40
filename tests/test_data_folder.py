"""A folder as a data set: samples hold what the files say, or the file that is wrong is named."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from fixtures_data import edit, make_archive, make_folder, target_of
from polymodal.data import Augment, FolderDataset
from polymodal.errors import DataError

NYU = Path(__file__).parents[2] / "shared" / "data" / "nyudv2"


@pytest.fixture
def root(tmp_path):
    return make_folder(tmp_path / "data")


def same(one, other) -> bool:
    return all(torch.equal(one["inputs"][name], other["inputs"][name]) for name in one["inputs"])


@pytest.mark.parametrize("tiff", [False, True])
def test_sample_of_five_modalities(tmp_path, tiff):
    sample = FolderDataset(make_folder(tmp_path / "data", tiff=tiff), "train")[0]
    shapes = {name: tuple(tensor.shape) for name, tensor in sample["inputs"].items()}
    assert shapes == {
        "rgb": (3, 24, 32),
        "grey": (1, 24, 32),
        "depth": (1, 24, 32),
        "normal": (3, 24, 32),
        "bands": (4, 24, 32),
    }
    for name, tensor in sample["inputs"].items():
        assert tensor.dtype == torch.float32
        assert tensor.isfinite().all()
        assert not tensor[:, ~sample["valid"][name][0]].any()
        assert sample["valid"][name].all() == (name not in ("depth", "bands"))
    assert target_of(sample).dtype == torch.int64
    assert set(target_of(sample).unique().tolist()) == {0, 1, 255}
    assert sample["key"] == "0000"


def test_only_what_is_asked_for_is_read(root):
    """A user with twenty modalities on disk pays for two."""
    for name in ("normal", "bands", "grey"):
        for file in (root / name).iterdir():
            file.unlink()
    assert list(FolderDataset(root, "val", ["depth", "rgb"])[0]["inputs"]) == ["depth", "rgb"]


def test_archive_gives_the_same_samples_in_workers_too(root):
    folder, archive = FolderDataset(root, "train"), FolderDataset(make_archive(root), "train", cache=True)
    loaded = DataLoader(archive, batch_size=None, num_workers=2)
    assert all(same(one, other) for one, other in zip((folder[i] for i in range(len(folder))), loaded, strict=True))


def test_target_of_evaluation_keeps_its_resolution_and_inputs_are_resized(root):
    sample = FolderDataset(root, "val", size=(12, 20))[0]
    assert all(tensor.shape[1:] == (12, 20) for tensor in sample["inputs"].values())
    assert target_of(sample).shape == (24, 32)
    sample = FolderDataset(root, "train", size=(12, 20), augment=Augment())[0]
    assert target_of(sample).shape == sample["inputs"]["rgb"].shape[1:] == (12, 20)


def test_cache_reads_files_once_and_changes_nothing(root):
    plain, cached = FolderDataset(root, "train"), FolderDataset(root, "train", cache=True)
    first = cached[0]
    for file in root.rglob("0000.*"):
        file.write_bytes(b"")
    assert same(first, cached[0])
    assert torch.equal(target_of(first), target_of(cached[0]))
    with pytest.raises(DataError, match="0000"):
        plain[0]


def test_seed_of_a_sample_decides_its_augmentation(root):
    data = FolderDataset(root, "train", augment=Augment())
    assert same(data[0, 7], data[0, 7])
    assert not same(data[0, 7], data[0, 8])


def test_label_outside_the_classes_is_refused(root):
    label = np.array(Image.open(root / "label/0000.png"))
    label[5, 5], label[6, 6] = 7, 9
    Image.fromarray(label).save(root / "label/0000.png")
    with pytest.raises(DataError, match=r"label/0000.png: expected labels from 0 to 1 .*ignore: 255.* got 7, 9"):
        FolderDataset(root, "train")[0]


def test_mask_of_0_and_255_is_not_silently_ignored(root):
    """Binary masks are often saved as 0 and 255: without a declared ignore index that is a mistake, not a hole."""
    edit(root, lambda d: d["target"].pop("ignore"))
    with pytest.raises(DataError, match=r"ignore: none is declared.* got 255"):
        FolderDataset(root, "train")[0]


def test_coloured_label_is_refused(root):
    Image.fromarray(np.zeros((24, 32, 3), np.uint8)).save(root / "label/0000.png")
    with pytest.raises(DataError, match=r"label/0000.png: expected one channel .* got 3"):
        FolderDataset(root, "train")[0]


@pytest.mark.parametrize(("folder", "dtype"), [("depth", np.uint16), ("label", np.uint8)])
def test_files_of_different_size_are_refused(root, folder, dtype):
    Image.fromarray(np.ones((24, 30), dtype)).save(root / folder / "0001.png")
    with pytest.raises(DataError, match=rf"{folder}/0001.png: expected the size of .*rgb/0001.jpg, 32x24 .*got 30x24"):
        FolderDataset(root, "train", ["rgb", "depth"])[1]


def test_missing_file_is_named(root):
    (root / "depth/0002.png").unlink()
    with pytest.raises(DataError, match=r"data/depth: no file for the key '0002'"):
        FolderDataset(root, "train")[2]


def test_file_of_other_channels_is_refused(root):
    Image.fromarray(np.zeros((24, 32), np.uint8)).save(root / "rgb/0001.jpg")
    with pytest.raises(DataError, match=r"rgb/0001.jpg: expected 3 channel\(s\).* got 1"):
        FolderDataset(root, "train")[1]


@pytest.mark.parametrize(("name", "kind", "needed"), [("rgb", "depth", 1), ("grey", "normal", 3)])
def test_kind_that_the_files_cannot_be_is_refused(root, name, kind, needed):
    edit(root, lambda d: d["modalities"][name].update(kind=kind))
    with pytest.raises(DataError, match=rf"{name}/0000.*expected {needed} channel\(s\) for kind {kind}"):
        FolderDataset(root, "train")


def test_class_numbers_as_an_input(root):
    shutil.copytree(root / "label", root / "parts")
    edit(
        root,
        lambda d: d["modalities"].update(
            parts={"folder": "parts", "kind": "label", "classes": ["a", "b"], "invalid": 255}
        ),
    )
    sample = FolderDataset(root, "train", ["parts"], augment=Augment(scale=(0.7, 0.7)))[0]
    measured = sample["valid"]["parts"][0]
    assert torch.equal(sample["inputs"]["parts"].argmax(0)[measured], target_of(sample)[measured])
    assert (target_of(sample)[~measured] == 255).all()


@pytest.mark.skipif(not NYU.is_dir(), reason="the NYUDv2 folder is not beside the checkout")
def test_nyudv2():
    data = FolderDataset(NYU, "train")
    assert len(data) == 795
    assert len(data.spec.target.classes) == 39
    sample = data[0]
    assert sample["inputs"]["rgb"].shape == (3, 480, 640)
    assert sample["inputs"]["depth"].shape == (1, 480, 640)
    depth = data.inputs["depth"]
    metres = sample["inputs"]["depth"] * depth.std[0] + depth.mean[0]
    assert metres.min() > 0.3
    assert metres.max() <= 10.01
    assert 1 < metres.mean() < 6
