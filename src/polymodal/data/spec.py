"""What a data set is: `dataset.yaml` and the split files, checked key by key.

```yaml
name: anything
modalities:                                    # as many as you like, in this order
  rgb:   {folder: rgb, kind: image}            # 8 or 16-bit PNG, JPEG, TIFF, npy
  depth: {folder: depth, kind: depth, scale: 0.001, unit: m, invalid: 0}
target: {folder: label, kind: label, ignore: 255, classes: [wall, floor]}
splits: {train: splits/train.txt, val: splits/val.txt}     # one key a line
```

Label files hold class numbers from 0 on, of a palette its indices. Where they hold other values, `map: {1: 0, 7: 1}`
says which stored value is which class; where they hold colours, in three channels, `colors` are read back to classes
(files of one channel are numbers even so). `ignore` is one value or a list of them, as stored, before `map`: 255, -1,
.nan, [r, g, b]. Predictions are written as class numbers.

The files of a sample are `folder/KEY.ending`, for example `rgb/000003.jpg` for the key `000003`. A modality or target
with a `prefix` or a `suffix` has them before and behind the last part of the key: with `prefix: rgb_`, the file of the
key `town/000003` is `folder/town/rgb_000003.jpg`. `layout: chw` or `hwc` says where the channels of an npy file stand,
and `pages: bands` that the pages of a TIFF file are channels. All files of a sample are of one size; a modality of
another resolution, such as a thermal camera's beside a colour one's, says `resize: true` and is brought to the size of
the others: by interpolation, or by the nearest pixel for labels, depth and values with holes.

A target may be an image instead of a label, `target: {folder: albedo, kind: image}`, or one of the modalities,
`target: rgb`, which is then no input.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from polymodal.data import values
from polymodal.data.content import LAYOUTS, PAGES, Content
from polymodal.data.files import Store
from polymodal.data.labels import NO_IGNORE, Color, LabelCode, input_code, palette
from polymodal.data.reading import decode
from polymodal.data.section import Section, decoded, listed, nearest, parse
from polymodal.errors import DataError

FILE = "dataset.yaml"
KINDS = ("image", "depth", "normal", "label", "raw")
"""image: colours or intensities; depth: one channel of distances; normal: x, y, z of surface normals;
label: one channel of class numbers; raw: any other measured channels."""

_FILE_KEYS = ("folder", "prefix", "suffix", "kind", "layout", "pages")
_IMAGE_KEYS: dict[str, tuple[str, ...]] = {
    "image": (*_FILE_KEYS, "bits", "invalid", "range"),
    "depth": (*_FILE_KEYS, "bits", "scale", "unit", "invalid", "range"),
    "normal": (*_FILE_KEYS, "bits", "invalid"),
    "raw": (*_FILE_KEYS, "bits", "scale", "unit", "invalid", "range"),
}
_INPUT_KEYS = {kind: (*keys, "mean", "std", "resize") for kind, keys in _IMAGE_KEYS.items()} | {
    "label": (*_FILE_KEYS, "classes", "invalid", "map", "colors", "resize")
}
_READING_KEYS = {"layout": values.or_none(values.one_of(LAYOUTS)), "pages": values.or_none(values.one_of(PAGES))}
_STORED_KEYS = ("kind", "folder", *_READING_KEYS)
_TARGET_KEYS = _IMAGE_KEYS | {"label": (*_FILE_KEYS, "ignore", "classes", "map", "colors")}


@dataclass(frozen=True)
class ModalitySpec:
    """One modality as `dataset.yaml` declares it.

    Args:
        folder: The folder of its files, from the root of the data set.
        kind: One of `KINDS`.
        scale: Factor from stored values to `unit` (depth and raw).
        unit: Of the scaled values, for people to read.
        invalid: Stored value of a pixel without measurement, in all of its channels.
        mean: Of each channel, or one for all, in scaled values; None when not declared.
        std: Like `mean`.
        classes: Names of the class numbers (label).
        prefix: What stands before the last part of the key in the names of its files.
        suffix: What stands behind the key there.
        bits: Of the stored values, 8 or 16; files of others are refused. None takes both.
        range: Smallest and largest value, in `unit` (image: as a share of full scale): what a target is scaled by.
            None when not declared.
        map: Pairs of a stored number and its class (label).
        colors: Of each class, by which files of three channels are read (label).
        layout: Of npy files of three axes, "chw" or "hwc"; None takes those whose shape leaves no doubt.
        pages: "bands" where the pages of a TIFF file are channels; None takes files of one image alone.
        resize: Whether its files may have another resolution than the others, to whose size they are brought.
    """

    folder: str
    kind: str
    scale: float = 1.0
    unit: str = ""
    invalid: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    classes: tuple[str, ...] = ()
    prefix: str = ""
    suffix: str = ""
    bits: int | None = None
    range: tuple[float, float] | None = None
    map: tuple[tuple[int, int], ...] = ()
    colors: tuple[Color, ...] = ()
    layout: str | None = None
    pages: str | None = None
    resize: bool = False

    @property
    def code(self) -> LabelCode:
        """How label files store classes."""
        return input_code(self.classes, self.map, self.colors, self.invalid)


@dataclass(frozen=True)
class TargetSpec:
    """What is to be predicted.

    Args:
        kind: One of `KINDS`; segmentation predicts `label`, translation any other.
        folder: The folder of its files, from the root of the data set.
        ignore: The number of pixels that do not count, once labels are read; `NO_IGNORE` when no value of the files can
            be it. Behind `class_numbers` there is no other.
        classes: Names by class number.
        colors: Red, green and blue of each class, 0 to 255; a fixed palette when none is declared.
        prefix: What stands before the last part of the key in the names of its files.
        suffix: What stands behind the key there.
        scale: Of an image target, as everything below: factor from stored values to `unit` (depth and raw).
        unit: Of the scaled values, for people to read.
        invalid: Stored value of a pixel without truth, in all of its channels.
        bits: Of the stored values, 8 or 16; None takes both.
        range: The values, in `unit`, that become -1 and 1; None until `settle_target` has found them.
        channels: Of the files; 0 until `settle_target` has looked at one.
        labels: How label files store classes, which a saved model need not know; None for their numbers and `ignore`.
        layout: Of npy files, as that of a modality; of any target.
        pages: Likewise, of TIFF files.
    """

    kind: str
    folder: str
    ignore: int = NO_IGNORE
    classes: tuple[str, ...] = ()
    colors: tuple[Color, ...] = ()
    prefix: str = ""
    suffix: str = ""
    scale: float = 1.0
    unit: str = ""
    invalid: float | None = None
    bits: int | None = None
    range: tuple[float, float] | None = None
    channels: int = 0
    labels: LabelCode | None = field(default=None, compare=False)
    layout: str | None = None
    pages: str | None = None

    @property
    def code(self) -> LabelCode:
        """How label files store classes."""
        return self.labels or LabelCode(self.classes, ignored=(self.ignore,) if self.ignore >= 0 else ())

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, which has no word for NaN."""
        files = {"kind": self.kind, "folder": self.folder, "layout": self.layout, "pages": self.pages}
        if self.kind == "label":
            return files | {
                "ignore": self.ignore,
                "classes": list(self.classes),
                "colors": [list(color) for color in self.colors],
            }
        nan = self.invalid is not None and math.isnan(self.invalid)
        return files | {
            "scale": self.scale,
            "unit": self.unit,
            "invalid": "nan" if nan else self.invalid,
            "bits": self.bits,
            "range": self.range and list(self.range),
            "channels": self.channels,
        }

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> "TargetSpec":
        """The inverse of `as_dict`.

        Raises:
            DataError: When a value is missing or of another type.
        """
        section = Section("target", "", plain)
        kind, folder = section.get("kind", _kind), section.get("folder", values.text)
        how = _how(section)
        if kind != "label":
            section.only((*_STORED_KEYS, "scale", "unit", "invalid", "bits", "range", "channels"))
            return cls(
                kind,
                folder,
                scale=section.get("scale", values.positive),
                unit=section.get("unit", str),
                invalid=section.get("invalid", values.number_or_none),
                bits=section.get("bits", values.or_none(values.bits)),
                range=section.get("range", values.or_none(values.interval)),
                channels=section.get("channels", values.integer),
                **how,
            )
        section.only((*_STORED_KEYS, "ignore", "classes", "colors"))
        return cls(
            kind,
            folder,
            ignore=section.get("ignore", values.integer),
            classes=section.get("classes", values.texts_or_none),
            colors=section.get("colors", values.colors),
            **how,
        )


