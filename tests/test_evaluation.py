"""What is kept of a trained model's predictions: scenes to look at, and messages that name the scene."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from fixtures_data import edit, make_folder
from polymodal import models
from polymodal.data import FolderData
from polymodal.errors import DataError
from polymodal.fusion import Exchange
from polymodal.report import write_report
from polymodal.runs.evaluation import remove_scores_of_others, save_model, score_split, write_scenes
from polymodal.runs.tested import Tested
from polymodal.surgery import fuse

INPUTS = ["rgb", "grey"]


def generator(folder, data, **scoring):
    """A run folder with an untrained generator of two inputs."""
    arguments = {"out_channels": data.target.channels, "depth": 3, "filters": 2}
    torch.manual_seed(0)
    net = fuse(models.create("translation-unet", **arguments), data.channels, Exchange()).eval()
    facts = {"seconds": 1.0, "epochs": 1, "seed": 0, **scoring}
    save_model(net, "translation-unet", arguments, data, facts, folder / "model")
    return folder


def depth_data(root, **settings):
    data = FolderData(str(root), INPUTS, target="depth", eval_batch_size=2, **settings)
    data.setup()
    return data


@pytest.fixture
def root(tmp_path):
    splits = {"train": 2, "val": 2, "test": 2}
    folder = make_folder(tmp_path / "set", size=(32, 32), splits=splits, modalities=("rgb", "grey", "depth"))
    edit(folder, lambda content: content["modalities"]["depth"].update(range=[0, 6]))
    return folder


def test_pixels_without_truth_are_no_errors_on_the_page(root, tmp_path):
    """If this breaks, holes of a sensor count as wrong predictions of depth, and look like a measured distance."""
    data = depth_data(root)
    run = generator(tmp_path / "run", data)
    write_scenes(Tested(run / "model", data, "val"), run)
    with np.load(run / "samples.npz") as scenes:
        arrays = dict(scenes)
    holes = ~arrays["target_valid"]
    assert np.array_equal(holes[0], np.pad(np.ones((8, 8), bool), ((24, 0), (0, 24))))
    (run / "scores.val.json").write_text(json.dumps({"predictions": {"ensemble": {"MAE": 0.1}}}))

    def page(in_holes):
        arrays["prediction:ensemble"] = np.where(holes[..., None], in_holes, arrays["target"])
        np.savez(run / "samples.npz", **arrays)
        return write_report([run], tmp_path / "report.html").read_text()

    def errors(text):
        return re.findall(r'<img src="([^"]+)" alt="[^"]*: errors of ensemble, 0 of the range"', text)

    wrong_in_holes = page(255 - arrays["target"])
    assert errors(wrong_in_holes) == errors(page(arrays["target"]))
    assert len(errors(wrong_in_holes)) == 2
    # Hatching takes a PNG: the truth's, and that of the errors of two modalities and of the ensemble.
    assert wrong_in_holes.count('<img src="data:image/png') == 2 * (1 + 3)


def test_a_scene_that_cannot_be_predicted_is_named(root, tmp_path):
    """If this breaks, one image of another size among thousands ends an evaluation, and nobody knows which."""
    data = depth_data(root)
    run = generator(tmp_path / "run", data)
    data.eval_batch_size = 1
    for name in (*INPUTS, "depth"):
        (file,) = (root / name).glob("0003.*")
        with Image.open(file) as image:
            image.resize((36, 32)).save(file)
    with pytest.raises(DataError, match=r"0003: An image of 36x32 .*multiples of 8"):
        score_split(Tested(run / "model", data, "val"), run)
    with pytest.raises(DataError, match=r"0003: An image of 36x32 .*multiples of 8"):
        write_scenes(Tested(run / "model", data, "val"), run)
    assert not (run / "samples.npz").exists()


def test_scores_of_the_model_before_go_with_it(tmp_path, capsys):
    """Else a training that went on ends in a page that refuses what the one before had scored."""
    (tmp_path / "config.json").write_text(
        '{"format": 1, "fuse": {}, "network": null, "metadata": {}, "weights": "new"}'
    )
    for split, model in (("val", "new"), ("test", "old")):
        (tmp_path / f"scores.{split}.json").write_text(f'{{"model": "{model}"}}')
        (tmp_path / f"images.{split}.npz").touch()
    remove_scores_of_others(tmp_path)
    assert [file.name for file in tmp_path.glob("scores.*")] == ["scores.val.json"]
    assert [file.name for file in tmp_path.glob("images.*")] == ["images.val.npz"]
    assert "scores.test.json had the scores of the model before" in capsys.readouterr().out
