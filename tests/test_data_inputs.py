"""From stored values to inputs: wrong units, silent zeros or another rule at prediction would spoil every result."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from polymodal.data import InputSpec, prepare_input, resize_inputs
from polymodal.data.inputs import to_values
from polymodal.errors import DataError

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(("dtype", "top"), [(np.uint8, 255), (np.uint16, 65535), (bool, 1), (np.float32, 1)])
def test_image_runs_from_zero_to_one(dtype, top):
    raw = np.array([[[0, top]]]).astype(dtype)
    values, valid = to_values(raw, InputSpec("image", 1), "a.png")
    assert values.tolist() == [[[0, 1]]]
    assert values.dtype == torch.float32
    assert valid.all()


def test_normal_runs_from_minus_one_to_one():
    raw = np.array([0, 255], np.uint8)[None, None].repeat(3, 0)
    values, _ = to_values(raw, InputSpec("normal", 3), "a.png")
    assert values[0].tolist() == [[-1, 1]]
    floats = RNG.uniform(-1, 1, (3, 2, 2)).astype(np.float32)
    assert torch.equal(to_values(floats, InputSpec("normal", 3), "a.npy")[0], torch.from_numpy(floats))


def test_depth_is_in_its_unit_and_holes_are_marked():
    spec = InputSpec("depth", 1, scale=0.001, unit="m", invalid=0, mean=(2.0,), std=(0.5,))
    inputs, valid = prepare_input(np.array([[[0, 2000, 3000]]], np.uint16), spec, "a.png")
    assert inputs.tolist() == pytest.approx(np.array([[[0, 0, 2]]]))
    assert valid.tolist() == [[[False, True, True]]]


def test_only_pixels_invalid_in_all_channels_are_missing():
    raw = np.array([[[0, 0, 5]], [[0, 7, 5]]], np.uint8)
    _, valid = prepare_input(raw, InputSpec("raw", 2, invalid=0), "a.tif")
    assert valid.tolist() == [[[False, True, True]]]


@given(st.sampled_from([math.nan, math.inf, -math.inf, -9999.0]), st.integers(0, 2))
def test_whatever_is_not_measured_becomes_the_mean(hole, channel):
    raw = np.ones((3, 2, 2), np.float32)
    raw[channel if math.isnan(hole) or math.isinf(hole) else slice(None), 0, 0] = hole
    spec = InputSpec("raw", 3, invalid=-9999, mean=(4, 5, 6), std=(1, 2, 3))
    inputs, valid = prepare_input(raw, spec, "a.npy")
    assert inputs[:, 0, 0].tolist() == [0, 0, 0]
    assert inputs.isfinite().all()
    assert valid.flatten().tolist() == [False, True, True, True]


def test_label_input_is_one_hot_and_refuses_other_labels():
    spec = InputSpec("label", 3, invalid=9, classes=("a", "b", "c"))
    inputs, valid = prepare_input(np.array([[[0, 2, 9]]], np.uint8), spec, "a.png")
    assert inputs.flatten(1).T.tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 0]]
    assert valid.tolist() == [[[True, True, False]]]
    with pytest.raises(DataError, match=r"b.png: expected labels from 0 to 2 .*invalid: 9.* got 7 at 1 pixel"):
        prepare_input(np.array([[[7]]], np.uint8), spec, "b.png")


def test_other_channels_and_other_types_are_refused():
    with pytest.raises(DataError, match=r"a.png: expected 3 channel.*got 1"):
        prepare_input(np.zeros((1, 2, 2), np.uint8), InputSpec("image", 3), "a.png")
    with pytest.raises(DataError, match=r"a.tif: .*got int32. Use kind raw"):
        prepare_input(np.zeros((1, 2, 2), np.int32), InputSpec("image", 1), "a.tif")


@pytest.mark.parametrize(
    "spec",
    [
        InputSpec("image", 3, mean=(0.1, 0.2, 0.3), std=(1, 2, 3)),
        InputSpec("depth", 1, scale=0.1, unit="m", invalid=math.nan),
        InputSpec("label", 2, classes=("a", "b")),
    ],
)
def test_spec_survives_a_models_configuration(spec):
    """Prediction reads this from config.json: strict JSON, and exactly the same rule."""
    again = InputSpec.from_dict(json.loads(json.dumps(spec.as_dict(), allow_nan=False)))
    assert repr(again) == repr(spec)


@pytest.mark.parametrize(
    "change",
    [{"kind": "x"}, {"channels": 0}, {"channels": "3"}, {"std": [0]}, {"mean": [1, 2]}, {"scale": "a"}, {"more": 1}],
)
def test_damaged_configuration_is_refused(change):
    values = InputSpec("depth", 1).as_dict()
    with pytest.raises(DataError, match="expected the values of an InputSpec"):
        InputSpec.from_dict({**values, **change})
    with pytest.raises(DataError):
        InputSpec.from_dict({})


def test_prediction_refuses_images_of_different_size():
    raw = {"rgb": np.zeros((3, 4, 6), np.uint8), "depth": np.zeros((1, 4, 5), np.uint8)}
    specs = {"rgb": InputSpec("image", 3), "depth": InputSpec("depth", 1)}
    with pytest.raises(DataError, match=r"d.png: expected the size of r.jpg, 6x4 .* got 5x4.* `resize: true`"):
        resize_inputs(raw, specs, {"rgb": "r.jpg", "depth": "d.png"}, None)
    # A photograph is upright by its Exif data, and its depth lies as it was read.
    raw["depth"] = np.zeros((1, 6, 4), np.uint8)
    with pytest.raises(DataError, match=r"got 4x6.* one of them is turned"):
        resize_inputs(raw, specs, {"rgb": "r.jpg", "depth": "d.png"}, None)


def test_resizing_depth_makes_no_new_depths_and_keeps_holes_out():
    raw = {"depth": RNG.choice([0, 1000, 4000], (1, 9, 12)).astype(np.uint16), "rgb": np.zeros((3, 9, 12), np.uint8)}
    specs = {"depth": InputSpec("depth", 1, scale=0.001, invalid=0), "rgb": InputSpec("image", 3)}
    inputs, valid = resize_inputs(raw, specs, {"depth": "d.png", "rgb": "r.png"}, (6, 8))
    assert {name: tensor.shape[1:] for name, tensor in inputs.items()} == {"depth": (6, 8), "rgb": (6, 8)}
    assert list(inputs) == ["depth", "rgb"]
    assert set(inputs["depth"][valid["depth"]].tolist()) <= {1.0, 4.0}
    assert not inputs["depth"][~valid["depth"]].any()
    assert valid["depth"].dtype == torch.bool
    assert 0 < valid["depth"].float().mean() < 1


@pytest.mark.parametrize("key", ["std", "mean", "scale", "invalid"])
def test_a_description_without_a_key_is_refused_by_its_name(key):
    """If this breaks, a damaged config.json predicts from inputs that are normalised otherwise than in training."""
    described = InputSpec("depth", 1).as_dict()
    del described[key]
    with pytest.raises(DataError, match=f"{key}: missing"):
        InputSpec.from_dict(described)
