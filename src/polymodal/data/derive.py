"""Make any RGB-D data set one of many domains: new modalities computed from its colour and its metric depth.

The result is a data set of its own, with copies of the files it came from, so it can be moved and archived. Domains of
depth keep the stored value 0 (in all channels) for pixels where nothing was measured, and dataset.yaml says so; a
measured value that would round to it becomes 1.
"""

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from polymodal.data.files import decode, write_file
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
from polymodal.data.inputs import InputSpec, to_values
from polymodal.data.progress import track
from polymodal.data.spec import FILE, DatasetSpec, ModalitySpec, TargetSpec
from polymodal.data.statistics import STATISTICS_FILE
from polymodal.errors import DataError

RECORD = "derived.json"
"""What the domains of a folder were computed from, so that a continued run cannot mix two sources or cameras."""

CURVATURE = 10.0
"""1/m: the curvature, of a ball of 10 cm radius, at which its grey levels end."""


@dataclass(frozen=True)
class Domain:
    """A derived modality: what it is stored as, and what it is computed from.

    Args:
        kind: Of the modality in dataset.yaml.
        image: From the surface to values (H, W) or (C, H, W) and where there are any; None when made from colour.
        encode: From those values to grey levels from 0 to 255.
    """

    kind: str
    image: Callable[[Surface], tuple[Array, Array]] | None
    encode: Callable[[Array], Array]

    @property
    def entry(self) -> dict[str, Any]:
        """What dataset.yaml says of it beside its folder."""
        return {"kind": self.kind} | ({} if self.image is None else {"invalid": 0})


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
    "reshading": Domain("image", reshading, lambda values: (255 * values).clip(1, 255)),
    "edge_texture": Domain("image", None, lambda values: 255 * values),
    "edge_occlusion": Domain("image", occlusion_edges, lambda values: (255 * values).clip(1, 255)),
    "principal_curvature": Domain("image", principal_curvatures, _curvature_levels),
    "hha": Domain("image", hha, lambda values: values),
}
"""The domains by name; `polymodal.data.geometry` states their formulas."""


