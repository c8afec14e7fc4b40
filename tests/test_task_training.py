"""From a recipe to a run folder: what is kept, what is refused, and that a break changes nothing."""

import csv
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch.nn import functional as F

from fixtures_data import make_folder
from polymodal.data import FolderData
from polymodal.errors import CheckpointError, ConfigError, DataError, PolymodalError
from polymodal.runs.checkpoints import check_resumable, read_checkpoint
from polymodal.runs.seeds import EpochSeeds
from polymodal.runs.training import fit, recipe
from polymodal.tasks.base import Task

SMALL = [
    "--data.batch_size=2",
    "--data.eval_batch_size=2",
    "--model.network_args={stem: 4, widths: [4, 4], decoder: 4}",
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "own"
    return make_folder(root, size=(16, 24), splits={"train": 4, "val": 2}, modalities=("rgb", "grey"))


def train(data: Path, run: Path, epochs: int, *more: str) -> Path:
    words = [f"--config={recipe('folder')}", f"--data.root={data}", f"--trainer.default_root_dir={run}"]
    return fit([*words, f"--trainer.max_epochs={epochs}", *SMALL, *more])


def rows(run: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((run / "metrics.csv").read_text().splitlines()))


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three epochs, of which every second is validated, and the last."""
    return train(data, tmp_path_factory.mktemp("runs") / "run", 3, "--trainer.check_val_every_n_epoch=2")


def test_a_run_leaves_what_the_report_and_the_next_command_need(finished):
    names = {file.name for file in finished.iterdir()}
    events = {name for name in names if name.startswith("events.out.tfevents")}
    assert len(events) == 1
    assert names - events == {
        "checkpoints", "config.yaml", "environment.json", "images.val.npz", "metrics.csv", "model", "report.html",
        "samples.npz", "scales.npz", "scores.val.json",
    }  # fmt: skip
    assert {file.name for file in (finished / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}


def test_scores_say_which_samples_were_trained_on(finished, data):
    """If this breaks, a comparison puts seeds that were trained on changed data beside the others."""
    now = FolderData(str(data))
    now.setup()
    identities = json.loads((finished / "scores.val.json").read_text())["identities"]
    assert identities == {split: now.identity(split) for split in ("train", "val")}


def test_epochs_are_counted_as_on_the_terminal(finished):
    """Else a curve of the report and the line that the terminal printed speak of different epochs."""
    assert [row["epoch"] for row in rows(finished)] == ["1", "2", "3"]
    with np.load(finished / "scales.npz") as scales:
        assert scales["epochs"].tolist() == [1, 2, 3]


def test_the_last_epoch_is_always_validated(finished):
    """Else the end of the schedule, mostly the best model, is lost; and a short run would keep no model at all."""
    assert [bool(row["val/mean_iou/ensemble"]) for row in rows(finished)] == [False, True, True]


def test_last_is_the_last_epoch_even_when_an_earlier_one_was_better(finished):
    """Else a resumed run repeats epochs and ends elsewhere."""
    checkpoint = read_checkpoint(finished / "checkpoints" / "last.ckpt")
    assert checkpoint["global_step"] == 6
    assert len(checkpoint["callbacks"]["Recorder"]["rows"]) == 3


def test_epochs_that_no_validation_saw_are_told(data, tmp_path, capsys):
    """A training that steps or time end keeps an earlier model; else nobody learns that the rest is lost.

    Nor is the line of such an epoch to say the scores of an earlier one.
    """
    train(data, tmp_path / "run", 3, "--trainer.check_val_every_n_epoch=2", "--trainer.max_steps=5")
    said = capsys.readouterr()
    assert "ended 1 epoch(s) after its last validation" in said.out
    lines = [line for line in said.out.splitlines() if line.startswith("epoch ")]
    assert ["ensemble" in line for line in lines] == [False, True, False]
    assert "\npolymodal: warning: no channel is exchanged: " in f"\n{said.err}"


def test_a_training_without_an_end_is_refused(data, tmp_path):
    """A schedule needs one; else a number that is none becomes a traceback."""
    with pytest.raises(ConfigError, match=r"Set one of them; trainer.max_time may end it earlier"):
        train(data, tmp_path / "run", -1, "--trainer.max_time=00:00:01:00")
    assert not (tmp_path / "run" / "metrics.csv").exists()


def test_a_test_split_whose_labels_are_withheld_is_not_scored(tmp_path):
    """Cityscapes keeps its test labels to itself; else every training on it ends without scores, scenes and page."""
    root = make_folder(
        tmp_path / "own", size=(16, 24), splits={"train": 4, "val": 2, "test": 2}, modalities=("rgb", "grey")
    )
    withheld = [root / "label" / f"{key}.png" for key in (root / "splits" / "test.txt").read_text().split()]
    for file in withheld:
        Image.new("L", (24, 16), 255).save(file)
    run = train(root, tmp_path / "run", 1)
    assert {file.name for file in run.glob("scores.*")} == {"scores.val.json"}
    assert (run / "report.html").is_file()
    withheld[0].unlink()
    with pytest.raises(DataError, match="no file for the key"):
        train(root, tmp_path / "other", 1)
    assert not (tmp_path / "other" / "metrics.csv").exists(), "known before hours of training, not after"


def test_a_folder_with_a_run_is_not_overwritten(finished, data):
    before = (finished / "metrics.csv").read_text()
    with pytest.raises(ConfigError, match=r"already holds a run. Continue it with --ckpt_path .*last.ckpt"):
        train(data, finished, 1)
    assert (finished / "metrics.csv").read_text() == before


def test_the_checkpoint_of_another_model_is_refused_and_the_run_kept(finished, data):
    before = (finished / "config.yaml").read_bytes()
    last = finished / "checkpoints" / "last.ckpt"
    with pytest.raises(CheckpointError, match=r"last.ckpt belongs to another model"):
        train(data, finished, 4, "--model.network_args.stem=6", f"--ckpt_path={last}")
    assert (finished / "config.yaml").read_bytes() == before


@pytest.mark.parametrize("other", ["--model.optimiser.name=sgd", "--model.fusion=null"])
def test_the_checkpoint_of_another_optimiser_is_refused_and_the_run_kept(finished, data, other):
    """Else it ends in an error of PyTorch's that names no setting."""
    before = (finished / "config.yaml").read_bytes()
    last = finished / "checkpoints" / "last.ckpt"
    with pytest.raises(CheckpointError, match=r"last.ckpt: its optimiser trained by adam or adamw: .*this recipe's"):
        train(data, finished, 4, other, f"--ckpt_path={last}")
    assert (finished / "config.yaml").read_bytes() == before


@pytest.mark.parametrize("factor", [1.0, 0.1])
def test_a_run_is_continued_with_the_rates_of_its_recipe(data, tmp_path, factor, monkeypatch):
    """Who lowers the rate after a loss that was no number must not train on with the old one."""
    monkeypatch.setattr("polymodal.runs.training.finish", lambda cli: None)
    settings = ["--model.optimiser.schedule=constant", "--model.optimiser.scales_factor=2"]
    train(data, tmp_path, 1, *settings, "--model.optimiser.lr=0.008")
    last = tmp_path / "checkpoints" / "last.ckpt"
    again = [f"--model.optimiser.lr={0.008 * factor}", "--model.optimiser.weight_decay=0.5", f"--ckpt_path={last}"]
    train(data, tmp_path, 2, *settings, *again)
    content = read_checkpoint(last)
    groups = {group["name"]: group for group in content["optimizer_states"][0]["param_groups"]}
    assert groups["decoder"]["lr"] == pytest.approx(0.008 * factor)
    assert groups["scales"]["lr"] == pytest.approx(0.016 * factor)
    assert (groups["decoder"]["weight_decay"], groups["scales"]["weight_decay"]) == (0.5, 0.0)
    assert content["lr_schedulers"][0]["_last_lr"] == [group["lr"] for group in groups.values()]


def test_a_killed_run_continues_bit_for_bit(data, tmp_path, monkeypatch):
    """A break must not change results: the same weights, the same rows, with random numbers drawn in every step."""
    forward = Task.forward

    def with_dropout(self, inputs):
        return forward(self, {name: F.dropout(image, training=self.training) for name, image in inputs.items()})

    monkeypatch.setattr(Task, "forward", with_dropout)
    monkeypatch.setattr("polymodal.runs.training.finish", lambda cli: None)  # scores and pages are made of what is kept
    whole = train(data, tmp_path / "whole", 3)
    broken = tmp_path / "broken"
    seed_epoch = EpochSeeds.on_train_batch_start

    def die(self, trainer, *what):
        if trainer.current_epoch == 1:
            raise OSError("power cut")
        seed_epoch(self, trainer, *what)

    with monkeypatch.context() as patch:
        patch.setattr(EpochSeeds, "on_train_batch_start", die)
        with pytest.raises(OSError, match="power cut"):
            train(data, broken, 3)
    assert len(rows(broken)) == 1
    last = broken / "checkpoints" / "last.ckpt"
    train(data, broken, 3, f"--ckpt_path={last}")

    assert rows(broken) == rows(whole)
    ours, theirs = (read_checkpoint(run / "checkpoints" / "last.ckpt")["state_dict"] for run in (broken, whole))
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert yaml.safe_load((broken / "config.yaml").read_text())["ckpt_path"] is None


def test_a_loss_that_is_not_finite_names_the_samples_and_leaves_no_checkpoint(data, tmp_path):
    """A checkpoint full of NaN would replace the last good one."""
    with pytest.raises(PolymodalError, match=r"the loss is (nan|inf).*samples 000\d, 000\d.*polymodal data check"):
        train(data, tmp_path / "run", 2, "--model.class_weights=[1e38, 1e38]")
    assert not list(tmp_path.rglob("*.ckpt"))


def test_batch_size_1_is_refused_before_the_run_begins(data, tmp_path):
    with pytest.raises(ConfigError, match=r"batch size 1 .*--data.batch_size 2"):
        train(data, tmp_path / "run", 1, "--data.batch_size=1")
    # Lightning opens the (empty) file of events before it builds the model.
    assert all(file.name.startswith("events.out") for file in (tmp_path / "run").glob("*"))


def test_a_run_without_a_seed_is_refused(data, tmp_path):
    with pytest.raises(ConfigError, match="seed_everything is false"):
        train(data, tmp_path / "run", 1, "--seed_everything=false")


class Bomb:
    """Pickled, it makes a file when it is opened the usual way."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_nothing_in_a_hostile_checkpoint_is_executed(data, tmp_path):
    mark, bomb = tmp_path / "mark", tmp_path / "bomb.ckpt"
    torch.save({"state_dict": Bomb(mark)}, bomb)
    pickle.loads(pickle.dumps(Bomb(mark)))
    assert mark.exists(), "the bomb works"
    mark.unlink()
    with pytest.raises(CheckpointError, match=r"bomb.ckpt was not opened"):
        train(data, tmp_path / "run", 1, f"--ckpt_path={bomb}")
    assert not mark.exists()
    assert not (tmp_path / "run").exists()


def test_a_damaged_missing_or_other_file_is_named(tmp_path):
    good = tmp_path / "good.ckpt"
    torch.save({"state_dict": {"weight": torch.randn(100)}}, good)
    (tmp_path / "cut.ckpt").write_bytes(good.read_bytes()[:300])
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    torch.save([1, 2], tmp_path / "list.ckpt")
    for name in ("cut", "text", "list", "good", "missing"):
        with pytest.raises(CheckpointError, match=f"{name}.ckpt"):
            check_resumable(tmp_path / f"{name}.ckpt")
