"""Several methods over several seeds as one table: Markdown, CSV and a page, made from plain values."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any

from markupsafe import Markup

from polymodal.report.charts import LETTER, tick_values
from polymodal.report.render import count, duration, hue, number, render, share
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
    """

    name: str
    title: str
    about: str
    runs: Mapping[int, Mapping[str, Any] | None]
    failed: frozenset[int] = frozenset()
    pages: Mapping[int, str] = field(default_factory=dict)

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
    """

    name: str
    split: str
    modalities: Sequence[str]
    rows: Sequence[Row]
    facts: Mapping[str, str]
    recipe: str

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
    lines = []
    for row, scores in zip(comparison.rows, _scored(comparison, comparison.score), strict=True):
        costs = [count(_mean(row, "parameters")), count(_mean(row, "macs")), duration(_mean(row, "seconds"))]
        lines.append([Cell(row.seeds), *scores, Cell(_exchanged(row, comparison.modalities)), *map(Cell, costs)])
    return headings, lines


def further(comparison: Comparison) -> list[tuple[Score, list[list[Cell]]]]:
    """The cells of every other score, row by row, one for each prediction; the best as in `table`."""
    return [(score, _scored(comparison, score)) for score in comparison.scores[1:]]


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


def explanation(comparison: Comparison) -> str:
    """What the figures of the table are, in a paragraph."""
    score = comparison.score
    return (
        f"{score.name[:1].upper()}{score.name[1:]} in {score.unit} on {comparison.split}, {score.direction}: "
        "mean ± sample standard deviation over seeds. "
        "“2 of 3” seeds: the figures are a mean over fewer than were asked for. The best mean of a column is marked "
        "among rows with all their seeds, where these are two or more. A network with a single output has it in the "
        "column “ensemble”. “Exchanged”: the share of the channels a modality may exchange that come from the others. "
        "MACs: multiply-accumulates for one sample. Time: training with its validations; it compares only where the "
        "machine did nothing else."
    )


def to_markdown(comparison: Comparison) -> str:
    """The table, and under it how it was measured, what the methods are, and the recipe."""
    headings, lines = table(comparison)
    return "\n".join(
        [
            f"# {comparison.name}: {len(lines)} method{'' if len(lines) == 1 else 's'} compared",
            "",
            *_markdown(comparison, headings, lines),
            "",
            explanation(comparison),
            "",
            *(f"- {name}: {text}" for name, text in comparison.facts.items()),
            "",
            *(
                line
                for score, cells in further(comparison)
                for line in (f"## {titled(score)}", "", *_markdown(comparison, comparison.predictions, cells), "")
            ),
            "## Methods",
            "",
            *(f"- {row.title} (`{row.name}`): {row.about}" for row in comparison.rows),
            "",
            "## Recipe",
            "",
            "```yaml",
            comparison.recipe.rstrip(),
            "```",
            "",
        ]
    )


def titled(score: Score) -> str:
    """A score's name, unit and direction: the head of its table."""
    return f"{score.name}{f' in {score.unit}' if score.unit else ''}, {score.direction}"


def _markdown(comparison: Comparison, headings: Sequence[str], lines: Sequence[Sequence[Cell]]) -> list[str]:
    rows = [
        "| " + " | ".join([row.title, *(f"**{cell.text}**" if cell.best else cell.text for cell in cells)]) + " |"
        for row, cells in zip(comparison.rows, lines, strict=True)
    ]
    return ["| " + " | ".join(["method", *headings]) + " |", "|---|" + "---:|" * len(headings), *rows]


