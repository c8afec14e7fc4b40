"""Documents as plain values, whoever wrote them: regular files alone, JSON, and the bounds of every document.

A few bytes can stand for more than the memory holds, or for what two readers understand in two ways. `yaml_documents`
is the reader of YAML.
"""

import json
import stat
from collections import Counter
from pathlib import Path
from typing import Any

from polymodal.errors import DataError, PolymodalError

MAX_FILE = 3 * 2**27
"""Bytes of an image or an array, packed and unpacked: the most pixels of one (`MAX_PIXELS`) in three colours."""

MAX_LIST = 2**25
"""Bytes of a file that lists keys: a million of 32 letters."""

MAX_JSON = 2**23

MAX_VALUES = 200_000
"""Keys, items and values of a document."""

MAX_DEPTH = 40
"""Lists and mappings within each other."""

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class DocumentError(ValueError):
    """What is wrong with a document, and in which line if that is known; whoever reads it knows the file.

    Args:
        problem: One line, without a full stop.
        line: Counted from 1.
    """

    def __init__(self, problem: str, line: int | None = None) -> None:
        super().__init__(problem if line is None else f"line {line}: {problem}")
        self.problem, self.line = problem, line

    def at(self, file: str) -> str:
        """The message, with the file."""
        return f"{file}{'' if self.line is None else f', line {self.line}'}: {self.problem}"


def require_regular(path: Path, error: type[PolymodalError] = DataError) -> None:
    """Refuse what is there and no file: to open it could hang, or never end.

    Raises:
        PolymodalError: It is a folder, a pipe, a device or a socket; of the class `error`.
        OSError: It is not there, or not for us to see.
    """
    mode = path.stat().st_mode
    for is_kind, kind in _KINDS:
        if is_kind(mode):
            raise error(f"{path}: expected a file, got {kind}. Put the file itself there.")


def read_bytes(path: Path, most: int, error: type[PolymodalError] = DataError) -> bytes:
    """The content of a regular file.

    Args:
        path: The file.
        most: Bytes that are read.
        error: What to raise.

    Raises:
        PolymodalError: It is no file, or longer; of the class `error`.
        OSError: It cannot be read.
    """
    require_regular(path, error)
    if (size := path.stat().st_size) > most:
        raise error(f"{path}: {too_long(size, most)}")
    return path.read_bytes()


def too_long(size: int, most: int) -> str:
    """That a file is too long to be read, without its name."""
    return f"has {size} bytes, and up to {most} of such a file are read. Split it up, or look whether it is damaged."


def parse_json(content: str | bytes) -> Any:
    """The values of a JSON document.

    Raises:
        DocumentError: It is not valid, has a key twice, or is beyond the bounds.
    """
    if len(content) > MAX_JSON:
        raise DocumentError(f"it has {len(content)} bytes, and up to {MAX_JSON} are read")
    try:
        text = content if isinstance(content, str) else content.decode("utf-8-sig")
        values = json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        raise DocumentError(error.msg[:1].lower() + error.msg[1:], error.lineno) from error
    except RecursionError as error:
        raise DocumentError(f"lists or mappings are nested more than {MAX_DEPTH} deep") from error
    except DocumentError:
        raise
    except ValueError as error:  # other bytes than UTF-8, and numbers of thousands of digits
        raise DocumentError(str(error).partition(":")[0]) from error
    check_bounds(values)
    return values


def read_json(path: Path, error: type[PolymodalError] = DataError) -> Any:
    """The values of a JSON file.

    Raises:
        DocumentError: See `parse_json`.
        PolymodalError: It is no file, or longer than `MAX_JSON`; of the class `error`.
        OSError: It cannot be read.
    """
    return parse_json(read_bytes(path, MAX_JSON, error))


def check_bounds(values: Any, most: int = MAX_VALUES) -> None:
    """Refuse values that no other program could print, compare or write again.

    Raises:
        DocumentError: There are too many, nested too deeply, whole numbers beyond 64 bits, or text beyond Unicode.
    """
    count, level = 0, [values]
    for _ in range(MAX_DEPTH + 1):
        below: list[Any] = []
        for value in level:
            count += 1
            if count > most:
                raise DocumentError(f"it holds more than {most} values")
            if isinstance(value, int) and not -(2**63) <= value < 2**64:
                raise DocumentError("a whole number of more than 64 bits")
            if isinstance(value, str) and not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
                raise DocumentError("a text with half of a character")
            if isinstance(value, dict):
                below += [*value, *value.values()]
            elif isinstance(value, list | tuple | set):
                below += value
        if not below:
            return
        level = below
    raise DocumentError(f"lists or mappings are nested more than {MAX_DEPTH} deep")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The last of two equal keys would silently replace the first."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise DocumentError(f"{twice[:60]!r} is there twice; give each its own name")
    return found
