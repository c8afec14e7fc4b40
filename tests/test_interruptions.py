"""Whenever a command is killed, the same command again ends in what it would have written undisturbed."""

import csv
import multiprocessing
import os
import random
import re
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from fixtures_data import make_folder
from fixtures_prepare import make_nyudv2
from interruption_tools import in_a_fork, moments, stop
from polymodal import checkpoint, fuse, models
from polymodal.child import _end_with_parent
from polymodal.cli import main
from polymodal.data.files import Store
from polymodal.errors import ConfigError
from polymodal.fusion import Exchange
from polymodal.runs import children
from polymodal.runs.checkpoints import read_checkpoint
from polymodal.runs.training import fit, recipe

SMALL = {"classes": 2, "stem": 4, "widths": [4, 4], "decoder": 4}


def net(threshold: float = 0.02):
    torch.manual_seed(0)
    return fuse(models.create("rooms-unet", **SMALL), {"rgb": 3, "grey": 1}, Exchange(threshold))


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@dataclass(frozen=True)
class Case:
    """A command that works in a folder.

    Args:
        prepare: Puts into the folder what the command starts from.
        command: Given the folder.
        content: What is in a folder, without what differs from one undisturbed run to the next.
        points: In how many moments the slow test stops it; fewer where each takes seconds.
    """

    prepare: Callable[[Path], object]
    command: Callable[[Path], object]
    content: Callable[[Path], dict[str, object]] = content
    points: int = 20


def words(*given: object) -> Callable[[], object]:
    def command() -> None:
        assert main([str(word) for word in given]) == 0

    return command


def nothing(folder: Path) -> None:
    folder.mkdir()


def prepared_model(folder: Path) -> None:
    from polymodal.data import FolderData
    from polymodal.runs.evaluation import save_model

    make_folder(folder / "data", size=(16, 16), splits={"train": 1, "val": 1}, modalities=("rgb", "grey"))
    data = FolderData(str(folder / "data"), modalities=["rgb", "grey"])
    data.setup()
    save_model(net(), "rooms-unet", SMALL, data, {"seconds": 1.0, "epochs": 1, "seed": 0}, folder / "model")


def depth_folder(folder: Path) -> None:
    make_folder(folder / "data", size=(24, 32), splits={"train": 1, "val": 1}, modalities=("rgb", "depth"))


def undescribed(folder: Path) -> None:
    depth_folder(folder)
    shutil.rmtree(folder / "data" / "splits")
    (folder / "data" / "dataset.yaml").unlink()


def training_data(folder: Path) -> None:
    make_folder(folder / "data", size=(16, 16), splits={"train": 2, "val": 1}, modalities=("rgb", "grey"))


def tiny(folder: Path) -> list[str]:
    return [
        *(f"--data.root={folder / 'data'}", "--data.batch_size=2", "--data.eval_batch_size=2", "--data.workers=0"),
        *("--data.augment.crop=[16,16]", "--model.network_args={stem: 4, widths: [4, 4], decoder: 4}"),
        *("--trainer.max_epochs=2", "--trainer.accelerator=cpu", "--trainer.logger=false"),
    ]


def fit_as_advised(folder: Path) -> None:
    """Train; where there is a run already, as the message about it says."""
    given = [f"--config={recipe('folder')}", f"--trainer.default_root_dir={folder / 'run'}", *tiny(folder)]
    try:
        fit(given)
    except ConfigError as error:
        advised = re.search(r"--ckpt_path (\S+\.ckpt),", str(error))
        if not advised:
            raise
        fit([*given, f"--ckpt_path={advised[1]}"])


def content_of_runs(folder: Path) -> dict[str, object]:
    """What is in the files of runs, without how long they took."""
    found: dict[str, object] = dict(content(folder))
    for name, there in found.items():
        if name.endswith(".ckpt"):
            state = read_checkpoint(folder / name)
            kept = ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step", "position")
            found[name] = repr(([state[key] for key in kept], state["callbacks"]["EpochSeeds"]))
        elif name.endswith("table.csv"):
            rows = csv.DictReader((folder / name).read_text().splitlines())
            found[name] = [{**row, "seconds": ""} for row in rows]
        elif isinstance(there, bytes) and name.endswith((".json", ".html", ".md", ".csv")):
            found[name] = re.sub(rb'"seconds": [\d.]+|\b\d+ s\b', b"", there)
    return found


