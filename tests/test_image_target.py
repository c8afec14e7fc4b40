"""Targets that are images: scaled by their stated range, moved with the inputs, and known where there is truth."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fixtures_data import MODALITIES, edit, known_of, make_folder, target_of
from polymodal.data import (
    Augment,
    DatasetSpec,
    FolderData,
    FolderDataset,
    TargetSpec,
    Truth,
    check,
    read_array,
    restore_target,
    settle_targets,
)
from polymodal.data.target import target_scaling
from polymodal.errors import DataError

STILL = Augment(scale=(1.0, 1.0), flip=False, photometric=0.0)


@pytest.fixture
def root(tmp_path):
    return make_folder(tmp_path / "data")


def ranged(root):
    """The tiny set with a range for its 16-bit depth."""
    edit(root, lambda d: d["modalities"]["depth"].update(range=[0, 4]))
    return root


def plain_target(root, name: str, key: str) -> tuple[np.ndarray, np.ndarray]:
    """What a target must be, from the definition: float64 (C, H, W) from -1 to 1 and where there is truth (H, W)."""
    (file,) = (root / name).glob(f"{key}.*")
    raw = read_array(file).astype(np.float64)
    if name == "depth":
        values, valid = np.clip(raw * 0.001, 0, 4) / 2 - 1, raw[0] != 0
    else:
        values, valid = raw / (65535 if name == "grey" else 255) * 2 - 1, np.ones(raw.shape[1:], bool)
    return np.where(valid, values, 0), valid


@pytest.mark.parametrize("augment", [None, STILL])
@pytest.mark.parametrize("name", ["rgb", "grey", "normal", "depth"])
def test_any_modality_can_be_the_target(root, name, augment):
    """Wrong by a factor or an offset, a generator would learn a picture that no score agrees with."""
    data = FolderDataset(ranged(root), "train", target=name, augment=augment)
    assert list(data.inputs) == [other for other in MODALITIES if other != name]
    sample = data[1]
    values, valid = plain_target(root, name, "0001")
    assert target_of(sample).dtype == torch.float32
    assert np.allclose(target_of(sample).numpy(), values, atol=1e-6)
    assert known_of(sample).dtype == torch.bool
    assert np.array_equal(known_of(sample)[0].numpy(), valid)
    assert valid.all() == (name != "depth")


def test_target_of_dataset_yaml_may_be_an_image(root):
    edit(root, lambda d: d.update(target={"folder": "grey", "kind": "image", "bits": 16}))
    edit(root, lambda d: d["modalities"].pop("grey"))
    sample = FolderDataset(root, "train", ["rgb"])[0]
    assert np.allclose(target_of(sample).numpy(), plain_target(root, "grey", "0000")[0], atol=1e-6)


def test_target_of_dataset_yaml_may_be_a_modality_and_a_run_may_choose_another(root):
    edit(root, lambda d: d.update(target="rgb"))
    data = FolderDataset(root, "train")
    assert list(data.inputs) == [name for name in MODALITIES if name != "rgb"]
    assert np.allclose(target_of(data[0]).numpy(), plain_target(root, "rgb", "0000")[0], atol=1e-6)
    data = FolderDataset(root, "train", ["rgb", "grey"], target="normal")
    assert np.allclose(target_of(data[0]).numpy(), plain_target(root, "normal", "0000")[0], atol=1e-6)
    edit(root, lambda d: d.update(target="rbg"))
    with pytest.raises(DataError, match=r"target: .* no modality 'rbg'; did you mean 'rgb'"):
        DatasetSpec.load(root)


def test_evaluation_keeps_the_resolution_of_the_target(root):
    sample = FolderDataset(root, "val", ["grey"], target="rgb", size=(12, 20))[0]
    assert sample["inputs"]["grey"].shape == (1, 12, 20)
    assert target_of(sample).shape == (3, 24, 32)
    sample = FolderDataset(root, "val", ["grey"], target="rgb", size=(12, 20), augment=STILL)[0]
    assert target_of(sample).shape == (3, 12, 20)
    assert known_of(sample).shape == (1, 12, 20)


@given(st.integers(0, 10_000), st.tuples(st.integers(1, 40), st.integers(1, 40)) | st.none(), st.floats(0.4, 2.5))
def test_target_moves_with_the_inputs_and_keeps_its_values(seed, crop, scale):
    """An input that is the target's own picture must stay that, through any scale, crop, flip and padding."""
    grey = np.random.default_rng(0).integers(1, 256, (1, 24, 32), dtype=np.uint8)
    meanings = (
        TargetSpec("image", "", range=(0, 1), channels=1),
        TargetSpec("depth", "", scale=1 / 255, invalid=0, range=(0, 1), channels=1),
    )
    augment = Augment(scale=(scale, scale * 1.2), crop=crop, photometric=0.0)
    for meaning in meanings:
        inputs, valid, targets, known = augment(
            {"a": grey},
            {"t": Truth(grey, meaning, "t.png")},
            {"a": target_scaling(meaning)},
            {"a": "a.png"},
            generator=torch.Generator().manual_seed(seed),
        )
        assert torch.equal(inputs["a"], targets["t"]), meaning.kind
        assert torch.equal(valid["a"], known["t"]), meaning.kind
        assert not targets["t"][:, ~known["t"][0]].any(), meaning.kind
        assert targets["t"].shape[1:] == (crop or (24, 32)), meaning.kind


