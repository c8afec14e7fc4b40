"""What a data set is: `dataset.yaml` and the split files, checked key by key.

```yaml
name: anything
modalities:                                    # as many as you like, in this order
  rgb:   {folder: rgb, kind: image}            # 8 or 16-bit PNG, JPEG, TIFF, npy
  depth: {folder: depth, kind: depth, scale: 0.001, unit: m, invalid: 0}
target: {folder: label, kind: label, ignore: 255, classes: [wall, floor]}
splits: {train: splits/train.txt, val: splits/val.txt}     # one key a line
```

The files of a sample are `folder/KEY.ending`, for example `rgb/000003.jpg` for the key `000003`, or
`folder/KEY` + suffix + `.ending` for a modality with a `suffix`. A target may be an image instead of a label,
`target: {folder: albedo, kind: image}`, or one of the modalities, `target: rgb`, which is then no input.
"""

import difflib
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import yaml

from polymodal.data.files import Store
from polymodal.errors import DataError

FILE = "dataset.yaml"
KINDS = ("image", "depth", "normal", "label", "raw")
"""image: colours or intensities; depth: one channel of distances; normal: x, y, z of surface normals;
label: one channel of class numbers; raw: any other measured channels."""

NO_IGNORE = -1
"""The ignore index of a data set that declares none: no file can hold it, and padding still can."""

_FILE_KEYS = ("folder", "suffix", "kind")
_IMAGE_KEYS: dict[str, tuple[str, ...]] = {
    "image": (*_FILE_KEYS, "bits", "invalid", "range"),
    "depth": (*_FILE_KEYS, "bits", "scale", "unit", "invalid", "range"),
    "normal": (*_FILE_KEYS, "bits", "invalid"),
    "raw": (*_FILE_KEYS, "bits", "scale", "unit", "invalid", "range"),
}
_INPUT_KEYS = {kind: (*keys, "mean", "std") for kind, keys in _IMAGE_KEYS.items()} | {
    "label": (*_FILE_KEYS, "classes", "invalid")
}
_TARGET_KEYS = _IMAGE_KEYS | {"label": (*_FILE_KEYS, "ignore", "classes", "colors")}

