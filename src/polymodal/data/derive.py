"""Make any RGB-D data set one of many domains: new modalities computed from its colour and its metric depth.

The result is a data set of its own, with copies of the files it came from, so it can be moved and archived. Domains of
depth keep the stored value 0 (in all channels) for pixels where nothing was measured, and dataset.yaml says so; a
measured value that would round to it becomes 1.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from polymodal.data.geometry import (
    KINECT,
    KINECT_SIZE,
    Array,
    Camera,
    Surface,
    hha,
    occlusion_edges,
    principal_curvatures,
    reshading,
    texture_edges,
)
from polymodal.data.inputs import InputSpec, check_sizes, settled, to_values
from polymodal.data.parts import ModalitySpec, TargetSpec
from polymodal.data.pictures import encode_png
from polymodal.data.spec import FILE, DatasetSpec, description
from polymodal.data.splits import split_file
from polymodal.data.statistics import STATISTICS_FILE
from polymodal.data.track import track
from polymodal.documents import read_json
from polymodal.errors import DataError
from polymodal.files import is_empty, tidy_below, write_file
from polymodal.locks import locked
from polymodal.names import inside, twins
from polymodal.yaml_documents import parse_yaml

RECORD = "derived.json"
"""What the domains of a folder were computed from, so that a continued run cannot mix two sources or cameras."""

CURVATURE = 10.0
"""1/m: the curvature, of a ball of 10 cm radius, at which its grey levels end."""

USUAL_NAMES = {"depth": ("depth", "depth_zbuffer"), "image": ("rgb",)}
"""Which modality of a kind is meant where there are several."""

ALONG_RAY = "depth_euclidean"
"""Taskonomy's name for depth along the line of sight."""


@dataclass(frozen=True)
class Domain:
    """A derived modality: what it is stored as, and what it is computed from.

    Args:
        kind: Of the modality in dataset.yaml. What is no picture is raw, as augmentation changes the brightness and
            the contrast of kind image, and with them what was measured.
        image: From the surface to values (H, W) or (C, H, W) and where there are any; None when made from colour.
        encode: From those values to grey levels from 0 to 255.
    """

    kind: str
    image: Callable[[Surface], tuple[Array, Array]] | None
    encode: Callable[[Array], Array]


def _normals(surface: Surface) -> tuple[Array, Array]:
    """From the camera's axes to those of normal maps: x right, y up, z towards the camera."""
    normal, known = surface.normals
    return normal * np.array([1, -1, -1])[:, None, None], known


def _curvature_levels(curvatures: Array) -> Array:
    """0 is 127; the third channel, which means nothing, is 127 everywhere."""
    levels = 127 + 127 * (curvatures / CURVATURE).clip(-1, 1)
    return np.stack([*levels, np.full(levels.shape[1:], 127.0)])


DOMAINS = {
    "normal": Domain("normal", _normals, lambda values: 127.5 * (values + 1)),
    "reshading": Domain("raw", reshading, lambda values: (255 * values).clip(1, 255)),
    "edge_texture": Domain("raw", None, lambda values: 255 * values),
    "edge_occlusion": Domain("raw", occlusion_edges, lambda values: (255 * values).clip(1, 255)),
    "principal_curvature": Domain("raw", principal_curvatures, _curvature_levels),
    "hha": Domain("raw", hha, lambda values: values),
}
"""The domains by name; `polymodal.data.geometry` states their formulas."""


def derive(
    root: str | Path, out: str | Path, domains: Sequence[str] | None = None, camera: Camera | None = None
) -> list[Path]:
    """Write a data set with the modalities, target and splits of `root`, and derived domains as further modalities.

    Files appear whole, dataset.yaml last; run again, it continues where it was stopped, and adds domains.

    Depth is z, along the axis of the camera. Taskonomy's depth_euclidean is the distance d along the line of sight; it
    is used where there is no other depth, as z = d / |((u - cx) / fx, (v - cy) / fy, 1)|.

    Args:
        root: A data set with one modality of kind depth in metres, or one named `depth` or `depth_zbuffer`; for texture
            edges also with one of kind image, or one named `rgb`.
        out: The folder to write, another one than `root`.
        domains: Names out of `DOMAINS`; all that the data set lacks when None.
        camera: Intrinsics of the depth files as they are stored; when None those of a Kinect, scaled to the files,
            which then must have the shape of its images.

    Returns:
        The files of domains that were written now.

    Raises:
        DataError: A domain is unknown or there already, the data set has not what it is made from, `out` holds
            something else, or a file is not what dataset.yaml says.
    """
    spec, out = DatasetSpec.load(root), Path(out)
    if domains is None:
        domains = [name for name in DOMAINS if name not in spec.modalities]
    _check(spec, out, domains)
    # What is wrong with the camera or the depth is wrong in the first whole sample: refused before the folder is begun,
    # the command can be given again with what was missing.
    keys = spec.all_keys
    first = max(keys, key=lambda key: len(_possible(spec, key, domains)))
    _images(spec, first, _possible(spec, first, domains), camera)
    written = []
    with locked(out):
        tidy_below(out)
        _begin(spec, out, camera)
        if camera is None and any(DOMAINS[name].image for name in domains):
            print(
                f"intrinsics: those of a Kinect, {KINECT.fx:g},{KINECT.fy:g},{KINECT.cx:g},{KINECT.cy:g} at "
                f"{KINECT_SIZE[1]}x{KINECT_SIZE[0]}, scaled to the files; for another camera give --intrinsics "
                "fx,fy,cx,cy"
            )
        for key in track(keys, "deriving"):
            for part in _parts(spec):
                if spec.lacks(part, key):
                    continue
                source = spec.file(part, key)
                if not inside(out, source).exists():
                    write_file(inside(out, source), spec.store.read(source))
            files = {name: inside(out, f"{name}/{key}.png") for name in _possible(spec, key, domains)}
            missing = {name: file for name, file in files.items() if not file.exists()}
            images = _images(spec, key, list(missing), camera)
            for name, file in missing.items():
                write_file(file, encode_png(images[name]))
                written.append(file)
        _describe(spec, out, domains)
    return written


