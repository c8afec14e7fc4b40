"""The two kinds of predictions of this package: maps of classes, and images."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from polymodal.data import TargetSpec
from polymodal.data.target import restore_target
from polymodal.errors import CheckpointError, ConfigError
from polymodal.metrics import ImageScores, PredictionScores, Reliability, SegmentationScores, feature_extractor
from polymodal.metrics.certainty import confidence, disagreement, entropy, log_probabilities
from polymodal.metrics.largest import largest
from polymodal.names import ENSEMBLE
from polymodal.tasks.images import as_file, as_picture, truth_at
from polymodal.tasks.output import OUTPUTS, Output
from polymodal.tasks.overlay import overlay
from polymodal.tasks.protocol import Protocol


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
        return largest(prediction, 1)[1][0].cpu().numpy().astype(self._small)

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
        labels = largest(scores, 0)[1].cpu().numpy()
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
        return dict.fromkeys(self.endings, largest(scores, 0)[1].cpu().numpy().astype(self._stored))

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


def known_output(name: Any, target: TargetSpec, training: Mapping[str, Any]) -> Output:
    """How a target is predicted.

    Args:
        name: Of an `Output`; None, as models of an earlier version have it, for what goes with the kind of the target.
        target: The target.
        training: What a model says of its training.

    Raises:
        CheckpointError: The name is not known here.
    """
    name = name or ("labels" if target.classes else "images")
    if not isinstance(name, str) or name not in OUTPUTS:
        raise CheckpointError(
            f"the model predicts {name!r}, which is not known here; known: {', '.join(OUTPUTS)}. Import the module of "
            "its task first."
        )
    return OUTPUTS[name](target, training)
