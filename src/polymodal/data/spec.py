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
the others: by interpolation, or by the nearest pixel for labels, depth and values with holes. A modality that some
samples lack says `optional: true`, or `optional: [KEY, ...]` for these alone; every sample has one at least.

A target may be an image instead of a label, `target: {folder: albedo, kind: image}`, or one of the modalities,
`target: rgb`, which is then no input. A data set may have several, by name, `targets: {labels: {...}, albedo: {...}}`;
a recipe says which is learned, `data.target: labels`, or which are read for a task of one's own, `[labels, albedo]`.
One of several may be `optional` as a modality; every sample has one.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

import yaml

from polymodal.data import values
from polymodal.data.content import Content
from polymodal.data.files import Store
from polymodal.data.label_files import LabelFiles
from polymodal.data.parts import (
    TARGET,
    MayLack,
    ModalitySpec,
    TargetSpec,
    declared_targets,
    label_target,
    modality_of,
    only,
)
from polymodal.data.reading import decode
from polymodal.data.section import QUOTED, Section, parse
from polymodal.data.sizes import header_size
from polymodal.data.splits import read_splits
from polymodal.errors import DataError
from polymodal.near import meant
from polymodal.yaml_documents import MAX_YAML

FILE = "dataset.yaml"


@dataclass(frozen=True)
class DatasetSpec:
    """A data set: where its files are, what they mean, and which sample belongs to which split.

    Args:
        name: For people to read.
        store: Its files.
        modalities: By name, in the order of `dataset.yaml`.
        targets: What can be predicted, by name; `TARGET` is that of the only one, if it has no other.
        splits: The keys of each split.
        predicted: The modalities that are targets, which are no inputs then.
    """

    name: str
    store: Store
    modalities: dict[str, ModalitySpec]
    targets: dict[str, TargetSpec]
    splits: dict[str, tuple[str, ...]]
    predicted: tuple[str, ...] = ()
    _labels: dict[ModalitySpec | TargetSpec, LabelFiles] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

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
        top = Section(file, "", parse(store.read(FILE, MAX_YAML), file))
        top.only(("name", "modalities", "target", "targets", "splits"))

        modalities = top.section("modalities")
        if not modalities.values:
            raise DataError(f"{file}: modalities: expected at least one modality, got none.")
        named = isinstance(top.values.get("target"), str)
        spec = cls(
            name=top.get("name", values.text, store.path.stem),
            store=store,
            modalities={name: modality_of(modalities, name) for name in modalities.file_names()},
            targets={} if named else declared_targets(top),
            splits=read_splits(top.section("splits"), store),
        )
        spec._check_optional()
        return spec.with_targets(top.values["target"]) if named else spec

    def _check_optional(self) -> None:
        """Refuse keys of no sample among those that may lack a modality or a target."""
        known = set(self.all_keys)
        parts: dict[str, MayLack] = {f"modalities.{name}": part for name, part in self.modalities.items()}
        parts |= {f"targets.{name}": part for name, part in self.targets.items()}
        for name, part in parts.items():
            listed_keys = part.optional if isinstance(part.optional, tuple) else ()
            if strange := [key for key in listed_keys if key not in known]:
                raise DataError(
                    f"{self.store.where(FILE)}: {name}.optional: no split lists {strange[0]!r}. Expected keys of "
                    "samples, or true."
                )

    @property
    def target(self) -> TargetSpec:
        """What is to be predicted.

        Raises:
            DataError: When the data set has several targets, and none was chosen.
        """
        return only(self.targets, self.store.where(FILE))

    def select(self, modalities: Sequence[str] | None) -> tuple[str, ...]:
        """The names of the wanted modalities, all but the target when None.

        Raises:
            DataError: When none is wanted, one is wanted twice or the data set lacks one, or it is the target, or the
                files of one are the target's.
        """
        if modalities is None:
            modalities = [name for name in self.modalities if name not in self.predicted]
        if not modalities:
            raise DataError(f"modalities: expected at least one of {', '.join(self.modalities)}, got none.")
        for name in modalities:
            self._require(name, "modalities")
            if name in self.predicted:
                raise DataError(
                    f"modalities: {name} is the target, so it can be no input. Choose others, or set target."
                )
        if len(set(modalities)) < len(modalities):
            raise DataError(f"modalities: expected different names, got {', '.join(modalities)}.")
        for name in self.truths():
            if name in modalities:
                raise DataError(
                    f"{self.store.where(FILE)}: modalities.{name}: its files are those of the target, which would be "
                    "predicted from the truth. Remove it, name another folder, or choose other modalities."
                )
        return tuple(modalities)

    def with_targets(self, names: str | Sequence[str] | None) -> "DatasetSpec":
        """The same data set with some of its targets, or of its modalities as targets and the others for inputs.

        Args:
            names: One or several; None for the only one.

        Raises:
            DataError: When there is no only one, or none is named, or one twice, or the data set has no such target or
                modality, or no modality is left.
        """
        if names is None:
            return replace(self, targets={self.target.name: self.target})
        names = [names] if isinstance(names, str) else names
        if not names or len(set(names)) < len(names):
            raise DataError(f"target: expected different names, one at least, got {', '.join(names) or 'none'}.")
        predicted = tuple(name for name in names if name in self.modalities or name not in self.targets)
        targets = {name: self._predicted(name) if name in predicted else self.targets[name] for name in names}
        if len(predicted) == len(self.modalities):
            what = "is the only modality" if len(predicted) == 1 else "are all modalities"
            raise DataError(
                f"target: {', '.join(predicted)} {what} of {self.store.path}; nothing is left to predict it."
            )
        return replace(self, targets=targets, predicted=predicted)

    def _predicted(self, name: str) -> TargetSpec:
        """A modality as the target."""
        self._require(name, "target")
        part = self.modalities[name]
        for value, said, why in (
            (part.resize, "resize: true", "a target sets the size"),
            (part.optional, "optional", "every sample has a target"),
        ):
            if value:
                raise DataError(f"target: {name} is declared with `{said}`, and {why}. Remove that key.")
        if part.kind == "label":
            files = {key: getattr(part, key) for key in ("prefix", "suffix", "layout", "pages")}
            return label_target(part.folder, part.code, files, name)
        return TargetSpec(**part.common, folder=part.folder, range=part.range, name=name)

    def truths(self) -> list[str]:
        """The modalities whose files are those of a target: as an input, each would be the answer itself."""
        answers = [self._files_of(target) for target in self.targets.values()]
        return [
            name
            for name, part in self.modalities.items()
            if name not in self.predicted and self._files_of(part) in answers
        ]

    def _files_of(self, part: ModalitySpec | TargetSpec) -> tuple[PurePath, str, str]:
        """What tells the files of a part from those of others, however its folder is spelt, and through links."""
        folder = PurePosixPath(part.folder) if self.store.is_archive else (self.store.path / part.folder).resolve()
        return folder, part.prefix, part.suffix

    def _require(self, name: str, setting: str) -> None:
        if name not in self.modalities:
            others = [name for name in self.targets if setting == "target" and name != TARGET]
            known = [*others, *self.modalities]
            raise DataError(
                f"{setting}: {self.store.path} has no {'target and no ' if others else ''}modality "
                f"{name!r}{meant(name, known, QUOTED)} It has {', '.join(known)}."
            )

    def file(self, part: ModalitySpec | TargetSpec, key: str) -> str:
        """The file of a key, from the root of the data set.

        Raises:
            DataError: When there is none, or more than one.
        """
        return self.store.find(part.folder, key, part)

    def lacks(self, part: str | ModalitySpec | TargetSpec, key: str) -> bool:
        """Whether a sample is without a modality, which may be given by its name, or a target that it may lack."""
        declared = self.modalities[part] if isinstance(part, str) else part
        return declared.may_lack(key) and not self.store.has(declared.folder, key, declared)

    def targets_of(self, key: str) -> dict[str, TargetSpec]:
        """Those that a sample has.

        Raises:
            DataError: It has none.
        """
        found = {name: target for name, target in self.targets.items() if not self.lacks(target, key)}
        if not found:
            raise DataError(
                f"{self.store.where(FILE)}: the sample {key!r} has no {', '.join(self.targets)}, so nothing can be "
                "scored of it. Remove it from the splits, or add a file."
            )
        return found

    def content(self, part: ModalitySpec | TargetSpec, file: str) -> Content:
        """A file of a modality or of the target, decoded.

        Args:
            part: Whose file it is.
            file: As `file` returns it.

        Raises:
            DataError: When it cannot be read, or leaves in doubt what it means.
        """
        where = self.store.where(file)
        content = decode(self.store.read(file), where, part)
        if part.kind == "label":
            self._labels.setdefault(part, LabelFiles(part.code)).check(content, where)
        return content

    def header_sizes(self, key: str, modalities: Iterable[str]) -> dict[str, tuple[int, int]]:
        """Height and width by file, of modalities and the target, where headers tell and all must be equal.

        Nothing is decoded: one file that claims to be larger than the others of its sample may fill the memory.
        """
        inputs = [self.modalities[name] for name in modalities if not self.modalities[name].resize]
        parts: list[ModalitySpec | TargetSpec] = [*inputs, *self.targets.values()]
        found = {}
        for part in parts:
            with suppress(DataError):  # a file that is missing or damaged is told of when its turn comes
                file = self.file(part, key)
                if size := header_size(self.store.read(file)):
                    found[file] = size
        return found

    @property
    def all_keys(self) -> list[str]:
        """The keys of all splits, each once."""
        return list(dict.fromkeys(key for keys in self.splits.values() for key in keys))

    def keys(self, split: str) -> tuple[str, ...]:
        """The keys of a split.

        Raises:
            DataError: When there is no such split, or it has a key twice.
        """
        if split not in self.splits:
            raise DataError(
                f"{self.store.where(FILE)}: splits: there is no split {split!r}{meant(split, self.splits, QUOTED)} "
                f"It has {', '.join(self.splits)}."
            )
        keys = self.splits[split]
        if len(set(keys)) < len(keys):
            twice = [key for key, count in Counter(keys).items() if count > 1]
            raise DataError(
                f"{self.store.where(FILE)}: splits: {split!r} lists {len(twice)} key(s) more than once, such as "
                f"{twice[0]!r}; they would count more than others. List each once."
            )
        return keys


def description(content: dict[str, Any]) -> bytes:
    """A dataset.yaml that says this."""
    text = yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=120, allow_unicode=True)
    return text.encode()
