"""MATLAB files: version 7.3 by h5py, older ones by scipy, and what to do about damaged ones."""

import importlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from polymodal.errors import ConfigError, DataError


@contextmanager
def open_hdf5(file: Path, members: Sequence[str]) -> Iterator[Any]:
    """Open a file of version 7.3.

    Args:
        file: The file.
        members: What it must hold, as paths inside of it.

    Yields:
        The `h5py.File`; members are read when they are indexed. Their axes are those of MATLAB in reverse.

    Raises:
        ConfigError: When h5py is not installed.
        DataError: When the file is damaged or lacks a member.
    """
    h5py = _library("h5py")
    try:
        stream = h5py.File(file)
    except OSError as error:
        raise DataError(damaged(file, "a MATLAB 7.3 (HDF5) file", error)) from error
    with stream:
        _require(file, members, [member for member in members if member in stream], list(stream))
        yield stream


def read_hdf5(file: Path, dataset: Any, index: Any = ()) -> np.ndarray:
    """A part of a member.

    Raises:
        DataError: When it cannot be read, as in a file that was cut off.
    """
    try:
        return np.asarray(dataset[index])
    except (OSError, KeyError, ValueError, IndexError) as error:
        raise DataError(damaged(file, f"{dataset.name} of a MATLAB 7.3 (HDF5) file", error)) from error


def load_mat(file: Path, members: Sequence[str]) -> dict[str, Any]:
    """The members of a file older than version 7.3, structures as objects, without axes of length 1.

    Raises:
        ConfigError: When scipy is not installed.
        DataError: When the file is missing, damaged or lacks a member.
    """
    io = _library("scipy.io")
    if not file.is_file():
        raise DataError(f"{file}: missing. It is part of the official download; unpack all of that.")
    try:
        content = io.loadmat(file, squeeze_me=True, struct_as_record=False, variable_names=list(members))
    except Exception as error:  # scipy has no common error for damaged files
        raise DataError(damaged(file, "a MATLAB file", error)) from error
    _require(file, members, [member for member in members if member in content], ())
    return {member: content[member] for member in members}


def damaged(file: Path, what: str, error: Exception) -> str:
    """The message for a file that cannot be read."""
    reason = str(error).strip().split("\n")[0] or type(error).__name__
    return (
        f"{file}: cannot be read as {what} ({reason}). The download is incomplete or damaged: compare its size with "
        "that of the official file, and download it again."
    )


def _require(file: Path, members: Sequence[str], found: Sequence[str], others: Iterable[str]) -> None:
    missing = [member for member in members if member not in found]
    if missing:
        there = f" It holds {', '.join(others) or 'nothing'}." if others else ""
        raise DataError(
            f"{file}: the member {missing[0]!r} is missing.{there} Give the official file, as it was released."
        )


def _library(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise ConfigError(f"reading MATLAB files needs {package}: pip install polymodal[prepare]") from error
