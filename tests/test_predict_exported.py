"""Predicting with an exported file: what it refuses, and when."""

import json

import numpy as np
import onnx
import pytest
from PIL import Image

import hostile_exports
import polymodal
from fixtures_data import Described
from polymodal import checkpoint, export, models
from polymodal.errors import CheckpointError, ConfigError, DataError
from polymodal.runs.evaluation import describe
from polymodal.runs.export import export_model
from polymodal.runs.predict import predict


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A file that takes images whose sides are multiples of 8 alone."""
    file = tmp_path_factory.mktemp("exported") / "net.onnx"
    model = onnx.ModelProto.FromString(hostile_exports.sound())
    (described,) = model.metadata_props
    described.value = json.dumps(hostile_exports.SOUND | {"step": 8})
    onnx.save(model, file)
    return file


def scenes(folder, *sizes):
    """Folders of files of these heights and widths, by modality."""
    for number, (height, width) in enumerate(sizes):
        for name, shape, dtype in (("depth", (height, width), np.uint16), ("rgb", (height, width, 3), np.uint8)):
            (folder / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full(shape, 100, dtype)).save(folder / name / f"scene{number}.png")
    return {name: folder / name for name in ("depth", "rgb")}


@pytest.mark.slow
def test_a_size_that_the_file_does_not_take_is_found_before_anything_is_written(exported, tmp_path):
    """Else half of the scenes are predicted, and the user must find out which."""
    with pytest.raises(DataError, match=r"scene1: An image of 42x32 .* multiples of 8"):
        predict(exported, scenes(tmp_path, (32, 48), (32, 42)), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert predict(exported, scenes(tmp_path / "fitting", (32, 48)), tmp_path / "out")


def test_frames_of_any_size_are_brought_to_one_that_the_file_takes(exported):
    """Else a camera's frames are refused in a program, where files of the same size are no less unusual."""
    found = polymodal.Predictor(exported)(rgb=np.zeros((30, 42, 3), np.uint8), depth=np.ones((30, 42), np.uint16))
    assert found["labels"].shape == (30, 42)


@pytest.mark.parametrize("subset", [False, True])
def test_a_missing_modality_is_refused_with_a_remedy_that_works(exported, tmp_path, subset):
    """Else the message sends users to --subset, which a file cannot do."""
    with pytest.raises(ConfigError, match=r"no input for depth: .*predict with the model folder, or export") as refused:
        predict(exported, {"rgb": scenes(tmp_path, (32, 32))["rgb"]}, tmp_path / "out", subset=subset)
    assert "--subset" not in str(refused.value)


@pytest.mark.parametrize("subset", [False, True])
def test_a_scene_that_lacks_a_modality_is_refused_with_a_remedy_that_works(exported, tmp_path, subset):
    """Else the message sends users to --subset, which a file cannot do."""
    inputs = scenes(tmp_path, (32, 32), (32, 32))
    (inputs["depth"] / "scene1.png").unlink()
    with pytest.raises(DataError, match=r"scene1 .no depth.*an exported network takes all of them") as refused:
        predict(exported, inputs, tmp_path / "out", subset=subset)
    assert "--subset" not in str(refused.value)


def test_a_file_that_does_not_say_what_it_takes_is_refused(exported, tmp_path):
    """Else images are normalised in a way that the network was not trained with, or a traceback is all there is."""
    half = describe(Described())
    del half["inputs"]["depth"]
    for name, metadata in {"bare": {}, "half": half}.items():
        model = onnx.load(exported)
        (described,) = model.metadata_props
        described.value = json.dumps(json.loads(described.value) | {"metadata": metadata})
        onnx.save(model, tmp_path / f"{name}.onnx")
        with pytest.raises(CheckpointError, match=rf"{name}\.onnx does not say what the inputs"):
            predict(tmp_path / f"{name}.onnx", scenes(tmp_path, (32, 32)), tmp_path / "out")


def test_savings_are_told_for_a_size_that_the_network_takes(tmp_path, monkeypatch):
    """Else an export of a network without a size of its own ends in an error about an image that nobody gave."""
    monkeypatch.setattr("polymodal.runs.export.REFERENCE_SIZE", (30, 40))
    arguments = {"filters": 2, "depth": 3, "in_channels": 3, "out_channels": 3}
    net = polymodal.fuse(models.create("translation-unet", **arguments), {"depth": 1, "rgb": 3}, "exchange")
    checkpoint.save(net, tmp_path / "model", network={"name": "translation-unet", "arguments": arguments})
    told = export_model(tmp_path / "model", tmp_path / "net.pt2", "pt2", absorbed=True)
    assert "for 40x32 (width x height)" in told


@pytest.mark.parametrize("name", hostile_exports.ENDLESS)
def test_a_file_that_computes_without_end_is_refused(name, tmp_path):
    """If this breaks, a few bytes from a stranger occupy a machine for ever, or fill its memory."""
    hostile_exports.write_endless(name, tmp_path / "net.onnx")
    images = {"rgb": np.zeros((1, 3, 16, 24), np.float32), "depth": np.zeros((1, 1, 16, 24), np.float32)}
    with pytest.raises(CheckpointError, match=r"may compute without end|GiB for these images|cannot be run"):
        export.Session(tmp_path / "net.onnx", threads=1)(images)
