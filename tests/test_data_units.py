"""Files of another unit or bit depth: without this one trains, or predicts, on numbers that mean nothing."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fixtures_data import edit, make_folder
from polymodal.data import DatasetSpec, FolderData, InputSpec, check
from polymodal.data.continued import meaning
from polymodal.data.ranges import Range, range_of, strangers
from polymodal.data.statistics import input_specs
from polymodal.errors import ConfigError, DataError
from polymodal.runs.predict import Scene, warn_of_values
from polymodal.runs.validate import _as_trained

CELSIUS, KELVIN = (-10.0, 40.0), (263.0, 313.0)


def thermal(root, values) -> None:
    """Put one temperature, plus a little noise, into each file of the raw modality."""
    rng = np.random.default_rng(0)
    for file, value in zip(sorted((root / "bands").iterdir()), values, strict=True):
        np.save(file, (value + rng.uniform(-2, 2, (24, 32, 4))).astype(np.float32))


@pytest.fixture
def root(tmp_path):
    root = make_folder(tmp_path / "data", modalities=("rgb", "depth", "bands"))
    edit(root, lambda d: d["modalities"]["bands"].update(invalid=float("nan")))
    return root


@pytest.mark.parametrize("stranger", [2, 8])
def test_check_names_files_in_kelvin_among_celsius(root, stranger):
    values = [15.0 + n for n in range(9)]
    values[stranger] += 273.15
    thermal(root, values)
    (defect,) = check(root)
    assert defect.file == f"bands/{stranger:04d}.npy"
    assert "in one unit" in defect.problem
    assert not defect.note


def test_check_names_the_fewer_files_of_two_groups(root):
    thermal(root, [20, 21, 22, 23, 24, 25, 293, 294, 295])
    assert [defect.file for defect in check(root)] == [f"bands/{n:04d}.npy" for n in (6, 7, 8)]


def test_check_names_millimetres_among_metres(root):
    edit(root, lambda d: d["modalities"]["depth"].update(scale=1.0))
    file = root / "depth/0004.png"
    Image.fromarray((np.array(Image.open(file)) // 1000).astype(np.uint16)).save(file)
    (defect,) = check(root)
    assert defect.file == "depth/0004.png"


def test_check_leaves_days_and_nights_alone(root):
    thermal(root, [-12, -9, -6, 30, 33, 36, 38, 5, 12])
    assert check(root) == []


def test_two_bit_depths_in_one_training_are_refused(root):
    """8-bit depth among 16-bit depth is 257 times too near, in each of its pixels."""
    for number in (1, 4):
        file = root / f"depth/{number:04d}.png"
        Image.fromarray((np.array(Image.open(file)) // 257).astype(np.uint8)).save(file)
    with pytest.raises(DataError, match=r"depth/0001.png: expected integer numbers, .* got uint8"):
        input_specs(DatasetSpec.load(root), ["depth"])


def test_a_model_knows_what_it_was_trained_with(root):
    thermal(root, range(9))
    specs = input_specs(DatasetSpec.load(root), ["rgb", "depth", "bands"])
    assert (specs["depth"].stored, specs["bands"].stored, specs["rgb"].stored) == ("integer", "floating-point", "")
    assert specs["rgb"].seen is None
    assert specs["bands"].seen.low == pytest.approx((-2,) * 4, abs=0.2)
    assert specs["bands"].seen.high == pytest.approx((7,) * 4, abs=0.2)  # six training samples
    again = InputSpec.from_dict(specs["bands"].as_dict())
    assert again.as_dict() == specs["bands"].as_dict()
    old = {key: value for key, value in again.as_dict().items() if key not in ("stored", "seen")}
    assert InputSpec.from_dict(old).seen is None  # a model of before these were noted


def test_declared_mean_and_deviation_keep_the_range(root):
    thermal(root, range(9))
    edit(root, lambda d: d["modalities"]["bands"].update(mean=3, std=2))
    spec = input_specs(DatasetSpec.load(root), ["bands"])["bands"]
    assert (spec.mean, spec.std) == ((3,) * 4, (2,) * 4)
    assert spec.seen.high == pytest.approx((7,) * 4, abs=0.2)


def test_predict_names_files_in_another_unit(tmp_path, capsys):
    spec = InputSpec("raw", 1, unit="°C", seen=Range((-10.0,), (40.0,)))
    scene = Scene("a", {"thermal": tmp_path / "a.npy"})
    warn_of_values({"thermal": np.linspace(-15, 45, 64, dtype=np.float32).reshape(1, 8, 8)}, scene, {"thermal": spec})
    assert capsys.readouterr().err == ""
    warn_of_values({"thermal": np.full((1, 8, 8), 293.0, np.float32)}, scene, {"thermal": spec})
    said = capsys.readouterr().err
    assert "a.npy: its values are 293 to 293, far from the -10 to 40 °C" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("rows", [8, 300])
def test_predict_names_files_without_a_measurement(tmp_path, capsys, rows):
    """A dead sensor's image misleads a model more than none at all: who is not told blames the model."""
    scene = Scene("a", {"depth": tmp_path / "a.png"})
    specs = {"depth": InputSpec("depth", 1, invalid=0.0, seen=Range((0.5,), (10.0,)))}
    dead = np.zeros((1, rows, 2000), np.uint16)
    warn_of_values({"depth": dead}, scene, specs)
    assert "a.png: no pixel holds a measurement" in capsys.readouterr().err
    dead[0, rows - 1, 1999] = 3  # one pixel is little, but something
    warn_of_values({"depth": dead}, scene, specs)
    assert capsys.readouterr().err == ""


