"""What statistics were measured from, and what scores were counted on, so that neither is taken for anything else."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, asdict, fields
from pathlib import PurePosixPath
from typing import Any

from polymodal.data.parts import TARGET, ModalitySpec, TargetSpec
from polymodal.data.spec import FILE, DatasetSpec
from polymodal.data.values import plain

_NO_MATTER = ("folder", "prefix", "suffix", "resize", "optional", "unit", "mean", "std", "classes", "range")
"""Settings that change no measured value; every other one does, also those that are still to come."""

_NAMES = ("folder", "prefix", "suffix", "unit", "mean", "std", "colors", "channels", "name")
"""Settings that do not tell one data set from another for a trained model, which has statistics of its own."""

_ORDER = (
    *("kind", "ignore", "scale", "invalid", "classes", "bits", "range"),
    *("map", "labels", "layout", "pages", "resize"),
)
"""In which settings tell data sets apart, on which the digests in trained models depend; those still to come follow."""

_DEFAULTS = {field.name: field.default for field in fields(ModalitySpec) if field.default is not MISSING}


def fingerprint(spec: DatasetSpec, name: str, keys: Sequence[str]) -> dict[str, Any]:
    """Everything that the statistics of a modality depend on, in types that JSON knows.

    Args:
        spec: The data set.
        name: The modality.
        keys: The samples that are measured, in any order.

    Returns:
        The settings that change values; the digests of the keys, of the files' contents, and of their sizes and times,
        by which unchanged files are known without reading them (absent for an archive, which knows its contents).
    """
    files = _files(spec, name, keys)
    stamp = _stamp(spec, files)
    return {
        **_settings(spec.modalities[name]),
        "keys": _digest(sorted(keys)),
        "files": _contents(spec, files),
        **({} if stamp is None else {"stamp": stamp}),
    }


def differences(before: Mapping[str, Any], spec: DatasetSpec, name: str, keys: Sequence[str]) -> list[str]:
    """What has changed since a fingerprint was taken, for messages; nothing when the statistics still hold.

    Args:
        before: As `fingerprint` returned it, perhaps by an earlier version with fewer settings.
        spec: The data set as it is now.
        name: The modality.
        keys: The samples that would be measured now.
    """
    complete = "keys" in before
    found = [
        f"with {'the ' if key != 'invalid' else ''}{key} {_shown(was)}, and {FILE} says {_shown(value)}"
        for key, value in _settings(spec.modalities[name]).items()
        if (key in before or complete) and (was := before.get(key, plain(_DEFAULTS.get(key)))) != value
    ]
    if not complete:
        return found or ["by an earlier version, which did not note from which files"]
    if before["keys"] != _digest(sorted(keys)):
        return [*found, "from other samples than the training split now lists"]
    files = _files(spec, name, keys)
    stamp = _stamp(spec, files)
    unchanged = stamp is not None and before.get("stamp") == stamp
    if not unchanged and before["files"] != _contents(spec, files):
        found.append("from files that have changed since")
    return found


def identity(spec: DatasetSpec, modalities: Sequence[str], split: str) -> str:
    """What tells the samples of a split from any others: their keys, the contents of their files, and their meaning.

    Neither the name of the data set nor the folders that it lies in belong to it.

    Args:
        spec: The data set.
        modalities: Those that are read beside the targets.
        split: Its name.
    """
    keys = sorted(spec.keys(split))
    lines = [*keys]
    for name in modalities:
        there = [key for key in keys if not spec.lacks(name, key)]
        lines += [name, *_identity(spec, spec.modalities[name], there)]
    for name, target in spec.targets.items():
        # What the only target is called does not matter, as it did not when there was one alone.
        there = [key for key in keys if not spec.lacks(target, key)]
        lines += [TARGET if len(spec.targets) == 1 else f"{TARGET} {name}", *_identity(spec, target, there)]
    return _digest(lines)


def _identity(spec: DatasetSpec, part: ModalitySpec | TargetSpec, keys: Sequence[str]) -> list[str]:
    return [json.dumps(_meaning(part)), _contents(spec, [spec.file(part, key) for key in keys])]


def _meaning(part: ModalitySpec | TargetSpec) -> dict[str, Any]:
    """The settings that are none of the defaults, so that those still to come change no identity."""
    defaults, values = {field.name: field.default for field in fields(part)}, asdict(part)
    ordered = [*_ORDER, *(key for key in values if key not in (*_ORDER, *_NAMES))]
    return {key: plain(values[key]) for key in ordered if key in values and values[key] != defaults.get(key)}


def _settings(part: ModalitySpec) -> dict[str, Any]:
    return {key: plain(value) for key, value in asdict(part).items() if key not in _NO_MATTER}


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _files(spec: DatasetSpec, name: str, keys: Sequence[str]) -> list[str]:
    return [spec.file(spec.modalities[name], key) for key in sorted(keys)]


def _contents(spec: DatasetSpec, files: Sequence[str]) -> str:
    """Of the CRC-32 of every file, without its folder, which may be renamed; the same for a folder and its archive."""
    return _digest(f"{PurePosixPath(file).name} {spec.store.checksum(file)}" for file in files)


def _stamp(spec: DatasetSpec, files: Sequence[str]) -> str | None:
    if spec.store.is_archive:
        return None
    return _digest(f"{PurePosixPath(file).name} {spec.store.stamp(file)}" for file in files)


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32]
