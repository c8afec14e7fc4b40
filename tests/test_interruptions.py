"""Whenever a command is killed, the same command again ends in what it would have written undisturbed."""

import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from fixtures_data import make_folder
from fixtures_prepare import make_nyudv2
from interruption_tools import in_a_fork, moments, stop
from polymodal import checkpoint, fuse, models
from polymodal.cli import main
from polymodal.data.files import Store
from polymodal.fusion import Exchange

SMALL = {"classes": 2, "stem": 4, "widths": [4, 4], "decoder": 4}


def net(threshold: float = 0.02):
    torch.manual_seed(0)
    return fuse(models.create("rooms-unet", **SMALL), ["rgb", "grey"], Exchange(threshold))


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@dataclass(frozen=True)
class Case:
    """A command that works in a folder.

    Args:
        prepare: Puts into the folder what the command starts from.
        command: Given the folder.
    """

    prepare: Callable[[Path], object]
    command: Callable[[Path], object]


def words(*given: object) -> Callable[[], object]:
    return lambda: main([str(word) for word in given])


def nothing(folder: Path) -> None:
    folder.mkdir()


def prepared_model(folder: Path) -> None:
    from polymodal.data import FolderData
    from polymodal.tasks.evaluation import save_model

    make_folder(folder / "data", size=(16, 16), splits={"train": 1, "val": 2}, modalities=("rgb", "grey"))
    data = FolderData(str(folder / "data"), modalities=["rgb", "grey"])
    data.setup()
    save_model(net(), "rooms-unet", SMALL, data, {"seconds": 1.0, "epochs": 1, "seed": 0}, folder / "model")


def depth_folder(folder: Path) -> None:
    make_folder(folder / "data", size=(24, 32), splits={"train": 1, "val": 1}, modalities=("rgb", "depth"))


def undescribed(folder: Path) -> None:
    depth_folder(folder)
    shutil.rmtree(folder / "data" / "splits")
    (folder / "data" / "dataset.yaml").unlink()


CASES = {
    "save": Case(
        lambda folder: checkpoint.save(net(0.5), folder / "model"),
        lambda folder: checkpoint.save(net(), folder / "model"),
    ),
    "export onnx": Case(
        prepared_model, lambda folder: words("export", folder / "model", folder / "net.onnx", "--size", 16, 16)()
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
    undisturbed = content(where)
    assert undisturbed != content(folder / "start")
    for moment in sorted(random.Random(0).sample(range(len(found)), count)):
        shutil.rmtree(where)
        shutil.copytree(folder / "start", where)
        stop(where, moment, lambda: case.command(where))
        in_a_fork(lambda: case.command(where))
        after = content(where)
        assert sorted(after) == sorted(undisturbed), f"{moment}: {found[moment]}"
        assert after == undisturbed, f"{moment}: {found[moment]}"
        assert not list(where.rglob(".*.partial")), f"{moment}: {found[moment]}"


def test_killed_a_command_is_given_again(tmp_path):
    """If this breaks, a power cut leaves half a result, or a folder that its own command refuses."""
    check(CASES["data stats"], tmp_path, 3)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_killed_at_twenty_moments_a_command_is_given_again(name, tmp_path):
    """If this breaks, one of the moments in which a command changes files is not safe."""
    check(CASES[name], tmp_path, 20)
