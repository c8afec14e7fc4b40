"""A modality of another resolution: without this, the usual pair of a thermal and a colour camera cannot be used."""

import numpy as np
import pytest
import torch
from PIL import Image

from fixtures_data import edit, make_folder, target_of
from polymodal.data import DatasetSpec, FolderDataset, InputSpec, check
from polymodal.data.resizing import aligned, resized
from polymodal.data.statistics import input_specs
from polymodal.data.transforms import Augment
from polymodal.errors import DataError


@pytest.fixture
def root(tmp_path):
    """Colour and labels of 24 x 32, thermal of 12 x 16."""
    root = make_folder(tmp_path / "data", modalities=("rgb", "grey"))
    for file in (root / "grey").iterdir():
        picture = np.array(Image.open(file)).astype(np.uint16)
        Image.fromarray(picture[::2, ::2]).save(file)
    edit(root, lambda d: d["modalities"]["grey"].update(kind="raw", resize=True))
    return root


def test_training_and_evaluation_see_one_size(root):
    plain = FolderDataset(root, "val")[0]
    assert plain["inputs"]["grey"].shape[1:] == plain["inputs"]["rgb"].shape[1:] == target_of(plain).shape
    augmented = FolderDataset(root, "train", augment=Augment(crop=(16, 16)))[(0, 7)]
    assert augmented["inputs"]["grey"].shape[1:] == (16, 16)
    assert check(root) == []


def test_what_is_not_declared_is_refused_with_the_key_that_allows_it(root):
    edit(root, lambda d: d["modalities"]["grey"].pop("resize"))
    with pytest.raises(DataError, match=r"got 16x12.*`resize: true`"):
        FolderDataset(root, "val")[0]
    assert any("resize: true" in defect.problem for defect in check(root))


def test_a_model_knows_the_factor_and_uses_it_where_no_other_modality_is_there(root):
    specs = input_specs(DatasetSpec.load(root), ["rgb", "grey"])
    assert (specs["rgb"].resize, specs["grey"].resize) == (None, (2.0, 2.0))
    assert InputSpec.from_dict(specs["grey"].as_dict()) == specs["grey"]
    alone = aligned({"grey": np.zeros((1, 12, 16), np.uint16)}, specs, {"grey": "a.png"})
    assert alone["grey"].shape == (1, 24, 32)
    beside = {"grey": np.zeros((1, 12, 16), np.uint16), "rgb": np.zeros((3, 48, 64), np.uint8)}
    assert aligned(beside, specs, dict.fromkeys(beside, "a.png"))["grey"].shape == (1, 48, 64)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32])
def test_values_are_interpolated_in_their_own_type(dtype):
    ramp = np.arange(0, 160, 10).astype(dtype).reshape(1, 1, 16).repeat(16, 1)
    moved = resized(ramp, InputSpec("raw", 1), (32, 32), "a.tif")
    assert moved.dtype == dtype
    wanted = torch.nn.functional.interpolate(torch.from_numpy(ramp.astype(np.float64))[None], (32, 32), mode="bilinear")
    assert np.abs(moved[0].astype(float) - wanted[0, 0].numpy()).max() <= (0.5 if np.dtype(dtype).kind != "f" else 1e-5)
    assert (np.diff(moved[0, 0].astype(float)) >= 0).all()
    assert len(np.unique(moved)) > 16


@pytest.mark.parametrize(
    ("spec", "values"),
    [
        (InputSpec("depth", 1), (500, 900)),
        (InputSpec("label", 9, classes=tuple("abcdefghi")), (0, 8)),
        (InputSpec("raw", 1, invalid=0), (0, 900)),
    ],
)
def test_no_depth_class_or_hole_is_invented(spec, values):
    array = np.array(values, np.uint16)[np.random.default_rng(0).integers(0, 2, (1, 12, 16))]
    assert set(np.unique(resized(array, spec, (24, 32), "a.png"))) == set(values)


def test_nothing_is_stretched(root):
    array = np.array(Image.open(root / "grey/0003.png"))
    Image.fromarray(array[:, :10]).save(root / "grey/0003.png")
    (defect,) = check(root)
    assert defect.file == "grey/0003.png"
    assert "10x12 (width x height) cannot be resized to the others' 32x24" in defect.problem
    with pytest.raises(DataError, match="ratio of its sides"):
        FolderDataset(root, "train")[3]


def test_a_target_sets_the_size(root):
    with pytest.raises(DataError, match=r"grey is declared with `resize: true`"):
        DatasetSpec.load(root).with_targets(["grey"])
    edit(root, lambda d: d["modalities"]["grey"].update(resize="yes"))
    with pytest.raises(DataError, match=r"modalities.grey.resize: expected true or false"):
        DatasetSpec.load(root)
