"""SUN RGB-D (Song et al., CVPR 2015) from `SUNRGBD.zip` and `SUNRGBDtoolbox.zip`, unpacked side by side."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from polymodal.data.prepare import nyu_classes
from polymodal.data.prepare.matlab import load_mat, open_hdf5, read_hdf5
from polymodal.data.prepare.writing import DEPTH_MILLIMETRES, IGNORE, Content, Plan, look_up, read_plane, require
from polymodal.errors import DataError

TREE = "SUNRGBD"
META = "SUNRGBDtoolbox/Metadata/SUNRGBDMeta.mat"
LABELS = "SUNRGBDtoolbox/Metadata/SUNRGBD2Dseg.mat"
SPLITS = "SUNRGBDtoolbox/traintestSUNRGBD/allsplit.mat"

_DEPTHS = {"filled": "depth_bfx", "raw": "depth"}
_SEGMENTS = "SUNRGBD2Dseg/seglabel"


@contextmanager
def sunrgbd(source: Path, depth: str) -> Iterator[Plan]:
    """The plan for SUN RGB-D; keys are the numbers of the scenes in SUNRGBDMeta.mat, from 000001.

    The labels are those of SUNRGBD2Dseg.mat, which already are the 37 classes; the seg.mat of each scene holds free
    names.

    Args:
        source: The folder that holds SUNRGBD and SUNRGBDtoolbox.
        depth: "filled" for the refined depth_bfx, "raw" for the sensors' depth.

    Raises:
        DataError: A file is missing, damaged or not the official one.
    """
    scenes = _scenes(source, depth)
    splits = _splits(source / SPLITS, scenes)
    listed = [scenes[folder] for folders in splits.values() for folder in folders]
    require((file for files in listed for file in files), f"{source / SPLITS} lists it; unpack all of SUNRGBD.zip.")
    numbers = {folder: f"{number:06d}" for number, folder in enumerate(scenes, 1)}
    files_of = {numbers[folder]: files for folder, files in scenes.items()}
    table = np.array([IGNORE, *range(37)], np.uint8)
    file = source / LABELS
    require([file], "It holds the labels; unpack all of SUNRGBDtoolbox.zip.")
    with open_hdf5(file, (_SEGMENTS,)) as mat:
        if len(mat[_SEGMENTS]) != len(scenes):
            raise DataError(
                f"{file}: expected labels of the {len(scenes)} scenes in {source / META}, got {len(mat[_SEGMENTS])}. "
                "Take both from the same SUNRGBDtoolbox.zip."
            )

        def read(key: str) -> dict[str, Content]:
            image, depth_file = files_of[key]
            reference = read_hdf5(file, mat[_SEGMENTS], int(key) - 1).ravel()[0]
            labels = read_hdf5(file, mat[reference]).T
            return {
                "rgb": image,
                "depth": rotated_back(read_plane(depth_file, bits=16)),
                "label": look_up(labels, table, f"{file}: labels of scene {int(key)}", "37 classes, 0 unlabelled"),
            }

        yield Plan(
            "SUNRGBD-37",
            {"rgb": {"folder": "rgb", "kind": "image"}, "depth": dict(DEPTH_MILLIMETRES)},
            nyu_classes.SUN37,
            {split: tuple(numbers[folder] for folder in folders) for split, folders in splits.items()},
            read,
            {"train": 5285, "test": 5050},
        )


def rotated_back(stored: np.ndarray) -> np.ndarray:
    """Depth in millimetres: the files hold its 16 bits rotated left by three (read3dPoints.m of the toolbox).

    Args:
        stored: uint16 (H, W).

    Returns:
        uint16 (H, W).
    """
    return (stored >> 3) | (stored << 13)


def _scenes(source: Path, depth: str) -> dict[str, tuple[Path, Path]]:
    """Image and depth of every scene by its folder, in the official order."""
    file = source / META
    records = np.atleast_1d(load_mat(file, ("SUNRGBDMeta",))["SUNRGBDMeta"])
    scenes: dict[str, tuple[Path, Path]] = {}
    for number, record in enumerate(records, 1):
        try:
            folder = _relative(str(PurePosixPath(record.rgbpath).parent.parent), file)
            scene = source / TREE / folder
            scenes[folder] = scene / "image" / record.rgbname, scene / _DEPTHS[depth] / record.depthname
        except (AttributeError, TypeError) as error:
            raise DataError(
                f"{file}: scene {number}: expected rgbpath, rgbname and depthname ({error}). Take the file from the "
                "official SUNRGBDtoolbox.zip."
            ) from error
    return scenes


def _splits(file: Path, scenes: dict[str, Any]) -> dict[str, list[str]]:
    listed = load_mat(file, ("alltrain", "alltest"))
    splits = {
        name: [_relative(str(path), file) for path in np.atleast_1d(listed[f"all{name}"])] for name in ("train", "test")
    }
    absent = [folder for folders in splits.values() for folder in folders if folder not in scenes]
    if absent:
        raise DataError(
            f"{file} lists {len(absent)} scene(s) that SUNRGBDMeta.mat lacks, the first is {absent[0]}. Take both from "
            "the same SUNRGBDtoolbox.zip."
        )
    return splits


def _relative(path: str, file: Path) -> str:
    """A path of the authors' machine from the folder SUNRGBD on, without doubled or closing slashes."""
    parts = PurePosixPath(path).parts
    if TREE not in parts:
        raise DataError(
            f"{file}: expected paths below a folder {TREE}, got {path!r}. Take the file from the official "
            "SUNRGBDtoolbox.zip."
        )
    return str(PurePosixPath(*parts[parts.index(TREE) + 1 :]))
