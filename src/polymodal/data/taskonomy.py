"""Taskonomy (Zamir et al. 2018) as it is distributed: one folder a domain, one file a point, view and domain.

    rgb/point_0_view_1_domain_rgb.png
    normal/point_0_view_1_domain_normal.png

or with a folder for each building in between. A dataset.yaml beside them is all that is missing; no file is copied.
"""

import hashlib
import re
from copy import deepcopy
from pathlib import Path
from typing import Any

from polymodal.data.files import Store
from polymodal.data.section import decoded
from polymodal.data.spec import FILE, description
from polymodal.data.splits import split_file
from polymodal.errors import DataError
from polymodal.files import tidy, workplace, write_file

# 1/512 m to 128 m, where nothing was hit; the ends of the range are 8000 steps, where the data set's authors clip.
_DEPTH = {"kind": "depth", "bits": 16, "scale": 1 / 512, "unit": "m", "invalid": 65535, "range": [0, 15.625]}

DOMAINS: dict[str, dict[str, Any]] = {
    "rgb": {"kind": "image", "bits": 8},
    "normal": {"kind": "normal", "bits": 8},
    "reshading": {"kind": "image", "bits": 8},
    "depth_euclidean": _DEPTH,
    "depth_zbuffer": _DEPTH,
    "principal_curvature": {"kind": "image", "bits": 8},  # two curvatures about 127; the third channel is empty
    "edge_occlusion": {"kind": "image", "bits": 16},
    "edge_texture": {"kind": "image", "bits": 16, "range": [0, 0.25]},  # stronger edges are clipped by the authors too
    # Numbers of segments, of this image alone: grey levels to a network.
    "segment_unsup2d": {"kind": "image", "bits": 8},
    "segment_unsup25d": {"kind": "image", "bits": 8},
}
"""What dataset.yaml says of each domain."""


def describe(root: str | Path) -> Path:
    """Write dataset.yaml, and split files where there are none, into a folder of Taskonomy's layout.

    The target is rgb, or the first domain where there is no rgb; every run may choose another. With files `*.txt` in
    `splits`, one sample a line such as `point_0_view_1` (with its building: `allensville/point_0_view_1`), those are
    the splits. Without, a third is for validation, as in the papers' sample of 1,000 and 500: a third of the buildings
    where there are three or more, else of the points, so that no place is in both; always the same ones.

    Args:
        root: The folder that holds the folders of the domains.

    Returns:
        The dataset.yaml.

    Raises:
        DataError: There is a dataset.yaml already, no domain or fewer than two, or a sample lacks the file of a domain.
    """
    store = Store(root)
    if store.is_archive:
        raise DataError(f"{store.path}: expected a folder to write {FILE} into, got an archive.")
    if store.exists(FILE):
        tidy(store.path / FILE)
        raise DataError(f"{store.where(FILE)}: is there already. Remove it to have it written again.")
    keys = {name: found for name in DOMAINS if (found := _keys(store, name))}
    if len(keys) < 2:
        raise DataError(
            f"{store.path}: expected folders of two or more domains out of {', '.join(DOMAINS)} with files such as "
            f"rgb/point_0_view_1_domain_rgb.png, got {', '.join(keys) or 'none'}."
        )
    splits = {
        file.stem: decoded(file.read_bytes(), str(file)).split()
        for file in sorted((store.path / "splits").glob("*.txt"))
    }
    wanted = set().union(*(splits or keys).values())
    missing = [f"{name}/{key}_domain_{name}.png" for key in sorted(wanted) for name in keys if key not in keys[name]]
    if missing:
        raise DataError(
            f"{store.path}: {len(missing)} file(s) of samples are missing, the first {', '.join(missing[:3])}. Get "
            "them, or list the complete samples in splits/train.txt and splits/val.txt, one a line."
        )
    if not splits:
        splits = _drawn(store, sorted(wanted))
        _write(splits, store.path / "splits")
    content = {
        "name": "Taskonomy",
        "modalities": {name: {"folder": name, "suffix": f"_domain_{name}", **deepcopy(DOMAINS[name])} for name in keys},
        "target": next(iter(keys)),
        "splits": {name: f"splits/{name}.txt" for name in splits},
    }
    write_file(store.path / FILE, description(content))
    others = sorted(folder.name for folder in store.path.iterdir() if folder.is_dir() and folder.name not in keys)
    if left := [name for name in others if any("_domain_" in key for key in store.keys(name))]:
        print(f"left out, as no domains that are known or with files of other names: {', '.join(left)}")
    return store.path / FILE


def _keys(store: Store, domain: str) -> set[str]:
    """The samples that have a file of a domain."""
    suffix = f"_domain_{domain}"
    keys = (name.removesuffix(suffix) for name in store.keys(domain) if name.endswith(suffix))
    return {key for key in keys if re.fullmatch(r"(.*/)?point_\d+_view_\d+", key)}


def _write(splits: dict[str, list[str]], folder: Path) -> None:
    """Write all files under one rename: any without the others would be taken for given by the next call."""
    with workplace(folder) as place:
        whole = place / folder.name
        for name, keys in splits.items():
            write_file(whole / f"{name}.txt", split_file(keys))
        try:
            whole.rename(folder)
        except OSError as error:
            raise DataError(
                f"{folder}: the drawn splits cannot be written ({error.strerror}). Remove what is there, or list "
                "samples in train.txt and val.txt in it."
            ) from error


def _drawn(store: Store, keys: list[str]) -> dict[str, list[str]]:
    """A third of the places for validation, drawn by a hash of their names."""
    buildings = {key: key.rpartition("/")[0] for key in keys}
    points = {key: key.rpartition("_view_")[0] for key in keys}
    places = buildings if len(set(buildings.values())) >= 3 else points
    order = sorted(set(places.values()), key=lambda place: hashlib.sha256(place.encode()).digest())
    if len(order) < 2:
        raise DataError(f"{store.path}: expected two or more points to draw splits from, got {len(order)}.")
    held = set(order[: max(1, len(order) // 3)])
    return {
        "train": [key for key in keys if places[key] not in held],
        "val": [key for key in keys if places[key] in held],
    }