def test_photometry_and_depth_noise_never_touch_the_target(root):
    """The same scene brightened for the input only is augmentation; brightened in the truth it is another scene."""
    loud = Augment(scale=(1.0, 1.0), flip=False, photometric=0.5, depth_noise=0.3, depth_holes=1.0)
    for name in ("rgb", "depth"):
        still = FolderDataset(ranged(root), "train", target=name, augment=STILL)[0, 3]
        changed = FolderDataset(root, "train", target=name, augment=loud)[0, 3]
        other = "depth" if name == "rgb" else "rgb"
        assert torch.equal(target_of(still), target_of(changed))
        assert torch.equal(known_of(still), known_of(changed))
        assert not torch.equal(still["inputs"][other], changed["inputs"][other])


def test_mirrored_normals_point_the_other_way(root):
    augment = Augment(scale=(1.0, 1.0), photometric=0.0)
    data = FolderDataset(root, "train", ["rgb"], target="normal", augment=augment)
    plain = plain_target(root, "normal", "0000")[0]
    mirrored = plain[:, :, ::-1] * np.array([-1, 1, 1])[:, None, None]
    found = [target_of(data[0, seed]).numpy() for seed in range(12)]
    turned = [np.allclose(target, mirrored, atol=1e-6) for target in found]
    assert all(np.allclose(target, plain, atol=1e-6) or turn for target, turn in zip(found, turned, strict=True))
    assert 1 <= sum(turned) <= 11


def test_8_bit_depth_has_its_own_range_and_16_bit_must_state_one(root):
    with pytest.raises(DataError, match=r"dataset.yaml: depth: .* uint16 files needs a range, such as .* in m"):
        FolderDataset(root, "train", target="depth")
    for file in (root / "depth").iterdir():
        Image.fromarray(np.full((24, 32), 51, np.uint8)).save(file)
    edit(root, lambda d: d["modalities"]["depth"].update(scale=0.02))
    data = FolderDataset(root, "train", target="depth")
    assert data.target.range == pytest.approx((0, 5.1))
    assert torch.allclose(target_of(data[0]), torch.tensor(2 * 51 / 255 - 1))


def test_a_hole_of_a_target_is_no_value_of_it(root):
    """Else a floating-point image whose holes are -9999 is refused, or learned."""
    edit(root, lambda d: d["modalities"].update(bands={"folder": "bands", "kind": "image", "invalid": -9999}))
    for file in (root / "bands").iterdir():
        np.save(file, np.where(np.isfinite(values := np.load(file)), values.clip(0, 1), np.float32(-9999)))
    sample = FolderDataset(root, "train", target="bands")[0]
    assert not known_of(sample)[0, :2, :2].any()
    assert known_of(sample)[0, 2:].all()


