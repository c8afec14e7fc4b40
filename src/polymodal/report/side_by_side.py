"""Several runs side by side, as their page shows them: those that predict the same, on the same scenes."""

from collections.abc import Sequence
from typing import Any

from polymodal.names import ENSEMBLE
from polymodal.report.charts import Series, dash, line_chart
from polymodal.report.load import SPLITS, Run, Scores
from polymodal.report.render import Bars, fixed, hue, number
from polymodal.run_folder import score_column
from polymodal.scores import Score, headlines, known_scores


def side_by_side(runs: Sequence[Run]) -> list[dict[str, Any]]:
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
    curves = [Series(run.name, f"var(--r{i % 4})", run.history.get(column, {}), dash(i)) for i, run in enumerate(runs)]
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
