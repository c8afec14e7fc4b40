"""Keys and values from a file, each checked as it is taken, with messages that say where it stands."""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from polymodal.documents import DocumentError
from polymodal.errors import DataError
from polymodal.names import one_part, twins
from polymodal.near import meant
from polymodal.yaml_documents import parse_yaml

T = TypeVar("T")

QUOTED = "'{}'"
"""How messages on files write a name that may be meant, see `polymodal.near.meant`."""


class Section:
    """One mapping of a file, with the path to it for messages.

    Args:
        file: The file, as messages name it.
        path: The keys that lead to the mapping, with dots between them; empty for the whole file.
        values: The mapping.

    Raises:
        DataError: It is no mapping.
    """

    def __init__(self, file: str, path: str, values: Any) -> None:
        if not isinstance(values, dict):
            raise DataError(f"{file}: {path or 'the file'}: expected keys and values, got {_shown(values)}.")
        self.file, self.path, self.values = file, path, values

    def at(self, key: str) -> str:
        """Where a key stands, for messages."""
        return f"{self.file}: {self.path}.{key}" if self.path else f"{self.file}: {key}"

    def file_names(self) -> list[str]:
        """The keys, where they are names that the file's author chose, and that become parts of files' names.

        Raises:
            DataError: One is no text or can be no such part, or two would be one on some disk.
        """
        for name in self.values:
            if not isinstance(name, str):
                raise DataError(f"{self.file}: {self.path}: expected names, got {_shown(name)}. Put it in quotes.")
            try:
                one_part(name)
            except ValueError as error:
                raise DataError(f"{self.file}: {self.path}: expected {error}, got {_shown(name)}.") from None
        if alike := twins(self.values):
            raise DataError(
                f"{self.file}: {self.path}: {alike[0]!r} and {alike[1]!r} would be one name on some disks. Rename one."
            )
        return list(self.values)

    def only(self, allowed: Iterable[str], context: str = "") -> None:
        """Refuse keys that nothing reads, as they are typing errors.

        Raises:
            DataError: With the nearest of the allowed ones, and for which case they are if `context` says so.
        """
        for key in self.values:
            if key not in allowed:
                place = f"{self.file}: {self.path}" if self.path else self.file
                raise DataError(
                    f"{place}: unknown key {key!r}{context}{meant(str(key), allowed, QUOTED)} "
                    f"Known keys are {', '.join(sorted(allowed))}."
                )

    def section(self, key: str) -> "Section":
        """The mapping under a key.

        Raises:
            DataError: There is none.
        """
        self._require(key)
        return Section(self.file, f"{self.path}.{key}".lstrip("."), self.values[key])

    def get(self, key: str, convert: Callable[[Any], T], *default: T) -> T:
        """The value of a key as `convert` returns it, or the default where the key is missing.

        Raises:
            DataError: The key is missing and has no default, or `convert` raised a ValueError: what it expects.
        """
        if key not in self.values and default:
            return default[0]
        self._require(key)
        try:
            return convert(self.values[key])
        except ValueError as error:
            raise DataError(f"{self.at(key)}: expected {error}, got {_shown(self.values[key])}.") from None

    def _require(self, key: str) -> None:
        if key not in self.values:
            raise DataError(f"{self.at(key)}: missing. Add the key {key!r}.")


def parse(data: bytes, file: str) -> Any:
    """The content of a YAML file.

    Raises:
        DataError: It is not valid, or a mapping has a key twice; with the line.
    """
    try:
        return parse_yaml(decoded(data, file))
    except DocumentError as error:
        raise DataError(f"{error.at(file)}.") from error


def decoded(data: bytes, file: str) -> str:
    """The text of a file.

    Raises:
        DataError: It is not in UTF-8.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: expected text in UTF-8 ({error}). Save it in that encoding.") from error


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"
