"""Scores of a run's own data set and of others: none takes the place of another, none is called what it is not."""

import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from fixtures_data import edit, make_archive, make_folder
from polymodal import Predictor, fuse, models
from polymodal.checkpoint import annotate
from polymodal.data import FolderData
from polymodal.errors import CheckpointError, ConfigError
from polymodal.runs.evaluation import save_model, score_split
from polymodal.runs.tested import Tested, name_of_split
from polymodal.runs.validate import validate
from polymodal.tasks.protocol import Protocol

INPUTS = ["rgb", "depth"]


SMALL = {"classes": 2, "stem": 4, "widths": [4], "decoder": 4}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A data set, and as much of a finished run on it as `validate` reads, of an untrained network."""
    folder = tmp_path_factory.mktemp("made")
    root = make_folder(folder / "set", modalities=INPUTS, splits={"train": 2, "val": 2}, size=(16, 16))
    finished(root, folder / "run")
    return folder


@pytest.fixture
def root(made, tmp_path):
    return shutil.copytree(made / "set", tmp_path / "set")


@pytest.fixture
def run(made, root, tmp_path):
    """A run of its own for each test, trained where its data set lies."""
    return trained_on(root, shutil.copytree(made / "run", tmp_path / "run"))


def finished(root, folder, **facts):
    data = FolderData(str(root), INPUTS)
    data.setup("validate")
    torch.manual_seed(0)
    net = fuse(models.create("rooms-unet", **SMALL), data.channels).eval()
    chosen = {"data_set": "set", "selected_on": name_of_split(data, "val"), "identities": {"val": data.identity("val")}}
    save_model(net, "rooms-unet", SMALL, data, {"epochs": 1, **chosen, **facts}, folder / "model")
    score_split(Tested(folder / "model", data, "val"), folder)
    return trained_on(root, folder)


def trained_on(root, folder):
    settings = {"data": {"class_path": "polymodal.data.FolderData", "init_args": {"root": str(root)}}}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    return folder


def files(run):
    return sorted(file.name for file in run.glob("scores.*.json"))


def moved(root, tmp_path):
    return shutil.copytree(root, tmp_path / "moved" / "set")


def renamed(root, tmp_path):
    copy = shutil.copytree(root, tmp_path / "other")
    (copy / "depth").rename(copy / "range")
    edit(copy, lambda content: content.update(name="other name"))
    edit(copy, lambda content: content["modalities"]["depth"].update(folder="range"))
    return copy


def archived(root, tmp_path):
    return make_archive(moved(root, tmp_path))


@pytest.mark.parametrize("same", [moved, renamed, archived])
def test_the_same_scenes_are_the_runs_own_wherever_they_lie(same, root, run, tmp_path):
    """If this breaks, a run whose data set was moved gets a second file of the same scores."""
    before = json.loads((run / "scores.val.json").read_text())
    scores = validate(run, "val", str(same(root, tmp_path)))
    assert files(run) == ["scores.val.json"]
    assert scores["predictions"] == before["predictions"]
    assert scores["identity"] == before["identity"]


def other_labels(root):
    for file in (root / "label").iterdir():
        Image.fromarray(1 - np.minimum(np.array(Image.open(file)), 1)).save(file)


def other_keys(root):
    shutil.copy(root / "splits" / "train.txt", root / "splits" / "val.txt")


def other_inputs(root):
    for file in (root / "depth").iterdir():
        Image.fromarray(np.array(Image.open(file))[::-1]).save(file)


def other_meaning(root):
    edit(root, lambda content: content["modalities"]["depth"].pop("invalid"))


@pytest.mark.parametrize("change", [other_labels, other_keys, other_inputs, other_meaning])
def test_other_scenes_of_the_same_name_replace_no_scores(change, root, run, tmp_path, capsys):
    """If this breaks, the run's own scores are gone, and foreign ones are said to be those of the selection."""
    before = (run / "scores.val.json").read_bytes()
    other = moved(root, tmp_path)
    change(other)
    scores = validate(run, "val", str(other))
    shown = capsys.readouterr().out
    assert (run / "scores.val.json").read_bytes() == before
    (own, foreign) = sorted(files(run), key=len)
    assert own == "scores.val.json"
    assert foreign == f"scores.val.set-{scores['identity'][:8]}.json"
    assert foreign in shown.replace("\n", "")
    assert scores["selected_on"] != scores["scored_on"]
    assert "chosen on the split" not in shown
    again = validate(run, "val", str(other), Protocol(flip=True))
    assert again["identity"] == scores["identity"]
    assert len(files(run)) == 3


