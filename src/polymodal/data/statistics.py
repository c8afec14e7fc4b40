"""Mean and standard deviation of each modality: measured once, kept beside `dataset.yaml`, then with every model."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from polymodal.data.bands import bands
from polymodal.data.content import Content
from polymodal.data.files import Store
from polymodal.data.fingerprint import differences, fingerprint
from polymodal.data.inputs import UNITS, InputSpec, reached, settled, stored, to_values
from polymodal.data.parts import CHANNELS
from polymodal.data.ranges import Range, joined
from polymodal.data.spec import FILE, DatasetSpec
from polymodal.data.track import track
from polymodal.data.undeclared import warn_of_undeclared
from polymodal.data.values import numbers, positives
from polymodal.documents import MAX_JSON, parse_json
from polymodal.errors import DataError
from polymodal.files import require_new, write_file

STATISTICS_FILE = "statistics.json"

# Of the training images of ImageNet, as torchvision and timm use them.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

SETUP_SAMPLES = 200
"""So many samples are measured when training starts without statistics."""

_ROUNDING = 1e-7
"""Of a mean, so much is no standard deviation: values in single precision can hardly vary by less."""

_FOREIGN = (ValueError, TypeError, KeyError, AttributeError)
"""What reading a file that holds something else ends in."""


@dataclass(frozen=True)
class Moments:
    """Mean and standard deviation of each channel, in scaled values, over all pixels with a measurement.

    Args:
        mean: Of each channel.
        std: Of each channel.
        seen: Between which values nearly all pixels lie; None where that is not known.
        of: What they were measured from, as `fingerprint` says it; None for figures that a person states.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    seen: Range | None = None
    of: Mapping[str, Any] | None = None


def compute(root: str | Path) -> dict[str, Moments]:
    """Measure every modality but those of kind label over all training samples, with a progress bar.

    Raises:
        DataError: When the data set or a file of it is not what dataset.yaml says, or nothing was measured.
    """
    spec = DatasetSpec.load(root)
    names = [name for name, modality in spec.modalities.items() if modality.kind != "label"]
    keys = {name: _training_keys(spec, name) for name in names}
    return {
        name: replace(_measure(spec, name, track(keys[name], name)), of=fingerprint(spec, name, keys[name]))
        for name in names
    }


def place(root: str | Path, output: str | Path | None = None) -> Path:
    """The file that `write` writes, once it is clear that it can; measuring takes long.

    Raises:
        DataError: When it cannot be written there.
    """
    root = Store(root).path
    if output is None and root.is_file():
        raise DataError(
            f"{root}: statistics cannot be written into an archive. Name a file to write (--output), "
            f"and put it into the archive as {STATISTICS_FILE}, beside {FILE}."
        )
    path = Path(output) if output is not None else root / STATISTICS_FILE
    if output is not None and not path.is_dir():
        require_new(path, own=_is_own)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(path, error.strerror) from error
    if path.is_dir():
        raise _unwritable(path, "it is a folder")
    if not os.access(path.parent, os.W_OK):
        raise _unwritable(path, "no permission")
    return path


def write(statistics: dict[str, Moments], root: str | Path, output: str | Path | None = None) -> Path:
    """Keep statistics where `FolderData` finds them, or in `output`.

    Returns:
        The file that was written, whole or not at all.

    Raises:
        DataError: When it cannot be written there.
    """
    path = place(root, output)
    values = {name: asdict(moments) for name, moments in statistics.items()}
    try:
        write_file(path, json.dumps(values, indent=2).encode())
    except OSError as error:
        raise _unwritable(path, error.strerror) from error
    return path


def _unwritable(path: Path, reason: str | None) -> DataError:
    return DataError(
        f"{path}: cannot be written ({reason}). Name another file (--output) and copy its figures into {FILE} as mean "
        "and std."
    )


