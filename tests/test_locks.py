"""One writer of a folder at a time: two commands, a holder that was killed, and disks that have no locks."""

import errno
import os
import signal
import subprocess
import sys
import tempfile

import pytest

from polymodal import locks
from polymodal.errors import ConfigError
from polymodal.files import scratch
from polymodal.locks import LOCK, locked

HOLDER = """
import sys
from polymodal.locks import locked
from pathlib import Path
with locked(Path(sys.argv[1]), "work of a holder"):
    print("holds", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that has the folder, until its standard input is closed or it is killed."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "holds\n"
        yield process
        process.kill()


def test_a_second_process_is_refused_and_a_killed_one_leaves_its_work(tmp_path, holder):
    """If this breaks, two commands mix their files, or a folder is locked for ever by a process that is no more."""
    with pytest.raises(ConfigError, match=rf"is being written .* still runs \(process {holder.pid} on "):
        locked(tmp_path).__enter__()
    assert "work of a holder" in (tmp_path / LOCK).read_text()
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with locked(tmp_path, "the same again") as begun:
        assert begun == "work of a holder"
        assert f"process {os.getpid()} " in (tmp_path / LOCK).read_text()
    assert not list(tmp_path.iterdir())


def test_within_a_process_a_folder_is_locked_once_and_given_back(tmp_path):
    with locked(tmp_path), pytest.raises(ConfigError, match=f"process {os.getpid()} on "), locked(tmp_path):
        pass
    with locked(tmp_path) as begun:
        assert begun == ""


def test_a_fork_does_not_hold_the_lock_of_its_parent(tmp_path):
    """If this breaks, a loader's worker that outlives its training keeps the folder locked."""
    reading, writing = os.pipe()
    with locked(tmp_path):
        child = os.fork()
        if child == 0:
            os.read(reading, 1)
            os._exit(0)
    with locked(tmp_path) as begun:
        assert begun == ""
    os.write(writing, b"x")
    os.waitpid(child, 0)


@pytest.mark.parametrize("note", [b"", b"no line end", b"\xff\xfe\n\xff", b"\0" * 100, b"x" * 100_000])
def test_a_stale_lock_of_any_content_is_taken_over(tmp_path, note):
    (tmp_path / LOCK).write_bytes(note)
    with locked(tmp_path) as begun:
        assert "\n" not in begun


def test_a_lock_that_is_a_link_is_not_written_through(tmp_path):
    """If this breaks, a folder from elsewhere empties a file of the user's."""
    own = tmp_path / "own"
    own.write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / LOCK).symlink_to(own)
    with pytest.raises(OSError, match=r"\.lock"), locked(tmp_path / "folder"):
        pass
    assert own.read_text() == "mine"


@pytest.mark.parametrize("error", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EIO])
def test_a_disk_without_locks_is_written_all_the_same(tmp_path, monkeypatch, error):
    """If this breaks, nothing can be trained on the network file systems of some clusters."""

    def refuse(*_):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    with locked(tmp_path, "work"):
        assert (tmp_path / LOCK).read_text().startswith("work\n")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    plain = os.open

    def refuse(path, *others, **named):
        if os.fspath(path).endswith(LOCK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(path))
        return plain(path, *others, **named)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(PermissionError, match=r"Permission denied: .*\.lock"), locked(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_folders_of_killed_processes_go_and_those_at_work_stay(tmp_path, monkeypatch):
    """If this breaks, every benchmark that is killed leaves its exported files in the temporary folder for ever."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "polymodal-killed").mkdir()
    (tmp_path / "polymodal-killed" / "net.onnx").write_text("large")
    (tmp_path / "other").mkdir()
    with scratch() as first, scratch() as second:
        (second / "net.onnx").write_text("large")
        assert {path.name for path in tmp_path.iterdir()} == {"other", first.name, second.name}
    assert [path.name for path in tmp_path.iterdir()] == ["other"]
