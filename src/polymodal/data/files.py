"""Files: a folder or a zip archive of them as one `Store`."""

import os
import stat
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from importlib import resources
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

from polymodal.data.content import FileSpec
from polymodal.data.naming import PLAIN, advice, name_of
from polymodal.documents import MAX_FILE, read_bytes, require_regular, too_long
from polymodal.errors import DataError
from polymodal.names import on_any_disk, path_below

MAX_LINKS = 4
"""Links to folders within each other."""

_UNREADABLE = (OSError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError, OverflowError, struct.error)
"""What a damaged archive ends in; RuntimeError of an encrypted member."""

EXTENSIONS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".npy")
"""Every file name ending that is read, in any mixture of upper and lower case."""

UNREAD = (
    ".avif", ".bmp", ".exr", ".gif", ".h5", ".hdr", ".heic", ".j2k", ".jp2", ".jxl", ".mat", ".npz", ".pfm", ".pgm",
    ".ppm", ".webp",
)  # fmt: skip
"""How files end that hold a picture or an array in a format that is not read; others beside pictures are no samples."""

MASK = ".msk"
"""What GDAL adds to a file's name for a mask of its own beside it."""


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
        self.is_archive = not self.path.is_dir()
        if not self.path.exists():
            raise DataError(
                f"{self.path}: there is no such data set. Give a folder that holds a dataset.yaml, "
                "a .zip archive of one, or the word rooms for the embedded set."
            )
        self._archive: zipfile.ZipFile | None = None
        self._process = -1
        self._names = self._members() if self.is_archive else frozenset()
        self._listings: dict[str, dict[str, tuple[str, ...]]] = {}
        self._masks: set[str] = set()
        self._twins: dict[str, frozenset[str]] = {}
        self._checksums: dict[tuple[str, tuple[int, ...]], int] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_archive": None, "_process": -1}

    def where(self, file: str) -> str:
        """The name of a file as messages show it."""
        return str(self.path) if file == "." else f"{self.path}/{file}"

    def exists(self, file: str) -> bool:
        """Whether there is such a file, named from the root with forward slashes; `read` refuses what is no file."""
        return file in self._names if self.is_archive else (self.path / file).exists()

    def read(self, file: str, most: int = MAX_FILE) -> bytes:
        """The content of a file.

        Args:
            file: Named from the root with forward slashes.
            most: Bytes that are read.

        Raises:
            DataError: When it does not exist, cannot be read, is no regular file or has more bytes.
        """
        try:
            return self._member(file, most) if self.is_archive else read_bytes(self.path / file, most)
        except (KeyError, FileNotFoundError) as error:
            raise DataError(f"{self.where(file)}: there is no such file.") from error
        except _UNREADABLE as error:
            raise DataError(f"{self.where(file)}: cannot be read ({error}).") from error

    def checksum(self, file: str) -> int:
        """The CRC-32 of a file's content, which an archive knows without reading it, and a folder once it was read.

        Raises:
            DataError: When it does not exist or cannot be read.
        """
        if self.is_archive and file in self._names:
            return self._open().getinfo(file).CRC
        state = file, self.stamp(file)
        if state not in self._checksums:
            self._checksums[state] = zlib.crc32(self.read(file))
        return self._checksums[state]

    def size(self, file: str) -> int:
        """The bytes of a file, unpacked.

        Raises:
            DataError: When it does not exist.
        """
        if self.is_archive and file in self._names:
            return self._open().getinfo(file).file_size
        return self.stamp(file)[0]

    def stamp(self, file: str) -> tuple[int, ...]:
        """The bytes of a folder's file and two times, by which an unchanged one is known unread.

        Programs that unpack or copy set the time of writing as they like; the other time is the system's.

        Raises:
            DataError: When it does not exist.
        """
        try:
            found = (self.path / file).stat()
        except OSError as error:
            raise DataError(f"{self.where(file)}: cannot be read ({error.strerror}).") from error
        return found.st_size, found.st_mtime_ns, found.st_ctime_ns

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
                elif name.suffix == MASK:
                    self._masks.add(file)
            self._listings[folder] = {key: tuple(sorted(files)) for key, files in found.items()}
        return self._listings[folder]

    def left_out(self, folder: str) -> str:
        """How many pictures of a folder and those below it are in formats that are not read, in words; or nothing."""
        names = (PurePosixPath(file) for file in self._walk(folder))
        found = sorted(name.name for name in names if name.suffix.lower() in UNREAD and not name.name.startswith("."))
        return f"{len(found)} file(s) such as {found[0]} are left out, as no {', '.join(EXTENSIONS)}" if found else ""

    def find(self, folder: str, key: str, part: FileSpec = PLAIN) -> str:
        """The one file of a key.

        Args:
            folder: Where it is, or below.
            key: Of the sample.
            part: The prefix and suffix of the files' names.

        Raises:
            DataError: When there is none, or more than one, or it has a mask beside it.
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
        if files[0] + MASK in self._masks:
            raise masked(self.where(files[0]))
        return files[0]

    def has(self, folder: str, key: str, part: FileSpec = PLAIN) -> bool:
        """Whether there is a file of a key, one or more, or one whose name is spelled otherwise, as `find` says."""
        name = name_of(key, part)
        if folder not in self._twins:
            self._twins[folder] = frozenset(map(on_any_disk, self.keys(folder)))
        return name in self.keys(folder) or on_any_disk(name) in self._twins[folder]

    def _members(self) -> frozenset[str]:
        """The names of an archive's members.

        Raises:
            DataError: It is none, or they say different things to different programs.
        """
        require_regular(self.path)
        try:
            names = self._open().namelist()
        except _UNREADABLE as error:
            raise DataError(
                f"{self.path}: expected a folder or a .zip archive, got another or a damaged file ({error})."
            ) from error
        for name in names:
            try:
                path_below(name)
            except ValueError as error:
                raise DataError(f"{self.path}: a member is called {name[:80]!r}, expected {error}.") from error
        if len(set(names)) < len(names):
            twice = next(name for name, count in Counter(names).items() if count > 1)
            raise DataError(f"{self.path}: two members are called {twice!r}. Pack the archive anew.")
        return frozenset(names)

    def _member(self, file: str, most: int) -> bytes:
        """The content of an archive's member; what it says of its length is not believed."""
        archive = self._open()
        member = archive.getinfo(file)
        if stat.S_ISLNK(member.external_attr >> 16):
            raise DataError(f"{self.where(file)}: is a link, which means nothing in an archive. Pack the file itself.")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            # Of the others, Python's readers unpack all at once, however much it is.
            raise DataError(f"{self.where(file)}: expected a stored or deflated member. Pack the archive anew.")
        if member.file_size > most:
            raise DataError(f"{self.where(file)}: {too_long(member.file_size, most)}")
        with archive.open(member) as stream:
            return stream.read(member.file_size + 1)

    def _open(self) -> zipfile.ZipFile:
        if self._archive is None or self._process != os.getpid():
            self._archive, self._process = zipfile.ZipFile(self.path), os.getpid()
        return self._archive

    def _walk(self, folder: str) -> Iterable[str]:
        if self.is_archive:
            prefix = "" if folder == "." else f"{PurePosixPath(folder)}/"
            yield from (name for name in self._names if name.startswith(prefix) and not name.endswith("/"))
            return
        yield from _files(self.path, self.path / folder, ())


