"""The scores that metrics compute and that pages and tables show: their names, units, directions, and which one counts.

A metric says what it computes by `Score`s; they stand in the files of scores, so that whoever shows these need not know
the metric.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any


@dataclass(frozen=True)
class Score:
    """One figure of a prediction.

    Attributes:
        key: Its name in a prediction's scores; brackets say how it was measured, as in "FID[lite0]".
        name: Its name in words.
        unit: What it is measured in, in words; empty when it is a bare number.
        higher_is_better: Its direction.
        digits: Decimals worth printing.
        headline: What it is, in words, where it stands for a prediction; empty for others.
        per_class: The key of the list that it is the mean of, a figure for each class; empty for others.
    """

    key: str
    name: str
    unit: str
    higher_is_better: bool
    digits: int
    headline: str = ""
    per_class: str = ""

    @property
    def family(self) -> str:
        """Its key without brackets."""
        return self.key.partition("[")[0]

    @property
    def direction(self) -> str:
        """What is better, in words."""
        return "higher is better" if self.higher_is_better else "lower is better"

    def measured(self, how: str) -> "Score":
        """The same, with brackets that say how it was measured; as it is where they are empty."""
        return replace(self, key=self.key + how, name=self.name + how)

    def better(self, values: Iterable[float]) -> float:
        """The best of some values."""
        return max(values) if self.higher_is_better else min(values)

    def text(self, value: float) -> str:
        """A value as it is printed."""
        return f"{value:.{self.digits}f}"


OF_LABELS = (
    Score(
        "mean_iou",
        "mean IoU",
        "per cent",
        higher_is_better=True,
        digits=1,
        headline="the overlap of predicted and true area, averaged over classes",
        per_class="iou",
    ),
    Score("pixel_accuracy", "pixel accuracy", "per cent", higher_is_better=True, digits=1),
    Score("mean_accuracy", "mean accuracy", "per cent", higher_is_better=True, digits=1),
    Score("frequency_weighted_iou", "freq.-weighted IoU", "per cent", higher_is_better=True, digits=1),
)
OF_PIXELS = (
    Score(
        "MAE",
        "MAE",
        "parts of the target's range",
        higher_is_better=False,
        digits=4,
        headline="the mean absolute difference of predicted and true values",
    ),
    Score("MSE", "MSE", "parts of the range's square", higher_is_better=False, digits=5),
    Score("PSNR", "PSNR", "dB", higher_is_better=True, digits=2),
    Score("SSIM", "SSIM", "", higher_is_better=True, digits=4),
)
OF_FEATURES = (
    Score(
        "FID",
        "FID",
        "",
        higher_is_better=False,
        digits=1,
        headline="how far the predicted images are from the true ones as a set, in what the network in brackets sees "
        "of them",
    ),
    Score("KID", "KID", "", higher_is_better=False, digits=4),
)
SCORES = (*OF_LABELS, *OF_PIXELS, *OF_FEATURES)
"""Those of this package, for files that do not say what their scores are; of each kind the first one counts."""


def entire_missing(values: Mapping[tuple[str, ...], float], modalities: int) -> dict[str, float]:
    """A score when modalities are missing entirely, by the measures of Liao et al. 2025 (arXiv 2503.18445).

    As their released code computes them: "average" is the mean over all sets of modalities that are there, that of all
    of them among these; "p=0.2", "p=0.1" and "p=0.05" are what is expected when each modality is missing with that
    probability, independently of the others, and not all of them are.

    Args:
        values: The score by the modalities that are there.
        modalities: How many the model has.

    Returns:
        Nothing where a set has no score.
    """
    sizes = [len(present) for present in values]
    if len(values) < 2**modalities - 1:
        return {}
    expected = {"average": sum(values.values()) / len(values)}
    for p in (0.2, 0.1, 0.05):
        weights = [p ** (modalities - size) * (1 - p) ** size for size in sizes]
        total = sum(weight * value for weight, value in zip(weights, values.values(), strict=True))
        expected[f"p={p}"] = total / sum(weights)
    return expected


def of_some(lacking: Mapping[str, int]) -> str:
    """That a modality's own scores are not of all scenes, in words; empty where every scene has every modality.

    Args:
        lacking: By modality, how many of the scenes are without it.
    """
    some = ", ".join(f"{count} without {name}" for name, count in lacking.items() if count)
    return f"{some}: a modality's own scores are of the scenes that have it" if some else ""


def known_scores(predictions: Iterable[Mapping[str, Any]], described: Iterable[Score] = ()) -> list[Score]:
    """The scores that any of some predictions has, the one that counts first; mean IoU where there are none.

    Args:
        predictions: Figures by key.
        described: What their files say of them.
    """
    keys = dict.fromkeys(key for figures in predictions for key in figures)
    given = {score.key: score for score in described if score.key in keys}
    others = [
        score.measured(key.removeprefix(score.key))
        for score in SCORES
        for key in keys
        if key.partition("[")[0] == score.key and key not in given
    ]
    return [*given.values(), *others] or [SCORES[0]]


def scores_in(content: Mapping[str, Any]) -> list[Score]:
    """The scores that a file of scores holds, the one that counts first."""
    return known_scores(content["predictions"].values(), from_plain(content.get("scores")))


def headlines(scores: Sequence[Score]) -> list[Score]:
    """Those that stand for a prediction; the first where none says so, as of a metric of one's own."""
    return [score for score in scores if score.headline] or list(scores[:1])


def of_target(target: str, what: str) -> str:
    """What a score, or an array of a run, of one of several targets is called; the only one has no name."""
    return f"{target}/{what}" if target else what


def leading(scores: Sequence[Score], classes: object) -> list[Score]:
    """The score that counts; of several targets, that of each.

    Args:
        scores: Those that there are, in their order.
        classes: What a file of scores says of the classes: of several targets, by the target.
    """
    targets = classes if isinstance(classes, Mapping) else [""]
    first = (next((score for score in scores if score.key.startswith(of_target(of, ""))), None) for of in targets)
    return [score for score in first if score is not None]


def classes_of(score: Score, classes: object) -> list[str]:
    """The classes that a score has figures for, of those that a file of scores names; arguments as of `leading`."""
    if isinstance(classes, Mapping):
        return next((names for of, names in classes.items() if score.key.startswith(of_target(of, ""))), [])
    return list(classes) if isinstance(classes, list) else []


def as_plain(scores: Iterable[Score]) -> list[dict[str, Any]]:
    """What a file says of its scores."""
    return [asdict(score) for score in scores]


def from_plain(plain: Any) -> tuple[Score, ...]:
    """The inverse of `as_plain`; nothing of None, as files of earlier versions have it.

    Raises:
        ValueError: Nothing wrote this.
    """
    kinds = {field.name: field.type for field in fields(Score)}
    for values in plain or ():
        if not isinstance(values, dict) or {key: type(value) for key, value in values.items()} != kinds:
            raise ValueError(f"scores: got {str(values)[:60]}, which nothing wrote")
    return tuple(Score(**values) for values in plain or ())
