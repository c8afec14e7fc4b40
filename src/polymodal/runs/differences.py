"""The differences of a comparison's methods from one of them, from what every image adds to the scores of each run."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from polymodal.bootstrap import Ratios, interval, resampled
from polymodal.errors import ConfigError
from polymodal.report.arrays import ImageSums, read_image_sums
from polymodal.report.comparison import Comparison, Row, figure
from polymodal.report.differences import AHEAD, BEHIND, Difference, Differences, Key
from polymodal.run_folder import images_file
from polymodal.scores import Score, classes_of

_APART = 1e-3
"""How far sums may be from the score that they belong to, as a share of it: images are summed in single precision."""


class UnpairedError(Exception):
    """Why two methods cannot be compared image by image, in words."""


def differences_of(comparison: Comparison, reference: str, files: Mapping[str, Mapping[int, Path]]) -> Differences:
    """The differences of all methods from one, of what is scored by now.

    Args:
        comparison: With the scores that there are.
        reference: The name of a row.
        files: The files of scores, by method and seed.

    Raises:
        ConfigError: What the images add to a run's scores is damaged, or belongs to other scores.
    """
    rows = {row.name: row for row in comparison.rows}
    base = rows.pop(reference)
    scores: dict[Key, Difference] = {}
    classes: dict[Key, Sequence[Difference | None]] = {}
    measured: dict[str, tuple[int, int]] = {}
    lacking: dict[str, str] = {}
    of_base: dict[tuple[object, ...], np.ndarray] = {}
    for name, row in rows.items():
        seeds = [seed for seed, found in row.runs.items() if found and base.runs.get(seed)]
        if not (row.finished and base.finished):
            continue
        try:
            both = [_sums(one, seeds, files[one.name]) for one in (row, base)]
            images = _images([sums for run in both for sums in run])
        except UnpairedError as reason:
            lacking[name] = str(reason)
            continue
        measured[name] = len(seeds), images
        for score, prediction in _shared(both, comparison):
            own, others = (_ratios(sums, score.key, prediction) for sums in both)
            place = (*seeds, score.key, prediction)
            if place not in of_base:
                of_base[place] = resampled(others)
            whole, *parts = _told_apart(resampled(own), of_base[place], score)
            if whole is not None:
                scores[name, prediction, score.key] = whole
                if score.per_class:
                    classes[name, prediction, score.key] = parts
    classes_there = next((run.get("classes") for row in comparison.rows for run in row.finished), None)
    names = {score.key: classes_of(score, classes_there) for score in comparison.scores if score.per_class}
    return Differences(reference, base.title, scores, classes, measured, lacking, names)


def _sums(row: Row, seeds: Sequence[int], files: Mapping[int, Path]) -> list[ImageSums]:
    """What the images add to a method's scores, seed by seed."""
    if not seeds:
        raise UnpairedError("no seed is finished of both")
    found = []
    for seed in seeds:
        file = files[seed].with_name(images_file(files[seed].name))
        sums = read_image_sums(file)
        if sums is None or not sums.sums:
            raise UnpairedError(
                f"its run of seed {seed} does not say what each image adds to its scores; `polymodal validate "
                f"{file.parent}` scores it again"
            )
        _check(file, sums, row.runs[seed] or {})
        found.append(sums)
    return found


def _check(file: Path, sums: ImageSums, scored: Mapping[str, object]) -> None:
    for (key, prediction), (above, below) in sums.sums.items():
        total, of = above.sum(0, dtype=float), below.sum(0, dtype=float)
        here = float((total[of != 0] / of[of != 0]).mean()) if of.any() else float("nan")
        there = figure(scored, "predictions", prediction, key)
        if there is None or not np.isclose(here, there, rtol=_APART, atol=1e-6):
            raise ConfigError(
                f"{file}: {key} of {prediction} is {here:.4f} by its images and {there} in the scores. Remove "
                "both files, and the run is scored again."
            )


def _images(found: Sequence[ImageSums]) -> int:
    """How many images all runs were scored on: two at least, as every resample of one is that one again."""
    if any(sums.keys != found[0].keys for sums in found):
        raise UnpairedError("it was scored on other images")
    if len(found[0].keys) < 2:
        raise UnpairedError("it was scored on a single image, which does not tell what another one would say")
    return len(found[0].keys)


def _shared(both: Sequence[Sequence[ImageSums]], comparison: Comparison) -> Iterator[tuple[Score, str]]:
    """The scores and predictions that all runs of two methods have."""
    for score in comparison.scores:
        for prediction in comparison.predictions:
            if all((score.key, prediction) in sums.sums for runs in both for sums in runs):
                yield score, prediction


def _ratios(runs: Sequence[ImageSums], key: str, prediction: str) -> Ratios:
    above, below = (np.stack([sums.sums[key, prediction][side] for sums in runs]) for side in (0, 1))
    return Ratios(above, below)


def _told_apart(own: np.ndarray, others: np.ndarray, score: Score) -> list[Difference | None]:
    """The difference of the score, then of each of its ratios; None where there is none."""
    found = interval(own, others)
    told: list[Difference | None] = []
    for value, low, high in zip(found.value.tolist(), found.low.tolist(), found.high.tolist(), strict=True):
        if not np.isfinite([value, low, high]).all():
            told.append(None)
            continue
        verdict: Literal["ahead", "behind", ""] = ""
        if low > 0 or high < 0:
            verdict = AHEAD if (low > 0) == score.higher_is_better else BEHIND
        told.append(Difference(value, low, high, verdict))
    return told