@dataclass(frozen=True)
class DatasetSpec:
    """A data set: where its files are, what they mean, and which sample belongs to which split.

    Args:
        name: For people to read.
        store: Its files.
        modalities: By name, in the order of `dataset.yaml`.
        target: What is to be predicted.
        splits: The keys of each split.
        target_name: The modality that is the target; empty when the target is none of them.
    """

    name: str
    store: Store
    modalities: dict[str, ModalitySpec]
    target: TargetSpec
    splits: dict[str, tuple[str, ...]]
    target_name: str = ""

    @classmethod
    def load(cls, root: str | Path) -> "DatasetSpec":
        """Read and check `dataset.yaml` and the split files.

        Args:
            root: A folder, a `.zip` archive with the same layout inside, or `rooms` for the embedded set.

        Raises:
            DataError: With the file, the key, what was expected and what came.
        """
        store = Store(root)
        file = store.where(FILE)
        if not store.exists(FILE):
            raise DataError(
                f"{file}: missing. Describe the modalities, the target and the splits of the data set in it."
            )
        top = Section(file, "", parse(store.read(FILE), file))
        top.only(("name", "modalities", "target", "splits"))

        modalities = top.section("modalities")
        if not modalities.values:
            raise DataError(f"{file}: modalities: expected at least one modality, got none.")
        named = isinstance(top.values.get("target"), str)
        spec = cls(
            name=top.get("name", values.text, store.path.stem),
            store=store,
            modalities={name: _modality(modalities, name) for name in modalities.names()},
            target=TargetSpec("label", "") if named else _target(top.section("target")),
            splits=_splits(top.section("splits"), store),
        )
        return spec.with_target(top.values["target"]) if named else spec

    def select(self, modalities: Sequence[str] | None) -> tuple[str, ...]:
        """The names of the wanted modalities, all but the target when None.

        Raises:
            DataError: When none is wanted, one is wanted twice or the data set lacks one, or it is the target.
        """
        if modalities is None:
            return tuple(name for name in self.modalities if name != self.target_name)
        if not modalities:
            raise DataError(f"modalities: expected at least one of {listed(self.modalities)}, got none.")
        for name in modalities:
            self._require(name, "modalities")
            if name == self.target_name:
                raise DataError(
                    f"modalities: {name} is the target, so it can be no input. Choose others, or set target."
                )
        if len(set(modalities)) < len(modalities):
            raise DataError(f"modalities: expected different names, got {listed(modalities)}.")
        return tuple(modalities)

    def with_target(self, name: str) -> "DatasetSpec":
        """The same data set with one of its modalities as the target, and the others for inputs.

        Raises:
            DataError: When the data set has no such modality, or no other.
        """
        self._require(name, "target")
        if len(self.modalities) == 1:
            raise DataError(f"target: {name} is the only modality of {self.store.path}; nothing is left to predict it.")
        part = self.modalities[name]
        if part.resize:
            raise DataError(
                f"target: {name} is declared with `resize: true`, and a target sets the size. Remove that key."
            )
        if part.kind == "label":
            labels = _labels(part.folder, part.prefix, part.suffix, part.code)
            return replace(self, target=replace(labels, layout=part.layout, pages=part.pages), target_name=name)
        target = TargetSpec(
            kind=part.kind,
            folder=part.folder,
            prefix=part.prefix,
            suffix=part.suffix,
            scale=part.scale,
            unit=part.unit,
            invalid=part.invalid,
            bits=part.bits,
            range=part.range,
            layout=part.layout,
            pages=part.pages,
        )
        return replace(self, target=target, target_name=name)

    def _require(self, name: str, setting: str) -> None:
        if name not in self.modalities:
            raise DataError(
                f"{setting}: {self.store.path} has no modality {name!r}{nearest(name, self.modalities)} "
                f"It has {listed(self.modalities)}."
            )

    def file(self, part: ModalitySpec | TargetSpec, key: str) -> str:
        """The file of a key, from the root of the data set.

        Raises:
            DataError: When there is none, or more than one.
        """
        return self.store.find(part.folder, key, part)

    def content(self, part: ModalitySpec | TargetSpec, file: str) -> Content:
        """A file of a modality or of the target, decoded.

        Args:
            part: Whose file it is.
            file: As `file` returns it.

        Raises:
            DataError: When it cannot be read, or leaves in doubt what it means.
        """
        return decode(self.store.read(file), self.store.where(file), part)

    def keys(self, split: str) -> tuple[str, ...]:
        """The keys of a split.

        Raises:
            DataError: When there is no such split.
        """
        if split not in self.splits:
            raise DataError(
                f"{self.store.where(FILE)}: splits: there is no split {split!r}{nearest(split, self.splits)} "
                f"It has {listed(self.splits)}."
            )
        return self.splits[split]


