"""A break changes nothing: from any step, a resumed training ends where an undisturbed one does, bit for bit."""

import csv
import json
import multiprocessing
import os
import random
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from torch.nn import functional as F

from fixtures_data import make_folder
from polymodal.errors import CheckpointError, ConfigError
from polymodal.locks import locked
from polymodal.runs.checkpoints import WholeFiles, check_resumable, newest, read_checkpoint
from polymodal.runs.interrupt import Stopped
from polymodal.runs.position import Position
from polymodal.runs.training import fit, recipe
from polymodal.tasks.base import Task

EPOCHS, BATCHES = 3, 5
SMALL = [
    f"--trainer.max_epochs={EPOCHS}",
    "--data.batch_size=2",
    "--data.eval_batch_size=2",
    "--data.augment.crop=[16,16]",
    "--model.network_args={stem: 4, widths: [4, 4], decoder: 4}",
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "own"
    return make_folder(root, size=(16, 24), splits={"train": 11, "val": 3}, modalities=("rgb", "grey"))


FORWARD = Task.forward


def with_dropout(self: Task, inputs):
    if self.training:
        factor = 1 + 0.01 * (random.random() + np.random.random())
        inputs = {name: factor * F.dropout(image) for name, image in inputs.items()}
    return FORWARD(self, inputs)


@pytest.fixture(autouse=True)
def dropout(monkeypatch):
    """Random numbers are drawn in every step, by all three generators."""
    monkeypatch.setattr(Task, "forward", with_dropout)


class Signal(Callback):
    """Sends a signal to the process in a step, counted from 1, or in the validation after it."""

    step: int | None = None
    number = signal.SIGTERM
    in_validation = False

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.fit_loop.total_batch_idx + 1 == self.step and not self.in_validation:
            os.kill(os.getpid(), self.number)

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        if trainer.fit_loop.total_batch_idx + 1 == self.step and self.in_validation and batch_idx == 0:
            os.kill(os.getpid(), self.number)


class StopAt(Callback):
    """Ends the training after a step, as `max_time` does, or at the end of a validation, as an early stopping does."""

    step: int | None = None
    after_validation = False

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.fit_loop.total_batch_idx + 1 == self.step and not self.after_validation:
            trainer.should_stop = True

    def on_validation_end(self, trainer, pl_module):
        if trainer.fit_loop.total_batch_idx + 1 == self.step and self.after_validation:
            trainer.should_stop = True


def train(data: Path, run: Path, *more: str) -> Path:
    words = [f"--config={recipe('folder')}", f"--data.root={data}", f"--trainer.default_root_dir={run}"]
    callbacks = [f"--trainer.callbacks+={__name__}.{name}" for name in ("Signal", "StopAt")]
    return fit([*words, *SMALL, *callbacks, *more])


def last_of(run: Path) -> Path:
    return run / "checkpoints" / "last.ckpt"


def resume(data: Path, run: Path, *more: str) -> Path:
    return train(data, run, *more, f"--ckpt_path={last_of(run)}")


def rows(run: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((run / "metrics.csv").read_text().splitlines()))


def alike(one, other) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(alike, one, other))
    return one == other


def assert_equal_runs(run: Path, whole: Path) -> None:
    """Weights, optimisers, schedules, random states, rows, scales and scores; not times, paths and dates."""
    assert rows(run) == rows(whole)
    for name in ("last.ckpt", "best.ckpt"):
        ours, theirs = (read_checkpoint(folder / "checkpoints" / name) for folder in (run, whole))
        for key in ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step", "position"):
            assert alike(ours[key], theirs[key]), (name, key)
    assert alike(ours["callbacks"]["EpochSeeds"], theirs["callbacks"]["EpochSeeds"])
    with np.load(run / "scales.npz") as ours, np.load(whole / "scales.npz") as theirs:
        assert ours.files == theirs.files
        assert all(np.array_equal(ours[name], theirs[name]) for name in theirs.files)


def assert_equal_scores(run: Path, whole: Path) -> None:
    ours, theirs = (json.loads((folder / "scores.val.json").read_text()) for folder in (run, whole))
    assert {**ours, "seconds": 0} == {**theirs, "seconds": 0}


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    """A run with these settings that nothing stopped; made once for each."""
    made: dict[tuple[str, ...], Path] = {}

    def make(*settings: str) -> Path:
        if settings not in made:
            made[settings] = train(data, tmp_path_factory.mktemp("whole") / "run", *settings)
        return made[settings]

    return make