@pytest.mark.parametrize("augment", [None, STILL])
@pytest.mark.parametrize("name", ["depth", "rgb"])
def test_a_later_file_in_another_form_is_no_truth(root, name, augment):
    """Metres among millimetres become zeros, and levels up to 255 all white: learned, and scored, as truth."""
    for file in (ranged(root) / name).iterdir():
        array = np.moveaxis(read_array(file), 0, 2)
        if name == "rgb":
            file.unlink()
            np.save(file.with_suffix(".npy"), (array / (1 if file.stem == "0004" else 255)).astype(np.float32))
        elif file.stem == "0004":
            file.unlink()
            np.save(file.with_suffix(".npy"), (array[..., 0] / 1000).astype(np.float32))
    data = FolderDataset(root, "train", target=name, augment=augment)
    assert known_of(data[0]).any()
    with pytest.raises(DataError, match=r"0004.npy: (expected integer numbers|its values reach)"):
        data[4]


def test_a_range_that_no_file_lies_in_is_refused(root):
    """Else all truth is one value, which is learned at once, with splendid scores."""

    def refused(name: str, message: str) -> None:
        with pytest.raises(DataError, match=message):
            FolderDataset(root, "train", target=name)

    edit(ranged(root), lambda d: d["modalities"]["depth"].update(scale=1.0))
    refused("depth", r"no value of the files .* within the target's range, 0 to 4, .* `scale`")
    assert [defect for defect in check(root) if "pixels lie beyond the target's range, 0 to 4" in defect.problem]
    edit(root, lambda d: d["modalities"]["depth"].update(scale=0.001, range=[0, 5000]))
    refused("depth", r"reaches 5000, and values in uint16 files 65.535 at most")
    edit(root, lambda d: d["modalities"]["rgb"].update(range=[0, 255]))
    refused("rgb", "reaches 255, .* shares of full scale, 0 to 1")


def test_a_file_of_another_scale_is_named_by_check(root):
    """What a file holds beyond full scale is no truth; here all files are looked at at once."""
    edit(root, lambda d: d["modalities"].update(bands={"folder": "bands", "kind": "image"}))
    edit(root, lambda d: d.update(target="bands"))
    for file in (root / "bands").iterdir():
        np.save(file, np.nan_to_num(np.load(file)).clip(0, 1) * (255 if file.stem == "0004" else 1) + 0.001)
    beyond = [defect for defect in check(root) if "beyond the target's range, 0 to 1" in defect.problem]
    assert [defect.file for defect in beyond] == ["bands/0004.npy"]


def test_a_target_that_predictions_cannot_hold_is_refused_before_training(root):
    """If this breaks, predicted metres are rounded to whole ones, or predicting ends in a traceback after training."""

    def refused(message: str) -> None:
        with pytest.raises(DataError, match=message):
            FolderDataset(root, "train", target="bands")

    edit(root, lambda d: d["modalities"]["bands"].update(range=[0, 10]))
    refused(r"bands/0000.npy: .* PNG files, which cannot hold .* kind raw in float32.* `scale`")
    edit(root, lambda d: d["modalities"].update(bands={"folder": "bands", "kind": "image", "range": [-3, 7]}))
    refused("PNG files, which cannot hold .* kind image in float32")
    edit(root, lambda d: d["modalities"]["bands"].pop("range"))
    refused(r"bands/0000.npy: its values reach .*, and images in float32 count from 0 to 1")
    for file in (root / "bands").iterdir():
        np.save(file, np.clip(np.load(file) / 5, -1, 1))
    refused(r"bands/0000.npy: its values fall to .*, and images in float32 count from 0 to 1")
    for file in (root / "bands").iterdir():
        np.save(file, np.clip(np.load(file), 0, 1))
    assert FolderDataset(root, "train", target="bands").target.channels == 4
    edit(root, lambda d: d["modalities"].update(bands={"folder": "bands", "kind": "raw", "range": [0, 10]}))
    for file in (root / "bands").iterdir():
        np.save(file, np.full((24, 32, 3), 9, np.uint16))
    assert FolderDataset(root, "train", target="bands").target.channels == 3
    edit(root, lambda d: d["modalities"]["bands"].update(range=[0, 1000]))
    refused(r"bands/0000.npy: .* Expected 1 channel\(s\) or fewer with 16 bits, got 3")
    for file in (root / "bands").iterdir():
        np.save(file, np.full((24, 32, 5), 9, np.uint8))
    edit(root, lambda d: d["modalities"]["bands"].pop("range"))
    refused(r"Expected 4 channel\(s\) or fewer with 8 bits, got 5")


