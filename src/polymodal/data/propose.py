"""A first `dataset.yaml` for a folder of files: proposed from what is found in it, with every guess said.

Nothing here is sure; `data check` and a person's eye come after it.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from polymodal.data.content import PlainReading
from polymodal.data.grouping import SPLIT_WORDS, Group, aligned_groups
from polymodal.data.label_files import require_lossless
from polymodal.data.progress import track
from polymodal.data.reading import read_array, read_content
from polymodal.data.spec import FILE
from polymodal.errors import DataError
from polymodal.files import tidy, write_file

LOOKED_AT = 20
"""So many files of each modality are read to see what they hold; of labels, all up to `LABELS`."""

LABELS = 1000

FEW, COLOURS = 40, 256
"""Whole numbers of which there are no more are taken for labels; and labels are never more than the second."""

VALIDATION = 0.2
"""The share of the samples that become the split val where nothing says which ones are."""

_WORDS = {
    "label": "label labels labelids mask masks gt gtfine groundtruth seg semantic segmentation classes",
    "depth": "depth depths range distance",
    "normal": "normal normals",
    "image": "rgb bgr color colors colour image images img leftimg photo photos grey gray visible vis albedo",
    "raw": "thermal ir nir lwir swir infrared disparity disp sar hha bands multispectral hyperspectral intensity",
}
"""What a folder, a prefix or a suffix says of a kind; the first kind of which it has a word is the guess."""


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
            write_file(_split(root, name), _listed(keys))
        text = yaml.safe_dump(self.content, sort_keys=False, default_flow_style=None, width=120, allow_unicode=True)
        write_file(root / FILE, text.encode())


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
    names = _names(groups)
    modalities: dict[str, Any] = {}
    target: Any = None
    sizes: dict[str, tuple[int, ...]] = {}
    labelled = _labels(groups, keys)
    for name, group in zip(names, groups, strict=True):
        files = [group.files[key] for key in keys]
        entry, said = _label(group, files) if group is labelled else _image(group, files)
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
    reference = names[groups.index(labelled)] if labelled else target
    for name, entry in modalities.items():
        if sizes[name] != sizes[reference]:
            entry["resize"] = True
            guesses.append(f"{name}: of another resolution than {reference}, to whose size it is brought")
    splits, said = _splits(keys)
    for name in sorted(set(SPLIT_WORDS.values())):
        file = _split(root, name)
        # The same ones are left by a call that was killed before it wrote the description.
        if file.exists() and (name not in splits or file.read_bytes() != _listed(splits[name])):
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


def _listed(keys: Iterable[str]) -> bytes:
    return "".join(f"{key}\n" for key in keys).encode()


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
        return named[0]
    few = [group for group in groups if not _kind(group) and _few(_some(group.files[key] for key in keys))]
    return few[0] if len(few) == 1 else None


def _few(arrays: Sequence[np.ndarray]) -> bool:
    whole = all(array.shape[0] == 1 and array.dtype.kind in "bui" for array in arrays)
    return whole and len(set().union(*(np.unique(array).tolist() for array in arrays))) <= FEW


def _kind(group: Group) -> str:
    """The kind that a group's place says; empty where it says none."""
    said = set(re.findall(r"[a-z]+", f"{group.suffix} {group.prefix} {group.folder}".lower()))
    return next((kind for kind, words in _WORDS.items() if said & set(words.split())), "")


