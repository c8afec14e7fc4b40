"""Cityscapes (Cordts et al., CVPR 2016) from leftImg8bit, disparity, camera and gtFine, unpacked side by side."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from polymodal.data.prepare.writing import IGNORE, Content, Plan, look_up, read_plane, require
from polymodal.documents import read_json
from polymodal.errors import DataError

RELEASED = {"train": 2975, "val": 500, "test": 1525}

_CLASSES = (
    ("road", 7, (128, 64, 128)),
    ("sidewalk", 8, (244, 35, 232)),
    ("building", 11, (70, 70, 70)),
    ("wall", 12, (102, 102, 156)),
    ("fence", 13, (190, 153, 153)),
    ("pole", 17, (153, 153, 153)),
    ("traffic light", 19, (250, 170, 30)),
    ("traffic sign", 20, (220, 220, 0)),
    ("vegetation", 21, (107, 142, 35)),
    ("terrain", 22, (152, 251, 152)),
    ("sky", 23, (70, 130, 180)),
    ("person", 24, (220, 20, 60)),
    ("rider", 25, (255, 0, 0)),
    ("car", 26, (0, 0, 142)),
    ("truck", 27, (0, 0, 70)),
    ("bus", 28, (0, 60, 100)),
    ("train", 31, (0, 80, 100)),
    ("motorcycle", 32, (0, 0, 230)),
    ("bicycle", 33, (119, 11, 32)),
)
"""Name, number in the labelIds files and colour of the 19 evaluated classes, in the order of their trainIds."""

# 16 bits of centimetres reach 655 m; a disparity below one pixel, further than that, is noise.
_DEPTH = {"folder": "depth", "kind": "depth", "scale": 0.01, "unit": "m", "invalid": 0}


@contextmanager
def cityscapes(source: Path) -> Iterator[Plan]:
    """The plan for Cityscapes; keys are CITY/CITY_SEQUENCE_FRAME, and the test split has no labels.

    Args:
        source: The folder that holds leftImg8bit, disparity, camera and gtFine.

    Raises:
        DataError: A file is missing or damaged, or a camera has no baseline.
    """
    scenes = {split: frames for split in RELEASED if (frames := _frames(source, split))}
    if not scenes:
        raise DataError(
            f"{source / 'leftImg8bit'}: no images in train, val or test. Unpack leftImg8bit_trainvaltest.zip there."
        )
    split_of = {key: split for split, keys in scenes.items() for key in keys}
    for kind, why in (
        ("camera", "The depth of a disparity needs the baseline in it; unpack camera_trainvaltest.zip."),
        ("disparity", "Unpack disparity_trainvaltest.zip."),
        ("gtFine", "Unpack gtFine_trainvaltest.zip."),
    ):
        require((_file(source, kind, split, key) for key, split in split_of.items()), why)
    factors = {key: _baseline_times_focal(_file(source, "camera", split, key)) for key, split in split_of.items()}
    table = np.full(34, IGNORE, np.uint8)
    table[[number for _, number, _ in _CLASSES]] = np.arange(len(_CLASSES))

    def read(key: str) -> dict[str, Content]:
        image, disparity, labels = (
            _file(source, kind, split_of[key], key) for kind in ("leftImg8bit", "disparity", "gtFine")
        )
        return {
            "rgb": image,
            "depth": centimetres(read_plane(disparity, bits=16), factors[key]),
            "label": look_up(read_plane(labels, labels=True), table, str(labels), "labelIds"),
        }

    yield Plan(
        "Cityscapes-19",
        {"rgb": {"folder": "rgb", "kind": "image"}, "depth": dict(_DEPTH)},
        tuple(name for name, _, _ in _CLASSES),
        scenes,
        read,
        RELEASED,
        tuple(color for _, _, color in _CLASSES),
        withheld=frozenset({"test"}),
    )


def centimetres(stored: np.ndarray, factor: float) -> np.ndarray:
    """Depth from a stored disparity p: baseline · focal length / d with d = (p - 1) / 256 pixels.

    Args:
        stored: uint16 (H, W), 0 where nothing was measured.
        factor: Baseline in metres times focal length in pixels.

    Returns:
        uint16 (H, W) in centimetres, 0 where nothing was measured, at most 655.35 m.
    """
    disparity = (stored.astype(np.float64) - 1) / 256
    depth = 100 * factor / np.where(disparity > 0, disparity, np.inf)
    return np.rint(depth).clip(0, 65535).astype(np.uint16)


def _frames(source: Path, split: str) -> tuple[str, ...]:
    images = sorted((source / "leftImg8bit" / split).glob("*/*_leftImg8bit.png"))
    return tuple(f"{image.parent.name}/{image.name.removesuffix('_leftImg8bit.png')}" for image in images)


def _file(source: Path, kind: str, split: str, key: str) -> Path:
    endings = {"camera": "camera.json", "gtFine": "gtFine_labelIds.png"}
    return source / kind / split / f"{key}_{endings.get(kind, f'{kind}.png')}"


def _baseline_times_focal(file: Path) -> float:
    try:
        camera = read_json(file)
        baseline, focal = float(camera["extrinsic"]["baseline"]), float(camera["intrinsic"]["fx"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{file}: expected extrinsic.baseline and intrinsic.fx ({error!r}); without them its disparity has no "
            "depth. Take the file from the official camera_trainvaltest.zip."
        ) from error
    if not (0 < baseline < np.inf and 0 < focal < np.inf):
        raise DataError(
            f"{file}: expected a baseline and a focal length above 0, got {baseline} and {focal}. Take the file from "
            "the official camera_trainvaltest.zip."
        )
    return baseline * focal
