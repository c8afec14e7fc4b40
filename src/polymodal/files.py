"""Files that appear whole or not at all, whenever a process is killed and however full the disk is.

What is written is made in a workplace beside its target, reaches the disk, and takes its place by a rename. The
workplace of a killed process is taken over when the same target is written again.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir

from polymodal.errors import ConfigError, PolymodalError
from polymodal.locks import LOCK, locked

_WORKPLACE = ".partial"
"""How the name of a workplace ends; it begins with a dot."""

LONGEST_NAME = 255 - len(f".{_WORKPLACE}")
"""Bytes of the name of a file that is written here: most disks take 255, and its workplace is called after it."""

_SCRATCH = "polymodal-"
"""How the names of folders begin that nobody needs after their process."""

_PUBLISHING = "publishing"
"""A file in a workplace while what was made there takes its place."""


@contextmanager
def workplace(target: Path) -> Iterator[Path]:
    """An empty folder beside a target to make it in, for this process alone; it is gone at the end.

    Raises:
        OSError: Something cannot be written; with the target's name where the system gives none.
    """
    place = _place(target)
    try:
        with locked(place, wait=True):
            _empty(place)
            try:
                yield place
            except OSError as error:
                _name(error, place, target)
                raise
            finally:
                _empty(place)
    finally:
        with suppress(OSError):  # another process may have entered
            place.rmdir()


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder in the system's temporary one, gone at the end; first those go that killed processes left there."""
    for left in Path(gettempdir()).glob(f"{_SCRATCH}*"):
        with suppress(OSError, ConfigError):  # another user's, or one at work
            if left.is_dir() and not left.is_symlink():
                with locked(left):
                    _empty(left)
                left.rmdir()
    with TemporaryDirectory(prefix=_SCRATCH, ignore_cleanup_errors=True) as folder, locked(Path(folder)):
        yield Path(folder)


def publish(place: Path, *names: str) -> None:
    """Let files of a workplace take their places beside it, one after the other, with the rights of other new files."""
    files = [place / name for name in names]
    rights = place.stat().st_mode & 0o666
    for file in files:
        with file.open("rb+") as stream:
            os.fsync(stream.fileno())
        file.chmod(rights)  # libraries may have made it for its owner alone
    (place / _PUBLISHING).touch()
    for file in files:
        file.replace(place.parent / file.name)


def half_published(target: Path) -> bool:
    """Whether a process was killed while a target, and the files that belong to it, took their places."""
    return (_place(target) / _PUBLISHING).exists()


def tidy(target: Path) -> None:
    """Remove the workplace that a killed process left beside a target."""
    if _place(target).is_dir():
        with workplace(target):
            pass


def tidy_below(folder: Path) -> None:
    """Remove the workplaces that killed processes left in a folder and those below it."""
    for place in list(folder.rglob(f".*{_WORKPLACE}")):
        tidy(place.with_name(place.name[1 : -len(_WORKPLACE)]))


@contextmanager
def complete_file(path: Path) -> Iterator[Path]:
    """A file to write to, of the same name, which becomes `path` when the block ends without an error."""
    with workplace(path) as place:
        yield place / path.name
        publish(place, path.name)


def write_file(path: Path, content: bytes | memoryview) -> None:
    """Write a file whole or not at all, and the folders above it."""
    with complete_file(path) as file:
        file.write_bytes(content)


@contextmanager
def new_folder(folder: Path, work: str, error: type[PolymodalError] = ConfigError) -> Iterator[None]:
    """A new or empty folder for one command, or the one in which the same command was killed or failed.

    Args:
        folder: Where the command writes.
        work: The command with all that its result depends on, in one line.
        error: What to raise.

    Raises:
        PolymodalError: It holds what another command or a person made, or another process has it.
    """
    existed, work = folder.exists(), " ".join(work.splitlines())
    if not (folder / LOCK).is_file():
        require_empty(folder, error)
    try:
        with locked(folder, work) as begun:
            if not begun:
                require_empty(folder, error)
            elif begun != work:
                raise error(
                    f"{folder} was begun by another command, which was not finished ({begun}). Give that one again, or "
                    "name a new or an empty folder."
                )
            tidy_below(folder)
            yield
    finally:
        # What wrote nothing leaves nothing.
        if (folder / LOCK).is_file() and is_empty(folder):
            (folder / LOCK).unlink()
        if not existed:
            with suppress(OSError):
                folder.rmdir()


def is_empty(folder: Path) -> bool:
    """Whether a folder holds nothing but what locks and killed processes leave."""
    names = (entry.name for entry in folder.iterdir())
    return all(name == LOCK or (name.startswith(".") and name.endswith(_WORKPLACE)) for name in names)


def require_empty(folder: Path, error: type[PolymodalError] = ConfigError) -> None:
    """Refuse to write among files of another command or of a person's.

    Raises:
        PolymodalError: The folder holds anything, or is a file; of the class `error`.
    """
    if folder.exists() and not (folder.is_dir() and is_empty(folder)):
        raise error(f"{folder} is not empty; name a new or an empty folder.")


def require_new(file: Path, own: Callable[[bytes], bool] | None = None) -> None:
    """Refuse to replace a file of another command or of a person's.

    Args:
        file: What is to be written.
        own: Whether a content is that of an earlier call, which may be replaced; none is if not given.

    Raises:
        ConfigError: It is there, and not `own`.
    """
    if not half_published(file):
        tidy(file)
    if file.is_dir() or (file.exists() and not (own and own(file.read_bytes()))):
        raise ConfigError(f"{file} is there already; name another file, or remove it first.")


def _place(target: Path) -> Path:
    return target.with_name(f".{target.name}{_WORKPLACE}")


def _name(error: OSError, place: Path, target: Path) -> None:
    """Let an error speak of the target, whatever it spoke of."""
    if not error.strerror:  # of a library, in words of its own
        error.args = (f"{target}: cannot be written ({error})",) if str(target) not in str(error) else error.args
    elif not error.filename or Path(os.fsdecode(error.filename)).is_relative_to(place):
        error.filename = str(target)
        del error.filename2


def _empty(place: Path) -> None:
    """Remove everything but the lock."""
    for entry in place.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != LOCK:
            entry.unlink()
