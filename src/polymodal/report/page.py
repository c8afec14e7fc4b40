"""From runs to one HTML file: the figures of each run are drawn here, the template only arranges them."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from polymodal.errors import ConfigError
from polymodal.files import write_file
from polymodal.report.charts import Series, dash, line_chart, reliability_diagram
from polymodal.report.exchanged import exchanged
from polymodal.report.load import Run, Scores, load_run
from polymodal.report.render import Bars, fixed, hue, listed, number, render
from polymodal.report.scenes import scene_tiles
from polymodal.report.side_by_side import side_by_side
from polymodal.run_folder import EXCHANGED, WEIGHT, WITH, score_column, scored_in
from polymodal.scores import Score, entire_missing, headlines, known_scores, leading

TITLED = 3  # runs; the names of more would fill the screen as a title


def is_report(content: bytes) -> bool:
    """Whether a file's content is a page that `write_report` wrote; those of comparisons are none."""
    end = " · polymodal</title>".encode()
    return end in content and b", compared" + end not in content


def write_report(runs: Sequence[Path], out: Path, notes: str | None = None) -> Path:
    """Write the page of one run, or of several: the comparison first, then each run.

    Args:
        runs: Run folders, as `polymodal fit` leaves them. Scenes, scales, curves, configuration and versions that a
            folder lacks become a sentence on the page.
        out: The HTML file to write; it replaces an older one only when it is complete.
        notes: Remarks to show under the comparison, or under the head of a single run; an empty line starts a new
            paragraph.

    Returns:
        `out`.

    Raises:
        ConfigError: There is no run, a folder is no finished run, one of its files is broken, or `out` cannot be
            written.
    """
    if not runs:
        raise ConfigError("A report needs at least one run folder; `polymodal fit --config RECIPE.yaml` makes one.")
    loaded = [replace(load_run(Path(run)), name=name) for run, name in zip(runs, _names(runs), strict=True)]
    html = render(
        "template.html.jinja",
        title=_title(loaded),
        runs=[_view(run) for run in loaded],
        comparisons=side_by_side(loaded) if len(loaded) > 1 else [],
        notes=[paragraph.strip() for paragraph in (notes or "").split("\n\n") if paragraph.strip()],
    )
    out = Path(out)
    try:
        write_file(out, html.encode())
    except OSError as error:
        raise ConfigError(
            f"The report cannot be written to {out}: {error}. Name a file in a folder of yours."
        ) from error
    return out


def _names(runs: Sequence[Path]) -> list[str]:
    """What each run is called: its folder, with as many of those above as tell it from the others."""
    parts = [Path(run).resolve().parts for run in runs]
    depth = next(n for n in count(1) if len({part[-n:] for part in parts}) == len(set(parts)))
    return ["/".join(part[-depth:]) for part in parts]


def _title(runs: Sequence[Run]) -> str:
    """The run, or the data set of several; their names where they are of different ones."""
    if len(runs) == 1:
        return runs[0].name
    datasets = {run.dataset for run in runs}
    if len(datasets) == 1 and (dataset := datasets.pop()):
        return str(dataset)
    return " · ".join(run.name for run in runs) if len(runs) <= TITLED else f"{len(runs)} runs"


def _view(run: Run) -> dict[str, Any]:
    """Everything the template shows of one run."""
    main = run.main
    modalities, scores = main.modalities, main.known
    return {
        "run": run,
        "main": main,
        "hues": {name: hue(name, modalities) for name in [*modalities, *main.predictions]},
        "scores": scores,
        "directions": _directions(scores),
        "subsets": _without(run.subsets) if run.subsets else None,
        "diagrams": {
            name: reliability_diagram(name, hue(name, modalities), trust.bins)
            for name, trust in main.reliability.items()
        },
        "leading": main.leading,
        "classes": _class_bars(run),
        "legends": {target: scenes.legend for target, scenes in run.scenes.items() if scenes.legend},
        "lacking": any(scenes.lacking for scenes in run.scenes.values()),
        "pictured": {scenes.pictured for scenes in run.scenes.values()},
        "scenes": scene_tiles(run.scenes, modalities) if run.scenes else [],
        "exchange": exchanged(run.scales) if run.scales and run.scales.sites and len(run.scales.epochs) else None,
        "curves": _curves(run),
    }


