"""From runs to one HTML file: the figures of each run are drawn here, the template only arranges them."""

import math
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from polymodal.errors import ConfigError
from polymodal.report.charts import Series, channel_strip, line_chart, scale_histogram
from polymodal.report.images import class_map, difference_map, error_map, holed, photograph
from polymodal.report.load import Run, Scales, Scenes, Scores, load_run

HUES = 6  # modality colours in style.css
DASHES = ("", "7 3", "2 3", "9 3 2 3")
SCORES = {
    "mean_iou": "mean IoU",
    "pixel_accuracy": "pixel accuracy",
    "mean_accuracy": "mean accuracy",
    "frequency_weighted_iou": "freq.-weighted IoU",
}


@dataclass(frozen=True)
class Headline:
    """The score that stands for a prediction.

    Args:
        key: In the scores.
        short: Its name in few letters.
        name: Its name.
        unit: What it is measured in, for titles.
        digits: Decimals that mean something.
        best: The best of several.
        how: What it is, for readers.
    """

    key: str
    short: str
    name: str
    unit: str
    digits: int
    best: Callable[[Iterable[float]], float]
    how: str

    @property
    def logged(self) -> str:
        """Its name in metrics.csv, where nothing is stretched."""
        return self.key.partition("[")[0]


CLASSES = Headline(
    *("mean_iou", "mIoU", "mean IoU", "per cent", 1, max),
    "the overlap of predicted and true area in per cent, averaged over classes; more is better",
)
IMAGES = Headline(
    *("MAE", "MAE", "MAE", "share of the range", 3, min),
    "the mean absolute difference of predicted and true values as a share of their range; less is better",
)
WIDE_SITE = 512  # channels; up to here a strip has 64 cells a row, beyond 128


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
    loaded = [load_run(Path(run)) for run in runs]
    environment = Environment(
        loader=PackageLoader("polymodal.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = (fixed, short, share, span, count, duration)
    environment.filters |= {function.__name__: function for function in filters}
    html = environment.get_template("template.html.jinja").render(
        title=" · ".join(run.name for run in loaded),
        runs=[_view(run) for run in loaded],
        comparison=_comparison(loaded) if len(loaded) > 1 else None,
        notes=[paragraph.strip() for paragraph in (notes or "").split("\n\n") if paragraph.strip()],
    )
    return _write(Path(out), html)


def _write(out: Path, html: str) -> Path:
    partial: Path | None = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=out.parent, prefix=f".{out.name}.", delete=False
        ) as file:
            partial = Path(file.name)
            file.write(html)
        partial.chmod(0o644)  # temporary files are private, a page is to be shared
        os.replace(partial, out)  # noqa: PTH105 (the atomic one, by its name)
    except OSError as error:
        if partial is not None:
            partial.unlink(missing_ok=True)
        raise ConfigError(
            f"The report cannot be written to {out}: {error}. Name a file in a folder of yours."
        ) from error
    return out


def fixed(value: float | None, digits: int = 1) -> str:
    """A number with `digits` decimals, a dash where there is none."""
    return f"{value:.{digits}f}" if _is_number(value) else "–"


def short(value: float | None) -> str:
    """A number with four digits that count, a dash where there is none."""
    return f"{value:.4g}" if _is_number(value) else "–"


def share(value: float | None) -> str:
    """A share 0..1 in per cent."""
    return f"{100 * value:.0f} %" if _is_number(value) else "–"


def span(values: Sequence[float | None]) -> str:
    """Shares 0..1 from the smallest to the largest, in per cent."""
    known = [value for value in values if _is_number(value)]
    low, high = share(min(known, default=None)), share(max(known, default=None))
    return high if low == high else f"{low.removesuffix(' %')}–{high}"


def count(value: float | None) -> str:
    """A large number in words people say: 351 k, 12.3 M."""
    if not _is_number(value):
        return "–"
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:g}"


def duration(seconds: float | None) -> str:
    """Seconds as 41 s, 3 min 20 s or 2 h 5 min."""
    if not _is_number(seconds):
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and math.isfinite(value)


def _number(value: object) -> float | None:
    return value if _is_number(value) else None


@dataclass(frozen=True)
class Bars:
    """One group of bars (name, CSS colour, per cent or None), with a colour swatch before its label or none."""

    label: str
    swatch: str | None
    bars: list[tuple[str, str, float | None]]


def _hue(prediction: str, modalities: Sequence[str]) -> str:
    """A modality has one colour on the whole page; the ensemble is drawn in ink."""
    return f"var(--m{modalities.index(prediction) % HUES})" if prediction in modalities else "var(--ink)"


def _dash(index: int) -> str:
    return DASHES[index % len(DASHES)]


def _headline(scores: Scores) -> Headline:
    names = list(next(iter(scores.predictions.values())))
    if scores.classes or CLASSES.key in names:
        return CLASSES
    return replace(IMAGES, key=next((name for name in names if name.startswith(IMAGES.key)), IMAGES.key))


