"""Look at every file of a data set once and name each defect by its file."""

import math
from collections import Counter, defaultdict
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from unicodedata import normalize

import numpy as np

from polymodal.data.bands import bands
from polymodal.data.content import honouring
from polymodal.data.histogram import Counted, Histogram, empty
from polymodal.data.inputs import ENDS, UNITS, InputSpec, check_sizes, reached, stored, to_values
from polymodal.data.labels import class_numbers
from polymodal.data.naming import name_of
from polymodal.data.parts import CHANNELS, ModalitySpec, TargetSpec
from polymodal.data.ranges import Range, strangers
from polymodal.data.remarks import remarks
from polymodal.data.resizing import check_ratio
from polymodal.data.spec import FILE, DatasetSpec
from polymodal.data.track import track
from polymodal.data.undeclared import undeclared
from polymodal.errors import DataError


@dataclass(frozen=True)
class Defect:
    """Something wrong with a file.

    Args:
        file: Its name from the root of the data set, or a key.
        problem: What is wrong with it.
        note: Whether it is only worth knowing, and harms nothing.
    """

    file: str
    problem: str
    note: bool = False


class Findings(list[Defect]):
    """Every defect and note.

    Attributes:
        classes: How often each class of the target occurs in each split; None of a target that is an image.
    """

    classes: Histogram | None = None


def check(root: str | Path) -> Findings:
    """Every defect of a data set, with a progress bar.

    Finds missing, doubled and unreadable files, sizes and channels that differ, labels that are no class or all
    ignored, NaN, constant images, files without a measurement, files in another unit than the others, values that seem
    to be no measurement, keys that are listed twice, samples of one split that are copies of another's, and that all is
    of one class. Notes are files of no split or of no format that is read, classes that occur nowhere or not in every
    split, and what was done about things that files say of themselves.

    Raises:
        DataError: When dataset.yaml itself is wrong, so that nothing can be checked.
    """
    found = Findings()
    whole = DatasetSpec.load(root)
    for split, keys in whole.splits.items():
        for key in keys:
            if all(whole.lacks(target, key) for target in whole.targets.values()):
                found.append(Defect(f"split {split!r}", f"{key} has none of the targets."))
    for name, target in whole.targets.items():
        new = _check(replace(whole, targets={name: target}))
        found += [defect for defect in new if defect not in found]
        found.classes = found.classes or new.classes
    return found


def _check(spec: DatasetSpec) -> Findings:
    """The defects of a data set with one target."""
    keys = spec.all_keys
    code = spec.target.code
    members = {split: set(listed) for split, listed in spec.splits.items()}
    classes = Histogram(code, {split: empty(code, len(listed)) for split, listed in members.items()})
    seen = Seen(spec)
    why = "its files are those of the target, so it can be no input."
    truths = [Defect(FILE, f"modalities.{name}: {why}", note=True) for name in spec.truths()]
    defects = [*_repeated_keys(spec), *truths, *_lacking(spec)]
    for key in track(keys, "checking"):
        counted = [classes.splits[split] for split, listed in members.items() if key in listed]
        defects += seen.sample(key, counted)
        defects += seen.copies(key)
    defects += [*_sizes(spec, seen.shapes), *_other_units(seen.ranges)]
    defects += [_alike(note, files) for (_, note), files in seen.notes.items()]
    found = Findings([*defects, *_unused_files(spec, keys)])
    if spec.target.kind == "label":
        found.classes = classes
        if problem := classes.one_class():
            found.append(Defect(FILE, f"target: {problem}"))
        else:
            found += [Defect(FILE, f"target: {problem}", note=True) for problem in classes.notes()]
    return found


