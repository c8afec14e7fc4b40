"""The moments in which a process changes files, found by following it: what a kill leaves then, and the kill itself."""

import builtins
import fcntl
import importlib
import io
import os
import pickle
import re
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import safetensors.torch

from polymodal.locks import LOCK

ENDED = 9
"""The status of a process that was stopped."""

plain_open = builtins.open
CHOSEN = re.compile(r"(before|after) (rename|replace|link) |amid ")
"""The moments that `needed` chooses from."""

_CALLS = ("open", "rename", "replace", "link", "unlink", "remove", "rmdir", "mkdir", "ftruncate", "pwrite", "fsync")


@dataclass
class Follower:
    """Follows a process, and what it forks, through the moments in which it changes files.

    A call that changes the disk has a moment before and one after; a write of bytes has one in the middle, too.

    Args:
        folder: Below which files count.
        shots: Where to keep what is on the disk in each moment, in folders by its number; None keeps nothing.
        keeps: Which moments are kept, by their words.
        end_at: The moment in which the process ends, as a kill does: nothing is tidied up. None for none.
    """

    folder: Path
    shots: Path | None = None
    keeps: re.Pattern[str] = re.compile("")
    end_at: int | None = None
    passed: list[str] = field(default_factory=list)

    def come_to(self, what: str) -> None:
        if len(self.passed) == self.end_at:
            os._exit(ENDED)
        self.passed.append(what)
        if self.shots is not None and self.keeps.match(what):
            # One process after the other, and by what is there already: forks count on.
            with plain_open(self.shots / "moments", "a+") as told:
                fcntl.flock(told, fcntl.LOCK_EX)
                told.seek(0)
                shutil.copytree(self.folder, self.shots / str(len(told.readlines())), symlinks=True)
                told.write(f"{what}\n")
                told.flush()
                fcntl.flock(told, fcntl.LOCK_UN)  # what another thread forks meanwhile has it, too

    @contextmanager
    def unseen(self) -> Iterator[None]:
        """While a name changes no other process keeps what is on the disk: it would see neither before nor after."""
        if self.shots is None:
            yield
            return
        with plain_open(self.shots / "moments", "a+") as told:
            fcntl.flock(told, fcntl.LOCK_SH)
            try:
                yield
            finally:
                fcntl.flock(told, fcntl.LOCK_UN)  # what another thread forks meanwhile has it, too

    def concerns(self, path: object) -> bool:
        if isinstance(path, int):
            path = _opened(path)
        if not isinstance(path, str | os.PathLike):
            return False
        found = os.path.abspath(os.fspath(path))  # noqa: PTH100 - of a text, before any patch
        return f"{os.fsdecode(found)}/".startswith(f"{self.folder}/")

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Follow what goes through Python, and the one library that writes past it."""
        originals = {name: getattr(os, name) for name in _CALLS}
        serialize = safetensors.torch.serialize_file

        def around(name: str) -> Callable:
            original = originals[name]

            def call(path, *others, **named):
                folder = named.get("dir_fd")
                path_from_root = path if folder is None else _opened(folder) / path
                to = others[0] if name in ("rename", "replace", "link") else None
                if not self.concerns(path_from_root) and not self.concerns(to):
                    return original(path, *others, **named)
                self.come_to(f"before {name} {path}")
                with self.unseen():
                    result = original(path, *others, **named)
                self.come_to(f"after {name} {path}")
                return result

            return call

        def opened(file, mode="r", *others, **named):
            if not set(mode) & set("wax+") or not self.concerns(file):
                return plain_open(file, mode, *others, **named)
            self.come_to(f"before open {file}")
            stream = plain_open(file, mode, *others, **named)
            self.come_to(f"after open {file}")
            return self._halved(stream)

        def serialized(tensors, file, *others, **named):
            serialize(tensors, file, *others, **named)
            if self.concerns(file):
                content = Path(file).read_bytes()
                with plain_open(file, "wb") as stream:
                    stream.write(content[: len(content) // 2])
                self.come_to(f"amid a write of {file}")
                with plain_open(file, "wb") as stream:
                    stream.write(content)

        for name in _CALLS:
            setattr(os, name, around(name))
        safetensors.torch.serialize_file = serialized
        builtins.open = io.open = opened
        try:
            yield
        finally:
            for name, original in originals.items():
                setattr(os, name, original)
            safetensors.torch.serialize_file = serialize
            builtins.open = io.open = plain_open

    def _halved(self, stream):
        """The stream, whose writes reach the disk by halves."""
        write = stream.write

        def by_halves(content):
            if len(content) < 2:
                return write(content)
            half = len(content) // 2
            written = write(content[:half])
            stream.flush()
            self.come_to(f"amid a write of {stream.name}")
            return written + write(content[half:])

        try:
            stream.write = by_halves
        except AttributeError:  # a stream of C takes no method
            return _Halves(stream, by_halves)
        return stream


def _opened(descriptor: int) -> Path:
    """What a descriptor is open for."""
    return Path(f"/proc/self/fd/{descriptor}").readlink()


class _Halves(io.IOBase):
    """A stream of C with another `write`."""

    def __init__(self, stream, write) -> None:
        self._stream, self.write = stream, write

    def __getattr__(self, name: str):
        return getattr(self._stream, name)

    def __enter__(self):
        return self

    def __exit__(self, *error) -> None:
        self._stream.close()

    def close(self) -> None:
        self._stream.close()

    def fileno(self) -> int:
        return self._stream.fileno()

    def flush(self) -> None:
        if not self._stream.closed:
            self._stream.flush()

    def seekable(self) -> bool:
        return self._stream.seekable()

    def seek(self, *where) -> int:
        return self._stream.seek(*where)

    def tell(self) -> int:
        return self._stream.tell()

    def writable(self) -> bool:
        return True


def in_a_fork(work: Callable[[], object]) -> tuple[int, object]:
    """The status of a child that does some work, and what the work returns."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        status = 1
        try:
            answer = pickle.dumps(work())
            with os.fdopen(writing, "wb") as stream:
                stream.write(answer)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        answer = stream.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return status, pickle.loads(answer) if answer else None


