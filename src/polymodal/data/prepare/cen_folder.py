"""NYUDv2 as the authors of CEN distribute it: rgb, depth and masks, and the lists train.txt and val.txt."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from polymodal.data.labels import class_numbers
from polymodal.data.parts import TargetSpec
from polymodal.data.prepare import nyu_classes
from polymodal.data.prepare.writing import IGNORE, LABEL, Content, Plan, read_plane, require
from polymodal.data.reading import read_array
from polymodal.data.section import decoded
from polymodal.errors import DataError

# Stored values are 1/5000 m and reach the released networks unnormalised.
_DEPTH = {"folder": "depth", "kind": "depth", "scale": 0.0002, "unit": "m", "invalid": 0, "mean": 0.0, "std": 1.0}

Scene = tuple[Path, Path, Path]
"""Image, mask and depth."""

_LISTS = {"train": "train.txt", "test": "val.txt"}
"""What the authors call val are the 654 scenes of the official test split."""


@contextmanager
def cen(source: Path) -> Iterator[Plan]:
    """The plan for the folder of CEN: 40 classes, as the masks number them; keys are the official numbers.

    Images and masks come without the white border. Depth comes with it, and loses it here as in the released code
    (CropAlignToMask): what is larger than the mask is cut to the mask's size at its centre.

    Args:
        source: The folder that holds rgb, depth and masks, and if there are some, train.txt and val.txt with three
            paths a line: image, mask, depth. Without lists the official split is taken, which theirs are.

    Raises:
        DataError: A file is missing or damaged, a list is malformed, or two scenes have one name.
    """
    scenes = {split: _listed(source / name, source, split) for split, name in _LISTS.items()}
    files_of: dict[str, Scene] = {}
    for split, listed in scenes.items():
        listing = source / _LISTS[split]
        why = f"{listing if listing.is_file() else 'The official split'} lists it; complete the download."
        require((file for files in listed for file in files), why)
        for files in listed:
            _check_same(files_of.setdefault(_key(files), files), files, listing)
    target = TargetSpec("label", LABEL, IGNORE, classes=nyu_classes.NYU40)

    def read(key: str) -> dict[str, Content]:
        image, mask, depth = files_of[key]
        labels = read_plane(mask, labels=True)
        class_numbers(labels[None], target.code, str(mask))
        colors = read_array(image)
        return {
            "rgb": image
            if colors.shape[1:] == labels.shape
            else cut_to(colors, labels.shape, image).transpose(1, 2, 0),
            "depth": cut_to(read_plane(depth)[None], labels.shape, depth)[0],
            "label": labels.astype(np.uint8),
        }

    yield Plan(
        "NYUDv2-40-CEN",
        {"rgb": {"folder": "rgb", "kind": "image"}, "depth": dict(_DEPTH)},
        nyu_classes.NYU40,
        {split: tuple(dict.fromkeys(map(_key, listed))) for split, listed in scenes.items()},
        read,
        {split: len(images) for split, images in nyu_classes.official_split().items()},
    )


def cut_to(array: np.ndarray, size: tuple[int, ...], file: Path) -> np.ndarray:
    """The centre of (C, H, W) at a smaller size; an odd rest is cut at the bottom and at the right.

    Raises:
        DataError: When the array is smaller than that.
    """
    (height, width), (rows, columns) = array.shape[1:], size
    if height < rows or width < columns:
        raise DataError(
            f"{file}: expected at least the size of its mask, {columns}x{rows} (width x height), got {width}x{height}."
        )
    top, left = (height - rows) // 2, (width - columns) // 2
    return array[:, top : top + rows, left : left + columns]


def _key(scene: Scene) -> str:
    return scene[0].stem


def _check_same(known: Scene, scene: Scene, listing: Path) -> None:
    """Refuse two scenes of one key, of which only one could be written."""
    for one, other in zip(known, scene, strict=True):
        if one != other:
            raise DataError(
                f"{listing}: {one} and {other}: two scenes are called {_key(scene)!r}, and this name is the key. "
                "Rename the files of one of them, there and in the list."
            )


def _listed(listing: Path, source: Path, split: str) -> list[Scene]:
    """The scenes of a list, or of the official split without one."""
    if not listing.is_file():
        keys = [f"{number:06d}" for number in nyu_classes.official_split()[split]]
        return [(source / f"rgb/{key}.png", source / f"masks/{key}.png", source / f"depth/{key}.png") for key in keys]
    scenes: list[Scene] = []
    for number, line in enumerate(decoded(listing.read_bytes(), str(listing)).splitlines(), 1):
        if not line.strip():
            continue
        paths = line.split("\t")
        if len(paths) != 3:
            raise DataError(
                f"{listing}, line {number}: expected three paths between tabs (image, mask, depth), got {line!r}."
            )
        image, mask, depth = (source / path.strip() for path in paths)
        scenes.append((image, mask, depth))
    if not scenes:
        raise DataError(f"{listing}: lists no scene. Take it from the authors' repository, or remove it.")
    return scenes