def masked(file: str) -> DataError:
    """The refusal of a file that has a mask beside it: pixels that it hides would count as any others."""
    return DataError(
        f"{file}{MASK}: this mask of {PurePosixPath(file).name}, as GDAL writes them, is not read. Give pixels that "
        "it hides a no-data value, as gdalwarp -dstnodata does, and remove it."
    )


def _files(root: Path, folder: Path, above: tuple[Path, ...]) -> Iterator[str]:
    """The files of a folder and those below it, from `root` on.

    Links are followed, as data often lie on another disk than their description; one that leads back to a folder that
    it lies in holds nothing new.

    Args:
        root: What the names begin below.
        folder: The folder.
        above: What it lies in, without links.

    Raises:
        DataError: Links lie in each other, so that every further one would double the names.
    """
    real = folder.resolve()
    if real in above or not folder.is_dir():
        return
    if sum(path not in inner.parents for path, inner in pairwise((*above, real))) > MAX_LINKS:
        raise DataError(f"{folder}: lies behind more than {MAX_LINKS} links within each other. Remove some of them.")
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        path = folder / entry.name
        if entry.is_dir():
            yield from _files(root, path, (*above, real))
        else:
            yield path.relative_to(root).as_posix()


def _embedded_rooms() -> Path:
    path = Path(str(resources.files("polymodal.data") / "rooms.zip"))
    if not path.is_file():
        raise DataError(
            "rooms: this installation lacks the embedded data set (polymodal/data/rooms.zip). "
            "Install polymodal again, or give the folder of another data set."
        )
    return path
