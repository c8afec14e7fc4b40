"""Tiny data sets on disk, laid out as a user's: five modalities of every kind of file, splits and a dataset.yaml."""

import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import yaml
from PIL import Image

from polymodal.data import InputSpec, TargetSpec, palette

MODALITIES: dict[str, dict[str, Any]] = {
    "rgb": {"folder": "rgb", "kind": "image"},  # 8-bit JPEG, three channels
    "grey": {"folder": "grey", "kind": "image"},  # 16-bit PNG, one channel
    "depth": {"folder": "depth", "kind": "depth", "scale": 0.001, "unit": "m", "invalid": 0},  # 16-bit PNG, holes
    "normal": {"folder": "normal", "kind": "normal"},  # 8-bit PNG, three channels
    "bands": {"folder": "bands", "kind": "raw"},  # float32 npy, four channels, some NaN
}
"""What `make_folder` can write, as dataset.yaml declares it."""


def make_folder(
    root: Path,
    *,
    size: tuple[int, int] = (24, 32),
    splits: Mapping[str, int] | None = None,
    modalities: Sequence[str] = tuple(MODALITIES),
    classes: int = 2,
    tiff: bool = False,
    seed: int = 0,
) -> Path:
    """Write a data set whose label is a rectangle of one class on another, visible in every modality.

    Args:
        root: Folder to make.
        size: Height and width of every file.
        splits: Samples of each split; 6 for train and 3 for val when None.
        modalities: Names out of `MODALITIES`.
        classes: Number of classes; label 255 is ignored.
        tiff: Whether `grey` and `bands` are TIFF instead of PNG and npy.
        seed: Of the scenes.

    Returns:
        `root`.
    """
    rng = np.random.default_rng(seed)
    splits = splits or {"train": 6, "val": 3}
    (root / "splits").mkdir(parents=True)
    for folder in (*modalities, "label"):
        (root / folder).mkdir()

    number = 0
    for split, count in splits.items():
        keys = [f"{number + i:04d}" for i in range(count)]
        number += count
        (root / "splits" / f"{split}.txt").write_text("\n".join(keys) + "\n")
        for key in keys:
            label, arrays = _scene(rng, size, classes)
            Image.fromarray(label).save(root / "label" / f"{key}.png")
            for name in modalities:
                _write(root / name / key, arrays[name], name, tiff)

    description = {
        "name": root.name,
        "modalities": {name: MODALITIES[name] for name in modalities},
        "target": {
            "folder": "label",
            "kind": "label",
            "ignore": 255,
            "classes": [f"class {c}" for c in range(classes)],
        },
        "splits": {split: f"splits/{split}.txt" for split in splits},
    }
    (root / "dataset.yaml").write_text(yaml.safe_dump(description, sort_keys=False))
    return root


def edit(root: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change dataset.yaml by a function of its content."""
    content = yaml.safe_load((root / "dataset.yaml").read_text())
    change(content)
    (root / "dataset.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


def make_archive(root: Path) -> Path:
    """Pack a folder into ROOT.zip."""
    path = root.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(root.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(root))
    return path


def _scene(rng: np.random.Generator, size: tuple[int, int], classes: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    height, width = size
    back, front = rng.choice(classes, 2, replace=False) if classes > 1 else (0, 0)
    top, left = rng.integers(1, height // 3), rng.integers(1, width // 3)
    label = np.full(size, back, np.uint8)
    label[top : top + height // 2, left : left + width // 2] = front
    level = (label.astype(np.float64) + 1) / (classes + 1)

    def noisy(channels: int) -> np.ndarray:
        return np.clip(level[..., None] + 0.1 * rng.standard_normal((*size, channels)), 0, 1)

    depth = (1000 + 4000 * noisy(1)[..., 0]).astype(np.uint16)
    depth[-height // 4 :, : width // 4] = 0
    bands = (10 * noisy(4) - 3).astype(np.float32)
    bands[:2, :2] = np.nan
    arrays = {
        "rgb": (255 * noisy(3)).astype(np.uint8),
        "grey": (65535 * noisy(1)[..., 0]).astype(np.uint16),
        "depth": depth,
        "normal": (255 * noisy(3)).astype(np.uint8),
        "bands": bands,
    }
    label[0] = 255
    return label, arrays


def _write(path: Path, array: np.ndarray, name: str, tiff: bool) -> None:
    if name == "rgb":
        Image.fromarray(array).save(path.with_suffix(".jpg"), quality=95)
    elif name == "bands":
        if tiff:
            tifffile.imwrite(path.with_suffix(".tif"), np.moveaxis(array, 2, 0), photometric="minisblack")
        else:
            np.save(path.with_suffix(".npy"), array)
    elif name == "grey" and tiff:
        tifffile.imwrite(path.with_suffix(".tiff"), array)
    else:
        Image.fromarray(array).save(path.with_suffix(".png"))


@dataclass
class Described:
    """As much of a data module of colours and depth as a model folder remembers."""

    classes: int = 3
    size: tuple[int, int] | None = None

    @property
    def inputs(self) -> dict[str, InputSpec]:
        return {
            "depth": InputSpec("depth", 1, scale=0.001, unit="m", invalid=0, mean=(2.0,), std=(1.0,)),
            "rgb": InputSpec("image", 3, mean=(0.5,) * 3, std=(0.2,) * 3),
        }

    @property
    def target(self) -> TargetSpec:
        names = tuple(f"class {number}" for number in range(self.classes))
        return TargetSpec("label", "label", 255, (palette(255) * 2)[: self.classes], classes=names)

    @property
    def targets(self) -> dict[str, TargetSpec]:
        return {"target": self.target}


def target_of(sample):
    """The one target of a sample or a batch."""
    (target,) = sample["targets"].values()
    return target


def known_of(sample):
    """Where the one target of a sample or a batch, an image, has truth."""
    (known,) = sample["targets_valid"].values()
    return known