def _score_names(scores: Scores) -> dict[str, str]:
    """The columns of the table of scores, by key."""
    if _headline(scores) == CLASSES:
        return SCORES
    return {name: name for figures in scores.predictions.values() for name in figures}


def _view(run: Run) -> dict[str, Any]:
    """Everything the template shows of one run."""
    main = run.main
    modalities = main.modalities
    return {
        "run": run,
        "main": main,
        "hues": {name: _hue(name, modalities) for name in [*modalities, *main.predictions]},
        "headline": _headline(main),
        "pictured": _headline(main) != CLASSES,
        "score_names": _score_names(main),
        "classes": _class_bars(run),
        "legend": _legend(run.scenes),
        "scenes": _scene_tiles(run.scenes, modalities) if run.scenes else [],
        "exchange": _exchange(run.scales) if run.scales and run.scales.sites and len(run.scales.epochs) else None,
        "curves": _curves(run),
    }


def _class_bars(run: Run) -> list[Bars]:
    main = run.main
    colors = run.scenes.colors.tolist() if run.scenes else []
    groups = []
    for index, name in enumerate(main.classes):
        values = {p: (scores.get("iou") or []) for p, scores in main.predictions.items()}
        bars = [
            (p, _hue(p, main.modalities), _number(iou[index]) if index < len(iou) else None)
            for p, iou in values.items()
        ]
        groups.append(Bars(name, _css_color(colors[index]) if index < len(colors) else None, bars))
    return groups


def _css_color(color: Sequence[int]) -> str:
    return "#" + "".join(f"{channel:02x}" for channel in color)


def _legend(scenes: Scenes | None) -> list[tuple[str, str]]:
    if scenes is None:
        return []
    return [(name, _css_color(color)) for name, color in zip(scenes.classes, scenes.colors.tolist(), strict=False)]


@dataclass(frozen=True)
class Tile:
    """One picture of a scene, as a data URI."""

    caption: str
    alt: str
    uri: str


def _scene_tiles(scenes: Scenes, modalities: Sequence[str]) -> list[dict[str, Any]]:
    """Per scene a grid of three rows: the inputs and the truth, what each prediction says, where it is wrong."""
    inputs = [name for name in modalities if name in scenes.inputs]
    rest = [name for name in scenes.predictions if name not in inputs]
    columns = max(len(inputs) + 1, len(inputs) + len(rest))
    paint, pictured = scenes.colors, scenes.target.ndim == 4
    grids = []
    for i, key in enumerate(scenes.keys):
        truth, known = scenes.target[i], scenes.known[i]
        shown = [Tile(name, f"{key}: {name}", photograph(scenes.inputs[name][i])) for name in inputs]
        shown.append(
            Tile("truth", f"{key}: truth", holed(truth, known) if pictured else class_map(truth, paint, known))
        )
        said: list[Tile | None] = []
        wrong: list[Tile | None] = []
        for name in [*inputs, *rest]:
            if name not in scenes.predictions:
                said.append(None)
                wrong.append(None)
                continue
            labels = scenes.predictions[name][i]
            if pictured:
                off = np.abs(labels.astype(np.float32) - truth)[known] / 255
                errors = short(float(off.mean()) if known.any() else None)
                said.append(Tile(f"{name} says", f"{key}: prediction of {name}", photograph(labels)))
                marked = difference_map(labels, truth, known)
                wrong.append(Tile(f"{errors} off", f"{key}: errors of {name}, {errors} of the range", marked))
                continue
            errors = share(float((labels != truth)[known].mean()) if known.any() else None)
            said.append(
                Tile(f"{name} says", f"{key}: prediction of {name}", class_map(labels, paint, np.ones_like(known)))
            )
            marked = error_map(labels, truth, paint, known)
            wrong.append(Tile(f"{errors} wrong", f"{key}: errors of {name}, {errors} of the pixels", marked))
        rows = (shown, said, wrong)
        tiles = [tile for row in rows for tile in [*row, *[None] * (columns - len(row))]]
        grids.append({"key": key, "columns": columns, "tiles": tiles})
    return grids


def _others(modality: str, modalities: Sequence[str]) -> tuple[str, str]:
    """Name and colour of what replaces a channel of `modality`: of two the other one, else the mean of the others."""
    others = [name for name in modalities if name != modality]
    if len(others) == 1:
        return others[0], _hue(others[0], modalities)
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
            "own": _hue(name, modalities),
            "others": _others(name, modalities)[1],
            "replaced": int((~keep[m]).sum()),
            "channels": keep.shape[1],
            "inside": float((~keep[m])[part[m]].mean()) if part[m].any() else None,
            "outside": float((~keep[m])[~part[m]].mean()) if not part[m].all() else None,
        }
        for m, name in enumerate(modalities)
    ]
    sites = []
    for site in scales.sites:
        strips = []
        for m, direction in enumerate(directions):
            replaced, channels = int((~site.keep[m]).sum()), site.keep.shape[1]
            alt = f"{site.name}: {replaced} of {channels} channels of {direction['to']} come from {direction['from']}"
            strips.append(
                {
                    **direction,
                    "replaced": replaced,
                    "channels": channels,
                    "svg": channel_strip(
                        alt, site.keep[m], site.part[m], direction["own"], direction["others"], columns
                    ),
                }
            )
        sites.append({"name": site.name, "strips": strips})
    return {
        "modalities": modalities,
        "directions": directions,
        "sites": sites,
        "replaced": int((~keep).sum()),
        "threshold": scales.threshold,
        "first_epoch": int(scales.epochs[0]),
        "histograms": [(name, _histogram(scales, m)) for m, name in enumerate(modalities)],
    }


