"""A comparison as Markdown, CSV and a page."""

import csv
import io
from collections.abc import Iterable, Sequence

from markupsafe import Markup

from polymodal.report import differences
from polymodal.report.charts import LETTER, across, tick_values
from polymodal.report.comparison import (
    Cell,
    Comparison,
    Row,
    apart,
    apart_by_class,
    figure,
    further,
    mean_and_deviation,
    table,
)
from polymodal.report.render import hue, render
from polymodal.scores import Score


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
            *_markdown(headings, zip(comparison.rows, lines, strict=True)),
            "",
            explanation(comparison),
            "",
            *(f"- {name}: {text}" for name, text in comparison.facts.items()),
            "",
            *(
                line
                for score, rows in further(comparison)
                for line in (f"## {titled(score)}", "", *_markdown(comparison.predictions, rows), "")
            ),
            *_apart_markdown(comparison),
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


def _apart_markdown(comparison: Comparison) -> list[str]:
    if comparison.differences is None or not (tables := apart(comparison)):
        return []
    lines = [f"## Against {comparison.differences.title}", "", differences.explanation(comparison.differences), ""]
    for score, rows in tables:
        lines += [f"### {titled(score)}", "", *_markdown(comparison.predictions, rows), ""]
    return lines


def _markdown(headings: Sequence[str], rows: Iterable[tuple[Row, Sequence[Cell]]]) -> list[str]:
    lines = [
        "| " + " | ".join([row.title, *(f"**{cell.text}**" if cell.best else cell.text for cell in cells)]) + " |"
        for row, cells in rows
    ]
    return ["| " + " | ".join(["method", *headings]) + " |", "|---|" + "---:|" * len(headings), *lines]


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
        further=[(titled(score), rows) for score, rows in further(comparison)],
        hues={name: hue(name, comparison.modalities) for name in comparison.predictions},
        explanation=explanation(comparison),
        reference=comparison.differences,
        apart=[(titled(score), rows) for score, rows in apart(comparison)],
        apart_by_class=apart_by_class(comparison),
        apart_how=comparison.differences and differences.explanation(comparison.differences),
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
    x = across(low, high, left, PLOT)
    grid = Markup(
        '<line class="grid" x1="{0:.1f}" x2="{0:.1f}" y1="{1}" y2="{2}"/><text x="{0:.1f}" y="14" '
        'text-anchor="middle">{3:g}</text>'
    )
    dot = Markup('<circle cx="{:.1f}" cy="{:.1f}" r="2" opacity=".45"/>')
    mark = Markup(
        '<g fill="{0}" stroke="none">{1}<line x1="{2:.1f}" x2="{3:.1f}" y1="{4:.1f}" y2="{4:.1f}" '
        'stroke="{0}" stroke-width="1.5"/><circle cx="{5:.1f}" cy="{4:.1f}" r="3.6"><title>{6}: {7}</title>'
        "</circle></g>"
    )
    parts = [grid.format(x(tick), TOP, height - 8, tick) for tick in ticks]
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
            ends = x(max(low, mean - spread)), x(min(high, mean + spread))
            dots = Markup("").join(dot.format(x(v), y) for v in seeds)
            said = f"{row.title}, {prediction}", score.text(mean)
            parts.append(mark.format(color, dots, *ends, y, x(mean), *said))
    return Markup(
        '<svg class="chart" viewBox="0 0 {:.0f} {}" role="img" aria-label="{} of every method">{}</svg>'
    ).format(left + PLOT + RIGHT, height, score.name, Markup("").join(parts))