T = TypeVar("T")


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
        suffix: What stands behind the key in the names of its files.
        bits: Of the stored values, 8 or 16; files of others are refused. None takes both.
        range: Smallest and largest value, in `unit` (image: as a share of full scale): what a target is scaled by.
            None when not declared.
    """

    folder: str
    kind: str
    scale: float = 1.0
    unit: str = ""
    invalid: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    classes: tuple[str, ...] = ()
    suffix: str = ""
    bits: int | None = None
    range: tuple[float, float] | None = None


@dataclass(frozen=True)
class TargetSpec:
    """What is to be predicted.

    Args:
        kind: One of `KINDS`; segmentation predicts `label`, translation any other.
        folder: The folder of its files, from the root of the data set.
        ignore: Label of pixels that do not count; `NO_IGNORE` when none is declared.
        classes: Names by class number.
        colors: Red, green and blue of each class, 0 to 255; a fixed palette when none is declared.
        suffix: What stands behind the key in the names of its files.
        scale: Of an image target, as everything below: factor from stored values to `unit` (depth and raw).
        unit: Of the scaled values, for people to read.
        invalid: Stored value of a pixel without truth, in all of its channels.
        bits: Of the stored values, 8 or 16; None takes both.
        range: The values, in `unit`, that become -1 and 1; None until `settle_target` has found them.
        channels: Of the files; 0 until `settle_target` has looked at one.
    """

    kind: str
    folder: str
    ignore: int = NO_IGNORE
    classes: tuple[str, ...] = ()
    colors: tuple[tuple[int, int, int], ...] = ()
    suffix: str = ""
    scale: float = 1.0
    unit: str = ""
    invalid: float | None = None
    bits: int | None = None
    range: tuple[float, float] | None = None
    channels: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, which has no word for NaN."""
        if self.kind == "label":
            return {
                "kind": self.kind,
                "folder": self.folder,
                "ignore": self.ignore,
                "classes": list(self.classes),
                "colors": [list(color) for color in self.colors],
            }
        nan = self.invalid is not None and math.isnan(self.invalid)
        return {
            "kind": self.kind,
            "folder": self.folder,
            "scale": self.scale,
            "unit": self.unit,
            "invalid": "nan" if nan else self.invalid,
            "bits": self.bits,
            "range": self.range and list(self.range),
            "channels": self.channels,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "TargetSpec":
        """The inverse of `as_dict`.

        Raises:
            DataError: When a value is missing or of another type.
        """
        section = _Section("target", "", values)
        kind, folder = section.get("kind", _kind), section.get("folder", _text)
        if kind != "label":
            section.only(("kind", "folder", "scale", "unit", "invalid", "bits", "range", "channels"))
            return cls(
                kind,
                folder,
                scale=section.get("scale", _positive),
                unit=section.get("unit", str),
                invalid=section.get("invalid", _number_or_none),
                bits=section.get("bits", _or_none(_bits)),
                range=section.get("range", _or_none(_range)),
                channels=section.get("channels", _integer),
            )
        section.only(("kind", "folder", "ignore", "classes", "colors"))
        return cls(
            kind,
            folder,
            ignore=section.get("ignore", _integer),
            classes=section.get("classes", _texts_or_none),
            colors=section.get("colors", _colors),
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
        top = _Section(file, "", _parse(store.read(FILE), file))
        top.only(("name", "modalities", "target", "splits"))

        modalities = top.section("modalities")
        if not modalities.values:
            raise DataError(f"{file}: modalities: expected at least one modality, got none.")
        named = isinstance(top.values.get("target"), str)
        spec = cls(
            name=top.get("name", _text, store.path.stem),
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
            raise DataError(f"modalities: expected at least one of {_listed(self.modalities)}, got none.")
        for name in modalities:
            self._require(name, "modalities")
            if name == self.target_name:
                raise DataError(
                    f"modalities: {name} is the target, so it can be no input. Choose others, or set target."
                )
        if len(set(modalities)) < len(modalities):
            raise DataError(f"modalities: expected different names, got {_listed(modalities)}.")
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
        unlabelled = part.invalid if part.kind == "label" else None
        target = TargetSpec(
            kind=part.kind,
            folder=part.folder,
            ignore=NO_IGNORE if unlabelled is None else int(unlabelled),
            classes=part.classes,
            colors=palette(len(part.classes)),
            suffix=part.suffix,
            scale=part.scale,
            unit=part.unit,
            invalid=part.invalid,
            bits=part.bits,
            range=part.range,
        )
        return replace(self, target=target, target_name=name)

    def _require(self, name: str, setting: str) -> None:
        if name not in self.modalities:
            raise DataError(
                f"{setting}: {self.store.path} has no modality {name!r}{_nearest(name, self.modalities)} "
                f"It has {_listed(self.modalities)}."
            )

    def file(self, part: ModalitySpec | TargetSpec, key: str) -> str:
        """The file of a key, from the root of the data set.

        Raises:
            DataError: When there is none, or more than one.
        """
        return self.store.find(part.folder, key + part.suffix)

    def keys(self, split: str) -> tuple[str, ...]:
        """The keys of a split.

        Raises:
            DataError: When there is no such split.
        """
        if split not in self.splits:
            raise DataError(
                f"{self.store.where(FILE)}: splits: there is no split {split!r}{_nearest(split, self.splits)} "
                f"It has {_listed(self.splits)}."
            )
        return self.splits[split]


def palette(classes: int) -> tuple[tuple[int, int, int], ...]:
    """Colours that tell up to 255 classes apart, the same ones every time.

    The colour map of the Pascal VOC development kit without its first colour, black: bit k of the three colours
    comes from bits 3k, 3k + 1 and 3k + 2 of the class number.
    """

    def color(number: int) -> tuple[int, int, int]:
        red, green, blue = (sum((number >> 3 * k + c & 1) << 7 - k for k in range(8)) for c in range(3))
        return red, green, blue

    return tuple(color(number) for number in range(1, classes + 1))


def _modality(modalities: "_Section", name: str) -> ModalitySpec:
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or name == "ensemble":
        raise DataError(
            f"{modalities.file}: modalities: expected a name of letters, digits, - and _ other than 'ensemble', "
            f"got {name!r}."
        )
    section = modalities.section(name)
    section.only({key for keys in _INPUT_KEYS.values() for key in keys})
    kind = section.get("kind", _kind)
    section.only(_INPUT_KEYS[kind], f" for kind {kind}")
    return ModalitySpec(
        folder=section.get("folder", _folder),
        kind=kind,
        scale=section.get("scale", _positive, 1.0),
        unit=section.get("unit", _text, ""),
        invalid=section.get("invalid", _number, None),
        mean=section.get("mean", _numbers, None),
        std=section.get("std", _positives, None),
        classes=section.get("classes", _texts) if kind == "label" else (),
        suffix=section.get("suffix", _text, ""),
        bits=section.get("bits", _bits, None),
        range=section.get("range", _range, None),
    )


def _target(section: "_Section") -> TargetSpec:
    section.only({key for keys in _TARGET_KEYS.values() for key in keys})
    kind = section.get("kind", _kind)
    section.only(_TARGET_KEYS[kind], f" for a target of kind {kind}")
    folder, suffix = section.get("folder", _folder), section.get("suffix", _text, "")
    if kind != "label":
        return TargetSpec(
            kind,
            folder,
            suffix=suffix,
            scale=section.get("scale", _positive, 1.0),
            unit=section.get("unit", _text, ""),
            invalid=section.get("invalid", _number, None),
            bits=section.get("bits", _bits, None),
            range=section.get("range", _range, None),
        )
    classes = section.get("classes", _texts)
    colors = section.get("colors", _colors, palette(len(classes)))
    if len(colors) != len(classes):
        raise DataError(
            f"{section.at('colors')}: expected one colour for each of {len(classes)} classes, got {len(colors)}."
        )
    return TargetSpec(kind, folder, section.get("ignore", _label, NO_IGNORE), classes, colors, suffix)


def _splits(section: "_Section", store: Store) -> dict[str, tuple[str, ...]]:
    splits = {}
    for name in section.names():
        file = section.get(name, _text)
        if not store.exists(file):
            raise DataError(f"{section.at(name)}: there is no file {store.where(file)}. It lists one key a line.")
        lines = _decoded(store.read(file), store.where(file)).splitlines()
        splits[name] = tuple(line.strip() for line in lines if line.strip())
        if not splits[name]:
            raise DataError(
                f"{store.where(file)}: the split {name!r} is empty. List one key a line, or remove it from {FILE}."
            )
    if not splits:
        raise DataError(f"{section.file}: splits: expected at least one split, got none.")
    return splits


class _Section:
    """One mapping of the file, with the path to it for messages."""

    def __init__(self, file: str, path: str, values: Any) -> None:
        if not isinstance(values, dict):
            raise DataError(f"{file}: {path or 'the file'}: expected keys and values, got {_shown(values)}.")
        self.file, self.path, self.values = file, path, values

    def at(self, key: str) -> str:
        return f"{self.file}: {self.path}.{key}" if self.path else f"{self.file}: {key}"

    def names(self) -> list[str]:
        for name in self.values:
            if not isinstance(name, str):
                raise DataError(f"{self.file}: {self.path}: expected names, got {_shown(name)}. Put it in quotes.")
        return list(self.values)

    def only(self, allowed: Iterable[str], context: str = "") -> None:
        for key in self.values:
            if key not in allowed:
                place = f"{self.file}: {self.path}" if self.path else self.file
                raise DataError(
                    f"{place}: unknown key {key!r}{context}{_nearest(str(key), allowed)} "
                    f"Known keys are {_listed(sorted(allowed))}."
                )

    def section(self, key: str) -> "_Section":
        self._require(key)
        return _Section(self.file, f"{self.path}.{key}".lstrip("."), self.values[key])

    def get(self, key: str, convert: Callable[[Any], T], *default: T) -> T:
        if key not in self.values and default:
            return default[0]
        self._require(key)
        try:
            return convert(self.values[key])
        except ValueError as error:
            raise DataError(f"{self.at(key)}: expected {error}, got {_shown(self.values[key])}.") from None

    def _require(self, key: str) -> None:
        if key not in self.values:
            raise DataError(f"{self.at(key)}: missing. Add the key {key!r}.")


def _parse(data: bytes, file: str) -> Any:
    try:
        return yaml.load(_decoded(data, file), _UniqueKeys)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise DataError(f"{file}{line}: {error.problem or 'not valid YAML'}.") from error
    except yaml.YAMLError as error:
        raise DataError(f"{file}: not valid YAML ({error}).") from error


def _decoded(data: bytes, file: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: expected text in UTF-8 ({error}). Save it in that encoding.") from error


class _UniqueKeys(yaml.SafeLoader):
    """YAML's last of two equal keys would silently replace the first, for example one of two modalities."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"{key.value!r} is there twice; give each its own name", problem_mark=key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("a text")
    return value


def _folder(value: Any) -> str:
    return _text(value).rstrip("/")


def _kind(value: Any) -> str:
    if value not in KINDS:
        raise ValueError(f"one of {_listed(KINDS)}")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("a number")
    return float(value)


def _positive(value: Any) -> float:
    if not 0 < _number(value) < math.inf:
        raise ValueError("a number above 0")
    return float(value)


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("a whole number")
    return value


def _label(value: Any) -> int:
    if _integer(value) < 0:
        raise ValueError("a label, 0 or above")
    return value


def _numbers(value: Any) -> tuple[float, ...]:
    try:
        numbers = tuple(_number(item) for item in (value if isinstance(value, list) else [value]))
    except ValueError:
        numbers = ()
    if not numbers or not all(map(math.isfinite, numbers)):
        raise ValueError("a number, or a list of one for each channel")
    return numbers


def _positives(value: Any) -> tuple[float, ...]:
    if min(_numbers(value)) <= 0:
        raise ValueError("numbers above 0")
    return _numbers(value)


def _bits(value: Any) -> int:
    if value not in (8, 16):
        raise ValueError("8 or 16")
    return int(value)


def _range(value: Any) -> tuple[float, float]:
    low, high = _numbers(value) if isinstance(value, list) and len(value) == 2 else (0.0, 0.0)
    if not low < high:
        raise ValueError("a list of two numbers, the smaller first")
    return low, high


def _number_or_none(value: Any) -> float | None:
    return math.nan if value == "nan" else None if value is None else _number(value)


def _or_none(convert: Callable[[Any], T]) -> Callable[[Any], T | None]:
    return lambda value: None if value is None else convert(value)


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(item, str) and item for item in value):
        raise ValueError("a list of texts (in quotes where YAML would read a number, yes or no)")
    if len(set(value)) < len(value):
        raise ValueError("different names")
    return tuple(value)


def _texts_or_none(value: Any) -> tuple[str, ...]:
    return () if value == [] else _texts(value)


def _colors(value: Any) -> tuple[tuple[int, int, int], ...]:
    def is_color(color: Any) -> bool:
        return isinstance(color, list) and len(color) == 3 and all(type(c) is int and 0 <= c <= 255 for c in color)

    if not isinstance(value, list) or not all(map(is_color, value)):
        raise ValueError("a list of [red, green, blue], each from 0 to 255")
    return tuple((red, green, blue) for red, green, blue in value)


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else "."


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"