def _histogram(scales: Scales, m: int) -> Markup:
    end = np.concatenate([site.scale[-1, m] for site in scales.sites])
    start = np.concatenate([site.scale[0, m] for site in scales.sites])
    part = np.concatenate([site.part[m] for site in scales.sites])
    name = scales.modalities[m]
    return scale_histogram(name, _hue(name, scales.modalities), start, end[part], end[~part], scales.threshold)


def _curves(run: Run) -> dict[str, Any]:
    history, modalities, headline = run.history, run.main.modalities, _headline(run.main)

    def lines(prefix: str, factor: float = 1.0) -> list[Series]:
        columns = [column for column in history if column.startswith(prefix)]
        names = [column.removeprefix(prefix) for column in columns]
        return [
            Series(name, _hue(name, modalities), _scaled(history[column], factor), _dash(i))
            for i, (name, column) in enumerate(zip(names, columns, strict=True))
        ]

    losses = [
        Series(name, "var(--ink)", history[f"{name}/loss"], dash)
        for name, dash in (("train", "2 3"), ("val", ""))
        if f"{name}/loss" in history
    ]
    return {
        "loss": line_chart("Loss", losses, digits=2),
        "scores": {
            f"{name} on val, {unit}": line_chart(f"{name} on val, {unit}", lines(f"val/{key}/"), digits=digits)
            for key, name, unit, digits in (
                (headline.logged, headline.name, headline.unit, headline.digits),
                *((key, key, "less is better", 1) for key in _distances(history)),
            )
        },
        "exchanged channels, %": line_chart(
            "Share of exchanged channels, per cent", lines("exchanged/", 100), percent=True, digits=0
        ),
        "ensemble weight, %": line_chart("Weight in the ensemble, per cent", lines("weight/", 100), percent=True),
    }


def _distances(history: Mapping[str, Any]) -> list[str]:
    """The FIDs that were logged, whatever looked at the images."""
    return list(dict.fromkeys(column.split("/")[1] for column in history if column.startswith("val/FID")))


def _scaled(points: Mapping[int, float], factor: float) -> dict[int, float]:
    return {epoch: factor * value for epoch, value in points.items()}


def _comparison(runs: Sequence[Run]) -> dict[str, Any]:
    """The runs side by side, on a split they share where there is one."""
    shared = next((split for split in ("test", "val") if all(split in run.scores for run in runs)), None)
    scores: list[Scores] = [run.scores[shared] if shared else run.main for run in runs]
    predictions = list(dict.fromkeys(p for s in scores for p in s.predictions))
    modalities = list(dict.fromkeys(m for s in scores for m in s.modalities))
    headline = _headline(scores[0])
    figures = {p: [_number(s.predictions.get(p, {}).get(headline.key)) for s in scores] for p in predictions}
    known = {p: [value for value in values if value is not None] for p, values in figures.items()}
    column = f"val/{headline.logged}/{'ensemble' if 'ensemble' in predictions else predictions[0]}"
    curves = [Series(run.name, f"var(--r{i % 4})", run.history.get(column, {}), _dash(i)) for i, run in enumerate(runs)]
    return {
        "rows": list(zip(runs, scores, strict=True)),
        "split": shared,
        "predictions": predictions,
        "hues": {p: _hue(p, modalities) for p in predictions},
        "headline": headline,
        "best": {p: headline.best(values) if values else None for p, values in known.items()},
        "difference": _difference(figures, headline.digits) if len(runs) == 2 else None,
        "bars": [
            Bars(run.name, None, [(p, _hue(p, modalities), figures[p][i]) for p in predictions])
            for i, run in enumerate(runs)
        ],
        "curve": line_chart(
            f"{column.rpartition('/')[2]} {headline.name} on val, {headline.unit}", curves, digits=headline.digits
        ),
        "curve_of": column.rpartition("/")[2],
    }


def _difference(figures: Mapping[str, Sequence[float | None]], digits: int) -> dict[str, str]:
    """First minus second run, signed."""
    return {
        p: "–" if first is None or second is None else f"{first - second:+.{digits}f}".replace("-", "−")
        for p, (first, second) in figures.items()
    }
