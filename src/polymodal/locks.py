"""A folder for one process at a time: the kernel gives it back when the process ends, however it ends."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from polymodal.errors import ConfigError

try:
    import fcntl
except ImportError:  # where the system has no such locks, two commands on one folder are the user's care
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
"""The file in a folder that says what is being done there and by whom; one of a killed process stays until the next."""

_held: set[int] = set()
"""The descriptors of this process's locks."""


def _forget() -> None:
    """Leave the locks to the parent: a loader's worker that outlives it must not hold them."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


@contextmanager
def locked(folder: Path, work: str = "", *, wait: bool = False) -> Iterator[str]:
    """A folder for this process alone; it is made if it is not there.

    What is being done is noted, until it is done: of a process that is killed or fails, the note stays.

    Args:
        folder: The folder.
        work: What is being done, in one line.
        wait: Whether to wait while another process has it.

    Yields:
        The work that was begun here and not finished; "" if there is none.

    Raises:
        ConfigError: Another process has it; with its number and computer.
        OSError: The folder cannot be written.
    """
    file = folder / LOCK
    descriptor = _acquired(file, wait)
    _held.add(descriptor)
    begun, done = _note(descriptor)[0], False
    try:
        _write_note(descriptor, begun, work, file)
        yield begun
        done = True
    finally:
        if descriptor in _held:
            if done or not (begun or work):
                file.unlink(missing_ok=True)
            _held.discard(descriptor)
            os.close(descriptor)


def _acquired(file: Path, wait: bool) -> int:
    """A descriptor of the lock's file, which is locked and still there."""
    while True:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        try:
            _lock(descriptor, file, wait)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), file.stat()):
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # whoever had it has removed it meanwhile


def _lock(descriptor: int, file: Path, wait: bool) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError as error:
        _, holder = _note(descriptor)
        raise ConfigError(
            f"{file.parent} is being written by another command that still runs ({holder or 'by whom is not known'}). "
            "Wait for it or end it, or name another folder."
        ) from error
    except OSError:
        pass  # a file system without locks, as some clusters have


def _write_note(descriptor: int, begun: str, work: str, file: Path) -> None:
    """Put this process in the place of the one before; the work that was begun is never without its note."""
    start = os.fsencode(f"{begun or work}\n")
    try:
        if not begun:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, start, 0)
        os.ftruncate(descriptor, len(start))
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), len(start))
    except OSError as error:
        error.filename = str(file)
        raise


def _note(descriptor: int) -> tuple[str, str]:
    """The work and the process that a lock's file names; nothing if its first line is not complete."""
    work, ended, holder = os.fsdecode(os.pread(descriptor, 1 << 16, 0)).partition("\n")
    return (work, holder) if ended else ("", "")
