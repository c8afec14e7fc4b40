"""A first `dataset.yaml` for a folder of files: proposed from what is found in it, with every guess said.

Nothing here is sure; `data check` and a person's eye come after it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from polymodal.data.content import Content, FileSpec
from polymodal.data.grouping import SPLIT_WORDS, Group, aligned_groups
from polymodal.data.inputs import InputSpec
from polymodal.data.propose_labels import describe_labels
from polymodal.data.reading import read_array, read_content
from polymodal.data.spec import FILE, description
from polymodal.data.splits import split_file
from polymodal.data.undeclared import undeclared
from polymodal.errors import DataError
from polymodal.files import tidy, write_file
from polymodal.names import path_below

LOOKED_AT = 20
"""So many files of each modality are read to see what they hold; of labels there are more."""

FEW = 40
"""Whole numbers of which there are no more are taken for labels."""

VALIDATION = 0.2
"""The share of the samples that become the split val where nothing says which ones are."""

_WORDS = {
    "label": "label labels labelids trainids labeltrainids mask masks gt gtfine gtcoarse groundtruth seg semantic "
    "segmentation classes annotation annotations instances instanceids",
    "depth": "depth depths range distance",
    "normal": "normal normals",
    "image": "rgb bgr color colors colour image images img leftimg photo photos grey gray visible vis albedo",
    "raw": "thermal ir nir lwir swir infrared disparity disp sar hha bands multispectral hyperspectral intensity",
}
"""What a folder, a prefix or a suffix says of a kind; the first kind of which it has a word is the guess."""

_NO_CLASSES = {"color", "colors", "colour", "colours", "instance", "instances", "instanceids", "panoptic"}
"""Words of labels beside which there may be others that name the classes."""


@dataclass
class Proposal:
    """A data set as it could be described.

    Attributes:
        content: Of `dataset.yaml`.
        splits: The keys of each split.
        guesses: What was guessed, a sentence each.
    """

    content: dict[str, Any]
    splits: dict[str, list[str]]
    guesses: list[str]

    def write(self, root: Path) -> None:
        """Write the split files, then `dataset.yaml`."""
        for name, keys in self.splits.items():
            write_file(_split(root, name), split_file(keys))
        write_file(root / FILE, description(self.content))


def propose(root: Path) -> Proposal:
    """Guess what a folder's files are.

    Args:
        root: The folder. Nothing in it is changed.

    Raises:
        DataError: It is no folder, is described already, or holds nothing that looks like a data set.
    """
    if not root.is_dir():
        raise DataError(f"{root}: expected a folder of files, got {'a file' if root.exists() else 'nothing'}.")
    if (root / FILE).exists():
        tidy(root / FILE)
        raise _present(root / FILE)
    groups, keys, guesses = aligned_groups(root)
    for name in (*keys, *(group.folder for group in groups)):
        try:
            path_below(name)
        except ValueError as error:
            raise DataError(f"{root}: files or folders are called {name!r}; expected {error}. Rename them.") from error
    labelled = _labels(groups, keys)
    truths = [group for group in groups if _kind(group) == "label" and group is not labelled]
    groups = [group for group in groups if group not in truths]
    names = _names(groups)
    modalities: dict[str, Any] = {}
    target: Any = None
    sizes: dict[str, tuple[int, ...]] = {}
    for name, group in zip(names, groups, strict=True):
        files = [group.files[key] for key in keys]
        entry, said = describe_labels(group.folder, files) if group is labelled else _image(group, files)
        guesses.append(f"{name}: {said}")
        sizes[name] = read_array(files[0], labels=True).shape[1:]
        place = {key: value for key in ("folder", "prefix", "suffix") if (value := getattr(group, key))}
        if group is labelled:
            target = place | entry
        else:
            modalities[name] = place | entry
    if not modalities:
        raise DataError(f"{root}: only labels were found, and no image to predict them from.")
    if target is None:
        if len(modalities) == 1:
            raise DataError(f"{root}: one modality alone was found, {names[0]}, and nothing to be predicted.")
        target = names[-1]
        guesses.append(f"target: no folder looks like labels, so {target} is what is predicted")
    guesses += [f"{truth.name()}: left out: labels, too, and what shows the truth is no input" for truth in truths]
    reference = names[groups.index(labelled)] if labelled else target
    for name, entry in modalities.items():
        if sizes[name] != sizes[reference]:
            entry["resize"] = True
            guesses.append(f"{name}: of another resolution than {reference}, to whose size it is brought")
    splits, said = _splits(keys)
    for name in sorted(set(SPLIT_WORDS.values())):
        file = _split(root, name)
        # The same ones are left by a call that was killed before it wrote the description.
        if file.exists() and (name not in splits or file.read_bytes() != split_file(splits[name])):
            raise _present(file)
    guesses.append(said)
    content = {
        "name": root.resolve().name,
        "modalities": modalities,
        "target": target,
        "splits": {name: f"splits/{name}.txt" for name in splits},
    }
    return Proposal(content, splits, guesses)


def _present(file: Path) -> DataError:
    return DataError(f"{file}: is there already, and nothing is written over it. Edit it, or move it away.")


def _split(root: Path, name: str) -> Path:
    return root / "splits" / f"{name}.txt"


def _names(groups: Sequence[Group]) -> list[str]:
    names: list[str] = []
    for group in groups:
        name, number = group.name(), 2
        while name in names:
            name, number = f"{group.name()}_{number}", number + 1
        names.append(name)
    return names


def _labels(groups: Sequence[Group], keys: Sequence[str]) -> Group | None:
    """The labels: by name, or else the one group whose files hold few whole numbers."""
    named = [group for group in groups if _kind(group) == "label"]
    if named:
        return min(named, key=lambda group: bool(_words(group) & _NO_CLASSES))
    few = [group for group in groups if not _kind(group) and _few(_some([group.files[key] for key in keys], "label"))]
    return few[0] if len(few) == 1 else None


def _few(contents: Sequence[Content]) -> bool:
    arrays = [content.array for content in contents]
    whole = all(array.shape[0] == 1 and array.dtype.kind in "bui" for array in arrays)
    return whole and len(set().union(*(np.unique(array).tolist() for array in arrays))) <= FEW


def _kind(group: Group) -> str:
    """The kind that a group's place says; empty where it says none."""
    return next((kind for kind, words in _WORDS.items() if _words(group) & set(words.split())), "")