def input_specs(spec: DatasetSpec, modalities: Sequence[str]) -> dict[str, InputSpec]:
    """What the files of each modality mean.

    Channels and type come from the first training sample; mean and standard deviation from dataset.yaml, else from
    `statistics.json` beside it, else ImageNet's for 8-bit images of three channels, else from up to `SETUP_SAMPLES`
    training samples.

    Raises:
        DataError: When a file or the declared statistics do not fit the kind or the channels.
    """
    kept = _read(spec)
    return {name: replace(_input_spec(spec, name, kept), resize=_factors(spec, name)) for name in modalities}


def _factors(spec: DatasetSpec, name: str) -> tuple[float, float] | None:
    """How many times as high and as wide as a modality's first file the target's is, if it is brought to its size."""
    if not spec.modalities[name].resize:
        return None
    key = _training_keys(spec, name)[0]
    target = next(iter(spec.targets_of(key).values()))  # all of a sample's files are of one size
    parts = (spec.modalities[name], target)
    own, other = (spec.content(part, spec.file(part, key)).array.shape for part in parts)
    return other[1] / own[1], other[2] / own[2]


def _input_spec(spec: DatasetSpec, name: str, kept: dict[str, Moments]) -> InputSpec:
    modality = spec.modalities[name]
    if modality.kind == "label":
        return InputSpec.of(modality, len(modality.classes))
    file, raw, plain = _first(spec, name)
    channels = raw.shape[0]
    needed = CHANNELS.get(modality.kind, channels)
    if channels != needed:
        raise DataError(
            f"{file}: expected {needed} channel(s) for kind {modality.kind}, got {channels}. "
            f"Other images of several channels are of kind image, other arrays of kind raw."
        )
    keys = _training_keys(spec, name)
    some = keys[:: -(-len(keys) // SETUP_SAMPLES)]
    where = f"{spec.store.where(FILE)}: modalities.{name}"
    if modality.mean is not None and modality.std is not None:
        measured = Moments(modality.mean, modality.std)
    elif name in kept:
        where = f"{spec.store.where(STATISTICS_FILE)}: {name}"
        measured = kept[name]
        if measured.of is not None and (changes := differences(measured.of, spec, name, keys)):
            raise DataError(
                f"{where}: was measured {', and '.join(changes)}. Run `polymodal data stats {spec.store.path}` again, "
                "or remove the file."
            )
    elif modality.kind == "image" and channels == 3 and raw.dtype == np.uint8:
        measured = Moments(IMAGENET_MEAN, IMAGENET_STD)
    else:
        measured = _measure(spec, name, some)
    moments = Moments(modality.mean or measured.mean, modality.std or measured.std)
    for key, values in (("mean", moments.mean), ("std", moments.std)):
        if len(values) not in (1, channels):
            raise DataError(
                f"{where}.{key}: expected one number for each of {channels} channel(s) in {file}, got {len(values)}."
            )
    mean, std = (values * (channels if len(values) == 1 else 1) for values in (moments.mean, moments.std))
    seen = measured.seen or (_reached(spec, name, plain, some) if modality.kind in UNITS else None)
    return replace(plain, mean=mean, std=std, seen=seen)


def _stored(spec: DatasetSpec, name: str, plain: InputSpec, key: str) -> tuple[np.ndarray, InputSpec, str]:
    """What `to_values` takes of a file; warns of a value that seems to be none, once for all files of a modality."""
    where, content = _content(spec, name, key)
    raw, meaning = settled(content, plain, where)
    warn_of_undeclared(raw, meaning, spec.store.where(spec.modalities[name].folder))
    return raw, meaning, where


def _content(spec: DatasetSpec, name: str, key: str) -> tuple[str, Content]:
    """A file's name and content."""
    file = spec.file(spec.modalities[name], key)
    return spec.store.where(file), spec.content(spec.modalities[name], file)


def _measure(spec: DatasetSpec, name: str, keys: Iterable[str]) -> Moments:
    """Sums in float64: in float32 the millions of pixels of a data set lose the digits that the variance needs."""
    modality = spec.modalities[name]
    plain = _first(spec, name)[2]
    pixels, total, squares = 0, *torch.zeros(2, plain.channels, dtype=torch.float64)
    seen: Range | None = None
    for key in keys:
        raw, meaning, where = _stored(spec, name, plain, key)
        for band in bands(raw):
            values, valid = to_values(band, meaning, where)
            measured = values.flatten(1)[:, valid.flatten()].double()
            pixels += measured.shape[1]
            total += measured.sum(1)
            squares += measured.square().sum(1)
        if modality.kind in UNITS:
            seen = joined(seen, reached(raw, meaning, where))
    if not pixels:
        raise DataError(
            f"{spec.store.where(modality.folder)}: {name}: no pixel of any training sample holds a measurement. "
            f"Look at `invalid` in {FILE}, or give mean and std there."
        )
    mean = total / pixels
    std = (squares / pixels - mean.square()).clamp(min=0).sqrt()
    # A channel without any variation carries nothing; dividing it by 1 keeps it finite, and not by what rounding left.
    std = torch.where(std > (_ROUNDING * mean.abs()).clamp(min=1e-12), std, 1.0)
    return Moments(tuple(mean.tolist()), tuple(std.tolist()), seen)


def _reached(spec: DatasetSpec, name: str, plain: InputSpec, keys: Iterable[str]) -> Range | None:
    """Between which values the files lie; None where nothing was measured.

    Declared statistics need no file, so one that cannot be read is refused when its turn comes, not here.
    """
    found: Range | None = None
    for key in keys:
        with suppress(DataError):
            found = joined(found, reached(*_stored(spec, name, plain, key)))
    return found


def _first(spec: DatasetSpec, name: str) -> tuple[str, np.ndarray, InputSpec]:
    """The first file's name, a pixel with its channels and its type, and what files mean before any is measured."""
    where, content = _content(spec, name, _training_keys(spec, name)[0])
    raw = content.channels(None, where)[:, :1, :1].copy()
    modality = spec.modalities[name]
    form = stored(raw) if modality.kind in UNITS else ""
    return where, raw, replace(InputSpec.of(modality, raw.shape[0]), stored=form, scaling=content.scaling)


def _training_keys(spec: DatasetSpec, name: str) -> tuple[str, ...]:
    """The keys of the split train, or of the first one where there is none, as in a folder for evaluation only.

    Raises:
        DataError: When none of the samples has the modality.
    """
    keys = spec.splits.get("train") or next(iter(spec.splits.values()))
    if not spec.modalities[name].optional:
        return keys
    there = tuple(key for key in keys if not spec.lacks(name, key))
    if not there:
        raise DataError(f"{spec.store.where(FILE)}: modalities.{name}: no sample to train with has it. Remove it.")
    return there


def _is_own(content: bytes) -> bool:
    try:
        return bool(_parsed(content))
    except _FOREIGN:
        return False


def _read(spec: DatasetSpec) -> dict[str, Moments]:
    if not spec.store.exists(STATISTICS_FILE):
        return {}
    try:
        return _parsed(spec.store.read(STATISTICS_FILE, MAX_JSON))
    except _FOREIGN as error:
        raise DataError(
            f"{spec.store.where(STATISTICS_FILE)}: not what `polymodal data stats` writes ({error!r}). Remove it or "
            "run that again."
        ) from error


def _parsed(content: bytes) -> dict[str, Moments]:
    values: dict[str, Any] = parse_json(content)
    return {
        name: Moments(
            numbers(moments["mean"]),
            positives(moments["std"]),
            Range.from_dict(moments.get("seen")),
            _origin(moments),
        )
        for name, moments in values.items()
    }


def _origin(moments: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What one modality was measured from; until there were fingerprints, the scale alone was noted."""
    origin = moments.get("of", {"scale": moments["scale"]} if "scale" in moments else None)
    if origin is not None and (not isinstance(origin, dict) or ("keys" in origin) != ("files" in origin)):
        raise ValueError(f"of: {str(origin)[:60]}")
    return origin