CASES = {
    "save": Case(
        lambda folder: checkpoint.save(net(0.5), folder / "model"),
        lambda folder: checkpoint.save(net(), folder / "model"),
    ),
    "export": Case(
        prepared_model,
        lambda folder: words(*("export", folder / "model", folder / "net.pt2", "--format", "pt2", "--size", 16, 16))(),
    ),
    "predict": Case(
        prepared_model,
        lambda folder: words(
            *("predict", "--model", folder / "model", "--out", folder / "out", "--input"),
            *(f"{name}={folder / 'data' / name}" for name in ("rgb", "grey")),
        )(),
    ),
    "data rooms": Case(nothing, lambda folder: words("data", "rooms", folder / "out")()),
    "data derive": Case(
        depth_folder,
        lambda folder: words(
            *("data", "derive", folder / "data", folder / "out", "--domains", "normal,reshading"),
            *("--intrinsics", "30,30,16,12"),
        )(),
    ),
    "data prepare": Case(
        lambda folder: make_nyudv2(folder / "source", images=2, train=(1,), test=(2,)),
        lambda folder: words("data", "prepare", "nyudv2", folder / "source", folder / "out")(),
    ),
    "data stats": Case(depth_folder, lambda folder: words("data", "stats", folder / "data")()),
    "data init": Case(undescribed, lambda folder: words("data", "init", folder / "data")()),
}


TRAINING = {
    "fit": Case(training_data, fit_as_advised, content_of_runs, points=12),
    "compare": Case(
        training_data,
        lambda folder: words(
            *("compare", "--config", recipe("folder"), "--out", folder / "out", "--methods", "penalty,rgb-alone"),
            *("--seeds", 0, *tiny(folder)),
        )(),
        content_of_runs,
        points=8,
    ),
}


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    """What the system has of a killed process reaches the disk; to wait for it a thousand times takes minutes."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


@pytest.fixture(autouse=True)
def small_rooms(tmp_path_factory, monkeypatch):
    """The embedded set as three files, as two thousand would take an hour."""
    from fixtures_data import make_archive

    root = make_folder(tmp_path_factory.mktemp("rooms") / "set", splits={"train": 1}, modalities=("grey",))
    archive = make_archive(root)
    monkeypatch.setattr("polymodal.data.files._embedded_rooms", lambda: archive)
    assert Store("rooms").path == archive


def check(case: Case, folder: Path, count: int) -> None:
    """Stop a command in so many of its moments, drawn by lot."""
    case.prepare(folder / "start")
    shutil.copytree(folder / "start", folder / "place")
    where = folder / "place"
    found = moments(where, lambda: case.command(where))
    undisturbed = case.content(where)
    assert undisturbed != case.content(folder / "start")
    for moment in sorted(random.Random(0).sample(range(len(found)), count)):
        shutil.rmtree(where)
        shutil.copytree(folder / "start", where)
        stop(where, moment, lambda: case.command(where))
        in_a_fork(lambda: case.command(where))  # which may be refused, when all was written: what is there counts
        after = case.content(where)
        assert sorted(after) == sorted(undisturbed), f"{moment}: {found[moment]}"
        assert not [name for name in after if after[name] != undisturbed[name]], f"{moment}: {found[moment]}"
        assert not list(where.rglob(".*.partial")), f"{moment}: {found[moment]}"


def test_killed_a_command_is_given_again(tmp_path):
    """If this breaks, a power cut leaves half a result, or a folder that its own command refuses."""
    check(CASES["data stats"], tmp_path, 3)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_killed_at_many_moments_a_command_is_given_again(name, tmp_path):
    """If this breaks, one of the moments in which a command changes files is not safe."""
    check(CASES[name], tmp_path, CASES[name].points)


def forked(name, command, environment, started, on_epoch) -> None:
    """As `children.follow`, without the time that a new Python takes to import what this process has."""
    reading, writing = os.pipe()

    def work() -> None:
        os.close(writing)
        os.dup2(reading, 0)
        threading.Thread(target=_end_with_parent, daemon=True).start()
        assert main(command[command.index("fit") :]) == 0

    status, _ = in_a_fork(work)
    os.close(reading)
    os.close(writing)
    assert status == 0, name


def check_training(name: str, folder: Path) -> None:
    os.fsync = lambda descriptor: None
    children.follow = forked
    torch.set_printoptions(threshold=10**9, precision=17)
    torch.set_num_threads(1)
    check(TRAINING[name], folder, TRAINING[name].points)


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINING)
def test_killed_at_many_moments_a_training_is_given_again(name, tmp_path):
    """If this breaks, a training that was killed is lost, stuck, or ends in another model than an undisturbed one."""
    context = multiprocessing.get_context("forkserver")  # autograd refuses forks of a process that ran a backward
    context.set_forkserver_preload(["polymodal.runs.training"])
    child = context.Process(target=check_training, args=(name, tmp_path))
    child.start()
    child.join()
    assert child.exitcode == 0