@dataclass
class Seen:
    """What the files that were looked at have shown, against which the next ones are held.

    Attributes:
        spec: The data set.
        first: A pixel of the first file of each modality, and of the target under no name.
        ranges: Between which values each file lies, likewise.
        shapes: The size of each sample's target.
        notes: The files by their folder and by what is said of each that harms nothing.
        contents: The first key by what its files hold.
    """

    spec: DatasetSpec
    first: dict[str, np.ndarray] = field(default_factory=dict)
    ranges: dict[str, dict[str, Range]] = field(default_factory=lambda: defaultdict(dict))
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    notes: dict[tuple[str, str], list[str]] = field(default_factory=lambda: defaultdict(list))
    contents: dict[tuple[tuple[str, int, int], ...], str] = field(default_factory=dict)

    def sample(self, key: str, counted: list[Counted]) -> Iterator[Defect]:
        """The defects of one sample's files; its labels are added to what is counted of its splits."""
        spec = self.spec
        sizes: dict[str, tuple[int, int]] = {}
        loose: dict[str, tuple[int, int]] = {}
        claimed = spec.header_sizes(key, spec.modalities)
        least = min(map(math.prod, claimed.values()), default=0)
        for name, part in _parts(spec):
            if spec.lacks(part, key):
                continue
            try:
                file = spec.file(part, key)
            except DataError as error:
                yield Defect(f"{part.folder}/{key}", _problem(error, spec.store.where(part.folder)))
                continue
            unread = file in claimed and math.prod(claimed[file]) > least  # it may fill the memory
            try:
                size = claimed[file] if unread else (yield from self._file(name, part, file, counted))
                if isinstance(part, ModalitySpec) and part.resize:
                    loose[file] = size
                    continue
                sizes[file] = size
                check_sizes({next(iter(sizes)): next(iter(sizes.values())), file: size})
                if not (name or unread):
                    self.shapes[key] = size
            except DataError as error:
                yield Defect(file, _problem(error, spec.store.where(file), file))
        for file, size in loose.items() if sizes else ():
            try:
                check_ratio(size, next(iter(sizes.values())), file)
            except DataError as error:
                yield Defect(file, _problem(error, file))

    def copies(self, key: str) -> Iterator[Defect]:
        """Whether all files of a sample, which were just read, are those of an earlier one under another name."""
        spec = self.spec
        parts = [(name, part) for name, part in _parts(spec) if not spec.lacks(part, key)]
        try:
            files = [(name, spec.file(part, key)) for name, part in parts]
            content = tuple((name, spec.store.size(file), spec.store.checksum(file)) for name, file in files)
        except DataError:  # a file that is missing was told of
            return
        if (twin := self.contents.setdefault(content, key)) == key:
            return
        own, other = (next(split for split, keys in spec.splits.items() if one in keys) for one in (key, twin))
        across = f"of the split {other!r}, and is in {own!r}: scores would not count" if own != other else "once more"
        yield Defect(key, f"holds the same files as {twin} {across}.", note=own == other)

    def _file(
        self, name: str, part: ModalitySpec | TargetSpec, file: str, counted: list[Counted]
    ) -> Generator[Defect, None, tuple[int, int]]:
        """The defects of what a file holds; its height and width. Its content is gone before the next is decoded."""
        content = self.spec.content(part, file)
        known = len(self.first[name]) if name in self.first else None
        raw = content.channels({**CHANNELS, "label": 1}.get(part.kind, known), file)
        told = [*remarks(content, raw, part)]
        beside = f"{file}.aux.xml"
        if self.spec.store.exists(beside) and b"<NoDataValue" in self.spec.store.read(beside):
            said = f"GDAL's .aux.xml beside it declares a no-data value, which is not read: what {FILE} says counts"
            told.append((said, False))
        if not name and part.kind == "label":
            labels, ignore = class_numbers(raw, part.code, file), self.spec.target.ignore
            for split in counted:
                split.add(labels, ignore)
            problems = iter(["every pixel is labelled as ignored."] if (labels == ignore).all() else [])
        else:
            corner = self.first.setdefault(name, raw[:, :1, :1].copy())
            if part.kind in ENDS and raw.dtype != corner.dtype:
                said = f"{raw.dtype}, where the first file has {corner.dtype}: each counts from 0 to its own full scale"
                told.append((said, False))
            meant = honouring(part, content)
            if doubt := undeclared(raw, InputSpec.of(meant, len(raw))):
                told.append((doubt.remedy, doubt.sure))
            problems = _image_problems(raw, meant, corner, file, self.ranges[name])
        for said, wrong in told:
            if wrong:
                yield Defect(file, f"{said}.")
            else:
                self.notes[part.folder, said].append(file)
        yield from (Defect(file, problem) for problem in problems)
        return raw.shape[1], raw.shape[2]


def _parts(spec: DatasetSpec) -> list[tuple[str, ModalitySpec | TargetSpec]]:
    """The modalities by name, and the target without one."""
    inputs = [(name, part) for name, part in spec.modalities.items() if name not in spec.predicted]
    return [*inputs, ("", spec.target)]


def _image_problems(
    raw: np.ndarray, modality: ModalitySpec | TargetSpec, first: np.ndarray, file: str, ranges: dict[str, Range]
) -> Iterator[str]:
    """The defects of an input's file, or of a target's that is an image; adds to the ranges of the others."""
    channels = {**CHANNELS, "label": len(modality.classes)}.get(modality.kind, len(first))
    spec = InputSpec.of(modality, channels)
    invalid = modality.invalid
    low, high = modality.range or ENDS.get(modality.kind, (-math.inf, math.inf))
    whose = "the target's range" if modality.range or isinstance(modality, TargetSpec) else "full scale"
    slack = 0.01 * (high - low)  # of rounding
    measured = beyond = holes = 0
    for band in bands(raw):
        values, valid = to_values(band, spec, file)
        measured += int(valid.sum())
        beyond += int(((values < low - slack) | (values > high + slack)).any(0)[valid[0]].sum())
        holes += int((~np.isfinite(band) & (band != invalid)).any(0).sum()) if raw.dtype.kind == "f" else 0
    if holes and not (invalid is not None and math.isnan(invalid)):
        yield f"{holes} pixel(s) are NaN or infinite. Declare `invalid: .nan` if that means not measured."
    constant = all((band == raw[0, 0, 0]).all() for band in bands(raw))
    if modality.kind in UNITS and stored(raw) != stored(first):
        yield f"{raw.dtype}, where the first file has {first.dtype}: its values cannot mean the same."
    elif modality.kind in UNITS and not constant and (found := reached(raw, spec, file)):
        ranges[file] = found
    if not measured:
        yield "no pixel holds a measurement."
    elif modality.kind != "label" and constant:
        yield f"constant: every value is {raw[0, 0, 0]}."
    elif beyond > 0.5 * measured:
        share = beyond / measured
        yield f"{share:.0%} of the pixels lie beyond {whose}, {low:g} to {high:g}: is the scale right?"


