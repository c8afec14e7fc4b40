"""Files: a folder or a zip archive of them as one `Store`."""

import os
import zipfile
import zlib
from collections.abc import Iterable
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Any

from polymodal.data.naming import Affixes, Plain, advice, name_of
from polymodal.errors import DataError

EXTENSIONS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".npy")
"""Every file name ending that is read, in any mixture of upper and lower case."""


PLAIN = Plain()


class Store:
    """The files below one root, be it a folder or a zip archive of the same layout.

    An archive is opened on first use in each process, so that loader workers never share a file position.

    Args:
        root: A folder, a `.zip` file, or the word `rooms` for the embedded data set.

    Raises:
        DataError: When there is no such folder or archive, or the archive is damaged.
    """

    def __init__(self, root: str | Path) -> None:
        self.path = _embedded_rooms() if str(root) == "rooms" else Path(root).expanduser()
        self.is_archive = self.path.is_file()
        if not self.path.exists():
            raise DataError(
                f"{self.path}: there is no such data set. Give a folder that holds a dataset.yaml, "
                "a .zip archive of one, or the word rooms for the embedded set."
            )
        if self.is_archive and not zipfile.is_zipfile(self.path):
            raise DataError(f"{self.path}: expected a folder or a .zip archive, got another or a damaged file.")
        self._archive: zipfile.ZipFile | None = None
        self._process = -1
        self._names: frozenset[str] = frozenset(self._open().namelist()) if self.is_archive else frozenset()
        self._listings: dict[str, dict[str, tuple[str, ...]]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_archive": None, "_process": -1}

    def where(self, file: str) -> str:
        """The name of a file as messages show it."""
        return str(self.path) if file == "." else f"{self.path}/{file}"

    def exists(self, file: str) -> bool:
        """Whether there is such a file, named from the root with forward slashes."""
        return file in self._names if self.is_archive else (self.path / file).is_file()

    def read(self, file: str) -> bytes:
        """The content of a file.

        Raises:
            DataError: When it does not exist or cannot be read.
        """
        try:
            return self._open().read(file) if self.is_archive else (self.path / file).read_bytes()
        except (KeyError, FileNotFoundError) as error:
            raise DataError(f"{self.where(file)}: there is no such file.") from error
        except (OSError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
            # The last one: an encrypted member, or a compression that Python does not know.
            raise DataError(f"{self.where(file)}: cannot be read ({error}).") from error

    def checksum(self, file: str) -> int:
        """The CRC-32 of a file's content, which an archive knows without reading it.

        Raises:
            DataError: When it does not exist or cannot be read.
        """
        if self.is_archive and file in self._names:
            return self._open().getinfo(file).CRC
        return zlib.crc32(self.read(file))

    def keys(self, folder: str) -> dict[str, tuple[str, ...]]:
        """The files of a folder and the folders below it by key, listed once.

        A key is the path from `folder` without the file name's ending; a well-formed data set has one file for each.
        Files and folders whose names begin with a dot are none: what a killed command began, or a system keeps there.
        """
        if folder not in self._listings:
            found: dict[str, list[str]] = {}
            for file in self._walk(folder):
                name = PurePosixPath(file)
                below = name.relative_to(folder)
                if name.suffix.lower() in EXTENSIONS and not any(part.startswith(".") for part in below.parts):
                    found.setdefault(str(below.with_suffix("")), []).append(file)
            self._listings[folder] = {key: tuple(sorted(files)) for key, files in found.items()}
        return self._listings[folder]

    def find(self, folder: str, key: str, part: Affixes = PLAIN) -> str:
        """The one file of a key.

        Args:
            folder: Where it is, or below.
            key: Of the sample.
            part: The prefix and suffix of the files' names.

        Raises:
            DataError: When there is none, or more than one.
        """
        key, wanted = name_of(key, part), key
        files = self.keys(folder).get(key, ())
        if len(files) > 1:
            names = " and ".join(PurePosixPath(file).name for file in files)
            raise DataError(f"{self.where(folder)}: two files for the key {key!r}: {names}. Keep one of them.")
        if not files:
            hint = advice(wanted, part, self.keys(folder))
            if PurePosixPath(key).suffix.lower() in EXTENSIONS:
                hint = "Split files list keys without the file name's ending."
            raise DataError(
                f"{self.where(folder)}: no file for the key {key!r} "
                f"(looked for {key} with the endings {', '.join(EXTENSIONS)}). {hint}"
            )
        return files[0]

    def _open(self) -> zipfile.ZipFile:
        if self._archive is None or self._process != os.getpid():
            self._archive, self._process = zipfile.ZipFile(self.path), os.getpid()
        return self._archive

    def _walk(self, folder: str) -> Iterable[str]:
        if self.is_archive:
            prefix = "" if folder == "." else f"{PurePosixPath(folder)}/"
            yield from (name for name in self._names if name.startswith(prefix) and not name.endswith("/"))
            return
        for parent, _, names in os.walk(self.path / folder, followlinks=True):
            relative = Path(parent).relative_to(self.path)
            yield from ((relative / name).as_posix() for name in names)


def _embedded_rooms() -> Path:
    path = Path(str(resources.files("polymodal.data") / "rooms.zip"))
    if not path.is_file():
        raise DataError(
            "rooms: this installation lacks the embedded data set (polymodal/data/rooms.zip). "
            "Install polymodal again, or give the folder of another data set."
        )
    return path
