"""Ends a process at any of the moments in which it changes files, which are found by following it."""

import builtins
import importlib
import io
import os
import pickle
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ENDED = 9
"""The status of a process that was stopped."""

_CALLS = ("open", "rename", "replace", "link", "unlink", "remove", "rmdir", "mkdir", "ftruncate", "pwrite", "fsync")


class Stopper:
    """Counts the moments, and ends the process in one of them, as a kill does: nothing is tidied up.

    Its forks are processes of their own and not followed.

    A call that changes the disk has a moment before and one after; a write of bytes has one in the middle, too.

    Args:
        folder: Below which files count.
        moment: The one to end in; None to count.
    """

    def __init__(self, folder: Path, moment: int | None = None) -> None:
        self.folder = str(folder)
        self.moment = moment
        self.passed: list[str] = []
        self.process = 0

    def come_to(self, what: str) -> None:
        if len(self.passed) == self.moment:
            os._exit(ENDED)
        self.passed.append(what)

    def concerns(self, path: object) -> bool:
        if os.getpid() != self.process:
            return False
        if isinstance(path, int):
            path = _opened(path)
        if not isinstance(path, str | os.PathLike):
            return False
        return os.path.abspath(path).startswith(self.folder)  # noqa: PTH100 - of a text, before any patch

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Follow what goes through Python; libraries write into workplaces alone, which publishing comes after."""
        self.process = os.getpid()
        originals = {name: getattr(os, name) for name in _CALLS}
        plain_open = builtins.open

        def around(name: str) -> Callable:
            original = originals[name]

            def call(path, *others, **named):
                folder = named.get("dir_fd")
                path_from_root = path if folder is None else _opened(folder) / path
                if not self.concerns(path_from_root) and not any(map(self.concerns, others[:1])):
                    return original(path, *others, **named)
                self.come_to(f"before {name} {path}")
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

        for name in _CALLS:
            setattr(os, name, around(name))
        builtins.open = io.open = opened
        try:
            yield
        finally:
            for name, original in originals.items():
                setattr(os, name, original)
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


def moments(folder: Path, command: Callable[[], object]) -> list[str]:
    """The moments of a command that is left alone, in a child; this process imports what it does, for the next ones."""
    stopper = Stopper(folder)

    def work() -> tuple[list[str], list[str]]:
        with stopper.watching():
            command()
        return stopper.passed, list(sys.modules)

    status, answer = in_a_fork(work)
    assert status == 0
    passed, modules = answer
    for name in modules:
        with suppress(Exception):
            importlib.import_module(name)
    return passed


def stop(folder: Path, moment: int, command: Callable[[], object]) -> None:
    """Run a command in a child that ends in a moment."""

    def work() -> None:
        with Stopper(folder, moment).watching():
            command()

    assert in_a_fork(work)[0] == ENDED
