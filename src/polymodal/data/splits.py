"""The splits of a data set as files: a key a line."""

from collections.abc import Iterable

from polymodal.data.files import Store
from polymodal.data.section import Section, decoded
from polymodal.documents import MAX_LIST
from polymodal.errors import DataError
from polymodal.names import path_below


def read_splits(section: Section, store: Store) -> dict[str, tuple[str, ...]]:
    """The keys of each split that a section of `dataset.yaml` names a file of.

    Raises:
        DataError: There is none, or a file is missing, empty or no list of keys.
    """
    splits = {}
    for name in section.file_names():
        file = section.get(name, path_below)
        where = store.where(file)
        if not store.exists(file):
            raise DataError(f"{section.at(name)}: there is no file {where}. It lists one key a line.")
        keys = []
        for number, line in enumerate(decoded(store.read(file, MAX_LIST), where).split("\n"), 1):
            if key := line.strip():
                try:
                    keys.append(path_below(key))
                except ValueError as error:
                    raise DataError(f"{where}, line {number}: expected {error}, got {key[:80]!r}.") from None
        if not keys:
            raise DataError(
                f"{where}: the split {name!r} is empty. List one key a line, or remove it from {section.file}."
            )
        splits[name] = tuple(keys)
    if not splits:
        raise DataError(f"{section.file}: splits: expected at least one split, got none.")
    return splits


def split_file(keys: Iterable[str]) -> bytes:
    """The file of a split that lists these keys."""
    return "".join(f"{key}\n" for key in keys).encode()
