"""The scores that pages and tables show: what they are called and measured in, what is better, and which one counts."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any


def counted(samples: int | None, of: int | None) -> str | None:
    """How many scenes were scored, in words that say it where these are not all of the split.

    Args:
        samples: Those that were scored; None where nobody counted them.
        of: Those of the split; None in files of a time when all were scored.
    """
    if samples is None:
        return None
    return str(samples) if of is None or samples == of else f"the first {samples} of {of}"


@dataclass(frozen=True)
class Score:
    """One figure of a prediction.

    Attributes:
        key: Its name in a prediction's scores; brackets say how it was measured, as in "FID[lite0]".
        name: Its name in words.
        unit: What it is measured in, in words; empty when it is a bare number.
        higher_is_better: Its direction.
        digits: Decimals worth printing.
    """

    key: str
    name: str
    unit: str
    higher_is_better: bool
    digits: int

    @property
    def family(self) -> str:
        """Its key without brackets."""
        return self.key.partition("[")[0]

    @property
    def direction(self) -> str:
        """What is better, in words."""
        return "higher is better" if self.higher_is_better else "lower is better"

    @property
    def how(self) -> str:
        """What a headline is, in words."""
        return HEADLINES[self.family]

    def better(self, values: Iterable[float]) -> float:
        """The best of some values."""
        return max(values) if self.higher_is_better else min(values)

    def text(self, value: float) -> str:
        """A value as it is printed."""
        return f"{value:.{self.digits}f}"


SCORES = (
    Score("mean_iou", "mean IoU", "per cent", higher_is_better=True, digits=1),
    Score("pixel_accuracy", "pixel accuracy", "per cent", higher_is_better=True, digits=1),
    Score("mean_accuracy", "mean accuracy", "per cent", higher_is_better=True, digits=1),
    Score("frequency_weighted_iou", "freq.-weighted IoU", "per cent", higher_is_better=True, digits=1),
    Score("MAE", "MAE", "parts of the target's range", higher_is_better=False, digits=4),
    Score("MSE", "MSE", "parts of the range's square", higher_is_better=False, digits=5),
    Score("PSNR", "PSNR", "dB", higher_is_better=True, digits=2),
    Score("SSIM", "SSIM", "", higher_is_better=True, digits=4),
    Score("FID", "FID", "", higher_is_better=False, digits=1),
    Score("KID", "KID", "", higher_is_better=False, digits=4),
)
"""All that are known, without brackets; of those that a prediction has the first is the one that counts."""

HEADLINES = {
    "mean_iou": "the overlap of predicted and true area, averaged over classes",
    "MAE": "the mean absolute difference of predicted and true values",
    "FID": "how far the predicted images are from the true ones as a set, in what the network in brackets sees of them",
}
"""Those that stand for a prediction, and what they are."""


def known_scores(predictions: Iterable[Mapping[str, Any]]) -> list[Score]:
    """The scores that any of some predictions has, the one that counts first; mean IoU where there are none.

    Args:
        predictions: Figures by key.
    """
    keys = list(dict.fromkeys(key for figures in predictions for key in figures))
    found = [
        replace(score, key=key, name=score.name + key.removeprefix(score.key))
        for score in SCORES
        for key in keys
        if key.partition("[")[0] == score.key
    ]
    return found or [SCORES[0]]


def headlines(scores: Sequence[Score]) -> list[Score]:
    """Those that stand for a prediction."""
    return [score for score in scores if score.family in HEADLINES]
