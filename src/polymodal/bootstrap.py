"""How sure a difference of two methods is: a paired bootstrap over images and seeds (Efron & Tibshirani 1993, ch. 13).

A score is a mean of ratios of sums over images, such as the IoU of a class: the pixels that are right over those that
are predicted or true. A resample draws images and seeds with replacement, the same ones for both methods, sums anew and
takes the ratios of the sums, never the mean of ratios of single images.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
TAILS = (2.5, 97.5)
"""Percentiles of the differences between which the interval lies: 95 per cent of them."""

_IMAGES, _SEEDS = 0, 1
"""Seeds of what is drawn: the same images and the same seeds for every pair of methods and every score."""

_BLOCK = 2**22
"""Images that are drawn at a time."""


@dataclass(frozen=True)
class Ratios:
    """What every image adds to a score, for every seed.

    Attributes:
        above: (seeds, images, ratios), what is summed above the line.
        below: Of the same shape; a ratio counts where its sum is not 0.
    """

    above: np.ndarray
    below: np.ndarray


@dataclass(frozen=True)
class Interval:
    """The difference of a score and of each of its ratios: (1 + ratios,), the score first; NaN where there is none."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


def drawn_images(images: int) -> Iterator[np.ndarray]:
    """The images of all resamples, (some, images) at a time."""
    generator = np.random.default_rng(_IMAGES)
    together = max(1, _BLOCK // images)
    for begin in range(0, RESAMPLES, together):
        yield generator.integers(images, size=(min(together, RESAMPLES - begin), images))


def drawn_seeds(seeds: int) -> np.ndarray:
    """The seeds of all resamples, by their place, (resamples, seeds); one seed is always the same."""
    return np.random.default_rng(_SEEDS).integers(seeds, size=(RESAMPLES, seeds))


def resampled(ratios: Ratios) -> np.ndarray:
    """The score and its ratios as they are, then of every resample: (1 + resamples, 1 + ratios), means over seeds.

    A seed's score is the mean of its ratios whose sum below is not 0; of a ratio, the seeds count that have it.
    """
    seeds, images, count = ratios.above.shape
    both = np.concatenate([ratios.above, ratios.below], axis=2).astype(np.float64)
    flat = both.transpose(1, 0, 2).reshape(images, -1)
    sums = [flat.sum(0)[None], *(_times(drawn, images) @ flat for drawn in drawn_images(images))]
    above, below = np.split(np.concatenate(sums).reshape(-1, seeds, 2 * count), 2, axis=2)
    quotients = np.divide(above, below, out=np.full_like(above, np.nan), where=below != 0)
    found = np.concatenate([_mean(quotients, 2)[..., None], quotients], axis=2)
    chosen = np.concatenate([np.arange(seeds)[None], drawn_seeds(seeds)])
    return _mean(np.take_along_axis(found, chosen[..., None], axis=1), 1)


def interval(method: np.ndarray, reference: np.ndarray) -> Interval:
    """The differences of two methods, each as `resampled` gives it, with the interval of 95 per cent of the resamples.

    Resamples that lack a ratio in either method are left out of its interval.
    """
    value, *differences = method - reference
    low, high = np.full_like(value, np.nan), np.full_like(value, np.nan)
    for column, found in enumerate(np.transpose(differences)):
        there = found[np.isfinite(found)]
        if there.size and np.isfinite(value[column]):
            low[column], high[column] = np.percentile(there, TAILS)
    return Interval(np.where(np.isfinite(low), value, np.nan), low, high)


def _times(drawn: np.ndarray, count: int) -> np.ndarray:
    """How often each of so many is drawn, (resamples, count)."""
    rows = len(drawn)
    places = (np.arange(rows)[:, None] * count + drawn).ravel()
    return np.bincount(places, minlength=rows * count).reshape(rows, count).astype(np.float64)


def _mean(values: np.ndarray, axis: int) -> np.ndarray:
    """The mean of what is there along an axis; NaN where nothing is."""
    there = np.isfinite(values)
    count = there.sum(axis)
    total = np.where(there, values, 0.0).sum(axis)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
