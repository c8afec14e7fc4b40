"""What a task predicts: how predictions are scored, shown and written.

A task names its `Output`, and a trained model keeps the name, so that whoever evaluates a model need not know its task.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from polymodal.data import TargetSpec
from polymodal.data.target import restore_target
from polymodal.errors import CheckpointError, ConfigError
from polymodal.metrics import ImageScores, PredictionScores, Reliability, SegmentationScores, feature_extractor
from polymodal.metrics.certainty import confidence, disagreement, entropy, log_probabilities
from polymodal.names import ENSEMBLE
from polymodal.tasks.images import as_file, as_picture, truth_at
from polymodal.tasks.overlay import overlay
from polymodal.tasks.protocol import Protocol

_OUTPUTS: dict[str, type["Output"]] = {}


class Output(ABC):
    """What evaluation and prediction must know of a task.

    A subclass is known by its name once its module is imported.

    Args:
        target: What is predicted.
        scoring: Settings of the scores, as the task has them.
    """

    name: ClassVar[str]
    """What a trained model calls it."""

    def __init__(self, target: TargetSpec, scoring: Mapping[str, Any] | None = None) -> None:
        self.target = target
        self.scoring = dict(scoring or {})

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        _OUTPUTS[cls.name] = cls

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
        raise ConfigError(f"--window: predictions of {self.name} are written as a whole alone; leave the option out.")

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

    def files(self, prediction: Tensor, picture: np.ndarray, title: str) -> dict[str, Image.Image]:
        """One prediction (1, C, H, W), at the size of the picture, as files; arguments and names as of `image`."""
        made_of = self.pixels(prediction[0])
        return {ending: self.image(ending, pixels, picture, title) for ending, pixels in made_of.items()}


class Labels(Output):
    """Class maps."""

    name = "labels"
    maps = ("confidence", "entropy", "disagreement")

    def scores(self, names: Sequence[str]) -> PredictionScores:
        """A confusion matrix for each prediction."""
        return SegmentationScores(names, len(self.target.classes), self.target.ignore)

    def truth(self, batch: Mapping[str, Any], size: Sequence[int]) -> tuple[Tensor, ...]:
        """The labels, whatever the inputs' size."""
        del size
        return (batch["targets"][self.target.name],)

    def shown(self, prediction: Tensor) -> np.ndarray:
        """Class numbers (H, W)."""
        return prediction.argmax(1)[0].cpu().numpy().astype(self._small)

    def shown_truth(self, scene: Mapping[str, Any], size: Sequence[int]) -> dict[str, np.ndarray]:
        """Class numbers (H, W)."""
        labels = F.interpolate(scene["targets"][self.target.name][None, None].float(), size=tuple(size), mode="nearest")
        return {"target": labels[0, 0].numpy().astype(self._small)}

    def legend(self) -> dict[str, np.ndarray]:
        """The classes with their colours."""
        return {
            "colors": np.array(self.target.colors, np.uint8),
            "classes": np.array(self.target.classes),
            "ignore": np.array(self.target.ignore),
        }

    @property
    def channels(self) -> int:
        """One for each class."""
        return len(self.target.classes)

    @property
    def endings(self) -> tuple[str, ...]:
        """The class numbers, and an overlay."""
        return "", "_overlay"

    def arrays(self, scores: Tensor) -> dict[str, np.ndarray]:
        """Class numbers "labels" (H, W), and "colors" (H, W, 3)."""
        labels = scores.argmax(0).cpu().numpy()
        return {"labels": labels.astype(self._stored), "colors": np.array(self.target.colors, np.uint8)[labels]}

    def certainty(
        self, scores: Mapping[str, Tensor], temperatures: Mapping[str, float]
    ) -> dict[str, dict[str, np.ndarray]]:
        """Each prediction's "confidence" and "entropy", and the modalities' "disagreement", with the ensemble's."""
        logarithms = {name: log_probabilities(one[None], temperatures.get(name, 1.0)) for name, one in scores.items()}
        found = {name: {"confidence": confidence(one), "entropy": entropy(one)} for name, one in logarithms.items()}
        modalities = [one for name, one in logarithms.items() if name != ENSEMBLE]
        if len(modalities) > 1:
            found[ENSEMBLE]["disagreement"] = disagreement(modalities)
        return {name: {what: one[0].cpu().numpy() for what, one in own.items()} for name, own in found.items()}

    def reliability(self, names: Sequence[str], temperatures: Mapping[str, float]) -> Reliability:
        """Bins of confidence, and the signs of an error, for each prediction."""
        return Reliability(names, self.channels, self.target.ignore, temperatures)

    def to_blend(self, scores: Tensor) -> Tensor:
        """Probabilities."""
        return scores.float().softmax(0)

    def from_blend(self, mean: Tensor) -> Tensor:
        """Their logarithms."""
        return mean.log()

    def pixels(self, scores: Tensor) -> dict[str, np.ndarray]:
        """The class numbers with 8 bits, 16 for more than 256 classes, of which the overlay is made, too."""
        return dict.fromkeys(self.endings, scores.argmax(0).cpu().numpy().astype(self._stored))

    def image(self, ending: str, pixels: np.ndarray, picture: np.ndarray, title: str) -> Image.Image:
        """The class numbers, or an overlay for people."""
        if not ending:
            return Image.fromarray(pixels)
        return overlay(picture, pixels, self.target.classes, self.target.colors, title=title)

    @property
    def _stored(self) -> type[np.generic]:
        return np.uint8 if len(self.target.classes) <= 256 else np.uint16

    @property
    def _small(self) -> type[np.generic]:
        ignore = self.target.ignore
        return np.uint8 if max(len(self.target.classes) - 1, ignore) < 256 and ignore >= 0 else np.int32


