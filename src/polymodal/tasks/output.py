"""What a task predicts: how predictions are scored, shown and written.

A task names its `Output`, and a trained model keeps the name, so that whoever evaluates a model need not know its task.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from PIL import Image
from torch import Tensor

from polymodal.data import TargetSpec
from polymodal.errors import ConfigError
from polymodal.metrics import PredictionScores, Reliability
from polymodal.names import register
from polymodal.tasks.protocol import Protocol

OUTPUTS: dict[str, type["Output"]] = {}
"""By the names that trained models have for them."""


class Output(ABC):
    """What evaluation and prediction must know of a task.

    A subclass is known by its name once its module is imported.

    Args:
        target: What is predicted.
        scoring: Settings of the scores, as the task has them.
    """

    name: str
    """What a trained model calls it."""

    def __init__(self, target: TargetSpec, scoring: Mapping[str, Any] | None = None) -> None:
        self.target = target
        self.scoring = dict(scoring or {})

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        register(OUTPUTS, cls)

    @property
    def parts(self) -> Mapping[str, "Output"]:
        """Itself, without a name: of several targets there is one for each, see `polymodal.tasks.several`."""
        return {"": self}

    @property
    def targets(self) -> dict[str, TargetSpec]:
        """What is predicted, by name."""
        return {self.target.name: self.target}

    def split(self, prediction: Tensor) -> dict[str, Tensor]:
        """A prediction (..., C, H, W) by the names of `parts`."""
        return {"": prediction}

    def check_protocol(self, protocol: Protocol) -> None:
        """Refuse a way to test that makes no sense here; any does if not overridden.

        Raises:
            ConfigError: With what does.
        """
        del protocol

    @abstractmethod
    def scores(self, names: Sequence[str]) -> PredictionScores:
        """What counts named predictions: `update(name, prediction, *truth)`, then `compute()`."""

    @abstractmethod
    def truth(self, batch: Mapping[str, Any], size: Sequence[int]) -> tuple[Tensor, ...]:
        """What a batch's predictions are held against, the target itself first, where the inputs have this size."""

    def only_of(self, truth: Sequence[Tensor], rows: Tensor) -> tuple[Tensor, ...]:
        """The truth of some samples of a batch: of the others, the target is the ignored value.

        So they count for nothing, and keep their place among the samples.

        Args:
            truth: As `truth` gives it.
            rows: Which samples, boolean (B,).
        """
        target, *others = truth
        return target.where(rows.view(-1, *(1,) * (target.dim() - 1)), self.target.ignore), *others

    @abstractmethod
    def shown(self, prediction: Tensor) -> np.ndarray:
        """One prediction (1, C, H, W) as samples.npz holds it."""

    @abstractmethod
    def shown_truth(self, scene: Mapping[str, Any], size: Sequence[int]) -> dict[str, np.ndarray]:
        """What samples.npz holds of a scene's truth, by name: the target at a size, in the same form, first."""

    def legend(self) -> dict[str, np.ndarray]:
        """What samples.npz says of these forms; nothing of pictures."""
        return {}

    @property
    @abstractmethod
    def channels(self) -> int:
        """How many a prediction has."""

    @property
    @abstractmethod
    def endings(self) -> tuple[str, ...]:
        """What the names of the files of one prediction end in."""

    def arrays(self, scores: Tensor) -> dict[str, np.ndarray]:
        """One prediction (C, H, W) for programs, by what it is; as "values" (H, W, C) if not overridden."""
        return {"values": scores.float().permute(1, 2, 0).cpu().numpy()}

    maps: ClassVar[tuple[str, ...]] = ()
    """What `certainty` can say of a pixel; nothing if not overridden."""

    def certainty(
        self, scores: Mapping[str, Tensor], temperatures: Mapping[str, float]
    ) -> dict[str, dict[str, np.ndarray]]:
        """How sure the predictions of a scene are, by prediction and by what it is, float32 (H, W) in 0..1.

        Args:
            scores: (C, H, W) by name.
            temperatures: By name, see `polymodal.metrics.certainty`; 1 where none is given.
        """
        del scores, temperatures
        return {}

    def reliability(self, names: Sequence[str], temperatures: Mapping[str, float]) -> Reliability | None:
        """What counts whether the certainty of named predictions can be believed; nothing if they have none."""
        del names, temperatures
        return None

    def to_blend(self, scores: Tensor) -> Tensor:
        """What is averaged of the predictions (C, H, W) of several windows; themselves if not overridden."""
        return scores

    def from_blend(self, mean: Tensor) -> Tensor:
        """The prediction whose `to_blend` is this mean; the mean itself if not overridden."""
        return mean

    def pixels(self, scores: Tensor) -> dict[str, np.ndarray]:
        """Of one prediction (C, H, W), pixel by pixel, what each of its files is made of; see `image`.

        Returns:
            (H, W) or (H, W, C) by the endings of their names, the empty one for the prediction itself.

        Raises:
            ConfigError: If not overridden.
        """
        del scores
        raise ConfigError(
            f"predictions of {self.name} cannot be written: {type(self).__name__} lacks the method `pixels`, of which "
            "files are made. Add it, or take the arrays of polymodal.Predictor."
        )

    def image(self, ending: str, pixels: np.ndarray, picture: np.ndarray, title: str) -> Image.Image:
        """A file of one prediction, these pixels themselves if not overridden.

        Args:
            ending: What its name ends in.
            pixels: What it is made of.
            picture: What people see of the scene, uint8 (H, W, 3).
            title: The prediction's name.
        """
        del ending, picture, title
        return Image.fromarray(pixels)

    def exact(self, ending: str) -> bool:
        """Whether a file holds what is predicted, and is no picture for people: the one whose name ends in nothing."""
        return not ending

    def nodata(self, ending: str, pixels: np.ndarray) -> float | None:
        """The number by which a file with a place on Earth says that there is nothing; None where it has none to spare.

        Args:
            ending: What its name ends in.
            pixels: What it is made of.
        """
        if pixels.dtype.kind == "f":
            return float("nan")
        most = int(np.iinfo(pixels.dtype).max)
        if not self.target.classes:
            return self.target.invalid if self.target.invalid in range(most + 1) else None
        classes = len(self.target.classes)
        number = self.target.ignore if classes <= self.target.ignore <= most else most
        return number if number >= classes and not ending else None

    def legend_of(self, ending: str) -> tuple[Sequence[Any], Sequence[str]]:
        """Colours and names of the classes that a file holds; none where it is a map of something else."""
        return ((), ()) if ending else (self.target.colors, self.target.classes)