def test_validating_on_another_unit_is_refused():
    trained = InputSpec("raw", 1, seen=Range((-10.0,), (40.0,)))
    here = InputSpec("raw", 1, seen=Range((263.0,), (313.0,)))
    with pytest.raises(ConfigError, match=r"thermal: its values are 263 to 313, far from the -10 to 40"):
        _as_trained(here, trained, "thermal")
    assert _as_trained(trained, here.__class__("raw", 1), "thermal").seen == trained.seen


@given(st.lists(st.floats(*CELSIUS), min_size=3, max_size=12), st.integers(1, 3))
def test_kelvin_is_told_from_celsius_whatever_the_weather(celsius, kelvin):
    ranges = {f"c{n}": Range((value - 1,), (value + 1,)) for n, value in enumerate(celsius)}
    assert strangers(ranges) is None or max(celsius) - min(celsius) > 5
    mixed = ranges | {f"k{n}": Range((KELVIN[0] + n,), (KELVIN[1],)) for n in range(kelvin)}
    found = strangers(mixed)
    assert found is not None


def test_the_range_leaves_single_pixels_and_holes_out():
    values = torch.arange(10_000.0).view(1, 100, 100)
    valid = torch.ones(1, 100, 100, dtype=torch.bool)
    values[0, 0, 0] = 1e9
    found = range_of(values, valid)
    assert found.low == pytest.approx((100,), abs=2)
    assert found.high == pytest.approx((9900,), abs=2)
    assert range_of(values, ~valid) is None


def test_a_training_goes_on_with_the_inputs_that_it_was_begun_with(root):
    """Else a run that is continued after `data stats` or an edit is normalised in two ways, half of it in each."""
    before = FolderData(str(root), ["rgb", "depth"])
    before.setup("validate")
    state = {"epochs": 1, "batches": 0, "inputs": {name: spec.as_dict() for name, spec in before.inputs.items()}}
    again = FolderData(str(root), ["rgb", "depth"])
    again.setup("validate")
    again.load_state_dict(state)
    edit(root, lambda d: d["modalities"]["depth"].update(mean=2, std=1))
    changed = FolderData(str(root), ["rgb", "depth"])
    changed.setup("validate")
    with pytest.raises(ConfigError, match=r"depth: the checkpoint was trained with mean \[.*now \[2.0\]"):
        changed.load_state_dict(state)


def test_a_training_goes_on_with_the_order_and_the_targets_that_it_was_begun_with(root):
    """Else the norms of one modality go on with the images of another, or a class with the labels of the next."""

    def opened(*modalities, **settings):
        data = FolderData(str(root), list(modalities), **settings)
        data.setup("validate")
        return data

    def state(data):
        return {"epochs": 1, "batches": 0, **meaning(data.inputs, data.targets)}

    before = state(opened("rgb", "depth"))
    opened("rgb", "depth").load_state_dict(before)
    with pytest.raises(ConfigError, match=r"with rgb, depth, in this order.* with --data.modalities \[rgb,depth"):
        opened("depth", "rgb").load_state_dict(before)
    edit(root, lambda d: d["target"].update(colors=[[0, 0, 0], [9, 9, 9]]))
    opened("rgb", "depth").load_state_dict(before)
    edit(root, lambda d: d["target"]["classes"].reverse())
    with pytest.raises(ConfigError, match=r"target: the checkpoint was trained with classes \['class 0', 'class 1'\]"):
        opened("rgb", "depth").load_state_dict(before)
    edit(root, lambda d: d["modalities"]["depth"].update(range=[0, 10]))
    images = state(opened("rgb", target="depth"))
    edit(root, lambda d: d["modalities"]["depth"].update(range=[0, 20]))
    with pytest.raises(ConfigError, match=r"depth: the checkpoint was trained with range \[0.0, 10.0\] \(now"):
        opened("rgb", target="depth").load_state_dict(images)
    edit(root, lambda d: d["modalities"]["depth"].update(range=[0, 10], invalid=65535))
    with pytest.raises(ConfigError, match=r"depth: the checkpoint was trained with invalid 0.0 \(now 65535.0\)"):
        opened("rgb", target="depth").load_state_dict(images)