def _check(spec: DatasetSpec, out: Path, domains: Sequence[str]) -> None:
    for name in domains:
        if name not in DOMAINS:
            raise DataError(f"domains: expected some of {', '.join(DOMAINS)}, got {name!r}.")
        if name in spec.modalities:
            raise DataError(f"domains: {spec.store.path} has a modality {name} already. Leave it out of the domains.")
        if name in [part.folder for part in _parts(spec)]:
            raise DataError(f"domains: {spec.store.path} has files in the folder {name} already, which is needed.")
        _source(spec, name)
    if alike := twins(spec.all_keys):
        raise DataError(
            f"{spec.store.path}: {alike[0]!r} and {alike[1]!r} would be one file on some disks. Rename one."
        )
    if len(set(domains)) < len(domains) or not domains:
        raise DataError(f"domains: expected at least one name, each once, got {', '.join(domains) or 'none'}.")
    if out.resolve() == spec.store.path.resolve():
        raise DataError(f"{out}: the new data set needs another folder than the one it is derived from.")
    if out.exists() and not out.is_dir():
        raise DataError(f"{out}: expected a folder to write, got a file.")
    if out.is_dir() and not is_empty(out) and not (out / RECORD).is_file():
        raise DataError(f"{out} is not empty and was not written by `polymodal data derive`; name a new folder.")


def _parts(spec: DatasetSpec) -> list[ModalitySpec | TargetSpec]:
    return [*spec.modalities.values(), *spec.targets.values()]


def _possible(spec: DatasetSpec, key: str, domains: Sequence[str]) -> list[str]:
    """The domains of whose source a sample has a file."""
    return [name for name in domains if not spec.lacks(_source(spec, name), key)]


def _source(spec: DatasetSpec, domain: str) -> str:
    """The name of the modality that a domain is computed from."""
    return _modality(spec, "depth" if DOMAINS[domain].image else "image")


def _modality(spec: DatasetSpec, kind: str) -> str:
    """The name of the modality of a kind: the usual one, or the only one."""
    found = [name for name, part in spec.modalities.items() if part.kind == kind]
    usual = [name for name in USUAL_NAMES[kind] if name in found]
    if not usual and len(found) != 1:
        raise DataError(
            f"{spec.store.where(FILE)}: expected one modality of kind {kind}, or one of them named "
            f"{' or '.join(USUAL_NAMES[kind])}, got {', '.join(found) or 'none'}."
        )
    name = (usual or found)[0]
    if kind == "depth" and spec.modalities[name].unit not in ("", "m"):
        raise _no_metres(spec, name, spec.modalities[name].unit)
    return name


def _no_metres(spec: DatasetSpec, name: str, got: str) -> DataError:
    return DataError(
        f"{spec.store.where(FILE)}: modalities.{name}: expected depth in metres, got {got}. Set `scale` so that it "
        "gives metres, such as `scale: 0.001` for millimetres, and `unit: m`."
    )


def _begin(spec: DatasetSpec, out: Path, camera: Camera | None) -> None:
    """Say what the folder is made from, or refuse to go on with another source."""
    first = next(iter(spec.splits.values()))[0]
    source = hashlib.sha256(spec.store.read(FILE))
    for part in _parts(spec):
        if not spec.lacks(part, first):
            source.update(spec.store.read(spec.file(part, first)))
    content = {
        "data set": spec.name,
        "sha256 of dataset.yaml and the first sample": source.hexdigest(),
        "intrinsics": "Kinect" if camera is None else list(astuple(camera)),
    }
    record = out / RECORD
    if not record.exists():
        write_file(record, json.dumps(content, indent=2).encode())
        return
    try:
        begun = read_json(record)
    except ValueError as error:
        raise DataError(f"{record}: not what `polymodal data derive` writes ({error}). Name a new folder.") from error
    if begun != content:
        raise DataError(f"{out} was begun with {begun}, and now it would be {content}. Name a new folder.")