def _other_units(ranges: dict[str, dict[str, Range]]) -> Iterator[Defect]:
    """Files whose numbers lie far from those of the modality's other files."""
    for of_modality in ranges.values():
        if (found := strangers(of_modality)) is None:
            continue
        files, others = found
        for file in files:
            yield Defect(
                file,
                f"its values, {of_modality[file]}, lie far from those of the modality's other files, {others}: are all "
                "of them in one unit?",
            )


def _lacking(spec: DatasetSpec) -> Iterator[Defect]:
    """How many samples of a split lack a modality, and samples that have none."""
    names = [name for name in spec.modalities if name not in spec.predicted]
    for split, keys in spec.splits.items():
        lacking = {name: [key for key in keys if spec.lacks(name, key)] for name in names}
        target = [key for key in keys if spec.lacks(spec.target, key)]
        for name, without in (*lacking.items(), (spec.target.name, target)):
            if without:
                shown = ", ".join(without[:3]) + (", ..." if len(without) > 3 else "")
                yield Defect(
                    f"split {split!r}", f"{len(without)} of {len(keys)} samples lack {name}: {shown}", note=True
                )
        for key in set.intersection(*map(set, lacking.values())):
            yield Defect(key, "has none of the modalities.")


def _repeated_keys(spec: DatasetSpec) -> Iterator[Defect]:
    home: dict[str, str] = {}
    for split, keys in spec.splits.items():
        for key, count in Counter(keys).items():
            if count > 1:
                yield Defect(key, f"listed {count} times in the split {split!r}.")
            if key in home:
                yield Defect(key, f"listed in two splits, {home[key]!r} and {split!r}: scores would not count.")
            home.setdefault(key, split)
    seen: dict[str, str] = {}
    for key in home:
        if (twin := seen.setdefault(normalize("NFC", key), key)) != key:
            yield Defect(key, f"looks the same as another key, {twin!a}; this one is {key!a}. Keep one of them.")


def _sizes(spec: DatasetSpec, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[Defect]:
    for split, keys in spec.splits.items():
        found = Counter(shapes[key] for key in keys if key in shapes)
        if len(found) > 1:
            shown = ", ".join(f"{width}x{height} ({count})" for (height, width), count in found.most_common(3))
            more = ", ..." if len(found) > 3 else ""
            problem = (
                f"samples of {len(found)} sizes, {shown}{more}: they are evaluated one by one, and trained with "
                "data.augment.crop, data.size or data.batch_size 1."
            )
            yield Defect(f"split {split!r}", problem, note=True)


_FEW = 2
"""Files that are told of one by one."""


def _unused_files(spec: DatasetSpec, keys: list[str]) -> Iterator[Defect]:
    parts = [part for _, part in _parts(spec)]
    used = {str(PurePosixPath(part.folder, name_of(key, part))) for part in parts for key in keys}
    # A folder may lie within another, so that a file is found twice.
    there = {file: part.folder for part in parts for files in spec.store.keys(part.folder).values() for file in files}
    for folder in dict.fromkeys(part.folder for part in parts):
        if left := spec.store.left_out(folder):
            yield Defect(folder, f"{left}.", note=True)
    unused: dict[str, list[str]] = {}
    for file, folder in there.items():
        if str(PurePosixPath(file).with_suffix("")) not in used:
            unused.setdefault(folder, []).append(file)
    for files in unused.values():
        if len(files) <= _FEW:
            yield from (_alike("in no split", [file]) for file in files)
        else:
            yield _alike("in no split", files)


def _alike(note: str, files: Sequence[str]) -> Defect:
    """A note on several files, told of the first one: of each it would bury the defects."""
    file, *more = files
    return Defect(file, f"{note} ({len(more)} more like it)." if more else f"{note}.", note=True)


def _problem(error: DataError, *files: str) -> str:
    """The message without the file's name, which `Defect` holds."""
    message = str(error)
    for file in files:
        message = message.removeprefix(f"{file}: ")
    return message
