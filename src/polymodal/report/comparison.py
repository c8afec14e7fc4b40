"""Several methods over several seeds as one table, made from plain values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any

from polymodal.report.differences import AHEAD, Difference, Differences
from polymodal.report.render import count, duration, number, share
from polymodal.scores import Score, from_plain, known_scores

NONE = "–"


@dataclass(frozen=True)
class Row:
    """One method.

    Attributes:
        name: Its name on the command line and as a folder.
        title: Its name in tables.
        about: What it is, in a sentence.
        runs: For every seed that was asked for, what its scores file says; None while there is none.
        failed: The seeds whose run failed.
        pages: The address of a run's own page, by seed.
        matched: How it was scaled to cost what the reference does; empty where nothing was asked to be equal.
    """

    name: str
    title: str
    about: str
    runs: Mapping[int, Mapping[str, Any] | None]
    failed: frozenset[int] = frozenset()
    pages: Mapping[int, str] = field(default_factory=dict)
    matched: str = ""

    @property
    def finished(self) -> list[Mapping[str, Any]]:
        """The scores that there are, seed by seed."""
        return [scores for scores in self.runs.values() if scores is not None]

    @property
    def complete(self) -> bool:
        """Whether every seed that was asked for is there."""
        return len(self.finished) == len(self.runs)

    @property
    def seeds(self) -> str:
        """How many seeds the figures are a mean over: `3`, `2 of 3`, `2 of 3, 1 failed`."""
        text = f"{len(self.runs)}" if self.complete else f"{len(self.finished)} of {len(self.runs)}"
        return f"{text}, {len(self.failed)} failed" if self.failed else text

    def values(self, *keys: str) -> list[float]:
        """One figure of every finished run, without those that lack it.

        Args:
            keys: Where it stands in a scores file.
        """
        found = [figure(scores, *keys) for scores in self.finished]
        return [value for value in found if value is not None]


def figure(scores: Mapping[str, Any], *keys: str) -> float | None:
    """A number in a scores file, by its path of keys; None where there is none."""
    value: Any = scores
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return number(value)


@dataclass(frozen=True)
class Comparison:
    """What is compared, and how it was measured.

    Attributes:
        name: What it is called: the data set.
        split: The split that is scored.
        modalities: Those of the recipe, in its order.
        rows: The methods, in the order of the table.
        facts: How it was measured, name and text, such as the number of epochs.
        recipe: The settings that all methods share, as text.
        differences: Of the methods from one of them; None where nobody computed them.
    """

    name: str
    split: str
    modalities: Sequence[str]
    rows: Sequence[Row]
    facts: Mapping[str, str]
    recipe: str
    differences: Differences | None = None

    @property
    def scores(self) -> list[Score]:
        """The figures that there are, the one that counts first."""
        runs = [run for row in self.rows for run in row.finished]
        described = [score for run in runs for score in from_plain(run.get("scores"))]
        return known_scores((scores for run in runs for scores in run["predictions"].values()), described)

    @property
    def score(self) -> Score:
        """The figure that counts."""
        return self.scores[0]

    @property
    def predictions(self) -> list[str]:
        """The predictions that any run has: first the modalities in their order, then the others."""
        found = dict.fromkeys(name for row in self.rows for run in row.finished for name in run["predictions"])
        own = [name for name in self.modalities if name in found]
        return own + [name for name in found if name not in own]


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation (n − 1 in the denominator); None for the deviation of a single value."""
    return fmean(values), stdev(values) if len(values) > 1 else None


@dataclass(frozen=True)
class Cell:
    """One field of the table."""

    text: str
    best: bool = False


def table(comparison: Comparison) -> tuple[list[str], list[list[Cell]]]:
    """Headings and cells, the first column left out: seeds, the score of every prediction, costs.

    The best of a column is that of the best mean as it is printed, among the methods whose seeds are all there. One
    seed alone has no best: the next one may well order the methods otherwise.
    """
    headings = ["seeds", *comparison.predictions, "exchanged", "parameters", "MACs", "time"]
    matched = any(row.matched for row in comparison.rows)
    headings += ["scaled"] if matched else []
    lines = []
    for row, scores in zip(comparison.rows, _scored(comparison, comparison.score), strict=True):
        costs = [count(_mean(row, "parameters")), count(_mean(row, "macs")), duration(_mean(row, "seconds"))]
        costs += [row.matched] if matched else []
        lines.append([Cell(row.seeds), *scores, Cell(_exchanged(row, comparison.modalities)), *map(Cell, costs)])
    return headings, lines


def further(comparison: Comparison) -> list[tuple[Score, list[tuple[Row, list[Cell]]]]]:
    """The rows of every other score, each with a cell for each prediction; the best as in `table`."""
    scores = comparison.scores[1:]
    return [(score, list(zip(comparison.rows, _scored(comparison, score), strict=True))) for score in scores]


def _scored(comparison: Comparison, score: Score) -> list[list[Cell]]:
    best = {name: _best(comparison.rows, score, name) for name in comparison.predictions}
    return [[_score_cell(row, score, name, best[name]) for name in best] for row in comparison.rows]


def _best(rows: Sequence[Row], score: Score, prediction: str) -> str | None:
    scored = [row.values("predictions", prediction, score.key) for row in rows if row.complete and len(row.runs) > 1]
    means = [fmean(values) for values in scored if values]
    return score.text(score.better(means)) if means else None


def _score_cell(row: Row, score: Score, prediction: str, best: str | None) -> Cell:
    values = row.values("predictions", prediction, score.key)
    if not values:
        return Cell("failed" if row.failed and not row.finished else NONE)
    mean, deviation = mean_and_deviation(values)
    text = score.text(mean)
    spread = "" if deviation is None else f" ± {score.text(deviation)}"
    lacking = f" ({len(values)} of {len(row.runs)})" if len(values) < len(row.finished) else ""
    return Cell(text + spread + lacking, best=row.complete and len(row.runs) > 1 and text == best)


def _mean(row: Row, key: str) -> float | None:
    values = row.values(key)
    return fmean(values) if values else None


def _exchanged(row: Row, modalities: Sequence[str]) -> str:
    shares = {name: row.values("exchanged", name) for name in modalities}
    return ", ".join(f"{name} {share(fmean(values))}" for name, values in shares.items() if values) or NONE


def apart(comparison: Comparison) -> list[tuple[Score, list[tuple[Row, list[Cell]]]]]:
    """How far the methods are from the reference: for each score that tells, the rows and a cell for each prediction.

    What is ahead is marked as the best are.
    """
    found = comparison.differences
    if found is None:
        return []
    told = []
    for score in (score for score in comparison.scores if score.key in found.keys):
        lines = [(row, found.line(row.name, comparison.predictions, score)) for row in comparison.rows]
        rows = [(row, [_apart_cell(one, score) for one in line]) for row, line in lines if any(line)]
        told.append((score, rows))
    return told


def apart_by_class(comparison: Comparison) -> list[tuple[str, list[tuple[Row, list[Cell]]]]]:
    """Likewise for the classes of the score that counts: a title for each prediction, a cell for each class."""
    found, score = comparison.differences, comparison.score
    if found is None:
        return []
    tables = []
    for prediction in comparison.predictions:
        lines = [(row, found.classes.get((row.name, prediction, score.key))) for row in comparison.rows]
        rows = [(row, [_apart_cell(one, score) for one in line]) for row, line in lines if line]
        tables += [(prediction, rows)] if rows else []
    return tables


def _apart_cell(difference: Difference | None, score: Score) -> Cell:
    if difference is None:
        return Cell(NONE)
    return Cell(difference.text(score), best=difference.verdict == AHEAD)