def test_a_data_set_that_was_changed_in_its_place_is_another(root, run):
    """If this breaks, scores on mended labels stand where those of the training's labels stood, unnoticed."""
    before = (run / "scores.val.json").read_bytes()
    other_labels(root)
    validate(run, "val")
    assert (run / "scores.val.json").read_bytes() == before
    assert len(files(run)) == 2


def test_runs_of_earlier_versions_know_their_data_set_by_its_place(root, tmp_path):
    """If this breaks, models trained before cannot be scored, or lose their scores to another data set."""
    run = finished(root, tmp_path / "run", identities={})
    scores = json.loads((run / "scores.val.json").read_text())
    del scores["identity"]
    (run / "scores.val.json").write_text(json.dumps(scores))
    validate(run, "val", str(moved(root, tmp_path)))
    assert len(files(run)) == 2
    assert "identity" not in json.loads((run / "scores.val.json").read_text())
    assert validate(run, "val", str(root))["selected_on"] == "set/val"
    assert "identity" in json.loads((run / "scores.val.json").read_text())


def test_a_split_that_is_none_is_not_taken_for_another(root, run):
    """If this breaks, scores of the validation stand in a file that says that they are of the training."""
    with pytest.raises(ConfigError, match=r"expected \"val\" or \"test\", .* got 'train'"):
        validate(run, "train", str(root))
    assert not (run / "scores.train.json").exists()


def test_a_model_folder_keeps_the_scores_of_each_data_set(root, run, tmp_path):
    """If this breaks, the second data set that a released model is scored on replaces the first one's scores."""
    model = run / "model"
    config = json.loads((model / "config.json").read_text())
    del config["metadata"]["training"]["identities"]
    (model / "config.json").write_text(json.dumps(config))
    first = validate(model, "val", str(root))
    other = moved(root, tmp_path)
    other_labels(other)
    validate(model, "val", str(other))
    assert json.loads((model / "scores.val.json").read_text())["identity"] == first["identity"]
    assert len(files(model)) == 2


def test_a_control_that_was_trained_on_noise_is_scored_on_noise_as_a_model_folder_too(root, tmp_path):
    """If this breaks, the control of a comparison reads the very sensor whose worth it is to show."""
    data = FolderData(str(root), INPUTS, substitute={"depth": "noise"})
    data.setup("validate")
    torch.manual_seed(0)
    net = fuse(models.create("rooms-unet", **SMALL), data.channels).eval()
    save_model(net, "rooms-unet", SMALL, data, {"epochs": 1, "output": "labels"}, tmp_path / "model")
    score_split(Tested(tmp_path / "model", data, "val"), tmp_path)
    scored = json.loads((tmp_path / "scores.val.json").read_text())
    assert validate(tmp_path / "model", "val", str(root))["predictions"] == scored["predictions"]
    with pytest.raises(ConfigError, match="depth: the model is a control, which has seen noise"):
        Predictor(tmp_path / "model")(rgb=np.zeros((16, 16, 3), np.uint8), depth=np.zeros((16, 16), np.uint16))
    annotate(tmp_path / "model", substitute=[1])
    with pytest.raises(CheckpointError, match=r"substitute: expected a text for each modality, got \[1\]"):
        validate(tmp_path / "model", "val", str(root))