def _words(group: Group) -> set[str]:
    return set(re.findall(r"[a-z]+", f"{group.suffix} {group.prefix} {group.folder}".lower()))


def _some(files: Sequence[Path], kind: str) -> list[Content]:
    return [read_content(file, FileSpec(kind)) for file in files[:: -(-len(files) // LOOKED_AT)]]


def _image(group: Group, files: Sequence[Path]) -> tuple[dict[str, Any], str]:
    """What dataset.yaml would say of an input beside its place, and what was guessed."""
    word = _kind(group)
    contents = _some(files, word or "image")
    arrays = [content.channels(None, group.folder) for content in contents]
    channels, dtype = arrays[0].shape[0], arrays[0].dtype
    kind = "raw"
    if (word, channels) in (("depth", 1), ("normal", 3)):
        kind = word
    elif word in ("image", "") and channels in (1, 3) and dtype.name in ("bool", "uint8", "uint16"):
        kind = "image"
    specs = [InputSpec(kind, channels, invalid=content.nodata) for content in contents]
    doubts = filter(None, map(undeclared, arrays, specs))
    # Whatever else may be measured: what a camera saturates at, and depth that is only relative.
    doubt = next((one for one in doubts if one.sure or (kind == "depth" and float(one.value) >= 0)), None)
    invalid = yaml.safe_load(doubt.value) if doubt else None
    pairs = zip(arrays, specs, strict=True)
    measured = [array[np.isfinite(array) & (array != spec.invalid) & (array != invalid)] for array, spec in pairs]
    ends = [end for values in measured if values.size for end in (float(values.min()), float(values.max()))]
    between = f"{min(ends):g} to {max(ends):g}" if ends else "nothing measured"
    found = f"{dtype}, {channels} channel{'s' if channels > 1 else ''}, {between}"
    entry: dict[str, Any] = {"kind": kind}
    said = {"depth": "depth", "normal": "normals", "image": "an image"}.get(kind, "numbers") + f" ({found})"
    if kind == "depth":
        unit, how = _unit_of_depth(dtype, max(ends, default=0))
        entry |= unit
        said += how
    elif kind == "raw":
        said += "; state `scale`, `unit` and `invalid` where they have any"
    if doubt:
        entry["invalid"] = invalid
        said += f", {doubt.value} where nothing was measured"
    return entry, said


def _unit_of_depth(dtype: np.dtype[Any], high: float) -> tuple[dict[str, Any], str]:
    """By the largest depth: keys of dataset.yaml, and in words what was guessed."""
    whole = dtype.kind != "f"
    if high > (100 if whole else 1000) and dtype.itemsize > 1:
        return {"scale": 0.001, "unit": "m"}, ", in millimetres: state another `scale` if that is wrong"
    if whole or high <= 1:  # a share of some range, or the inverse of a depth
        return {}, ": state its `scale` and `unit`"
    return {"unit": "m"}, ", in metres"


def _splits(keys: Sequence[str]) -> tuple[dict[str, list[str]], str]:
    """By the folders that keys begin with where these are named so, else by lot, the same one every time."""
    firsts = {key: SPLIT_WORDS.get(key.split("/")[0].lower(), "") for key in keys if "/" in key}
    if len(firsts) == len(keys) and all(firsts.values()) and "train" in firsts.values():
        found = {name: [key for key in keys if firsts[key] == name] for name in ("train", "val", "test")}
        return {name: part for name, part in found.items() if part}, "splits: by the folders train, val and test"
    drawn = sorted(keys, key=lambda key: sha256(key.encode()).digest())
    cut = max(1, round(VALIDATION * len(keys))) if len(keys) > 1 else 0
    said = (
        f"splits: {cut} of {len(keys)} samples by lot for validation; draw whole recordings instead where neighbouring "
        "samples are alike"
    )
    parts: Mapping[str, list[str]] = {"train": sorted(drawn[cut:]), "val": sorted(drawn[:cut])}
    return {name: part for name, part in parts.items() if part}, said