@pytest.mark.parametrize("name", ["rgb", "normal", "depth"])
def test_scaling_can_be_undone(root, name):
    data = FolderDataset(ranged(root), "train", target=name)
    restored = restore_target(target_of(data[0]).double(), data.target).numpy()
    raw = read_array(next((root / name).glob("0000.*"))).astype(np.float64)
    expected = {"rgb": raw / 255, "normal": raw / 127.5 - 1, "depth": np.clip(raw / 1000, 0, 4)}[name]
    known = known_of(data[0]).expand(data.target.channels, -1, -1).numpy()
    assert np.allclose(restored[known], expected[known], atol=1e-6)


@pytest.mark.parametrize("name", ["rgb", "depth", "normal"])
def test_image_target_survives_the_model_folder(root, name):
    target = settle_targets(DatasetSpec.load(ranged(root)).with_targets([name]))[name]
    assert TargetSpec.from_dict(target.as_dict()) == target
    with pytest.raises(DataError, match=r"target: range: expected a list of two"):
        TargetSpec.from_dict(target.as_dict() | {"range": [2, 1]})


def test_data_module_batches_images(root):
    data = FolderData(
        str(ranged(root)), ["rgb", "normal"], target="depth", batch_size=2, eval_batch_size=3, augment=STILL
    )
    data.setup("fit")
    assert list(data.inputs) == ["rgb", "normal"]
    assert (data.target.kind, data.target.channels, data.target.range) == ("depth", 1, (0, 4))
    for loader, size in ((data.train_dataloader(), 2), (data.val_dataloader(), 3)):
        batch = next(iter(loader))
        assert target_of(batch).shape == (size, 1, 24, 32)
        assert known_of(batch).shape == (size, 1, 24, 32)
        assert known_of(batch).dtype == torch.bool
    with pytest.raises(DataError, match="segmentation needs a target of kind label, got depth"):
        data.num_classes  # noqa: B018


def test_unknown_target_and_target_among_the_inputs_are_refused(root):
    with pytest.raises(DataError, match=r"no modality 'rbg'; did you mean 'rgb'"):
        FolderDataset(root, "train", target="rbg")
    with pytest.raises(DataError, match=r"rgb is the target, so it can be no input"):
        FolderDataset(root, "train", ["rgb", "grey"], target="rgb")


def test_target_of_another_size_or_channels_is_named(root):
    Image.fromarray(np.zeros((20, 32, 3), np.uint8)).save(root / "normal/0001.png")
    with pytest.raises(DataError, match=r"normal/0001.png: expected the size of .*, 32x24 .*got 32x20"):
        FolderDataset(root, "train", ["grey"], target="normal")[1]
    Image.fromarray(np.zeros((24, 32), np.uint8)).save(root / "normal/0002.png")
    with pytest.raises(DataError, match=r"normal/0002.png: expected 3 channel\(s\).* got 1"):
        FolderDataset(root, "train", ["grey"], target="normal")[2]


@pytest.mark.parametrize("role", ["input", "target"])
def test_16_bit_file_saved_as_8_bit_is_refused(root, role):
    """Read by the same scale, 3 m of depth would silently become 1 cm."""
    edit(ranged(root), lambda d: d["modalities"]["depth"].update(bits=16, mean=2, std=1))
    Image.fromarray(np.full((24, 32), 11, np.uint8)).save(root / "depth/0001.png")
    inputs, target = (["depth"], "grey") if role == "input" else (["rgb"], "depth")
    data = FolderDataset(root, "train", inputs, target=target)
    assert target_of(data[0]).shape == (1, 24, 32)
    with pytest.raises(DataError, match=r"depth/0001.png: expected 16-bit .* got uint8"):
        data[1]


