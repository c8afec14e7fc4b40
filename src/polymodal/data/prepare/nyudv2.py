"""NYUDv2 (Silberman et al., ECCV 2012) from `nyu_depth_v2_labeled.mat`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from polymodal.data.prepare import nyu_classes
from polymodal.data.prepare.matlab import load_mat, open_hdf5, read_hdf5
from polymodal.data.prepare.writing import DEPTH_MILLIMETRES, IGNORE, Content, Plan, look_up
from polymodal.errors import DataError

LABELED = "nyu_depth_v2_labeled.mat"
SPLITS = "splits.mat"

_DEPTHS = {"filled": "depths", "raw": "rawDepths"}


@contextmanager
def nyudv2(source: Path, classes: int, depth: str) -> Iterator[Plan]:
    """The plan for NYUDv2: 640x480 as released, with the white border; keys are the official numbers from 000001.

    Args:
        source: The .mat file, or the folder that holds it and, if there is one, the official splits.mat.
        classes: 40, 37 or 13.
        depth: "filled" for in-filled depth, "raw" for the sensor's, with holes.

    Raises:
        DataError: A file is missing, damaged or not the official one.
    """
    file = source / LABELED if source.is_dir() else source
    if not file.is_file():
        raise DataError(f"{file}: missing. Give the official {LABELED}, or the folder that holds it.")
    with open_hdf5(file, ("images", _DEPTHS[depth], "labels", "names")) as mat:
        _check_names(file, mat)
        splits = _splits(file.with_name(SPLITS), file, len(mat["images"]))
        table = nyu_classes.table_of(classes, IGNORE)

        def read(key: str) -> dict[str, Content]:
            index = int(key) - 1
            image, metres, labels = (read_hdf5(file, mat[name], index) for name in ("images", _DEPTHS[depth], "labels"))
            return {
                "rgb": image.transpose(2, 1, 0),
                "depth": _millimetres(metres.T),
                "label": look_up(labels.T, table, f"{file}: labels of image {index + 1}", "894 kinds, 0 unlabelled"),
            }

        yield Plan(
            f"NYUDv2-{classes}",
            {"rgb": {"folder": "rgb", "kind": "image"}, "depth": dict(DEPTH_MILLIMETRES)},
            nyu_classes.names_of(classes),
            splits,
            read,
            {split: len(images) for split, images in nyu_classes.official_split().items()},
        )


def _millimetres(metres: np.ndarray) -> np.ndarray:
    """Depth as 16-bit millimetres, 0 where nothing was measured; the sensor sees no further than 10 m."""
    return np.rint(np.nan_to_num(metres, nan=0, posinf=0, neginf=0) * 1000).clip(0, 65535).astype(np.uint16)


def _splits(splits: Path, file: Path, images: int) -> dict[str, tuple[str, ...]]:
    """The split of `splits.mat` if it is there, or the same one as the library knows it."""
    chosen = nyu_classes.official_split()
    where = "the official split"
    if splits.is_file():
        listed = load_mat(splits, ("trainNdxs", "testNdxs"))
        chosen = {name: np.atleast_1d(listed[f"{name}Ndxs"]).astype(int).tolist() for name in ("train", "test")}
        where = str(splits)
    absent = sorted({number for numbers in chosen.values() for number in numbers if not 1 <= number <= images})
    if absent:
        raise DataError(
            f"{where} lists {len(absent)} image(s) that {file} lacks, the first is {absent[0]}: it holds {images}. "
            f"Give the whole official file, or a {SPLITS} beside it that lists the images it has."
        )
    return {name: tuple(f"{number:06d}" for number in numbers) for name, numbers in chosen.items()}


def _check_names(file: Path, mat: Any) -> None:
    """Refuse a file whose kinds are others, or stand in another order, than those that the table of classes sorts."""
    references = read_hdf5(file, mat["names"]).ravel()
    if len(references) != nyu_classes.KINDS:
        raise DataError(f"{file}: names: expected {nyu_classes.KINDS} kinds of things, got {len(references)}.")
    for name, number in nyu_classes.namesakes().items():
        found = "".join(map(chr, read_hdf5(file, mat[references[number - 1]]).ravel()))
        if found != name:
            raise DataError(
                f"{file}: names: expected the official order, in which kind {number} is {name!r}, got {found!r}. Give "
                "the official file, as it was released."
            )