def to_csv(comparison: Comparison) -> str:
    """A line for every seed of every method, then its mean and its sample standard deviation, unrounded."""
    columns: dict[str, tuple[str, ...]] = {
        **{
            f"{score.key}/{name}": ("predictions", name, score.key)
            for score in comparison.scores
            for name in comparison.predictions
        },
        **{f"exchanged/{name}": ("exchanged", name) for name in comparison.modalities},
        **{key: (key,) for key in ("parameters", "macs", "seconds", "epochs")},
    }
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["method", "title", "seed", "state", *columns])
    for row in comparison.rows:
        for seed, scores in row.runs.items():
            state = "finished" if scores is not None else "failed" if seed in row.failed else "missing"
            figures = [figure(scores or {}, *keys) for keys in columns.values()]
            writer.writerow([row.name, row.title, seed, state, *figures])
        seeds = f"{len(row.finished)} of {len(row.runs)} seeds"
        both = [mean_and_deviation(v) if (v := row.values(*keys)) else (None, None) for keys in columns.values()]
        writer.writerow([row.name, row.title, "mean", seeds, *(mean for mean, _ in both)])
        writer.writerow([row.name, row.title, "std", seeds, *(deviation for _, deviation in both)])
    return stream.getvalue()


def to_html(comparison: Comparison) -> str:
    """The page: one self-contained file."""
    headings, lines = table(comparison)
    return render(
        "comparison.html.jinja",
        comparison=comparison,
        headings=headings,
        lines=list(zip(comparison.rows, lines, strict=True)),
        further=[
            (titled(score), list(zip(comparison.rows, cells, strict=True))) for score, cells in further(comparison)
        ],
        hues={name: hue(name, comparison.modalities) for name in comparison.predictions},
        explanation=explanation(comparison),
        chart=score_chart(comparison),
    )


PLOT, GAP, RIGHT, TOP, LINE = 590, 14, 20, 22, 24


def score_chart(comparison: Comparison) -> Markup | None:
    """A line for every method: the mean of each prediction, its standard deviation, and every seed as a faint dot."""
    score = comparison.score
    rows = [row for row in comparison.rows if row.finished]
    found = {row.name: {p: row.values("predictions", p, score.key) for p in comparison.predictions} for row in rows}
    values = [value for scored in found.values() for seeds in scored.values() for value in seeds]
    if not values:
        return None
    ticks = tick_values(min(values), max(values), count=8)
    low, high = ticks[0], ticks[-1]
    height = TOP + LINE * len(rows) + 8
    left = GAP + LETTER * max(len(row.title) for row in rows)

    def x(value: float) -> float:
        return left + PLOT * (value - low) / (high - low)

    parts = [
        Markup(
            '<line class="grid" x1="{0:.1f}" x2="{0:.1f}" y1="{1}" y2="{2}"/><text x="{0:.1f}" y="14" '
            'text-anchor="middle">{3:g}</text>'
        ).format(x(tick), TOP, height - 8, tick)
        for tick in ticks
    ]
    for i, row in enumerate(rows):
        middle = TOP + LINE * (i + 0.5)
        parts.append(
            Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="end">{}</text>').format(left - GAP, middle + 4, row.title)
        )
        shown = [(p, seeds) for p, seeds in found[row.name].items() if seeds]
        for k, (prediction, seeds) in enumerate(shown):
            # Side by side, so that equal predictions do not hide each other.
            y = middle + 4 * (k - (len(shown) - 1) / 2)
            color = hue(prediction, comparison.modalities)
            mean, deviation = mean_and_deviation(seeds)
            spread = deviation or 0.0
            dots = Markup("").join(
                Markup('<circle cx="{:.1f}" cy="{:.1f}" r="2" opacity=".45"/>').format(x(v), y) for v in seeds
            )
            parts.append(
                Markup(
                    '<g fill="{0}" stroke="none">{1}<line x1="{2:.1f}" x2="{3:.1f}" y1="{4:.1f}" y2="{4:.1f}" '
                    'stroke="{0}" stroke-width="1.5"/><circle cx="{5:.1f}" cy="{4:.1f}" r="3.6"><title>{6}: {7}</title>'
                    "</circle></g>"
                ).format(
                    color, dots, x(max(low, mean - spread)), x(min(high, mean + spread)), y, x(mean),
                    f"{row.title}, {prediction}", score.text(mean),
                )
            )  # fmt: skip
    return Markup(
        '<svg class="chart" viewBox="0 0 {:.0f} {}" role="img" aria-label="{} of every method">{}</svg>'
    ).format(left + PLOT + RIGHT, height, score.name, Markup("").join(parts))