def moments(
    folder: Path, command: Callable[[], object], shots: Path, keeps: re.Pattern[str] = re.compile("")
) -> list[str]:
    """The moments of a command that is left alone, in a child; this process imports what it does, for the next ones.

    Args:
        folder: Below which files count.
        command: What is followed.
        shots: A new folder, for what is on the disk in each moment.
        keeps: Which moments, by their words.
    """
    shots.mkdir()

    def work() -> list[str]:
        with Follower(folder, shots, keeps).watching():
            command()
        return list(sys.modules)

    status, modules = in_a_fork(work)
    assert status == 0
    for name in modules:
        with suppress(Exception):
            importlib.import_module(name)
    return (shots / "moments").read_text().splitlines()


def needed(found: list[str]) -> list[int]:
    """Of some moments those before and after every rename, and one in the middle of the writing of every file."""
    renames = [number for number, what in enumerate(found) if CHOSEN.match(what) and not what.startswith("amid")]
    writes: dict[str, list[int]] = {}
    for number, what in enumerate(found):
        if what.startswith("amid"):
            # A file that is written anew, such as a table after every epoch, has been renamed in between.
            anew = sum(rename < number for rename in renames)
            writes.setdefault(f"{what} {anew}", []).append(number)
    return sorted([*renames, *(numbers[len(numbers) // 2] for numbers in writes.values())])


def stop(folder: Path, moment: int, command: Callable[[], object]) -> None:
    """Run a command in a child that ends in a moment."""

    def work() -> None:
        with Follower(folder, end_at=moment).watching():
            command()

    assert in_a_fork(work)[0] == ENDED


def content(folder: Path) -> dict[str, bytes]:
    """All files below a folder, without the system's times, which copies of a data set differ in."""
    files = {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    return {name: re.sub(rb'"stamp": "\w*', b"", there) for name, there in files.items()}


def left(folder: Path) -> dict[str, bytes]:
    """All that a kill has left below a folder, without the number that the killed process had."""
    found = {str(path.relative_to(folder)): b"" for path in folder.rglob("*")} | content(folder)
    return {
        name: re.sub(rb"process \d+ on|pro?c?e?s?s? ?\d*$", b"", there) if name.endswith(LOCK) else there
        for name, there in found.items()
    }
