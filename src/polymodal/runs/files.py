"""Values and arrays of a run as files that appear whole or not at all."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from polymodal.data.spec import FILE
from polymodal.errors import ConfigError
from polymodal.files import complete_file, write_file
from polymodal.run_folder import CONFIG, NOT_ITS_OWN_ALONE


def check_run_folder(folder: Path) -> None:
    """Refuse a folder for a run in which it would replace what no run wrote.

    Raises:
        ConfigError: With the names of these files.
    """
    config = folder / CONFIG
    begun = config.is_file() and config.read_bytes().startswith(b"# lightning.pytorch")
    if (folder / FILE).exists():
        raise ConfigError(f"{folder} is a data set. Choose another folder for the run with --trainer.default_root_dir.")
    taken = [name for name in NOT_ITS_OWN_ALONE if (folder / name).exists()]
    if taken and not begun:
        raise ConfigError(
            f"{folder} holds {', '.join(taken)}, which no training wrote and this one would replace. Choose another "
            "folder with --trainer.default_root_dir."
        )


@contextmanager
def no_new_folder(folder: Path) -> Iterator[None]:
    """After an error, remove the folder, and those above it, if they are new and hold nothing."""
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        yield
    except Exception:
        with suppress(OSError):
            for path in new:
                path.rmdir()
        raise


@contextmanager
def unless_begun(folder: Path, begun: Callable[[], bool]) -> Iterator[None]:
    """Remove what a training that was refused before its first step has put into its folder, such as empty logs.

    The folder must be locked.
    """
    before = set(folder.iterdir()) if folder.is_dir() else set()
    try:
        yield
    except Exception:
        if not begun() and folder.is_dir():
            for entry in set(folder.iterdir()) - before:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        raise


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file, complete or not at all."""
    write_file(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a compressed .npz file, complete or not at all."""
    with complete_file(path) as file, file.open("wb") as stream:
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
