"""If these break, a model of the package is not found by its name, differs from its folder, or is changed by a user."""

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import polymodal
from docs_tools import ROOT
from fixtures_data import make_folder
from polymodal import Predictor, checkpoint, export, sources
from polymodal.cli import main
from polymodal.errors import CheckpointError, ConfigError
from polymodal.runs.validate import validate
from predict_tools import write_scene
from test_predict import refused

NAME = "scene-3"


@pytest.fixture
def packaged(model, tmp_path, monkeypatch):
    """A package that ships the model, and a folder to work in."""
    monkeypatch.setattr(sources, "_ZOO", tmp_path / "zoo")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return Path(shutil.copytree(model, tmp_path / "zoo" / NAME))


def test_a_name_stands_wherever_a_model_does(model, packaged, tmp_path, capsys):
    files = write_scene(tmp_path, "a")
    assert (Predictor(NAME).read(**files)["labels"] == Predictor(model).read(**files)["labels"]).all()
    assert polymodal.load(NAME).modalities == polymodal.load(model).modalities
    words = ["predict", "--model", NAME, "--input", f"rgb={files['rgb']}", "--subset", "--out", str(tmp_path / "out")]
    assert main(words) == 0
    assert main(["inspect", NAME]) == 0


def test_what_lies_at_a_path_goes_before_a_name(packaged):
    """And the message says so: a data set that `data rooms rooms` unpacked has the name of a model, too."""
    Path(NAME).mkdir()
    with pytest.raises(CheckpointError, match=f"{NAME} is no model folder: .* hides the model .* rename it"):
        polymodal.load(NAME)


def test_an_unknown_name_is_refused_with_those_that_there_are(packaged):
    with pytest.raises(CheckpointError, match=f"comes with the package: {NAME}"):
        polymodal.load("scene-4")


def test_the_package_is_never_changed(packaged, tmp_path, capsys):
    before = {file.name: file.read_bytes() for file in packaged.iterdir()}
    root = make_folder(tmp_path / "data", modalities=["rgb", "depth"], classes=3)
    scores = validate(Path(NAME), "val", str(root))
    assert "comes with the package" in refused(["calibrate", NAME, "--root", root], capsys, tmp_path / "none")
    with pytest.raises(ConfigError, match="comes with the package"):
        checkpoint.annotate(NAME, note="mine")
    assert {file.name: file.read_bytes() for file in packaged.iterdir()} == before
    written = [file for file in Path("runs/packaged", NAME).iterdir() if file.suffix == ".json"]
    assert [json.loads(file.read_text())["predictions"] for file in written] == [scores["predictions"]]


def test_weights_in_16_bits_are_half_as_large_and_computed_with_32(model, tmp_path):
    net, config = polymodal.load(model), checkpoint.read_config(model)
    checkpoint.save(net, tmp_path / "half", network=config["network"], half=True)
    small = polymodal.load(tmp_path / "half")
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (tmp_path / "half", model)]
    assert sizes[0] < 0.6 * sizes[1]
    for key, value in net.state_dict().items():
        kept = small.state_dict()[key]
        assert kept.dtype == value.dtype
        assert torch.equal(kept, value.half().float() if value.is_floating_point() else value)


def test_weights_beyond_16_bits_are_refused_and_nothing_is_written(model, tmp_path):
    net = polymodal.load(model)
    key, weight = next(iter(net.named_parameters()))
    weight.data.view(-1)[0] = 1e5
    with pytest.raises(ConfigError, match=key):
        checkpoint.save(net, tmp_path / "half", half=True)
    assert not (tmp_path / "half").exists()


def test_a_scale_of_their_own_reads_numbers_of_any_type(model, tmp_path, capsys):
    files = write_scene(tmp_path, "a")
    expected = Predictor(model).read(**files)["labels"]
    frames = {name: np.array(Image.open(file)) for name, file in files.items()}
    metres = Predictor(model, scales={"depth": 1})
    assert (metres(rgb=frames["rgb"], depth=frames["depth"] / np.float32(1000))["labels"] == expected).all()
    steps = [frames["depth"] // 20, frames["depth"] // 20 * 20]
    coarse = Predictor(model, scales={"depth": 0.02})(rgb=frames["rgb"], depth=steps[0].astype(np.uint8))
    assert (coarse["labels"] == Predictor(model)(rgb=frames["rgb"], depth=steps[1])["labels"]).all()
    words = ["predict", "--model", model, "--input", *(f"{name}={file}" for name, file in files.items()), "--scale"]
    out = tmp_path / "out"
    for scale, message in [
        ("thermal=1", "no modality 'thermal'"),
        ("rgb=1", "whose numbers have no unit"),
        ("depth=0", "expected a number above 0"),
        ("depth=nan", "expected a number above 0"),
        ("depth=mm", "expected one number"),
        ("depth", "expected MODALITY=NUMBER"),
    ]:
        assert message in refused([*words, scale, "--out", out], capsys, out)
    assert main([str(word) for word in [*words, "depth=1e-3", "--out", out]]) == 0


def test_every_packaged_model_says_what_it_takes_and_is_computed_with_32_bits():
    for name in sources.packaged():
        net, predictor = polymodal.load(name), Predictor(name)
        assert tuple(predictor.modalities) == net.modalities == ("rgb", "depth")
        assert predictor.modalities["depth"].unit == "m"
        assert predictor.modalities["depth"].invalid == 0
        assert {tensor.dtype for tensor in net.state_dict().values()} <= {torch.float32, torch.int64, torch.bool}
        assert f"## {name}" in (ROOT / "docs" / "models.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rooms", "nyudv2-39"])
def test_a_packaged_model_is_absorbed_and_exported_within_a_minute(name, tmp_path):
    """If this breaks, an export seems to hang: with the padding of TensorFlow one took more than 8 minutes."""
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'polymodal[export]'")
    began = time.process_time()
    export.save(export.absorb(polymodal.load(name)), tmp_path / "net.onnx")
    assert time.process_time() - began < 60


@pytest.mark.slow
def test_the_scores_that_are_stated_of_a_packaged_model_are_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "models.md").read_text()
    scores = validate(Path("rooms"), "test", "rooms", subsets="all")["predictions"]
    for name, values in scores.items():
        row = f"| {name.replace(' + ', ' and ')} | {values['mean_iou']:.1f} | {values['pixel_accuracy']:.1f} |"
        assert row in page
