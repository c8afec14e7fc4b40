"""Names that come from a file or from a user's data, held to rules before anything is read or written under them.

Names are refused, never changed: a name that was mended could be that of another file.
"""

import os
import re
from collections.abc import Iterable, MutableMapping
from pathlib import Path
from unicodedata import normalize

from polymodal.errors import ConfigError, DataError

LONGEST = 200
"""Letters of a name; most file systems take 255 bytes, endings and what is put around the name among them."""

ENSEMBLE = "ensemble"
"""What the prediction of all modalities together is called beside theirs, so that no modality may be called it."""

_UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_AT_HOME = re.compile(r"\w[\w.+-]*")


def one_part(name: object) -> str:
    """A name that becomes a part of files' names, such as that of a modality, a split or a prediction.

    Raises:
        ValueError: What is expected.
    """
    if not isinstance(name, str) or len(name) > LONGEST or not _AT_HOME.fullmatch(name):
        raise ValueError(f"a name of up to {LONGEST} letters, digits, points, - _ and +, a letter or a digit first")
    return name


def affix(text: object) -> str:
    """What stands before or behind a key in the name of a file.

    Raises:
        ValueError: What is expected.
    """
    if not isinstance(text, str) or not 0 < len(text) <= LONGEST or re.search(r"[/\\]", text) or _UNSEEN.search(text):
        raise ValueError(f"a text of up to {LONGEST} letters without a slash: folders belong to `folder`")
    return text


def path_below(text: object) -> str:
    """A path from a root on that cannot leave it by its own words: not absolute, no `..`, nothing that is not seen.

    Raises:
        ValueError: What is expected.
    """
    if not isinstance(text, str) or not text or _UNSEEN.search(text):
        raise ValueError("a path of letters that can be seen")
    parts = re.split(r"[/\\]", text)
    if not parts[0] or os.path.splitdrive(text)[0] or ".." in parts:
        raise ValueError("a path from the root of the data set on, without / before it and without ..")
    if max(map(len, parts)) > LONGEST:
        raise ValueError(f"a path whose parts have up to {LONGEST} letters")
    return text


def inside(root: Path, name: str) -> Path:
    """The file of a name below a folder that is written to, wherever links within the folder lead.

    Raises:
        ValueError: The name is no such path.
        DataError: A link leads out of the folder.
    """
    path = root / path_below(name)
    if not path.parent.resolve().is_relative_to(root.resolve()):
        raise DataError(f"{path}: would be written to {path.parent.resolve()}, where a link leads. Remove the link.")
    return path


def on_any_disk(name: str) -> str:
    """What a name is to file systems that do not tell large letters from small ones, or ways to write an accent."""
    return normalize("NFC", normalize("NFC", name).casefold())


def twins(names: Iterable[str]) -> tuple[str, str] | None:
    """Two names that are one to some file system, if there are any."""
    seen: dict[str, str] = {}
    for name in names:
        known = on_any_disk(name)
        if known in seen:
            return seen[known], name
        seen[known] = name
    return None


def register(known: MutableMapping[str, type], cls: type) -> None:
    """Make a class known by its own `name`.

    One of a user's that is defined again takes its former place: in a notebook, or in a script that is imported, too.

    Raises:
        ConfigError: The class has no `name` of its own, or another class has that name.
    """
    path = f"{cls.__module__}.{cls.__qualname__}"
    name = vars(cls).get("name")
    if not isinstance(name, str):
        raise ConfigError(f'{path}: has no name of its own; give the class one, such as name = "mine".')
    taken = known.get(name)
    package = __name__.partition(".")[0]
    if taken is not None and (taken.__module__.partition(".")[0] == package or taken.__qualname__ != cls.__qualname__):
        there = f"{taken.__module__}.{taken.__qualname__}"
        raise ConfigError(f"{path}: the name {name!r} is that of {there}; give the class another one.")
    known[name] = cls
