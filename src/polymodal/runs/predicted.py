"""What is predicted for a frame, as arrays and as pictures."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image
from torch import Tensor

from polymodal.errors import ConfigError
from polymodal.names import ENSEMBLE
from polymodal.tasks.output import Output
from polymodal.tasks.several import Several


@dataclass(frozen=True)
class Predicted:
    """What is predicted for one frame, at the frame's size.

    Attributes:
        scores: (C, H, W) by the name of the prediction: of every modality that was given, and "ensemble". Logits of
            classes, or an image from -1 to 1; of several targets, one after the other.
        picture: What people see of the frame, uint8 (H, W, 3).
    """

    scores: Mapping[str, Tensor]
    picture: np.ndarray
    _output: Output | Several
    _temperatures: Mapping[str, float]

    @cached_property
    def arrays(self) -> dict[str, dict[str, np.ndarray]]:
        """By prediction and by what it is.

        Of classes: "labels", class numbers (H, W); "colors", uint8 (H, W, 3); and float32 (H, W) in 0..1
        "confidence", the probability of that class, at the temperature that `polymodal calibrate` fitted, "entropy",
        and for the ensemble "disagreement", how far the modalities are apart, where there are several; see
        `polymodal.metrics.certainty`. Of an image: "values", (H, W, C) in the target's units; "colors". Of a model of
        several targets with the target's name before it: "depth_values".
        """
        sure = self._output.certainty(self.scores, self._temperatures)
        return {name: self._output.arrays(scores) | sure.get(name, {}) for name, scores in self.scores.items()}

    @cached_property
    def _decided(self) -> Mapping[str, np.ndarray]:
        """Of the ensemble, all but how sure it is, which a camera's loop need not wait for."""
        return self._output.arrays(self.scores[ENSEMBLE])

    def __getitem__(self, what: str) -> np.ndarray:
        """An array of the ensemble, such as `predicted["labels"]`.

        Raises:
            ConfigError: There is none of this name, such as disagreement where fewer than two modalities predict.
        """
        found = self._decided if what in self._decided else self.arrays[ENSEMBLE]
        if what not in found:
            few = what in self._output.maps
            why = ", as it needs two modalities or more that predict, each by itself" if few else ""
            raise ConfigError(f"{what}: there is no such array of this frame{why}. There are {', '.join(found)}.")
        return found[what]

    def shown(self, name: str = ENSEMBLE, target: str = "") -> Image.Image:
        """A prediction as a picture for people; of several targets, that of one.

        Raises:
            ConfigError: The model has no such target, or there is no such prediction.
        """
        own = self._output.split(self.scores[_among(self.scores, name)])[_known(target, self._output)]
        part = self._output.parts[target]
        ending, pixels = list(part.pixels(own).items())[-1]
        return part.image(ending, pixels, self.picture, name)


@dataclass(frozen=True)
class Stitched(Predicted):
    """What is predicted for a frame window by window: `arrays` alone, as scores of all of it would fill the memory.

    Attributes:
        scores: None.
        picture: What people see of the frame, uint8 (h, w, 3): every second, third, ... row and column of a large one.
    """

    _arrays: dict[str, dict[str, np.ndarray]]
    _pictures: Mapping[tuple[str, str], tuple[str, np.ndarray]]

    @cached_property
    def arrays(self) -> dict[str, dict[str, np.ndarray]]:
        """As of any prediction; of certainty where the `Predictor` was asked for it."""
        return self._arrays

    @cached_property
    def _decided(self) -> Mapping[str, np.ndarray]:
        return self._arrays[ENSEMBLE]

    def __getitem__(self, what: str) -> np.ndarray:
        """An array of the ensemble, such as `predicted["labels"]`.

        Raises:
            ConfigError: As of any prediction; or it is a map of certainty that was not asked for.
        """
        if what in self._output.maps and self._decided.keys().isdisjoint(self._output.maps):
            raise ConfigError(
                f"{what}: of a frame in windows it is kept where it is asked for, Predictor(..., certainty=True)."
            )
        return super().__getitem__(what)

    def shown(self, name: str = ENSEMBLE, target: str = "") -> Image.Image:
        """A prediction as a picture for people, of at most 1920 pixels a side beside its legend.

        Raises:
            ConfigError: As of any prediction.
        """
        ending, pixels = self._pictures[_known(target, self._output), _among(self.arrays, name)]
        return self._output.parts[target].image(ending, pixels, self.picture, name)


def _known(target: str, output: Output | Several) -> str:
    if target not in output.parts:
        raise ConfigError(f"target: expected {' or '.join(output.parts) or 'none'}, got {target!r}.")
    return target


def _among(predictions: Mapping[str, object], name: str) -> str:
    if name not in predictions:
        raise ConfigError(f"there is no prediction {name!r} of this frame. There are {', '.join(predictions)}.")
    return name
