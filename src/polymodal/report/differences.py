"""How methods differ from a reference, with intervals: as lines of a table, as Markdown and as values of a file."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from polymodal.bootstrap import RESAMPLES
from polymodal.scores import Score

AHEAD: Literal["ahead"] = "ahead"
BEHIND: Literal["behind"] = "behind"

Key = tuple[str, str, str]
"""Method, prediction and the key of a score."""


@dataclass(frozen=True)
class Difference:
    """A method's score less that of the reference, means over seeds, and the interval of 95 per cent.

    Attributes:
        verdict: Whether the method is ahead or behind; empty where the interval holds 0.
    """

    value: float
    low: float
    high: float
    verdict: Literal["ahead", "behind", ""]

    def text(self, score: Score) -> str:
        """As tables print it."""
        value, low, high = (f"{number:+.{score.digits}f}" for number in (self.value, self.low, self.high))
        return f"{value} ({low} to {high}){f' {self.verdict}' if self.verdict else ''}"


@dataclass(frozen=True)
class Differences:
    """All differences from one method.

    Attributes:
        reference: The method's name.
        title: What tables call it.
        scores: Of a method's prediction in a score.
        classes: Likewise, a difference for each class; None for one that no image of either method has.
        measured: How many seeds and how many images each method shares with the reference.
        lacking: Why a method has none, by its name.
        names: Those of the classes, by the key of a score.
    """

    reference: str
    title: str
    scores: Mapping[Key, Difference] = field(default_factory=dict)
    classes: Mapping[Key, Sequence[Difference | None]] = field(default_factory=dict)
    measured: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    lacking: Mapping[str, str] = field(default_factory=dict)
    names: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def keys(self) -> set[str]:
        """The scores that have differences."""
        return {key for _, _, key in self.scores}

    def line(self, method: str, predictions: Iterable[str], score: Score) -> list[Difference | None]:
        """A method's differences in a score, prediction by prediction."""
        return [self.scores.get((method, prediction, score.key)) for prediction in predictions]

    def as_plain(self) -> dict[str, Any]:
        """Plain values for JSON: by method, prediction and score."""
        methods: dict[str, Any] = {
            name: {"seeds": seeds, "images": images, "predictions": {}}
            for name, (seeds, images) in self.measured.items()
        }
        for (method, prediction, key), difference in self.scores.items():
            scores = methods[method]["predictions"].setdefault(prediction, {})
            scores[key] = asdict(difference)
            if found := self.classes.get((method, prediction, key)):
                scores[key]["per_class"] = {
                    name: one and [one.value, one.low, one.high, one.verdict]
                    for name, one in zip(self.names[key], found, strict=True)
                }
        return {"reference": self.reference, "methods": methods, "lacking": dict(self.lacking)}


def explanation(differences: Differences) -> str:
    """What the differences are, and what they are not, in a paragraph."""
    seeds = {method: seeds for method, (seeds, _) in differences.measured.items()}
    alone = ", ".join(method for method, count in seeds.items() if count == 1)
    said = [
        f"Each method less “{differences.title}” on the seeds that both have, and in brackets the interval of 95 % of "
        f"{RESAMPLES} resamples of the images and of the seeds, the same for both (paired bootstrap, percentiles); "
        "scores are taken from the summed counts of a resample. “Ahead” and “behind” stand where the interval "
        "excludes 0. Scores of a whole set, such as FID, have no interval.",
    ]
    if any(1 < count < 5 for count in seeds.values()):
        said.append("Of fewer than five seeds it holds little of what another seed would do.")
    if alone:
        said.append(f"Of one seed the images alone are resampled, and another may say otherwise: {alone}.")
    return " ".join([*said, *(f"{method}: {reason}." for method, reason in differences.lacking.items())])
