"""A modality and a target as `dataset.yaml` declares them, key by key; `polymodal.data.spec` explains the keys."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from polymodal.data import values
from polymodal.data.content import LAYOUTS, PAGES, FileSpec
from polymodal.data.labels import NO_IGNORE, Color, LabelCode, input_code, palette
from polymodal.data.section import Section
from polymodal.errors import DataError
from polymodal.names import ENSEMBLE, LONGEST, affix

TARGET = "target"
"""The name of the only target of a data set."""

KINDS = ("image", "depth", "normal", "label", "raw")
"""image: colours or intensities; depth: one channel of distances; normal: x, y, z of surface normals;
label: one channel of class numbers; raw: any other measured channels."""

CHANNELS = {"depth": 1, "normal": 3}
"""Of the files of kinds that leave no choice."""

_FILE_KEYS = ("folder", "prefix", "suffix", "kind", "layout", "pages")
_IMAGE_KEYS: dict[str, tuple[str, ...]] = {
    "image": (*_FILE_KEYS, "bits", "invalid", "range"),
    "depth": (*_FILE_KEYS, "bits", "scale", "unit", "invalid", "range"),
    "normal": (*_FILE_KEYS, "bits", "invalid"),
    "raw": (*_FILE_KEYS, "bits", "scale", "unit", "invalid", "range"),
}
_INPUT_KEYS = {kind: (*keys, "mean", "std", "resize", "optional") for kind, keys in _IMAGE_KEYS.items()} | {
    "label": (*_FILE_KEYS, "classes", "invalid", "map", "colors", "resize", "optional")
}
_TARGET_KEYS = _IMAGE_KEYS | {"label": (*_FILE_KEYS, "ignore", "classes", "map", "colors")}


_HOW: dict[str, Callable[[Any], Any]] = {
    "layout": values.or_none(values.one_of(LAYOUTS)),
    "pages": values.or_none(values.one_of(PAGES)),
}
_OPTIONAL: dict[str, Callable[[Any], Any]] = {
    "mean": values.numbers,
    "std": values.positives,
    "map": values.pairs,
    "colors": values.colors,
    "resize": values.flag,
    "optional": values.flag_or_texts,
    "scale": values.positive,
    "unit": values.text,
    "invalid": values.number,
    "bits": values.bits,
    "range": values.interval,
    "prefix": affix,
    "suffix": affix,
    **_HOW,
}
"""Keys that may be missing in dataset.yaml, where a specification has its default."""

_STORED_LABEL: dict[str, Callable[[Any], Any]] = {
    "ignore": values.integer,
    "classes": values.texts_or_none,
    "colors": values.colors,
}
_STORED_IMAGE: dict[str, Callable[[Any], Any]] = {
    "scale": values.positive,
    "unit": str,
    "invalid": values.number_or_none,
    "bits": values.or_none(values.bits),
    "range": values.or_none(values.interval),
    "channels": values.integer,
}
"""What a model keeps of its target, beside its kind, its folder and how its files are read."""


class MayLack:
    """What samples may be without.

    Args:
        optional: Whether they may: all of them, or those of these keys.
    """

    optional: bool | tuple[str, ...]

    def may_lack(self, key: str) -> bool:
        """Whether a sample may be without it."""
        return self.optional if isinstance(self.optional, bool) else key in self._absent

    @cached_property
    def _absent(self) -> frozenset[str]:
        return frozenset(self.optional if isinstance(self.optional, tuple) else ())


@dataclass(frozen=True)
class ModalitySpec(MayLack, FileSpec):
    """One modality as `dataset.yaml` declares it.

    Args:
        folder: The folder of its files, from the root of the data set.
        mean: Of each channel, or one for all, in scaled values; None takes those of `statistics.json`, of ImageNet
            (8-bit images of three channels), or of the training split, the first that there is.
        std: Like `mean`.
        range: Smallest and largest value, in `unit` (image: as a share of full scale): what a target is scaled by.
            None takes full scale: of images, or of depth and raw values of 8 bits.
        map: Pairs of a stored number and its class (label).
        colors: Of each class, by which files of three channels are read (label).
        resize: Whether its files may have another resolution than the others, to whose size they are brought.
        optional: Whether samples may lack it: all of them, or those of these keys.
    """

    folder: str
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    range: tuple[float, float] | None = None
    map: tuple[tuple[int, int], ...] = ()
    colors: tuple[Color, ...] = ()
    resize: bool = False
    optional: bool | tuple[str, ...] = False

    @property
    def code(self) -> LabelCode:
        """How label files store classes."""
        return input_code(self.classes, self.map, self.colors, self.invalid)


@dataclass(frozen=True)
class TargetSpec(MayLack, FileSpec):
    """What is to be predicted: segmentation predicts the kind `label`, translation any other.

    Args:
        folder: The folder of its files, from the root of the data set.
        ignore: The number of pixels that do not count, once labels are read; `NO_IGNORE` when no value of the files can
            be it. Behind `class_numbers` there is no other.
        colors: Red, green and blue of each class, 0 to 255; a fixed palette when none is declared.
        range: Of an image, the values, in `unit`, that become -1 and 1; None until `settle_target` has found them.
        channels: Of an image's files; 0 until `settle_target` has looked at one.
        stored: As of an `InputSpec`, of depth and raw values; empty until `settle_target` has looked at a file.
        labels: How label files store classes, which a saved model need not know; None for their numbers and `ignore`.
        name: What samples and batches call it: that of `targets` in dataset.yaml, or of a modality; `TARGET` where it
            is the only one and has no other.
        optional: As of a modality, where there are several targets: every sample has one of them.
    """

    folder: str
    ignore: int = NO_IGNORE
    colors: tuple[Color, ...] = ()
    range: tuple[float, float] | None = None
    channels: int = 0
    stored: str = field(default="", compare=False)
    labels: LabelCode | None = field(default=None, compare=False)
    name: str = field(default=TARGET, compare=False)
    optional: bool | tuple[str, ...] = field(default=False, compare=False)

    @property
    def settled(self) -> bool:
        """Whether all is known that predictions are written by."""
        return len(self.colors) == len(self.classes) if self.kind == "label" else self.range is not None

    @property
    def code(self) -> LabelCode:
        """How label files store classes."""
        return self.labels or LabelCode(self.classes, ignored=(self.ignore,) if self.ignore >= 0 else ())

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        stored = _STORED_LABEL if self.kind == "label" else _STORED_IMAGE
        return {key: values.plain(getattr(self, key)) for key in ("kind", "folder", *_HOW, *stored)}

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> "TargetSpec":
        """The inverse of `as_dict`.

        Raises:
            DataError: When a value is missing or of another type.
        """
        section = Section("target", "", plain)
        kind, folder = section.get("kind", _kind), section.get("folder", values.text)
        how = _declared(section, _HOW)
        stored = _STORED_LABEL if kind == "label" else _STORED_IMAGE
        section.only(("kind", "folder", *_HOW, *stored))
        return cls(kind, folder, **how, **{key: section.get(key, convert) for key, convert in stored.items()})


def _kind(value: Any) -> str:
    if value not in KINDS:
        raise ValueError(f"one of {', '.join(KINDS)}")
    return value


def modality_of(modalities: Section, name: str) -> ModalitySpec:
    """One of the modalities that a section declares.

    Raises:
        DataError: With the key and what is expected there.
    """
    if not re.fullmatch(rf"[A-Za-z0-9_-]{{1,{LONGEST}}}", name) or name == ENSEMBLE:
        raise DataError(
            f"{modalities.file}: modalities: expected a name of up to {LONGEST} letters, digits, - and _ other than "
            f"{ENSEMBLE!r}, got {name[:80]!r}."
        )
    section = modalities.section(name)
    section.only({key for keys in _INPUT_KEYS.values() for key in keys})
    kind = section.get("kind", _kind)
    section.only(_INPUT_KEYS[kind], f" for kind {kind}")
    modality = ModalitySpec(
        kind,
        section.get("folder", values.folder),
        classes=section.get("classes", values.texts) if kind == "label" else (),
        **_declared(section, _OPTIONAL),
    )
    if kind == "label":
        modality.code.check(section.at)
    return modality


def _declared(section: Section, optional: Mapping[str, Callable[[Any], Any]]) -> dict[str, Any]:
    """The values of those keys that are there."""
    return {key: section.get(key, convert) for key, convert in optional.items() if key in section.values}


def target_of(section: Section, name: str = TARGET, *, named: bool = False) -> TargetSpec:
    """The target that a section declares.

    Args:
        section: Its keys.
        name: What it is called.
        named: Whether it may be one of several, of which samples may lack some.

    Raises:
        DataError: With the key and what is expected there.
    """
    more = ("optional",) if named else ()
    section.only({*more, *(key for keys in _TARGET_KEYS.values() for key in keys)})
    kind = section.get("kind", _kind)
    section.only((*_TARGET_KEYS[kind], *more), f" for a target of kind {kind}")
    folder, declared = section.get("folder", values.folder), _declared(section, _OPTIONAL)
    if kind != "label":
        return TargetSpec(kind, folder, name=name, **declared)
    classes, colors = section.get("classes", values.texts), declared.pop("colors", ())
    unlabelled: Callable[[Any], Any] = values.unlabelled_colors if colors else values.unlabelled
    code = LabelCode(classes, declared.pop("map", ()), colors, section.get("ignore", unlabelled, ()))
    return label_target(folder, code.check(section.at), declared, name)


def declared_targets(top: Section) -> dict[str, TargetSpec]:
    """The target that dataset.yaml declares, or those that it declares by name.

    Raises:
        DataError: It declares none, or in both ways.
    """
    if "targets" not in top.values:
        return {TARGET: target_of(top.section(TARGET))}
    if "target" in top.values:
        raise DataError(f"{top.at('targets')}: there is a target beside it. Move that one into targets, under a name.")
    targets = top.section("targets")
    if not targets.values:
        raise DataError(f"{top.at('targets')}: expected at least one target, got none.")
    if both := [name for name in targets.file_names() if name in top.values["modalities"]]:
        raise DataError(f"{targets.at(both[0])}: a modality has this name, too. Rename one of them.")
    return {name: target_of(targets.section(name), name, named=True) for name in targets.values}


def label_target(folder: str, code: LabelCode, files: Mapping[str, Any], name: str) -> TargetSpec:
    """A target of labels that are stored in a way, in files that are called and read in a way, or lacking."""
    colors = code.colors or palette(len(code.classes))
    return TargetSpec("label", folder, code.ignore, colors, classes=code.classes, labels=code, name=name, **files)


def only(targets: Mapping[str, TargetSpec], where: str) -> TargetSpec:
    """The one target.

    Raises:
        DataError: When there are several.
    """
    if len(targets) > 1:
        raise DataError(
            f"{where}: targets: there are {', '.join(targets)}, and one is learned at a time. Choose it: --data.target "
            f"{next(iter(targets))}."
        )
    return next(iter(targets.values()))
