"""Runs on a Ray cluster: one that does not answer is refused, and one that loses a worker goes on."""

import socket
import sys
import time
from types import SimpleNamespace

import pytest

from polymodal.errors import ConfigError, PolymodalError
from polymodal.runs import children, cluster
from polymodal.runs.engine import SeededRun

ray = pytest.importorskip("ray", reason="ray is not installed: pip install 'polymodal[ray]'")


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:{port}", "no Ray cluster answers there. Start one: ray start --head --port"),
        ("no.such.host.invalid:6379", "no Ray cluster answers"),
        ("127.0.0.1", "expected HOST:PORT"),
        ("127.0.0.1:99999", "expected HOST:PORT"),
        ("ray://127.0.0.1:10001", "expected HOST:PORT"),
        ("", "expected HOST:PORT"),
    ],
)
def test_an_address_that_does_not_answer_is_refused_within_seconds(address, expected):
    """Ray itself would wait for minutes, and then print a screen of its own."""
    begun = time.monotonic()
    with pytest.raises(ConfigError, match=expected):
        cluster.join(address.format(port=free_port()))
    assert time.monotonic() - begun < 20


def test_what_a_worker_says_reaches_the_command(tmp_path, monkeypatch):
    """If this breaks, nobody sees an epoch, or a failed run is waited for without end."""
    said = "print('epoch 1/1: done', flush=True); import sys; sys.exit(3)"
    monkeypatch.setattr(children, "fit_command", lambda words: [sys.executable, "-c", said])
    monkeypatch.setattr(cluster, "fit_words", lambda run: [])
    monkeypatch.chdir(tmp_path)
    first, failure = cluster._follow(SeededRun("a", 0, tmp_path / "a"), str(tmp_path), 1)
    assert first == ("epoch 1/1: done", "")
    assert "'a, seed 0' ended with status 3" in failure[1]


def test_a_run_that_loses_its_worker_is_given_to_another_one(tmp_path, monkeypatch, capsys):
    """If this breaks, a machine that goes down takes its runs with it; or one that always fails is tried for ever."""
    monkeypatch.setattr(cluster, "PAUSE", 0.0)
    lost, heard = [3], []

    def attempt(*_):
        yield "epoch 1/2"
        if lost[0]:
            lost[0] -= 1
            raise ray.exceptions.WorkerCrashedError
        yield "epoch 2/2"

    monkeypatch.setattr(ray, "get", lambda line: (line, ""))
    engine = cluster.Cluster.__new__(cluster.Cluster)
    engine._task, engine._cores = SimpleNamespace(remote=attempt), 1
    run = SeededRun("a", 0, tmp_path)
    engine.train(run, [], heard.append)
    assert heard == ["epoch 1/2"] * 4 + ["epoch 2/2"]
    assert capsys.readouterr().out.count("a, seed 0: its worker is lost; it goes on where it was") == 3
    lost[0] = 4
    with pytest.raises(PolymodalError, match="'a, seed 0' lost its worker 4 times"):
        engine.train(run, [], heard.append)
