"""Several processes train as one does: every sample once, exact scores, one end for all."""

import csv
import os
import signal
import socket
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch import Trainer
from torch import nn

from fixtures_data import make_folder
from polymodal import fuse
from polymodal import processes as common
from polymodal.data import FolderData
from polymodal.data.dropout import ModalityDropout
from polymodal.data.sampler import SeededSampler, TurnSampler
from polymodal.errors import ConfigError
from polymodal.processes import Place
from polymodal.runs import interrupt
from polymodal.runs.checkpoints import read_checkpoint
from polymodal.runs.interrupt import Signals, Stopped
from polymodal.runs.processes import Together, check_processes
from polymodal.runs.synchronised import SynchronisedNorms
from polymodal.runs.training import recipe

numbers = st.integers(1, 12)


@given(numbers, numbers, numbers, st.none() | numbers)
def test_every_sample_is_validated_once_by_any_number_of_processes(length, batch_size, processes, most):
    """If this breaks, some samples count twice, and the wrong epoch is kept; or the processes wait for ever."""
    samplers = [TurnSampler(length, batch_size, Place(rank, processes), most) for rank in range(processes)]
    parts = [[list(s)[i : i + batch_size] for i in range(0, len(s), batch_size)] for s in samplers]
    assert len({len(batches) for batches in parts}) == 1
    one = [list(range(i, min(i + batch_size, length))) for i in range(0, length, batch_size)][:most]
    counted = [batches[: sampler.own] for sampler, batches in zip(samplers, parts, strict=True)]
    assert [
        batch for number, _ in enumerate(one) for batch in counted[number % processes][number // processes :][:1]
    ] == one
    assert sum(map(len, counted)) == len(one)


@given(st.integers(1, 30), st.integers(1, 4), st.integers(1, 4), st.integers(0, 3))
def test_processes_share_the_steps_of_one(length, batch_size, processes, done):
    """If this breaks, several processes train on other steps than one does."""
    step = batch_size * processes
    [one, *_], parts = (
        [list(SeededSampler(length, 3, 1, done * step, step, Place(rank, count))) for rank in range(count)]
        for count in (1, processes)
    )
    assert len(one) == length // step * step
    for begin in range(0, len(one), step):
        share = begin // processes
        assert sorted(one[begin : begin + step]) == sorted(
            x for part in parts for x in part[share : share + batch_size]
        )


def test_what_was_dealt_out_in_turn_comes_back_in_its_order(monkeypatch):
    """If this breaks, sums in another order give scores that are not those of one process."""
    monkeypatch.setattr(common, "gathered", lambda item: [["a", "d", "g"], ["b", "e"], ["c", "f"]])
    assert "".join(common.in_turn([])) == "abcdefg"


@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp_fork", "ddp_notebook", "ddp_spawn_find_unused_parameters_true"])
def test_strategies_that_would_leave_no_model_are_refused_first(strategy):
    trainer = Trainer(strategy=strategy, accelerator="cpu", devices=2, logger=False)
    with pytest.raises(ConfigError, match=r"the model would end with them\. Use --trainer\.strategy ddp"):
        check_processes(trainer, None)


def test_common_statistics_of_processes_that_differ_in_their_modalities_are_refused_first():
    """If this breaks, one process waits for ever for the statistics of a sensor that the other's batch lacks."""
    trainer = Trainer(strategy="ddp", accelerator="cpu", devices=2, logger=False, plugins=[SynchronisedNorms()])
    check_processes(trainer, FolderData("rooms"))
    with pytest.raises(ConfigError, match=r"sync_batchnorm true: samples lack modalities .* Leave it out"):
        check_processes(trainer, FolderData("rooms", dropout=ModalityDropout({"depth": 0.2})))


def test_private_norms_are_synchronised_when_asked_for():
    """If this breaks, `--trainer.sync_batchnorm true` trains with each process's own statistics."""
    plain = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    net = fuse(plain, ["rgb", "depth"], sites="1")
    assert SynchronisedNorms().apply(net).network[1].synchronised
    assert not SynchronisedNorms().revert(net).network[1].synchronised
    with pytest.raises(ConfigError, match=r"sync_batchnorm true: .*'1' is not one"):
        SynchronisedNorms().apply(plain)


@pytest.fixture(autouse=True)
def hangups():
    """Whoever runs the tests by nohup has SIGHUP ignored, and all processes begun by them inherit it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def waits_for_others(watched: bool) -> None:
    """As a process of a training does whose other process never comes."""
    signals = Signals()
    with Together(signals, lambda: "Go on."), signals:
        signals.watched = watched
        signals.trainer = SimpleNamespace(world_size=2, strategy=SimpleNamespace(launcher=None))
        os.write(1, b"waits")
        torch.distributed.TCPStore("127.0.0.1", 0, 2, is_master=True, timeout=timedelta(minutes=1))


@pytest.mark.parametrize("watched", [False, True])
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_a_signal_ends_a_process_that_waits_for_one_that_is_not_there(name, watched, monkeypatch, capfd):
    """Python answers nothing while a library waits. If this breaks, a node stays occupied for half an hour."""
    monkeypatch.setattr(interrupt, "ANSWER", 0.1)
    monkeypatch.setattr(interrupt, "STEP", 0.2)
    child = os.fork()
    if child == 0:
        try:
            waits_for_others(watched)
        finally:
            os._exit(1)
    while "waits" not in capfd.readouterr().out:
        time.sleep(0.01)
    time.sleep(0.1)
    os.kill(child, signal.Signals[name])
    since = time.monotonic()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 128 + signal.Signals[name]
    assert time.monotonic() - since < 5
    assert capfd.readouterr().err == f"polymodal: {name}. Go on.\n"


def test_a_signal_to_a_forked_process_is_not_one_to_its_parent(monkeypatch):
    """Data loaders end their workers by SIGTERM. If this breaks, a training ends with an epoch."""
    monkeypatch.setattr(interrupt, "ANSWER", 0.0)
    with Signals() as signals:
        worker = os.fork()
        if worker == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(0)
        os.waitpid(worker, 0)
        assert signals.overdue() is None
        with pytest.raises(Stopped):
            signal.raise_signal(signal.SIGTERM)
        assert signals.received == signal.SIGTERM


# -- whole trainings by two processes ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "own"
    return make_folder(root, size=(16, 24), splits={"train": 8, "val": 5, "test": 3}, modalities=("rgb", "grey"))


def command(data: Path, run: Path, processes: int, *more: str) -> list[str]:
    words = [f"--config={recipe('folder')}", f"--data.root={data}", f"--trainer.default_root_dir={run}"]
    words += ["--trainer.accelerator=cpu", f"--trainer.devices={processes}", f"--data.batch_size={4 // processes}"]
    words += ["--data.eval_batch_size=2", "--model.network_args={stem: 4, widths: [4, 4], decoder: 4}", *more]
    return [sys.executable, "-m", "polymodal", "fit", *words]


def train(data: Path, run: Path, processes: int, *more: str) -> Path:
    ended = subprocess.run(command(data, run, processes, *more), capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    return run


def rows(run: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((run / "metrics.csv").read_text().splitlines()))


def weights(run: Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(run / "checkpoints" / "last.ckpt")["state_dict"]


FROZEN = ("--model.statistics=frozen", "--trainer.max_epochs=2")


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory) -> Path:
    """The run of one process."""
    return train(data, tmp_path_factory.mktemp("alone") / "run", 1, *FROZEN)


def assert_equal_runs(one: Path, two: Path) -> None:
    ours, theirs = weights(one), weights(two)
    assert max((ours[name].double() - theirs[name].double()).abs().max().item() for name in ours) < 1e-6
    for row, other in zip(rows(one), rows(two), strict=True):
        assert float(row["train/loss"]) == pytest.approx(float(other["train/loss"]), abs=1e-6)
        assert [row[key] for key in row if "pixel" in key] == [other[key] for key in row if "pixel" in key]
    scores = [(run / "scores.val.json").read_text().count('"samples": 5') for run in (one, two)]
    assert scores == [1, 1], "the finished model is scored on all samples"


@pytest.mark.slow
def test_two_processes_with_frozen_norms_are_one(data, alone, tmp_path):
    """If this breaks, results depend on how many processes trained; validation does not, to the last digit."""
    assert_equal_runs(alone, train(data, tmp_path / "run", 2, *FROZEN))


@pytest.mark.slow
def test_two_nodes_with_frozen_norms_are_one_process(data, alone, tmp_path):
    """Two agents of torchrun that meet on the loopback. If this breaks, a run over several machines is another one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    _, *words = command(data, tmp_path / "run", 2, *FROZEN, "--trainer.num_nodes=2", "--trainer.devices=1")
    agent = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
    agent += ["--master-addr=127.0.0.1", f"--master-port={port}"]
    log = tmp_path / "log"
    with log.open("w") as said:
        nodes = [
            subprocess.Popen([*agent, f"--node-rank={rank}", *words], stdout=said, stderr=said) for rank in range(2)
        ]
        try:
            assert [node.wait(timeout=300) for node in nodes] == [0, 0], log.read_text()
        finally:
            for node in nodes:
                node.kill()
    assert_equal_runs(alone, tmp_path / "run")


@pytest.mark.slow
def test_two_processes_refuse_a_callback_that_watches_the_wrong_way(data, tmp_path):
    """If this breaks, a training of several processes stops because its score grows."""
    callback = "--trainer.callbacks={class_path: EarlyStopping, init_args: {monitor: val/mean_iou/ensemble}}"
    words = command(data, tmp_path / "run", 2, callback)
    refused = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert refused.returncode == 2, refused.stderr
    assert "more of val/mean_iou/ensemble is better, and its mode is 'min'" in refused.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_two_processes_resume_exactly_from_within_an_epoch(data, tmp_path):
    """If this breaks, a resumed process goes on with the other one's random numbers or means."""
    more = ("--trainer.max_epochs=2", "--trainer.sync_batchnorm=true", "--model.optimiser.schedule=constant")
    whole = train(data, tmp_path / "whole", 2, *more)
    broken = train(data, tmp_path / "broken", 2, *more, "--trainer.max_steps=3")
    last = broken / "checkpoints" / "last.ckpt"
    assert read_checkpoint(last)["position"]["batches"] == 1
    other = command(data, broken, 1, *more, f"--ckpt_path={last}")
    refused = subprocess.run(other, capture_output=True, text=True, timeout=300)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1), refused.stderr
    assert "Continue with --trainer.devices 2." in refused.stderr
    train(data, broken, 2, *more, f"--ckpt_path={last}")
    assert rows(broken) == rows(whole)
    assert all(torch.equal(value, weights(whole)[name]) for name, value in weights(broken).items())


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP", "SIGKILL"])
def test_a_signal_to_one_process_ends_both_in_one_line(data, tmp_path, name, rank):
    """What a batch system, a terminal or the kernel sends. If this breaks, a node stays occupied for ever."""
    words = command(data, tmp_path / "run", 2, "--trainer.max_epochs=100000")
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        for line in first.stdout:
            if line.startswith("epoch 2"):
                break
        second = int(Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()[0])
        since = time.monotonic()
        os.kill((first.pid, second)[rank], signal.Signals[name])
        _, said = first.communicate(timeout=60)
        while Path(f"/proc/{second}").exists():
            time.sleep(0.1)
        assert time.monotonic() - since < 15
    number = signal.Signals[name]
    killed = name == "SIGKILL"
    assert first.returncode == (-number if killed and rank == 0 else 128 + number)
    assert said.count("\n") == 1, said
    assert "--ckpt_path" in said
    assert read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")["processes"] == 2
