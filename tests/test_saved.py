"""What an earlier version wrote is read by this one: models, exported files and runs in tests/saved, see make.py there.

If one of these breaks, what people trained and published can no longer be used, or says something else.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import polymodal
from polymodal.export import Session, absorb
from polymodal.report.load import load_run
from polymodal.runs.validate import validate

SAVED = Path(__file__).parent / "saved"
MODELS = sorted(path.parent.name for path in SAVED.glob("*/config.json"))


@pytest.fixture(scope="module")
def expected():
    with np.load(SAVED / "expected.npz") as arrays:
        return dict(arrays)


def images_of(expected):
    return {name: torch.from_numpy(expected[f"image {name}"]) for name in ("rgb", "depth")}


def assert_predicts(prediction, expected, name):
    found = {**prediction.per_modality, "ensemble": prediction.ensemble}
    assert {f"{name} {output}" for output in found} == {key for key in expected if key.startswith(f"{name} ")}
    for output, value in found.items():
        np.testing.assert_allclose(value.detach().numpy(), expected[f"{name} {output}"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_a_saved_model_predicts_as_it_did(expected, name):
    assert_predicts(polymodal.load(SAVED / name)(images_of(expected)), expected, name)


@pytest.mark.parametrize("name", MODELS)
def test_a_saved_model_is_written_as_it_was(name, tmp_path):
    """Else a model goes through two versions and is another one."""
    net = polymodal.load(SAVED / name)
    spec = json.loads((SAVED / name / "config.json").read_text())["network"]
    polymodal.save(net, tmp_path, network=spec)
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (SAVED / name, tmp_path))
    assert after["fuse"] == before["fuse"]


def test_the_norms_of_a_saved_model_are_absorbed(expected):
    net = polymodal.load(SAVED / "exchange")
    assert_predicts(absorb(net)(images_of(expected)), expected, "exchange")


def test_an_exported_file_predicts_as_it_did(expected):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'polymodal[export]'")
    found = Session(SAVED / "folded.onnx")(images_of(expected))
    for output, value in found.items():
        np.testing.assert_allclose(value, expected[f"exchange {output}"], rtol=1e-4, atol=1e-5)


@pytest.fixture
def run(tmp_path):
    shutil.copytree(SAVED / "run", tmp_path / "run")
    shutil.copy(SAVED / "own.zip", tmp_path / "own.zip")
    return tmp_path / "run"


def test_a_run_is_scored_as_it_was(run, monkeypatch):
    monkeypatch.chdir(run.parent)
    before = json.loads((run / "scores.val.json").read_text())
    after = validate(run, "val")
    assert after["predictions"] == before["predictions"]
    assert after["identity"] == before["identity"]


def test_a_run_is_reported_as_it_was(run):
    found = load_run(run)
    before = json.loads((run / "scores.val.json").read_text())
    assert len(before["predictions"]) == 3
    for prediction, scores in before["predictions"].items():
        assert found.scores["val"].predictions[prediction]["mean_iou"] == scores["mean_iou"]
    assert found.scales.sites
    assert found.scenes is not None