def test_check_names_defects_of_an_image_target(tmp_path):
    root = make_folder(tmp_path / "data", modalities=("rgb", "depth"))
    edit(root, lambda d: d.update(target={"folder": "depth", "kind": "depth", "scale": 0.001, "invalid": 0}))
    edit(root, lambda d: d["modalities"].pop("depth"))
    Image.fromarray(np.zeros((24, 32), np.uint16)).save(root / "depth/0001.png")
    Image.fromarray(np.full((24, 32), 7, np.uint16)).save(root / "depth/0002.png")
    assert {(defect.file, defect.problem.split(":")[0]) for defect in check(root)} == {
        ("depth/0001.png", "no pixel holds a measurement."),
        ("depth/0002.png", "constant"),
    }


def test_suffix_stands_behind_the_key(tmp_path):
    root = make_folder(tmp_path / "data", modalities=("rgb", "grey"))
    for file in (root / "grey").iterdir():
        file.rename(file.with_name(f"{file.stem}_domain_grey.png"))
    edit(root, lambda d: d["modalities"]["grey"].update(suffix="_domain_grey"))
    assert np.allclose(
        target_of(FolderDataset(root, "train", ["rgb"], target="grey")[0]).numpy(),
        plain_target(root, "grey", "0000_domain_grey")[0],
        atol=1e-6,
    )
    assert "grey" in FolderDataset(root, "train", ["grey"])[0]["inputs"]
    assert check(root) == []
    (root / "grey/0001_domain_grey.png").unlink()
    with pytest.raises(DataError, match=r"grey: no file for the key '0001_domain_grey'"):
        FolderDataset(root, "train", ["grey"])[1]


@pytest.mark.parametrize("augment", [None, Augment(scale=(0.7, 1.3), crop=(16, 20), photometric=0.3)])
def test_several_targets_are_each_what_they_are_alone(root, augment):
    """A task of one's own learns labels and an image of the same crop: else one of them belongs to another picture."""

    def both(d):
        d["targets"] = {"classes": d.pop("target"), "far": {**d["modalities"]["depth"], "range": [0, 4]}}

    edit(root, both)
    seen = ["rgb", "normal"]
    together = FolderDataset(root, "train", seen, target=["classes", "far"], augment=augment)[0, 5]
    assert list(together["targets"]) == ["classes", "far"]
    for name in together["targets"]:
        alone = FolderDataset(root, "train", seen, target=name, augment=augment)[0, 5]
        assert torch.equal(together["targets"][name], target_of(alone))
        for modality in seen:
            assert torch.equal(together["inputs"][modality], alone["inputs"][modality])
    assert list(together["targets_valid"]) == ["far"]
    assert torch.equal(together["targets_valid"]["far"], known_of(alone))


def test_a_batch_holds_several_targets_and_one_is_learned(root):
    edit(root, lambda d: d.update(targets={"classes": d["target"], "seen": {"folder": "rgb", "kind": "image"}}))
    edit(root, lambda d: d.pop("target"))
    data, alone = (FolderData(str(root), ["depth"], target=t, batch_size=2) for t in (["classes", "seen"], "classes"))
    data.setup("fit")
    alone.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert {name: len(target) for name, target in batch["targets"].items()} == {"classes": 2, "seen": 2}
    assert data.class_histogram() is None
    with pytest.raises(DataError, match=r"one is learned at a time\. Choose it: --data\.target classes"):
        data.num_classes  # noqa: B018
    assert data.identity("train") != alone.identity("train")
    for names, message in ((["classes", "classes"], "different names"), ([], "one at least")):
        with pytest.raises(DataError, match=message):
            FolderDataset(root, "train", ["depth"], target=names)