def _some(files: Iterable[Path]) -> list[np.ndarray]:
    all_files = list(files)
    return [read_array(file, labels=True) for file in all_files[:: -(-len(all_files) // LOOKED_AT)]]


def _image(group: Group, files: Sequence[Path]) -> tuple[dict[str, Any], str]:
    """What dataset.yaml would say of an input beside its place, and what was guessed."""
    arrays = _some(files)
    word, channels, dtype = _kind(group), arrays[0].shape[0], arrays[0].dtype
    low, high = min(float(np.nanmin(array)) for array in arrays), max(float(np.nanmax(array)) for array in arrays)
    found = f"{dtype}, {channels} channel{'s' if channels > 1 else ''}, {low:g} to {high:g}"
    if word == "depth" and channels == 1:
        return _depth(arrays, found, high)
    if word == "normal" and channels == 3:
        return {"kind": "normal"}, f"normals ({found})"
    if word in ("image", "label", "") and channels in (1, 3) and dtype.name in ("bool", "uint8", "uint16"):
        return {"kind": "image"}, f"an image ({found})"
    return {"kind": "raw"}, f"numbers ({found}); state `scale`, `unit` and `invalid` where they have any"


def _depth(arrays: Sequence[np.ndarray], found: str, high: float) -> tuple[dict[str, Any], str]:
    entry: dict[str, Any] = {"kind": "depth"}
    said = f"depth ({found})"
    if arrays[0].dtype.kind == "f":
        entry["unit"] = "m"
        said += ", in metres"
    elif arrays[0].dtype.itemsize > 1 and high > 100:
        entry |= {"scale": 0.001, "unit": "m"}
        said += ", in millimetres: state another `scale` if that is wrong"
    else:
        said += ": state its `scale` and `unit`"
    if arrays[0].dtype.kind != "f" and any((a == 0).any() for a in arrays):
        entry["invalid"] = 0
        said += ", 0 where nothing was measured"
    return entry, said


def _label(group: Group, files: Sequence[Path]) -> tuple[dict[str, Any], str]:
    """What dataset.yaml would say of the labels beside their place, and what was guessed."""
    some = files[:: -(-len(files) // LABELS)]
    values: set[tuple[int, ...]] = set()
    nan = False
    for file in track(some, f"labels in {group.folder}"):
        content = read_content(file, PlainReading("label"))
        require_lossless(content, str(file))
        array = content.channels(None, str(file))
        unlabelled = np.isnan(array).any(0)
        nan = nan or bool(unlabelled.any())
        pixels = array[:, ~unlabelled].T.astype(np.int64)
        # One number a pixel: rows would be sorted a hundred times as slowly.
        _, first = np.unique(pixels @ (1 << 16) ** np.arange(len(array)), return_index=True)
        values.update(map(tuple, pixels[first].tolist()))
        if len(values) > COLOURS:
            raise DataError(
                f"{file}: more than {COLOURS} different labels: this cannot be a map of classes. Store labels without "
                "loss, as PNG, or take the folder away."
            )
    counted = f"{len(some)} of {len(files)} files read" if len(some) < len(files) else f"{len(files)} files read"
    found = sorted(values)
    if not found:
        raise DataError(
            f"{some[0].parent}: no pixel is labelled: all are NaN. Put labels there, or take the folder away."
        )
    if len(found[0]) == 3:
        entry = {"kind": "label", "classes": _classes(len(found)), "colors": [list(color) for color in found]}
        return entry, f"labels of {len(found)} colours ({counted}); name the classes in this order"
    return _numbers([value for (value,) in found], counted, [math.nan] if nan else [])


def _numbers(found: list[int], counted: str, nan: Sequence[float]) -> tuple[dict[str, Any], str]:
    """`_label`, of class numbers."""
    if found == [0, 255] and not nan:
        masks = {"kind": "label", "map": {0: 0, 255: 1}, "classes": ["background", "foreground"]}
        return masks, f"masks of 0 and 255 ({counted}), taken for two classes"
    ignored = [*(value for value in found if value < 0 or (value == 255 and value > len(found))), *nan]
    classes = [value for value in found if value not in ignored]
    entry: dict[str, Any] = {"kind": "label"}
    if ignored:
        entry["ignore"] = ignored[0] if len(ignored) == 1 else ignored
    said = f"labels {', '.join(map(str, found[:12]))}{', ...' if len(found) > 12 else ''} ({counted})"
    if ignored:
        said += f", {' and '.join(map(str, ignored))} taken for unlabelled"
    highest = max(classes, default=0)
    if highest >= 2 * len(classes):
        entry["map"] = {value: number for number, value in enumerate(classes)}
        return entry | {"classes": [f"label {value}" for value in classes]}, f"{said}, numbered anew; name the classes"
    return entry | {"classes": _classes(highest + 1)}, f"{said}; name the classes"


def _classes(count: int) -> list[str]:
    return [f"class {number}" for number in range(count)]


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
