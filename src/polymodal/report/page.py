"""From runs to one HTML file: the figures of each run are drawn here, the template only arranges them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from polymodal.errors import ConfigError
from polymodal.files import write_file
from polymodal.names import ENSEMBLE
from polymodal.report.arrays import Scales
from polymodal.report.charts import Series, channel_strip, line_chart, reliability_diagram, scale_histogram
from polymodal.report.load import SPLITS, Run, Scores, load_run
from polymodal.report.render import fixed, hue, listed, number, render
from polymodal.report.scenes import scene_tiles
from polymodal.run_folder import EXCHANGED, WEIGHT, WITH, score_column, scored_in
from polymodal.scores import Score, entire_missing, headlines, known_scores, leading

DASHES = ("", "7 3", "2 3", "9 3 2 3")
TITLED = 3  # runs; the names of more would fill the screen as a title
WIDE_SITE = 512  # channels; up to here a strip has 64 cells a row, beyond 128


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
        comparisons=_comparisons(loaded) if len(loaded) > 1 else [],
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


@dataclass(frozen=True)
class Bars:
    """One group of bars (name, CSS colour, per cent or None), with a colour swatch before its label or none."""

    label: str
    swatch: str | None
    bars: list[tuple[str, str, float | None]]


def _dash(index: int) -> str:
    return DASHES[index % len(DASHES)]


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
        "exchange": _exchange(run.scales) if run.scales and run.scales.sites and len(run.scales.epochs) else None,
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


def _others(modality: str, modalities: Sequence[str]) -> tuple[str, str]:
    """Name and colour of what replaces a channel of `modality`: of two the other one, else the mean of the others."""
    others = [name for name in modalities if name != modality]
    if len(others) == 1:
        return others[0], hue(others[0], modalities)
    return "the others", "var(--ink)"


def _exchange(scales: Scales) -> dict[str, Any]:
    modalities = scales.modalities
    keep = np.concatenate([site.keep for site in scales.sites], axis=1)
    part = np.concatenate([site.part for site in scales.sites], axis=1)
    widest = max(site.keep.shape[1] for site in scales.sites)
    columns = min(widest, 64 if widest <= WIDE_SITE else 128)
    directions = [
        {
            "to": name,
            "from": _others(name, modalities)[0],
            "own": hue(name, modalities),
            "others": _others(name, modalities)[1],
            "replaced": int((~keep[m]).sum()),
            "channels": keep.shape[1],
            "inside": float((~keep[m])[part[m]].mean()) if part[m].any() else None,
            "outside": float((~keep[m])[~part[m]].mean()) if not part[m].all() else None,
        }
        for m, name in enumerate(modalities)
    ]
    sites, idle = [], []
    for site in scales.sites:
        strips = []
        for m, direction in enumerate(directions):
            replaced, channels = int((~site.keep[m]).sum()), site.keep.shape[1]
            alt = f"{site.name}: {replaced} of {channels} channels of {direction['to']} come from {direction['from']}"
            svg = channel_strip(alt, site.keep[m], site.part[m], direction["own"], direction["others"], columns)
            strips.append({**direction, "replaced": replaced, "channels": channels, "svg": svg})
        if (~site.keep).any():
            sites.append({"name": site.name, "strips": strips})
        else:
            idle.append(site.name)
    return {
        "modalities": modalities,
        "directions": directions,
        "sites": sites,
        "idle": idle,
        "replaced": int((~keep).sum()),
        "threshold": scales.threshold,
        "share": scales.share,
        "first_epoch": int(scales.epochs[0]),
        "histograms": [(name, _histogram(scales, m)) for m, name in enumerate(modalities)],
    }


def _histogram(scales: Scales, m: int) -> Markup:
    end = np.concatenate([site.scale[-1, m] for site in scales.sites])
    start = np.concatenate([site.scale[0, m] for site in scales.sites])
    part = np.concatenate([site.part[m] for site in scales.sites])
    name = scales.modalities[m]
    return scale_histogram(name, hue(name, scales.modalities), start, end[part], end[~part], scales.threshold)


def _curves(run: Run) -> dict[str, Any]:
    history, modalities = run.history, run.main.modalities

    def lines(prefix: str, factor: float = 1.0) -> list[Series]:
        found = {name.removeprefix(prefix): points for name, points in history.items() if name.startswith(prefix)}
        return [
            Series(name, hue(name, modalities), {e: factor * v for e, v in points.items()}, _dash(i))
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


def _comparisons(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The runs side by side, apart by what they predict and are scored on: others' scores say nothing of theirs."""
    groups: dict[tuple[str | None, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.target, run.main.known[0].key), []).append(run)
    return [_comparison(target, *apart) for (target, _), group in groups.items() for apart in _by_scenes(group)]


def _by_scenes(runs: Sequence[Run]) -> list[tuple[list[Run], list[Scores]]]:
    """Runs apart by the scenes and the truth of their scores, on a split that all share where there is one."""
    shared = next((split for split in SPLITS if all(split in run.scores for run in runs)), None)
    scored = [run.scores[shared] if shared else run.main for run in runs]
    told = all(of.truth and of.at for of in scored)  # not in files of earlier versions
    groups: dict[object, tuple[list[Run], list[Scores]]] = {}
    for run, of in zip(runs, scored, strict=True):
        key = (of.truth, of.at) if told else of.scored_on
        same = groups.setdefault((key, of.split, of.scenes), ([], []))
        same[0].append(run)
        same[1].append(of)
    return [*groups.values()]


def _comparison(target: str | None, runs: Sequence[Run], scored: Sequence[Scores]) -> dict[str, Any]:
    """Runs of one target side by side, on the same scenes."""
    predictions = list(dict.fromkeys(p for s in scored for p in s.predictions))
    modalities = list(dict.fromkeys(m for s in scored for m in s.modalities))
    described = [score for s in scored for score in s.described]
    scores = headlines(known_scores((figures for s in scored for figures in s.predictions.values()), described))
    columns = [
        (score, p, [number(s.predictions.get(p, {}).get(score.key)) for s in scored])
        for score in scores
        for p in predictions
    ]
    curve_of = ENSEMBLE if ENSEMBLE in predictions else predictions[0]
    column = score_column(scores[0].family, curve_of)
    curves = [Series(run.name, f"var(--r{i % 4})", run.history.get(column, {}), _dash(i)) for i, run in enumerate(runs)]
    return {
        "target": target,
        "rows": [
            (run, of, [fixed(figures[i], score.digits) for score, _, figures in columns])
            for i, (run, of) in enumerate(zip(runs, scored, strict=True))
        ],
        "on": scored[0],
        "predictions": predictions,
        "hues": {p: hue(p, modalities) for p in predictions},
        "scores": scores,
        "difference": [_difference(figures, score) for score, _, figures in columns] if len(runs) == 2 else None,
        "bars": [
            Bars(run.name, None, [(p, hue(p, modalities), figures[i]) for _, p, figures in columns])
            for i, run in enumerate(runs)
        ],
        "curve": line_chart(f"{curve_of} {scores[0].name} on val, {scores[0].unit}", curves, digits=scores[0].digits),
        "curve_of": curve_of,
    }


def _difference(figures: Sequence[float | None], score: Score) -> str:
    """First minus second run, signed."""
    first, second = figures
    if first is None or second is None:
        return "–"
    return f"{first - second:+.{score.digits}f}".replace("-", "−")
