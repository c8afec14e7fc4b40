"""How often each class occurs in each split, and what is wrong with a data set in which one does not."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from polymodal.data.bands import bands
from polymodal.data.folder import FolderDataset
from polymodal.data.labels import LabelCode, translation

ONE_CLASS = (
    "`classes` names one class, and every pixel of a prediction would be it. Name what the others are, too, for "
    "example background."
)

LINE = 100
"""So many characters wide is a table."""


@dataclass
class Counted:
    """The pixels of a split.

    Args:
        pixels: Of each class and, last, of all that is ignored.
        samples: How many were counted.
        of: How many the split has.
    """

    pixels: np.ndarray
    samples: int
    of: int

    def add(self, labels: np.ndarray, ignore: int) -> None:
        """Count a sample.

        Args:
            labels: As `class_numbers` returns them.
            ignore: Likewise.
        """
        for (band,) in bands(labels[None]):
            numbers = np.where(band == ignore, len(self.pixels) - 1, band.astype(np.int64))
            self.pixels += np.bincount(numbers.ravel(), minlength=len(self.pixels))
        self.samples += 1

    @property
    def classes(self) -> np.ndarray:
        """Labelled pixels of each class."""
        return self.pixels[:-1]


@dataclass
class Histogram:
    """How often each class occurs.

    Args:
        code: How labels are stored.
        splits: What was counted, by split.
    """

    code: LabelCode
    splits: dict[str, Counted] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """A table of all classes, several of them in a line."""
        names = ", ".join(f"{split} ({_samples(part)})" for split, part in self.splits.items())
        width = max(map(len, self.code.classes))
        cells = [f"{name:{width}}{self._shares(number)}" for number, name in enumerate(self.code.classes)]
        columns = max(1, LINE // (len(cells[0]) + 3))
        rows = ["   ".join(cells[start : start + columns]) for start in range(0, len(cells), columns)]
        ignored = [f"{split} {_percent(part.pixels[-1], part.pixels.sum())}" for split, part in self.splits.items()]
        return [
            f"classes in per cent of the labelled pixels of {names}:",
            *(f"  {row}" for row in rows),
            f"  ignored, in per cent of all pixels: {', '.join(ignored)}",
        ]

    def _shares(self, number: int) -> str:
        parts = [_percent(part.classes[number], part.classes.sum()) for part in self.splits.values()]
        return "".join(f"{part:>7}" for part in parts)

    def one_class(self) -> str:
        """Why nothing can be learned, if all that is labelled for training is one class; empty otherwise."""
        if len(self.code.classes) == 1:
            return ONE_CLASS
        part = self.splits.get("train") or next(iter(self.splits.values()))
        present = np.flatnonzero(part.classes)
        if len(present) != 1:
            return ""
        ignored = _percent(part.pixels[-1], part.pixels.sum())
        return (
            f"only the class {self.code.classes[present[0]]!r} occurs among the labelled pixels for training, and "
            f"{ignored} % of all are ignored: any network that says nothing else would score 100. "
            f"{self._remedy() or 'Look at the label files, and at `classes`, `map` and `ignore`.'}"
        )

    def notes(self) -> Iterator[str]:
        """Classes that occur nowhere, or not in each split."""
        expected = [number for number in range(len(self.code.classes)) if number not in self.code.ignored_classes]
        labelled = {split: part for split, part in self.splits.items() if part.classes.any()}
        sampled = any(part.samples < part.of for part in labelled.values())
        counted = " of the samples that were counted" if sampled else ""
        nowhere = [number for number in expected if not any(part.classes[number] for part in labelled.values())]
        if labelled and nowhere:
            yield f"no pixel{counted} is labelled as {self._named(nowhere)}. {self._remedy()}".rstrip()
        for split, part in labelled.items():
            lacking = [number for number in expected if not part.classes[number] and number not in nowhere]
            if lacking:
                effect = "they are not learned" if split == "train" else "their scores there say nothing"
                yield f"no pixel{counted} of the split {split!r} is labelled as {self._named(lacking)}: {effect}."

    def _named(self, numbers: Sequence[int]) -> str:
        shown = ", ".join(repr(self.code.classes[number]) for number in numbers[:8])
        return shown + (f" and {len(numbers) - 8} more" if len(numbers) > 8 else "")

    def _remedy(self) -> str:
        """What to write if the ignored value is the class that is missing; empty where there are several of either."""
        total = np.sum([part.pixels for part in self.splits.values()], axis=0)
        missing = np.flatnonzero(total[:-1] == 0).tolist()
        if len(missing) != 1 or len(self.code.ignored) != 1 or not total[-1]:
            return ""
        value, number = self.code.ignored[0], missing[0]
        if not isinstance(value, int):
            return ""
        write = "" if value == number and not self.code.map else f"write `{translation(self.code, value, number)}` and "
        return f"If {value}, which is ignored, is the class {self.code.classes[number]!r}, {write}leave `ignore` out."


def empty(code: LabelCode, of: int) -> Counted:
    """Nothing counted yet, of a split with so many samples."""
    return Counted(np.zeros(len(code.classes) + 1, np.int64), 0, of)


def count(dataset: FolderDataset, most: int | None = None) -> Counted:
    """Count the labels of a split, evenly spaced samples where it has more than `most`.

    Raises:
        DataError: When a label file is missing or damaged, or holds what is no class.
    """
    part = empty(dataset.target.code, len(dataset))
    for index in range(0, len(dataset), 1 if most is None else -(-len(dataset) // most)):
        part.add(dataset.label(index), dataset.target.ignore)
    return part


def _samples(part: Counted) -> str:
    return f"{part.of} samples" if part.samples == part.of else f"{part.samples} of {part.of} samples"


def _percent(pixels: int, of: int) -> str:
    """Two digits; a dash for none at all, so that a rare class is told from an absent one."""
    return f"{100 * pixels / of:.2f}" if pixels else "-"
