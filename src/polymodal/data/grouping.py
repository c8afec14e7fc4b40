"""Which files of a folder belong together: those of one modality, and those of one sample."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from polymodal.data.files import EXTENSIONS, Store
from polymodal.errors import DataError

SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
"""Names of folders that are splits, and how these are called here."""

MODALITIES = 20
"""More different words at the names of one folder's files are no modalities."""

_SUFFIX = re.compile(r"(?P<key>.+)(?P<word>[_.-][A-Za-z][A-Za-z0-9]*)")
_SUFFIXES = re.compile(r"(?P<key>.+?)(?P<word>([_.-][A-Za-z][A-Za-z0-9]*)+)")
_PREFIX = re.compile(r"(?P<word>[A-Za-z][A-Za-z0-9]*[_.-])(?P<key>.+)")


@dataclass
class Group:
    """Files that could be one modality: those of a folder that share a prefix and a suffix.

    Attributes:
        folder: From the root of the data set.
        prefix: What stands before the key in their names.
        suffix: What stands behind it.
        files: By key.
    """

    folder: str
    prefix: str
    suffix: str
    files: dict[str, Path] = field(default_factory=dict)

    def name(self) -> str:
        """What the modality would be called."""
        said = self.suffix or self.prefix or PurePosixPath(self.folder).name
        return re.sub(r"\W+", "_", said).strip("_") or "image"


def _folders(root: Path) -> dict[str, list[Path]]:
    """The files by the first folder of their paths."""
    folders: dict[str, list[Path]] = defaultdict(list)
    for files in Store(root).keys(".").values():
        for file in map(PurePosixPath, files):
            if not any(part.startswith(".") for part in file.parts):
                folders[file.parts[0] if len(file.parts) > 1 else "."].append(root / file)
    if not folders:
        raise DataError(f"{root}: no file ends in {', '.join(EXTENSIONS)}.")
    inner = {file.relative_to(root / folder).parts[0] for folder, found in folders.items() for file in found}
    if folders.keys() <= SPLIT_WORDS.keys() and len(inner) > 1 and not inner & SPLIT_WORDS.keys():
        name = next(iter(folders))
        raise DataError(
            f"{root}: its folders are splits with a folder of each modality inside ({name}/{sorted(inner)[0]}), and a "
            f"modality has one folder: move them to {sorted(inner)[0]}/{name} and so on, and run this again."
        )
    return folders


def _readings(root: Path, folder: str, files: Sequence[Path]) -> list[list[Group]]:
    """The ways to read the names of one folder, the plainest first: as keys, or as keys with words around them."""
    names = {file: PurePosixPath(file.relative_to(root / folder).with_suffix("")) for file in files}
    readings = [[Group(folder, "", "", {name.as_posix(): file for file, name in names.items()})]]
    for pattern in (_SUFFIX, _SUFFIXES, _PREFIX):
        found = {file: pattern.fullmatch(name.name) for file, name in names.items()}
        read = {f: (match["word"], names[f].with_name(match["key"])) for f, match in found.items() if match}
        keys = {key for _, key in read.values()}
        # A name without a word may be a key itself, as a.png beside a_depth.png.
        read |= {file: ("", name) for file, name in names.items() if file not in read and name in keys}
        words = {word for word, _ in read.values()}
        # Words that each stand at many names are decoration; as many as there are names, they are keys.
        if len(read) < len(files) or not len(words) <= min(MODALITIES, max(1, len(files) // 2)):
            continue
        groups = {word: Group(folder, *((word, "") if pattern is _PREFIX else ("", word))) for word in sorted(words)}
        for file, (word, key) in read.items():
            groups[word].files[key.as_posix()] = file
        readings.append(list(groups.values()))
    return readings


def aligned_groups(root: Path) -> tuple[list[Group], list[str], list[str]]:
    """The groups of files whose keys meet, their common keys, and in words what was left out.

    Raises:
        DataError: There are no images, or none that belong together.
    """
    readings = [_readings(root, folder, files) for folder, files in sorted(_folders(root).items())]
    # By how many folders, and groups within one, a key could be shared; each folder is read so that its keys meet most.
    shared = Counter(key for ways in readings for key in {key for way in ways for group in way for key in group.files})
    groups = [group for ways in readings for group in max(ways, key=lambda way: _met(way, shared))]
    count = Counter(key for group in groups for key in group.files)
    most = max(count.values())
    kept = [group for group in groups if any(count[key] == most for key in group.files)]
    keys = sorted(set(kept[0].files).intersection(*(group.files for group in kept[1:])))
    if most < 2 or not keys:
        shown = "; ".join(f"{group.folder}: {_range(group.files)}" for group in groups)
        raise DataError(
            f"{root}: no two folders, suffixes or prefixes hold files of the same names ({shown}). The files of one "
            "sample have one key, such as rgb/0001.jpg and depth/0001.png."
        )
    said = [f"{g.folder}: left out, its names match no others ({_range(g.files)})" for g in groups if g not in kept]
    lacking = len(set().union(*(group.files for group in kept))) - len(keys)
    if lacking:
        said.append(f"{lacking} key(s) that not all modalities have are in no split")
    return kept, keys, said


def _met(way: Sequence[Group], shared: Mapping[str, int]) -> float:
    """In how many folders and groups, in the mean, the keys of a reading stand."""
    keys = Counter(key for group in way for key in group.files)
    return sum(shared[key] + times for key, times in keys.items()) / len(keys)


def _range(files: Iterable[str]) -> str:
    names = sorted(files)
    return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
