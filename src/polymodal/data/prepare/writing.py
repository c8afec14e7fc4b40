"""The part that all preparations share: write a data set folder scene by scene, resume, verify, and only then name it.

Everything is written into `OUT.partial`, which becomes `OUT` when it is whole: what is half prepared has neither the
name nor the dataset.yaml of a data set.
"""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from polymodal.data.check import Defect, check
from polymodal.data.inputs import check_sizes
from polymodal.data.pictures import encode_png
from polymodal.data.reading import read_array
from polymodal.data.spec import FILE, description
from polymodal.data.splits import split_file
from polymodal.data.track import track
from polymodal.documents import read_json
from polymodal.errors import DataError
from polymodal.files import is_empty, require_empty, tidy_below, write_file
from polymodal.locks import LOCK, locked

IGNORE = 255
"""Label of pixels that do not count, in every prepared data set."""

LABEL = "label"
"""Folder of the target. A scene's label is written last, so a scene that has one is complete."""

MARKER = "preparing.json"
RECORD = "prepared.json"

DEPTH_MILLIMETRES = {"folder": "depth", "kind": "depth", "scale": 0.001, "unit": "m", "invalid": 0}

Content = np.ndarray | Path
"""Values to write as PNG, (H, W) or (H, W, 3), or a file to copy as it is."""


@dataclass(frozen=True)
class Plan:
    """What a preparation writes.

    Args:
        name: Of the data set.
        modalities: As dataset.yaml declares them.
        classes: Names by class number.
        splits: Keys by name of the split.
        read: The content of a scene by folder, the label among it, from its key.
        released: Scenes of each split in the whole release.
        colors: Of the classes; none for the fixed palette.
        withheld: Splits whose labels are not public, so that all of their pixels are ignored.
    """

    name: str
    modalities: dict[str, dict[str, Any]]
    classes: tuple[str, ...]
    splits: Mapping[str, Sequence[str]]
    read: Callable[[str], dict[str, Content]]
    released: Mapping[str, int]
    colors: tuple[tuple[int, int, int], ...] = ()
    withheld: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Summary:
    """What was prepared, as `prepared.json` keeps it.

    Args:
        name: Of the data set.
        settings: What was asked for.
        scenes: Of each split.
        released: Scenes of each split in the whole release.
        sizes: Scenes of each size, as "WIDTHxHEIGHT".
        shares: Of each class in the labelled pixels of all scenes, 0 to 1.
        unlabelled: Share of all pixels that are ignored, 0 to 1.
        defects: What `data check` found, but for labels that are withheld.
    """

    name: str
    settings: dict[str, Any]
    scenes: dict[str, int]
    released: dict[str, int]
    sizes: dict[str, int]
    shares: dict[str, float]
    unlabelled: float
    defects: list[Defect] = field(default_factory=list)

    def __str__(self) -> str:
        scenes = ", ".join(
            f"{split} {count}"
            + ("" if count == self.released.get(split) else f" ({self.released.get(split)} released)")
            for split, count in self.scenes.items()
        )
        sizes = ", ".join(f"{size} ({count})" for size, count in self.sizes.items())
        shares = ", ".join(f"{name} {100 * share:.2f}" for name, share in self.shares.items())
        defects = [f"{defect.file}: {defect.problem}" for defect in self.defects]
        return "\n".join(
            (
                f"{self.name}: {scenes}",
                f"sizes: {sizes}",
                f"labelled: {100 * (1 - self.unlabelled):.2f} per cent of the pixels; of these, in per cent: {shares}",
                *defects,
                f"data check: {len(defects)} defect{'' if len(defects) == 1 else 's'}",
            )
        )


def write_dataset(plan: Plan, out: Path, settings: Mapping[str, Any]) -> Summary:
    """Write a data set folder, or finish one that was interrupted.

    Args:
        plan: What to write.
        out: A folder that is empty or does not exist yet.
        settings: What was asked for; a folder that was begun with others is not continued.

    Raises:
        DataError: `out` holds something, was begun with other settings, or a source file is not as it must be.
        OSError: A file cannot be written.
    """
    # A process that was killed may have left no more to do than to take the marker away.
    partial = out if (out / MARKER).is_file() else out.with_name(f"{out.name}.partial")
    if partial != out:
        require_empty(out, DataError)
    with locked(partial):
        tidy_below(partial)
        _begin(partial, settings)
        summary = _write(plan, partial, settings)
        if partial != out:
            if out.exists():
                shutil.rmtree(out)
            partial.replace(out)
        (out / LOCK).unlink()
        (out / MARKER).unlink()
    return summary


def _write(plan: Plan, partial: Path, settings: Mapping[str, Any]) -> Summary:
    """Everything that is not there yet, with the description last."""
    keys = [key for split in plan.splits.values() for key in split]
    for key in track(keys, f"preparing {plan.name}"):
        if not (partial / LABEL / f"{key}.png").is_file():
            _write_scene(plan.read(key), key, partial)
    for split, names in plan.splits.items():
        write_file(partial / "splits" / f"{split}.txt", split_file(names))
    write_file(partial / FILE, _description(plan))
    summary = _verify(plan, partial, dict(settings))
    write_file(partial / RECORD, json.dumps(asdict(summary), indent=2, ensure_ascii=False).encode())
    return summary