class Images(Output):
    """Images, from -1 to 1 as the network predicts them; the scores have the settings `extractor` and `stretched`."""

    name = "images"

    def check_protocol(self, protocol: Protocol) -> None:
        """Windows alone: several views are averaged as probabilities of classes.

        Raises:
            ConfigError: Scales or mirroring are asked for.
        """
        if protocol.flip or protocol.scales != (1.0,):
            raise ConfigError(
                "--scales, --flip: images are scored as they are predicted, once; leave these options out."
            )

    def scores(self, names: Sequence[str]) -> PredictionScores:
        """Errors and distances, see `ImageScores`."""
        extractor = self.scoring.get("extractor")
        looked_at = None if extractor is None else feature_extractor(extractor)
        return ImageScores(names, looked_at, stretched=bool(self.scoring.get("stretched")))

    def truth(self, batch: Mapping[str, Any], size: Sequence[int]) -> tuple[Tensor, ...]:
        """The image at the inputs' size, and where there is truth."""
        name = self.target.name
        return truth_at(batch["targets"][name], batch["targets_valid"][name], size, self.target)

    def shown(self, prediction: Tensor) -> np.ndarray:
        """A picture, uint8 (H, W, 3)."""
        return as_picture(prediction[0])

    def shown_truth(self, scene: Mapping[str, Any], size: Sequence[int]) -> dict[str, np.ndarray]:
        """A picture, uint8 (H, W, 3), and where there is truth, bool (H, W)."""
        image, valid = (scene[key][self.target.name][None] for key in ("targets", "targets_valid"))
        image, valid = truth_at(image, valid, size, self.target)
        return {"target": as_picture(image[0]), "target_valid": valid[0, 0].numpy()}

    @property
    def channels(self) -> int:
        """Those of the target's files."""
        return self.target.channels

    @property
    def endings(self) -> tuple[str, ...]:
        """The values, and a picture of those that no program shows."""
        return ("", "_picture") if self.target.kind in ("depth", "raw") else ("",)

    def arrays(self, scores: Tensor) -> dict[str, np.ndarray]:
        """Its "values" (H, W, C) in the target's units, and "colors" (H, W, 3)."""
        values = restore_target(scores.float().clamp(-1, 1), self.target)
        return {"values": values.permute(1, 2, 0).cpu().numpy(), "colors": as_picture(scores)}

    def pixels(self, scores: Tensor) -> dict[str, np.ndarray]:
        """The values as files of the target hold them; of depth and raw values a picture, too."""
        shown = (as_picture(scores) for _ in self.endings[1:])
        return dict(zip(self.endings, (np.asarray(as_file(scores, self.target)), *shown), strict=True))


def output_of(target: TargetSpec, training: Mapping[str, Any]) -> Output:
    """What a trained model predicts.

    Args:
        target: Its target.
        training: What it says of its training; one of an earlier version does not name its output.

    Raises:
        CheckpointError: The name is not known here, or what it says of its training is damaged.
    """
    if not isinstance(training, Mapping):
        raise CheckpointError(
            f"metadata.training: expected keys and values, got {training!r}. Restore the model's file."
        )
    name = training.get("output") or ("labels" if target.classes else "images")
    if not isinstance(name, str) or name not in _OUTPUTS:
        raise CheckpointError(
            f"the model predicts {name!r}, which is not known here; known: {', '.join(_OUTPUTS)}. Import the module of "
            "its task first."
        )
    return _OUTPUTS[name](target, training)
