"""Writes a small data set for change detection: coloured blocks on one place at two dates, some of which came or went.

Usage: python tools/make_changes.py DIR [--train 96] [--val 32] [--size 64]

The second date has another light, so that a difference of pixels is no answer.
"""

import argparse
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

BLOCKS = 7
DATES = ("before", "after")


def make_changes(root: Path, train: int = 96, val: int = 32, size: int = 64, seed: int = 0) -> Path:
    """Write the data set to a new folder.

    Args:
        root: The folder; it must not be there.
        train: Pairs to learn from.
        val: Pairs to score.
        size: Height and width of the images.
        seed: Of the places.

    Returns:
        The folder.
    """
    for folder in (*DATES, "changed", "splits"):
        (root / folder).mkdir(parents=True)
    rng = np.random.default_rng(seed)
    number = 0
    for split, count in (("train", train), ("val", val)):
        keys = [f"{number + i:04d}" for i in range(count)]
        number += count
        for key in keys:
            images, changed = pair(rng, size)
            for date, image in zip(DATES, images, strict=True):
                Image.fromarray(image).save(root / date / f"{key}.png")
            Image.fromarray(changed).save(root / "changed" / f"{key}.png")
        (root / "splits" / f"{split}.txt").write_text("\n".join(keys) + "\n")
    description = {
        "name": "changes",
        "modalities": {date: {"folder": date, "kind": "image"} for date in DATES},
        "target": {"folder": "changed", "kind": "label", "ignore": 255, "classes": ["same", "changed"]},
        "splits": {split: f"splits/{split}.txt" for split in ("train", "val")},
    }
    (root / "dataset.yaml").write_text(yaml.safe_dump(description, sort_keys=False))
    return root


def pair(rng: np.random.Generator, size: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Two dates of a place, uint8 (size, size, 3) each, and 1 where they differ, uint8 (size, size)."""
    ground = rng.uniform(0.2, 0.5, 3) + 0.05 * rng.standard_normal((size, size, 1))
    scenes = [ground.copy(), ground.copy()]
    changed = np.zeros((size, size), np.uint8)
    for block in range(BLOCKS):
        height, width = rng.integers(size // 8, size // 3, 2)
        top, left = rng.integers(0, size - height), rng.integers(0, size - width)
        where = (slice(top, top + height), slice(left, left + width))
        dates = [[0, 1], [0], [1]][0 if block < BLOCKS - 3 else rng.integers(1, 3)]
        colour = rng.uniform(0.3, 1, 3)
        for date in dates:
            scenes[date][where] = colour
        changed[where] = len(dates) == 1
    scenes[1] = scenes[1] * rng.uniform(0.6, 1.1, 3)  # the light of another day
    noisy = [scene + 0.02 * rng.standard_normal(scene.shape) for scene in scenes]
    return [(255 * scene.clip(0, 1)).astype(np.uint8) for scene in noisy], changed


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    for name, default in (("train", 96), ("val", 32), ("size", 64)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    print(make_changes(given.folder, given.train, given.val, given.size))