def _directions(scores: Sequence[Score]) -> str:
    """What is better, of scores in one table, in a sentence or two."""
    if all(score.unit == "per cent" and score.higher_is_better for score in scores):
        return "Per cent, higher is better."
    less, more = (
        listed(dict.fromkeys(score.family for score in scores if score.higher_is_better is higher))
        for higher in (False, True)
    )
    sides = [f"{names}: {what} is better" for names, what in ((less, "less"), (more, "more")) if names]
    named = listed(dict.fromkeys(score.family for score in scores if score.key != score.family))
    how = f" The brackets say how {named} were measured; compare them at equal numbers of scenes only." if named else ""
    return f"{'; '.join(sides)}.{how}"


def _class_bars(run: Run) -> dict[str, list[Bars]]:
    """By target, of those whose score that counts has figures for classes."""
    main = run.main
    found: dict[str, list[Bars]] = {}
    for target, classes in (main.classes or {"": []}).items():
        score = next(iter(leading(main.known, {target: classes} if target else None)), None)
        if score is None or not score.per_class:
            continue
        colors = run.scenes[target].css_colors if target in run.scenes else []
        values = {p: (scores.get(score.per_class) or []) for p, scores in main.predictions.items()}
        found[target] = []
        for index, name in enumerate(classes):
            color = colors[index] if index < len(colors) else None
            own = {p: number(figures[index]) if index < len(figures) else None for p, figures in values.items()}
            found[target].append(Bars(name, color, [(p, hue(p, main.modalities), value) for p, value in own.items()]))
    return found


def _without(scored: Scores) -> dict[str, Any]:
    """What the ensemble is worth by the modalities that are there, a row for every set in the order of the file."""
    main, modalities = scored.known[0], scored.modalities
    values = {name: number(figures.get(main.key)) for name, figures in scored.predictions.items()}
    known = {tuple(name.split(WITH)): value for name, value in values.items() if value is not None}
    best = main.better(known.values()) if known else None
    rows, bars = [], []
    for name, figures in scored.predictions.items():
        present, value = name.split(WITH), values[name]
        hues = [hue(modality, modalities) for modality in present]
        rows.append(
            {
                "name": name,
                "hues": hues,
                "missing": listed(modality for modality in modalities if modality not in present) or "–",
                "texts": [fixed(number(figures.get(score.key)), score.digits) for score in scored.known],
                "behind": "–" if value is None or best is None else fixed(value - best, main.digits),
            }
        )
        bars.append(Bars(name, None, [("", hues[0] if len(hues) == 1 else "var(--ink)", value)]))
    return {
        "scored": scored,
        "rows": rows,
        "bars": bars if main.unit == "per cent" else None,
        "missing": entire_missing(known, len(modalities)),
        "directions": _directions(scored.known),
    }


def _curves(run: Run) -> dict[str, Any]:
    history, modalities = run.history, run.main.modalities

    def lines(prefix: str, factor: float = 1.0) -> list[Series]:
        found = {name.removeprefix(prefix): points for name, points in history.items() if name.startswith(prefix)}
        return [
            Series(name, hue(name, modalities), {e: factor * v for e, v in points.items()}, dash(i))
            for i, (name, points) in enumerate(found.items())
        ]

    losses = [
        Series(name, "var(--ink)", history[f"{name}/loss"], dash)
        for name, dash in (("train", "2 3"), ("val", ""))
        if f"{name}/loss" in history
    ]
    return {
        "loss": line_chart("Loss", losses, digits=2),
        "scores": {
            (title := f"{score.name} on val, {score.unit or score.direction}"): line_chart(
                title, lines(score_column(score.key, "")), digits=score.digits
            )
            for score in headlines(_logged(run))
        },
        "exchanged channels, %": line_chart(
            "Share of exchanged channels, per cent", lines(EXCHANGED, 100), percent=True, digits=0
        ),
        "ensemble weight, %": line_chart("Weight in the ensemble, per cent", lines(WEIGHT, 100), percent=True),
    }


def _logged(run: Run) -> list[Score]:
    """The scores that were logged on val; those at the end where none was."""
    logged: list[dict[str, None]] = [{score: None} for column in run.history if (score := scored_in(column))]
    return known_scores(logged or run.main.predictions.values(), run.main.described)
