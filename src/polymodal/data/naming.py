"""What the files of a sample are called: its key, with what a modality puts before and behind the key's last part."""

import re
from bisect import bisect
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from unicodedata import is_normalized, normalize

from polymodal.data.content import FileSpec
from polymodal.names import on_any_disk

SHOWN = 4
"""How many names of files a message lists."""


PLAIN = FileSpec("image")
"""Files that are called like their keys."""


def name_of(key: str, part: FileSpec) -> str:
    """The name of a key's file without its ending: `town/0001` with the prefix `rgb_` is `town/rgb_0001`."""
    folder, slash, last = key.rpartition("/")
    return f"{folder}{slash}{part.prefix}{last}{part.suffix}"


def key_of(name: str, part: FileSpec) -> str | None:
    """The inverse of `name_of`: the key whose file is called so, or None where the name lacks the prefix or suffix."""
    pattern = rf"((?:.*/)?){re.escape(part.prefix)}([^/]+){re.escape(part.suffix)}"
    found = re.fullmatch(pattern, name, re.DOTALL)
    return found and found[1] + found[2]


def advice(key: str, part: FileSpec, files: Mapping[str, Sequence[str]]) -> str:
    """What is there where a key has no file, and what would match; sentences for the end of a message.

    Args:
        key: Of the missing file.
        part: How the files should be called.
        files: Those of the folder, by their names without ending.
    """
    if not files:
        return "There is no file in this folder that can be read as an image or an array."
    wanted, names = name_of(key, part), sorted(files)
    if twin := next((name for name in names if on_any_disk(name) == on_any_disk(wanted)), None):
        alike = normalize("NFC", twin) == normalize("NFC", wanted)
        how = (
            f"only looks the same: its accents are written in the form {_form(twin)} of Unicode, those of the key in "
            f"{_form(wanted)}"
            if alike
            else "differs in large and small letters"
        )
        return f"The folder has {twin}, which {how}. Rename the file, or write the key as the file is called."
    # Where other files are called as declared, the declaration is right, and this one's name alone may be wrong.
    right = bool(part.prefix + part.suffix) and any(key_of(name, part) is not None for name in files)
    match = ("" if right else _other_name(key, part, files)) or _other_key(key, part, files)
    # Where the missing one would stand, its neighbours say best how the others are called.
    start = max(0, min(bisect(names, wanted) - SHOWN // 2, len(names) - SHOWN))
    shown = [name + PurePosixPath(files[name][0]).suffix for name in names[start : start + SHOWN]]
    count = f"{len(files)} files, among them " if len(files) > SHOWN else ""
    return f"The folder has {count}{', '.join(shown)}.{match}"


def _form(name: str) -> str:
    return next((form for form in ("NFC", "NFD") if is_normalized(form, name)), "of neither NFC nor NFD")


def _other_name(key: str, part: FileSpec, files: Mapping[str, Sequence[str]]) -> str:
    """The prefix and suffix by which a file of the folder would be that of the key."""
    folder, slash, last = key.rpartition("/")
    pattern = rf"{re.escape(folder + slash)}([^/]*?){re.escape(last)}([^/]*)"
    for name in files:
        found = re.fullmatch(pattern, name, re.DOTALL)
        if found and not _joined(found[1][-1:], last[:1]) and not _joined(last[-1:], found[2][:1]):
            return f" {name} would match with {_declared(found[1], found[2], part)}."
    return ""


def _other_key(key: str, part: FileSpec, files: Mapping[str, Sequence[str]]) -> str:
    """The key that a file of the folder would match: in another folder, or with less before or behind it."""
    last = key.rpartition("/")[2]
    for name in files:
        other = key_of(name, part)
        if other is not None and other.rpartition("/")[2] == last:
            return f" The key {other!r} would match {name}."
    tail = re.search(r"[^_\-. ]+$", last)
    head = re.match(r"[^_\-. ]+", last)
    for core in (tail, head):
        if core and core[0] != last:
            shorter = key.removesuffix(last) + core[0]
            if name_of(shorter, part) in files:
                return f" The key {shorter!r} would match {name_of(shorter, part)}."
            if match := _other_name(shorter, part, files):
                return f" With the key {shorter!r},{match}"
    return ""


def _joined(one: str, other: str) -> bool:
    """Whether two neighbouring characters belong to one number or one word, so that no name ends between them."""
    return (one.isdigit() and other.isdigit()) or (one.isalpha() and other.isalpha())


def _declared(prefix: str, suffix: str, part: FileSpec) -> str:
    wanted = [f"`{what}: {text}`" for what, text in (("prefix", prefix), ("suffix", suffix)) if text]
    return " and ".join(wanted) or f"neither prefix nor suffix ({part.prefix}KEY{part.suffix} is declared)"