def interrupted(monkeypatch, data: Path, run: Path, step: int, *settings: str, in_validation: bool = False) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Signal, "step", step)
        patch.setattr(Signal, "in_validation", in_validation)
        with pytest.raises(Stopped) as stop:
            train(data, run, *settings)
    assert stop.value.code == 143


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


OFTEN = "--trainer.val_check_interval=2"
SELDOM = "--trainer.check_val_every_n_epoch=2"


@pytest.fixture
def unfinished(monkeypatch):
    """Trainings without scores and report, which are made of the checkpoints."""
    monkeypatch.setattr("polymodal.runs.training.finish", lambda cli: None)


@pytest.mark.usefixtures("unfinished")
@pytest.mark.parametrize(
    ("step", "settings"),
    [
        slow(10, []),  # the last of an epoch
        (7, [OFTEN]),  # a validation follows, within the epoch
        slow(1, []),
        slow(13, [SELDOM]),  # in the last epoch, which is validated whatever the setting says
        slow(5, [SELDOM]),  # the last of an epoch without a validation
        slow(8, ["--trainer.accumulate_grad_batches=2"]),  # gradients wait
        slow(8, ["--trainer.limit_train_batches=3"]),
        slow(8, ["--trainer.max_epochs=-1", "--trainer.max_steps=13"]),
        slow(5, ["--trainer.max_epochs=-1", "--trainer.max_steps=13"]),  # Lightning has the epoch's end twice
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_a_signal_at_any_step_costs_nothing(data, undisturbed, tmp_path, monkeypatch, capsys, step, settings):
    """SLURM sends SIGTERM: else everything since the last epoch is lost, or what follows is another training."""
    run = tmp_path / "run"
    interrupted(monkeypatch, data, run, step, *settings)
    assert f"SIGTERM. Continue with the same command and --ckpt_path {last_of(run)}." in capsys.readouterr().err
    assert read_checkpoint(last_of(run))["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["ready"] == step
    resume(data, run, *settings)
    assert_equal_runs(run, undisturbed(*settings))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_training_has_the_same_final_scores(data, tmp_path, monkeypatch, workers):
    """The promise as a user sees it; with workers, which have loaded batches ahead that nobody trained on."""
    settings = [f"--data.workers={workers}"]
    run, whole = tmp_path / "run", train(data, tmp_path / "whole", *settings)
    interrupted(monkeypatch, data, run, 8, *settings)
    resume(data, run, *settings)
    assert_equal_runs(run, whole)
    assert_equal_scores(run, whole)


@pytest.mark.usefixtures("unfinished")
@pytest.mark.parametrize(("step", "settings"), [(7, [OFTEN]), slow(5, [])])
def test_a_validation_that_a_signal_breaks_off_is_made_again(data, undisturbed, tmp_path, monkeypatch, step, settings):
    """A batch system waits half a minute; a validation may take longer."""
    interrupted(monkeypatch, data, tmp_path, step, *settings, in_validation=True)
    assert Position.of_checkpoint(read_checkpoint(last_of(tmp_path))).validation_due
    resume(data, tmp_path, *settings)
    assert_equal_runs(tmp_path, undisturbed(*settings))


@pytest.mark.usefixtures("unfinished")
@pytest.mark.parametrize(
    ("step", "after_validation", "settings"),
    [(8, False, []), slow(7, True, [OFTEN])],
    ids=["time", "early stopping"],
)
def test_an_end_within_an_epoch_is_continued(
    data, undisturbed, tmp_path, monkeypatch, step, after_validation, settings
):
    """metrics.csv says how far it came; continued, no epoch is there twice, and no half epoch is the best."""
    with monkeypatch.context() as patch:
        patch.setattr(StopAt, "step", step)
        patch.setattr(StopAt, "after_validation", after_validation)
        train(data, tmp_path, *settings)
    assert [(row["epoch"], row["step"]) for row in rows(tmp_path)] == [("1", "5"), ("2", str(step))]
    resume(data, tmp_path, *settings)
    assert_equal_runs(tmp_path, undisturbed(*settings))


@pytest.mark.usefixtures("unfinished")
def test_more_steps_go_on_with_the_same_samples(data, tmp_path, monkeypatch, capsys):
    """The rates are those of each length; the samples and their order are the undisturbed training's."""
    seen: list[tuple[int, list[str]]] = []

    def note(self, batch, batch_idx):
        seen.append((self.current_epoch, batch["key"]))

    monkeypatch.setattr(Task, "on_train_batch_start", note)
    train(data, tmp_path / "whole", "--trainer.max_steps=13")
    whole, seen[:] = list(seen), []
    train(data, tmp_path / "run", "--trainer.max_steps=6")
    assert "learning rates" not in capsys.readouterr().out
    resume(data, tmp_path / "run", "--trainer.max_steps=13")
    assert "so that one without a break would end elsewhere" in capsys.readouterr().out
    assert seen == whole
    resume(data, tmp_path / "run", "--trainer.max_steps=13")
    assert "no step was left" in capsys.readouterr().out
    assert [row["epoch"] for row in rows(tmp_path / "run")] == ["1", "2", "3"]


@pytest.mark.usefixtures("unfinished")
def test_a_checkpoint_of_the_users_own_is_continued_from(data, undisturbed, tmp_path):
    """At an epoch's last step Lightning writes it before the epoch is over, and then leaves that epoch's end out."""
    own = [
        "--trainer.callbacks+=lightning.pytorch.callbacks.ModelCheckpoint",
        f"--trainer.callbacks.dirpath={tmp_path / 'own'}",
        "--trainer.callbacks.filename=at-{step}",
        "--trainer.callbacks.every_n_train_steps=5",
        "--trainer.callbacks.save_top_k=-1",
    ]
    train(data, tmp_path / "whole", *own)
    run = train(data, tmp_path / "run", f"--ckpt_path={tmp_path / 'own' / 'at-step=5.ckpt'}")
    assert rows(run) == rows(undisturbed())


@pytest.mark.usefixtures("unfinished")
def test_other_settings_are_named_where_a_training_goes_on(data, tmp_path, capsys):
    """If this breaks, a flag that was forgotten changes the training, and config.yaml says it was so all along."""
    run = train(data, tmp_path / "run", "--trainer.max_epochs=1")
    resume(data, run, "--trainer.max_epochs=1")
    assert "other settings" not in capsys.readouterr().out
    resume(data, run, "--trainer.max_epochs=2", "--data.augment.flip=false")
    second = "from epoch 2 on: trainer.max_epochs 2 instead of 1; data.augment.flip False instead of True"
    assert f"other settings than until here, {second}" in capsys.readouterr().out
    resume(data, run, "--trainer.max_epochs=3", "--data.augment.flip=false")
    comments = [line for line in (run / "config.yaml").read_text().splitlines() if line.startswith("#")]
    assert comments[1:] == [f"# {second}", "# from epoch 3 on: trainer.max_epochs 3 instead of 2"]


@pytest.mark.usefixtures("unfinished")
def test_a_run_is_not_replaced_by_one_that_goes_on_from_another(data, tmp_path):
    """If this breaks, a wrong folder beside --ckpt_path costs the run that lies there."""
    first, second = (train(data, tmp_path / name, "--trainer.max_epochs=1") for name in ("first", "second"))
    kept = last_of(second).read_bytes()
    with pytest.raises(ConfigError, match="second already holds a run"):
        train(data, second, "--trainer.max_epochs=2", f"--ckpt_path={last_of(first)}")
    (tmp_path / "mine" / "model").mkdir(parents=True)
    with pytest.raises(ConfigError, match="mine holds model, which no training wrote"):
        train(data, tmp_path / "mine", "--trainer.max_epochs=2", f"--ckpt_path={last_of(first)}")
    assert last_of(second).read_bytes() == kept


@pytest.mark.usefixtures("unfinished")
def test_a_training_whose_output_nobody_reads_says_how_to_go_on(data, tmp_path, monkeypatch, capsys):
    def print_to_nobody(self, batch, batch_idx):
        if self.current_epoch == 1:
            raise BrokenPipeError

    monkeypatch.setattr(Task, "on_train_batch_start", print_to_nobody)
    with pytest.raises(BrokenPipeError):
        train(data, tmp_path)
    said = f"polymodal: nobody reads the output. Continue with the same command and --ckpt_path {last_of(tmp_path)}."
    assert said in capsys.readouterr().err


@pytest.mark.usefixtures("unfinished")
def test_what_would_be_another_epoch_is_refused(data, tmp_path, monkeypatch):
    """Else some of its samples are seen twice and others never, in silence."""
    interrupted(monkeypatch, data, tmp_path, 8)
    before = (tmp_path / "config.yaml").read_bytes()
    for other in ("--data.batch_size=3", "--seed_everything=5"):
        with pytest.raises(
            ConfigError, match=r"written within an epoch of 11 samples, 2 a step, in the order of seed 0"
        ):
            resume(data, tmp_path, other)
    assert (tmp_path / "config.yaml").read_bytes() == before


@pytest.mark.usefixtures("unfinished")
def test_a_checkpoint_from_the_middle_of_a_step_is_refused(data, tmp_path, monkeypatch):
    def fail(self, batch, batch_idx):
        self.trainer.save_checkpoint(tmp_path / "checkpoints" / "middle.ckpt")
        raise OSError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(Task, "on_train_batch_start", fail)
        with pytest.raises(OSError, match="power cut"):
            train(data, tmp_path)
    with pytest.raises(CheckpointError, match=r"middle.ckpt was written in the middle of a step"):
        check_resumable(tmp_path / "checkpoints" / "middle.ckpt")
    assert newest(tmp_path) is None


@pytest.mark.usefixtures("unfinished")
def test_a_folder_names_the_newest_checkpoint_that_can_be_read(data, tmp_path, monkeypatch, capsys):
    """The advice must not name a file that is not there, and a run without any must not be stuck."""
    monkeypatch.setattr(StopAt, "step", 5)
    train(data, tmp_path)
    last, best = last_of(tmp_path), tmp_path / "checkpoints" / "best.ckpt"
    with pytest.raises(ConfigError, match=r"Continue it with --ckpt_path .*last\.ckpt"):
        train(data, tmp_path)
    last.write_bytes(last.read_bytes()[:1000])
    with pytest.raises(ConfigError, match=r"Continue it with --ckpt_path .*best\.ckpt"):
        train(data, tmp_path)
    best.write_bytes(b"")
    with pytest.raises(ConfigError, match=r"no checkpoint that it could be continued from. Remove the folder"):
        train(data, tmp_path)
    last.unlink()
    best.unlink()
    train(data, tmp_path)
    assert "ended before its first checkpoint: it starts again" in capsys.readouterr().out


def test_a_folder_in_which_a_training_runs_is_refused(data, tmp_path):
    """Two trainings in one folder would both end, one's settings beside the other's weights."""
    run = tmp_path / "run"
    with locked(run), pytest.raises(ConfigError, match=r"another command that still runs \(process"):
        train(data, run)
    assert not list(run.iterdir())


def test_a_checkpoint_is_replaced_whole_or_not_at_all(tmp_path):
    """Else a full disk or a kill while it is written leaves neither the new one nor the old one."""
    path = tmp_path / "last.ckpt"
    files = WholeFiles()
    files.save_checkpoint({"step": torch.tensor(1)}, path)
    with pytest.raises(Exception, match="pickle"):
        files.save_checkpoint({"step": torch.zeros(10**6), "bad": lambda: None}, path)
    assert torch.load(path)["step"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def train_until_killed(step: int, threads: int, *arguments) -> None:
    """What the process of `killed` runs."""
    torch.set_num_threads(threads)  # sums round by how many there are
    Task.forward = with_dropout
    Signal.step, Signal.number = step, signal.SIGKILL
    train(*arguments)


def killed(data: Path, run: Path, step: int, *settings: str) -> None:
    """Train in a process that SIGKILL ends in a step; not a fork of this one, which autograd refuses."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([Task.__module__, "polymodal.runs.training"])
    child = context.Process(target=train_until_killed, args=(step, torch.get_num_threads(), data, run, *settings))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "moments"), [(0, 10), (2, 4)])
def test_random_steps(data, tmp_path, monkeypatch, workers, moments):
    """Stopped by SIGTERM, or killed, in any step: each resumed run equals the undisturbed one bit for bit."""
    settings = [f"--data.workers={workers}", "--trainer.val_check_interval=3"]
    whole = train(data, tmp_path / "whole", *settings)
    for number, step in enumerate(random.Random(workers).sample(range(1, EPOCHS * BATCHES + 1), moments)):
        run = tmp_path / str(step)
        if number % 2:
            killed(data, run, step, *settings)
        else:
            interrupted(monkeypatch, data, run, step, *settings)
        checkpoint = newest(run)
        train(data, run, *settings, *([] if checkpoint is None else [f"--ckpt_path={checkpoint}"]))
        assert_equal_runs(run, whole)
        assert_equal_scores(run, whole)