def _kind(value: Any) -> str:
    if value not in KINDS:
        raise ValueError(f"one of {listed(KINDS)}")
    return value


def _modality(modalities: Section, name: str) -> ModalitySpec:
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or name == "ensemble":
        raise DataError(
            f"{modalities.file}: modalities: expected a name of letters, digits, - and _ other than 'ensemble', "
            f"got {name!r}."
        )
    section = modalities.section(name)
    section.only({key for keys in _INPUT_KEYS.values() for key in keys})
    kind = section.get("kind", _kind)
    section.only(_INPUT_KEYS[kind], f" for kind {kind}")
    modality = ModalitySpec(
        folder=section.get("folder", values.folder),
        kind=kind,
        scale=section.get("scale", values.positive, 1.0),
        unit=section.get("unit", values.text, ""),
        invalid=section.get("invalid", values.number, None),
        mean=section.get("mean", values.numbers, None),
        std=section.get("std", values.positives, None),
        classes=section.get("classes", values.texts) if kind == "label" else (),
        map=section.get("map", values.pairs, ()),
        colors=section.get("colors", values.colors, ()),
        prefix=section.get("prefix", values.text, ""),
        suffix=section.get("suffix", values.text, ""),
        bits=section.get("bits", values.bits, None),
        range=section.get("range", values.interval, None),
        resize=section.get("resize", values.flag, False),
        **_how(section),
    )
    if kind == "label":
        modality.code.check(section.at)
    return modality