def _begin(partial: Path, settings: Mapping[str, Any]) -> None:
    """Mark a folder to write into, new or left by an interrupted preparation with the same settings.

    Raises:
        DataError: When something else is there.
    """
    marker = partial / MARKER
    if marker.is_file():
        try:
            begun = read_json(marker)
        except ValueError as error:
            raise DataError(f"{marker}: damaged ({error}). Remove {partial} to begin again.") from error
        if begun != settings:
            raise DataError(
                f"{partial} was begun with other settings: {begun} instead of {dict(settings)}. Give the same "
                "settings to finish it, or remove the folder to begin again."
            )
        (partial / FILE).unlink(missing_ok=True)
    elif not is_empty(partial):
        raise DataError(f"{partial} is in the way: it holds no unfinished preparation. Remove it or name another OUT.")
    else:
        write_file(marker, json.dumps(dict(settings)).encode())


def require(files: Iterable[Path], why: str) -> None:
    """Refuse to start without all files.

    Args:
        files: That must exist.
        why: What asks for them, and what to do.

    Raises:
        DataError: With the first absent ones.
    """
    absent = [str(file) for file in files if not file.is_file()]
    if absent:
        shown = ", ".join(absent[:3]) + (f" and {len(absent) - 3} more" if len(absent) > 3 else "")
        raise DataError(f"{shown}: missing. {why}")


def read_plane(file: Path, *, labels: bool = False, bits: int | None = None) -> np.ndarray:
    """The only channel of an image file, (H, W), as it is stored.

    Args:
        file: The file.
        labels: Whether the values are class numbers, see `read_array`.
        bits: Of the stored values; None for any.

    Raises:
        DataError: When the file is damaged, or has more channels or other bits.
    """
    array = read_array(file, labels=labels)
    if array.shape[0] != 1 or (bits and array.dtype.name != f"uint{bits}"):
        wanted = f" of {bits} bits" if bits else ""
        raise DataError(
            f"{file}: expected one channel{wanted}, got {array.shape[0]} of {array.dtype}. Take the file from the "
            "official download."
        )
    return array[0]


def look_up(labels: np.ndarray, table: np.ndarray, where: str, known: str) -> np.ndarray:
    """Class numbers from the release's own numbers.

    Args:
        labels: Whole numbers, (H, W).
        table: Class by number of the release.
        where: The file and the scene, for messages.
        known: What the numbers are, for messages.

    Raises:
        DataError: When a number is not in the table.
    """
    outside = np.unique(labels[(labels < 0) | (labels >= len(table))])
    if outside.size:
        raise DataError(
            f"{where}: expected labels from 0 to {len(table) - 1} ({known}), got "
            f"{', '.join(f'{value:g}' for value in outside[:5])}. Compare the file with the official release."
        )
    return table[labels.astype(np.int64)]


def _write_scene(scene: Mapping[str, Content], key: str, root: Path) -> None:
    sizes: dict[str, tuple[int, ...]] = {}
    for folder, content in scene.items():
        if isinstance(content, Path):
            sizes[str(content)] = read_array(content).shape[1:]
        else:
            sizes[f"{folder} of {key}"] = content.shape[:2]
    check_sizes(sizes)
    for folder, content in sorted(scene.items(), key=lambda part: part[0] == LABEL):
        if isinstance(content, Path):
            write_file(root / folder / f"{key}{content.suffix.lower()}", content.read_bytes())
        else:
            write_file(root / folder / f"{key}.png", encode_png(content))


def _description(plan: Plan) -> bytes:
    target: dict[str, Any] = {"folder": LABEL, "kind": "label", "ignore": IGNORE, "classes": list(plan.classes)}
    if plan.colors:
        target["colors"] = [list(color) for color in plan.colors]
    content = {
        "name": plan.name,
        "modalities": plan.modalities,
        "target": target,
        "splits": {split: f"splits/{split}.txt" for split in plan.splits},
    }
    return description(content)


def _verify(plan: Plan, root: Path, settings: dict[str, Any]) -> Summary:
    """Read everything back from the disk."""
    counts = np.zeros(IGNORE + 1, np.int64)
    sizes: Counter[str] = Counter()
    for key in track([key for split in plan.splits.values() for key in split], "counting labels"):
        label = read_array(root / LABEL / f"{key}.png", labels=True)[0]
        counts += np.bincount(label.ravel(), minlength=len(counts))
        sizes[f"{label.shape[1]}x{label.shape[0]}"] += 1
    labelled = counts[: len(plan.classes)]
    blank = {f"{LABEL}/{key}.png" for split in plan.withheld for key in plan.splits.get(split, ())}
    return Summary(
        plan.name,
        settings,
        {split: len(keys) for split, keys in plan.splits.items()},
        dict(plan.released),
        dict(sizes.most_common()),
        dict(zip(plan.classes, (labelled / max(1, labelled.sum())).tolist(), strict=True)),
        float(counts[IGNORE] / max(1, counts.sum())),
        [defect for defect in check(root) if not defect.note and defect.file not in blank],
    )