def derive(
    root: str | Path, out: str | Path, domains: Sequence[str] | None = None, camera: Camera | None = None
) -> list[Path]:
    """Write a data set with the modalities, target and splits of `root`, and derived domains as further modalities.

    Files appear whole, dataset.yaml last; run again, it continues where it was stopped, and adds domains.

    Args:
        root: A data set with one modality of kind depth in metres, or one named `depth`; for texture edges also with
            one of kind image, or one named `rgb`.
        out: The folder to write, another one than `root`.
        domains: Names out of `DOMAINS`; all that the data set lacks when None.
        camera: Intrinsics of the depth files as they are stored; those of the Kinect, scaled to their size, when None.

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
    _begin(spec, out, camera)
    if camera is None and any(DOMAINS[name].image for name in domains):
        print(
            f"intrinsics: those of a Kinect, {KINECT.fx:g},{KINECT.fy:g},{KINECT.cx:g},{KINECT.cy:g} at "
            f"{KINECT_SIZE[1]}x{KINECT_SIZE[0]}, scaled to the files; for another camera give --intrinsics fx,fy,cx,cy"
        )
    written = []
    for key in track(list(dict.fromkeys(key for keys in spec.splits.values() for key in keys)), "deriving"):
        for part in _parts(spec):
            source = spec.file(part, key)
            if not (out / source).exists():
                write_file(out / source, spec.store.read(source))
        files = {name: out / name / f"{key}.png" for name in domains}
        missing = {name: file for name, file in files.items() if not file.exists()}
        images = _images(spec, key, list(missing), camera)
        for name, file in missing.items():
            write_file(file, _png(images[name]))
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
        _modality(spec, "depth" if DOMAINS[name].image else "image")
    if len(set(domains)) < len(domains) or not domains:
        raise DataError(f"domains: expected at least one name, each once, got {', '.join(domains) or 'none'}.")
    if out.resolve() == spec.store.path.resolve():
        raise DataError(f"{out}: the new data set needs another folder than the one it is derived from.")
    if out.exists() and not out.is_dir():
        raise DataError(f"{out}: expected a folder to write, got a file.")
    if out.is_dir() and any(out.iterdir()) and not (out / RECORD).is_file():
        raise DataError(f"{out} is not empty and was not written by `polymodal data derive`; name a new folder.")


def _parts(spec: DatasetSpec) -> list[ModalitySpec | TargetSpec]:
    return [*spec.modalities.values(), spec.target]


def _modality(spec: DatasetSpec, kind: str) -> ModalitySpec:
    """The modality of a kind: the only one, or the one of the usual name."""
    usual = {"depth": "depth", "image": "rgb"}[kind]
    found = {name: part for name, part in spec.modalities.items() if part.kind == kind}
    part = found.get(usual) or (next(iter(found.values())) if len(found) == 1 else None)
    if part is None:
        raise DataError(
            f"{spec.store.where(FILE)}: expected one modality of kind {kind}, or one of them named {usual}, "
            f"got {', '.join(found) or 'none'}."
        )
    if kind == "depth" and part.unit not in ("", "m"):
        raise DataError(
            f"{spec.store.where(FILE)}: {part.folder}: expected depth in metres, got {part.unit}. "
            "Set `scale` so that it gives metres, and `unit: m`."
        )
    return part


def _begin(spec: DatasetSpec, out: Path, camera: Camera | None) -> None:
    """Say what the folder is made from, or refuse to go on with another source."""
    first = next(iter(spec.splits.values()))[0]
    source = hashlib.sha256(spec.store.read(FILE))
    for part in _parts(spec):
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
        begun = json.loads(record.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{record}: not what `polymodal data derive` writes ({error}). Name a new folder.") from error
    if begun != content:
        raise DataError(f"{out} was begun with {begun}, and now it would be {content}. Name a new folder.")


def _images(spec: DatasetSpec, key: str, domains: list[str], camera: Camera | None) -> dict[str, Array]:
    """The domains of one sample, uint8 (H, W) or (H, W, 3)."""
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
    color = _modality(spec, "image")
    raw, file = _read(spec, color, key)
    if raw.shape[0] not in (1, 3):
        raise DataError(f"{file}: expected 1 or 3 channels to find edges in, got {raw.shape[0]}.")
    plain = InputSpec(color.kind, raw.shape[0], invalid=color.invalid, bits=color.bits)
    edges = texture_edges(to_values(raw, plain, file)[0].double().numpy())
    return edges, np.ones(edges.shape, bool)


def _surface(spec: DatasetSpec, key: str, camera: Camera | None) -> Surface:
    depth = _modality(spec, "depth")
    raw, file = _read(spec, depth, key)
    plain = InputSpec("depth", 1, depth.scale, depth.unit, depth.invalid, bits=depth.bits)
    values, valid = to_values(raw, plain, file)
    metres = values[0].double().numpy()
    height, width = metres.shape
    if camera is None:
        if abs(width * KINECT_SIZE[0] / (height * KINECT_SIZE[1]) - 1) > 0.02:
            raise DataError(
                f"{file}: {width}x{height} (width x height) is not the shape of a Kinect's image, whose intrinsics are "
                "the default. Give those of the camera: --intrinsics fx,fy,cx,cy."
            )
        camera = KINECT.resized(*KINECT_SIZE, (height, width))
    step = depth.scale if raw.dtype.kind in "ui" else 0.0
    return Surface(metres, valid[0].numpy() & (metres > 0), camera, step)


def _read(spec: DatasetSpec, part: ModalitySpec, key: str) -> tuple[np.ndarray, str]:
    file = spec.file(part, key)
    return decode(spec.store.read(file), spec.store.where(file)), spec.store.where(file)


def _png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def _describe(spec: DatasetSpec, out: Path, domains: Sequence[str]) -> None:
    """The splits, what was measured, and dataset.yaml: that of the source, and every domain that the folder now has."""
    content = yaml.safe_load(spec.store.read(FILE).decode("utf-8-sig"))
    begun = yaml.safe_load((out / FILE).read_text(encoding="utf-8"))["modalities"] if (out / FILE).exists() else {}
    for name, domain in DOMAINS.items():
        if name in domains or name in begun:
            content["modalities"][name] = {"folder": name, **domain.entry}
    for split, keys in spec.splits.items():
        write_file(out / "splits" / f"{split}.txt", "".join(f"{key}\n" for key in keys).encode())
        content["splits"][split] = f"splits/{split}.txt"
    if spec.store.exists(STATISTICS_FILE) and not (out / STATISTICS_FILE).exists():
        write_file(out / STATISTICS_FILE, spec.store.read(STATISTICS_FILE))
    text = yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=120, allow_unicode=True)
    write_file(out / FILE, text.encode())