def _how(section: Section) -> dict[str, Any]:
    """What is declared of how files are read."""
    return {key: section.get(key, convert, None) for key, convert in _READING_KEYS.items()}


def _target(section: Section) -> TargetSpec:
    section.only({key for keys in _TARGET_KEYS.values() for key in keys})
    kind = section.get("kind", _kind)
    section.only(_TARGET_KEYS[kind], f" for a target of kind {kind}")
    folder = section.get("folder", values.folder)
    prefix, suffix = (section.get(key, values.text, "") for key in ("prefix", "suffix"))
    if kind != "label":
        return TargetSpec(
            kind,
            folder,
            prefix=prefix,
            suffix=suffix,
            scale=section.get("scale", values.positive, 1.0),
            unit=section.get("unit", values.text, ""),
            invalid=section.get("invalid", values.number, None),
            bits=section.get("bits", values.bits, None),
            range=section.get("range", values.interval, None),
            **_how(section),
        )
    code = LabelCode(
        section.get("classes", values.texts),
        section.get("map", values.pairs, ()),
        section.get("colors", values.colors, ()),
        section.get("ignore", values.unlabelled, ()),
    )
    code.check(section.at)
    return replace(_labels(folder, prefix, suffix, code), **_how(section))


def _labels(folder: str, prefix: str, suffix: str, code: LabelCode) -> TargetSpec:
    colors = code.colors or palette(len(code.classes))
    return TargetSpec("label", folder, code.ignore, code.classes, colors, prefix, suffix, labels=code)


def _splits(section: Section, store: Store) -> dict[str, tuple[str, ...]]:
    splits = {}
    for name in section.names():
        file = section.get(name, values.text)
        if not store.exists(file):
            raise DataError(f"{section.at(name)}: there is no file {store.where(file)}. It lists one key a line.")
        lines = decoded(store.read(file), store.where(file)).splitlines()
        splits[name] = tuple(line.strip() for line in lines if line.strip())
        if not splits[name]:
            raise DataError(
                f"{store.where(file)}: the split {name!r} is empty. List one key a line, or remove it from {FILE}."
            )
    if not splits:
        raise DataError(f"{section.file}: splits: expected at least one split, got none.")
    return splits
