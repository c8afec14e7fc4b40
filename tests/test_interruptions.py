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
from hostile_exports import sound
from interruption_tools import CHOSEN, content, in_a_fork, left, moments, needed, stop
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


@dataclass(frozen=True)
class Case:
    """A command that works in a folder.

    Args:
        prepare: Puts into the folder what the command starts from.
        command: Given the folder.
        least: So many moments before and after renames, and amid writes, it has at least.
        content: What is in a folder, without what differs from one undisturbed run to the next.
        most: So many of these are tried, drawn by lot; None for all of them.
        others: So many of all other moments are tried, too.
    """

    prepare: Callable[[Path], object]
    command: Callable[[Path], object]
    least: int
    content: Callable[[Path], dict[str, object]] = content
    most: int | None = None
    others: int = 2


def words(*given: object) -> Callable[[], object]:
    def command() -> None:
        assert main([str(word) for word in given]) == 0

    return command


def nothing(folder: Path) -> None:
    folder.mkdir()


def prepared_model(folder: Path) -> None:
    from polymodal.data import FolderData
    from polymodal.runs.evaluation import save_model

    make_folder(folder / "data", size=(16, 16), splits={"train": 1}, modalities=("rgb", "grey"))
    data = FolderData(str(folder / "data"), modalities=["rgb", "grey"])
    data.setup()
    save_model(net(), "rooms-unet", SMALL, data, {"seconds": 1.0, "epochs": 1, "seed": 0}, folder / "model")


def exported_model(folder: Path) -> None:
    make_folder(folder / "data", size=(16, 16), splits={"train": 1}, modalities=("rgb", "depth"))
    (folder / "net.onnx").write_bytes(sound())


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
        least=6,
    ),
    "export as pt2": Case(
        prepared_model,
        lambda folder: words(*("export", folder / "model", folder / "net.pt2", "--format", "pt2", "--size", 16, 16))(),
        least=3,
    ),
    "export as onnx": Case(
        prepared_model,
        lambda folder: words(*("export", folder / "model", folder / "net.onnx", "--size", 16, 16))(),
        least=3,
    ),
    "predict": Case(
        prepared_model,
        lambda folder: words(
            *("predict", "--model", folder / "model", "--out", folder / "out", "--input"),
            *(f"{name}={folder / 'data' / name}" for name in ("rgb", "grey")),
        )(),
        least=18,
    ),
    "predict by a file": Case(
        exported_model,
        lambda folder: words(
            *("predict", "--model", folder / "net.onnx", "--out", folder / "out", "--input"),
            *(f"{name}={folder / 'data' / name}" for name in ("rgb", "depth")),
        )(),
        least=18,
    ),
    "data rooms": Case(nothing, lambda folder: words("data", "rooms", folder / "out")(), least=12),
    "data derive": Case(
        depth_folder,
        lambda folder: words(
            *("data", "derive", folder / "data", folder / "out", "--domains", "normal,reshading"),
            *("--intrinsics", "30,30,16,12"),
        )(),
        least=42,
    ),
    "data prepare": Case(
        lambda folder: make_nyudv2(folder / "source", images=2, train=(1,), test=(2,)),
        lambda folder: words("data", "prepare", "nyudv2", folder / "source", folder / "out")(),
        least=35,
    ),
    "data stats": Case(depth_folder, lambda folder: words("data", "stats", folder / "data")(), least=3),
    "data init": Case(undescribed, lambda folder: words("data", "init", folder / "data")(), least=9),
}


TRAINING = {
    "fit": Case(training_data, fit_as_advised, content=content_of_runs, least=30, most=12),
    "compare": Case(
        training_data,
        lambda folder: words(
            *("compare", "--config", recipe("folder"), "--out", folder / "out", "--methods", "penalty,rgb-alone"),
            *("--seeds", 0, *tiny(folder), "--trainer.max_epochs=1"),
        )(),
        content=content_of_runs,
        least=60,
        most=3,
        others=0,
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


def check(case: Case, folder: Path) -> str:
    """Give a command again after a kill at every rename, in every write, and in some other moments drawn by lot.

    Returns:
        How many moments and how many different contents of the disk there were, for people.
    """
    case.prepare(folder / "start")
    where, shots = folder / "place", folder / "shots"
    shutil.copytree(folder / "start", where)
    keeps = re.compile("") if case.others else CHOSEN
    found = moments(where, lambda: case.command(where), shots, keeps)
    undisturbed = case.content(where)
    assert undisturbed != case.content(folder / "start")
    chosen = needed(found)
    assert len(chosen) >= case.least
    chosen = random.Random(0).sample(chosen, case.most or len(chosen))
    rest = [number for number in range(len(found)) if number not in chosen]
    seen = []
    for number in sorted([*chosen, *random.Random(0).sample(rest, case.others)]):
        if (state := left(shots / str(number))) in seen:
            continue  # two moments between which nothing has changed
        seen.append(state)
        shutil.rmtree(where)
        shutil.copytree(shots / str(number), where, symlinks=True)
        in_a_fork(lambda: case.command(where))  # which may be refused, when all was written: what is there counts
        after = case.content(where)
        assert sorted(after) == sorted(undisturbed), f"{number}: {found[number]}"
        assert not [name for name in after if after[name] != undisturbed[name]], f"{number}: {found[number]}"
        assert not list(where.rglob(".*.partial")), f"{number}: {found[number]}"
    return f"{len(chosen)} renames and writes and {case.others} other moments, {len(seen)} contents of the disk"


def test_killed_a_command_is_given_again(tmp_path):
    """If this breaks, a power cut leaves half a result, or a folder that its own command refuses."""
    case = CASES["data stats"]
    check(case, tmp_path)
    found = (tmp_path / "shots" / "moments").read_text().splitlines()
    for number in needed(found):  # what is taken for the work of a kill
        shutil.rmtree(tmp_path / "place")
        shutil.copytree(tmp_path / "start", tmp_path / "place")
        stop(tmp_path / "place", number, lambda: case.command(tmp_path / "place"))
        assert left(tmp_path / "place") == left(tmp_path / "shots" / str(number))


def test_all_commands_together_are_killed_often():
    assert sum(case.most or case.least for case in {**CASES, **TRAINING}.values()) >= 120


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_killed_at_many_moments_a_command_is_given_again(name, tmp_path, capsys):
    """If this breaks, one of the moments in which a command changes files is not safe."""
    told = check(CASES[name], tmp_path)
    with capsys.disabled():
        print(f"\n{name}: {told}")


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
    (folder / "told").write_text(check(TRAINING[name], folder))


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINING)
def test_killed_at_many_moments_a_training_is_given_again(name, tmp_path, capsys):
    """If this breaks, a training that was killed is lost, stuck, or ends in another model than an undisturbed one."""
    context = multiprocessing.get_context("forkserver")  # autograd refuses forks of a process that ran a backward
    context.set_forkserver_preload(["polymodal.runs.training"])
    child = context.Process(target=check_training, args=(name, tmp_path))
    child.start()
    child.join()
    assert child.exitcode == 0
    with capsys.disabled():
        print(f"\n{name}: {(tmp_path / 'told').read_text()}")