def _images(spec: DatasetSpec, key: str, domains: list[str], camera: Camera | None) -> dict[str, Array]:
    """The domains of one sample, uint8 (H, W) or (H, W, 3)."""
    used = {_source(spec, name) for name in domains}
    check_sizes({spec.store.where(file): size for file, size in spec.header_sizes(key, used).items()})
    images, surface = {}, None
    for name in domains:
        domain = DOMAINS[name]
        if domain.image is None:
            values, known = _texture_edges(spec, key)
        else:
            surface = surface or _surface(spec, key, camera)
            values, known = domain.image(surface)
        levels = np.where(known, np.rint(domain.encode(values)), 0).astype(np.uint8)
        images[name] = np.moveaxis(levels, 0, 2) if levels.ndim == 3 else levels
    return images


def _texture_edges(spec: DatasetSpec, key: str) -> tuple[Array, Array]:
    color = spec.modalities[_modality(spec, "image")]
    raw, plain, file = _read(spec, color, key)
    if raw.shape[0] not in (1, 3):
        raise DataError(f"{file}: expected 1 or 3 channels to find edges in, got {raw.shape[0]}.")
    edges = texture_edges(to_values(raw, plain, file)[0].double().numpy())
    return edges, np.ones(edges.shape, bool)


def _surface(spec: DatasetSpec, key: str, camera: Camera | None) -> Surface:
    name = _modality(spec, "depth")
    depth = spec.modalities[name]
    raw, plain, file = _read(spec, depth, key, channels=1)
    counted = raw.dtype.kind in "ui"
    if counted and depth.scale == 1 and not depth.unit:
        raise _no_metres(spec, name, f"whole numbers ({raw.dtype} in {file}) without `scale` and `unit`")
    values, valid = to_values(raw, plain, file)
    metres = values[0].double().numpy()
    height, width = metres.shape
    if camera is None:
        # Scaled by one factor, both sides rounded to whole pixels; what was cropped has another principal point.
        if abs(width / KINECT_SIZE[1] - height / KINECT_SIZE[0]) > 0.5 / KINECT_SIZE[1] + 0.5 / KINECT_SIZE[0]:
            raise DataError(
                f"{file}: {width}x{height} (width x height) is not the shape of a Kinect's image, whose intrinsics are "
                "the default. Give those of the camera: --intrinsics fx,fy,cx,cy."
            )
        camera = KINECT.resized(*KINECT_SIZE, (height, width))
    if name == ALONG_RAY:
        metres = metres / np.linalg.norm(camera.rays(height, width), axis=0)
    return Surface(metres, valid[0].numpy() & (metres > 0), camera, step=depth.scale if counted else 0.0)


def _read(
    spec: DatasetSpec, part: ModalitySpec, key: str, channels: int | None = None
) -> tuple[np.ndarray, InputSpec, str]:
    """A file's channels, what they mean, and its name; `channels` are those that it must have."""
    file = spec.file(part, key)
    where, content = spec.store.where(file), spec.content(part, file)
    channels = channels or len(content.channels(None, where))
    return *settled(content, InputSpec.of(part, channels), where), where


def _content(text: bytes, file: Path) -> dict[str, Any]:
    """What a dataset.yaml says.

    Raises:
        DataError: It has no modalities to add to.
    """
    try:
        content: dict[str, Any] = parse_yaml(text)
        dict(content["modalities"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{file}: domains cannot be added to what it says ({error!r}). Mend or remove it.") from error
    return content


def _describe(spec: DatasetSpec, out: Path, domains: Sequence[str]) -> None:
    """The splits, what was measured, and dataset.yaml: that of the source, and every domain that the folder now has.

    Once there is a dataset.yaml, the splits are the user's, and so is all that it says: domains alone are added.
    """
    described = (out / FILE).exists()
    content = _content((out / FILE).read_bytes() if described else spec.store.read(FILE), out / FILE)
    added = [name for name in DOMAINS if name in domains and name not in content["modalities"]]
    if described and DatasetSpec.load(out).splits != spec.splits:
        print(f"{out}: its splits stay as they are, though those of {spec.store.path} are others")
    if described and not added:
        return
    for name in added:
        holed = {} if DOMAINS[name].image is None else {"invalid": 0}
        source = spec.modalities[_source(spec, name)]
        alike = {key: value for key in ("resize", "optional") if (value := getattr(source, key))}
        content["modalities"][name] = {"folder": name, "kind": DOMAINS[name].kind, **holed, **alike}
    for split, keys in {} if described else spec.splits.items():
        write_file(inside(out, f"splits/{split}.txt"), split_file(keys))
        content["splits"][split] = f"splits/{split}.txt"
    if spec.store.exists(STATISTICS_FILE) and not (out / STATISTICS_FILE).exists():
        write_file(out / STATISTICS_FILE, spec.store.read(STATISTICS_FILE))
    write_file(out / FILE, description(content))
