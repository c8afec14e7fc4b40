"""What a network predicts of several targets: each is scored, shown and written as it is alone, under its name."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from polymodal.data import TargetSpec
from polymodal.errors import CheckpointError, ConfigError, naming
from polymodal.metrics import PredictionScores
from polymodal.scores import Score, of_target
from polymodal.tasks.output import Output
from polymodal.tasks.outputs import known_output
from polymodal.tasks.protocol import Protocol


class Several:
    """Several targets, predicted in one map: channels of each, one after the other in the order of the targets.

    The methods are those of `Output`. Scores are called "<target>/<score>"; endings, arrays and maps of certainty have
    "<target>_" before their own names. All targets are scored at one size, the largest at which any of them is.

    Args:
        parts: How each target is predicted, by its name.

    Raises:
        ConfigError: Two files of a prediction, or two arrays, would have one name.
    """

    def __init__(self, parts: Mapping[str, Output]) -> None:
        self.parts = dict(parts)
        self.name = " and ".join(dict.fromkeys(part.name for part in parts.values()))
        self.maps = tuple(f"{target}_{what}" for target, part in self.parts.items() for what in part.maps)
        names = [*self.endings, *(f"_{what}" for what in self.maps)]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigError(
                f"data.target: of {', '.join(self.parts)} two files of a prediction would end in {twice[0]}. Rename "
                "one of these targets in dataset.yaml."
            )

    @property
    def targets(self) -> dict[str, TargetSpec]:
        """What is predicted, by name."""
        return {target: part.target for target, part in self.parts.items()}

    @property
    def channels(self) -> int:
        """How many a prediction has, of all targets together."""
        return sum(part.channels for part in self.parts.values())

    def split(self, prediction: Tensor) -> dict[str, Tensor]:
        """A prediction (..., C, H, W) by target, each with the channels of its own."""
        each = prediction.split([part.channels for part in self.parts.values()], -3)
        return dict(zip(self.parts, each, strict=True))

    def check_protocol(self, protocol: Protocol) -> None:
        """Windows alone, where every target allows them: several views are averaged as probabilities of classes.

        Raises:
            ConfigError: Scales or mirroring are asked for.
        """
        if protocol.averages:
            raise ConfigError(
                f"--scales, --flip: the model predicts {', '.join(self.parts)} together, which are scored as they are "
                "predicted, once; leave these options out."
            )
        for part in self.parts.values():
            part.check_protocol(protocol)

    def scores(self, names: Sequence[str]) -> PredictionScores:
        """Those of each target."""
        return SeveralScores(names, self)

    def truth(self, batch: Mapping[str, Any], size: Sequence[int]) -> tuple[tuple[Tensor, ...], ...]:
        """The truth of each target, all at one size."""
        parts = self.parts.values()
        largest = max((part.truth(batch, size)[0].shape[-2:] for part in parts), key=lambda found: found[0] * found[1])
        return tuple(part.truth(batch, largest) for part in parts)

    def only_of(self, truth: Sequence[Sequence[Tensor]], rows: Tensor) -> tuple[tuple[Tensor, ...], ...]:
        """The truth of some samples of a batch, as of `Output`."""
        return tuple(part.only_of(own, rows) for part, own in zip(self.parts.values(), truth, strict=True))

    @property
    def endings(self) -> tuple[str, ...]:
        """Those of each target, behind its name."""
        return tuple(f"_{target}{ending}" for target, part in self.parts.items() for ending in part.endings)

    def arrays(self, scores: Tensor) -> dict[str, np.ndarray]:
        """One prediction (C, H, W) for programs, by target and what it is, such as "depth_values"."""
        return {
            f"{target}_{what}": array
            for target, own in self.split(scores).items()
            for what, array in self.parts[target].arrays(own).items()
        }

    def certainty(
        self, scores: Mapping[str, Tensor], temperatures: Mapping[str, float]
    ) -> dict[str, dict[str, np.ndarray]]:
        """How sure the predictions are, of those targets of which that can be said."""
        apart = {name: self.split(one) for name, one in scores.items()}
        found: dict[str, dict[str, np.ndarray]] = {name: {} for name in scores}
        for target, part in self.parts.items():
            sure = part.certainty({name: own[target] for name, own in apart.items()}, temperatures)
            for name, maps in sure.items():
                found[name] |= {f"{target}_{what}": values for what, values in maps.items()}
        return found

    def reliability(self, names: Sequence[str], temperatures: Mapping[str, float]) -> None:
        """Nothing: temperatures are fitted for models of one target alone."""
        del names, temperatures

    def to_blend(self, scores: Tensor) -> Tensor:
        """What is averaged of each target."""
        return torch.cat([self.parts[target].to_blend(own) for target, own in self.split(scores).items()])

    def from_blend(self, mean: Tensor) -> Tensor:
        """The prediction whose `to_blend` is this mean."""
        return torch.cat([self.parts[target].from_blend(own) for target, own in self.split(mean).items()])

    def pixels(self, scores: Tensor) -> dict[str, np.ndarray]:
        """What each file of a prediction is made of, target by target."""
        return {
            f"_{target}{ending}": pixels
            for target, own in self.split(scores).items()
            for ending, pixels in self.parts[target].pixels(own).items()
        }

    def image(self, ending: str, pixels: np.ndarray, picture: np.ndarray, title: str) -> Image.Image:
        """A file of one target."""
        target, own = self._of(ending)
        return self.parts[target].image(own, pixels, picture, f"{title}, {target}")

    def exact(self, ending: str) -> bool:
        """Whether a file holds what its target predicts."""
        target, own = self._of(ending)
        return self.parts[target].exact(own)

    def nodata(self, ending: str, pixels: np.ndarray) -> float | None:
        """The number by which a target's file says that there is nothing."""
        target, own = self._of(ending)
        return self.parts[target].nodata(own, pixels)

    def legend_of(self, ending: str) -> tuple[Sequence[Any], Sequence[str]]:
        """Colours and names of the classes that a target's file holds."""
        target, own = self._of(ending)
        return self.parts[target].legend_of(own)

    def _of(self, ending: str) -> tuple[str, str]:
        """The target that an ending belongs to, and what it is among the target's own."""
        return next(
            (target, own)
            for target, part in self.parts.items()
            for own in (*part.endings, *(f"_{what}" for what in part.maps))
            if ending == f"_{target}{own}"
        )


class SeveralScores(PredictionScores):
    """The scores of several targets, each counted by a metric of its own.

    Args:
        names: The predictions that are scored.
        output: What is predicted.
    """

    def __init__(self, names: Sequence[str], output: Several) -> None:
        super().__init__(names)
        self._output = output
        self._parts = nn.ModuleList(part.scores(names) for part in output.parts.values())

    @property
    def _each(self) -> dict[str, PredictionScores]:
        return dict(zip(self._output.parts, self._parts, strict=True))  # type: ignore[arg-type]

    @property
    def scored(self) -> list[Score]:
        """Those of the first target first."""
        return [
            replace(
                score,
                key=of_target(target, score.key),
                name=f"{target}: {score.name}",
                per_class=score.per_class and of_target(target, score.per_class),
            )
            for target, counts in self._each.items()
            for score in counts.scored
        ]

    def update(self, name: str, prediction: Tensor, *truth: Sequence[Tensor]) -> None:
        """Count a batch: a prediction of all targets, and the truth of each."""
        apart = self._output.split(prediction)
        for (target, counts), own in zip(self._each.items(), truth, strict=True):
            with naming(target):
                counts.update(name, apart[target], *own)

    def compute(self) -> dict[str, dict[str, Any]]:
        """The figures of each prediction, of all targets.

        Raises:
            DataError: Nothing was counted of a target; with its name.
        """
        found: dict[str, dict[str, Any]] = {name: {} for name in self.names}
        for target, counts in self._each.items():
            with naming(target):
                computed = counts.compute()
            for name, figures in computed.items():
                found[name] |= {of_target(target, key): value for key, value in figures.items()}
        return found

    def reset(self) -> None:
        """Forget what was counted."""
        super().reset()
        for counts in self._each.values():
            counts.reset()

    def keep_samples(self) -> None:
        """Keep what every sample adds to the scores of each target."""
        for counts in self._each.values():
            counts.keep_samples()

    def of_samples(self) -> dict[tuple[str, str], tuple[Tensor, Tensor]]:
        """What was noted of each target."""
        return {
            (of_target(target, key), name): sums
            for target, counts in self._each.items()
            for (key, name), sums in counts.of_samples().items()
        }


def output_of(targets: Mapping[str, TargetSpec], training: Mapping[str, Any]) -> Output | Several:
    """What a trained model predicts.

    Args:
        targets: Its targets, by name.
        training: What it says of its training, `output` among it: the name of an `Output`; of several targets a list of
            them, in their order.

    Raises:
        CheckpointError: A name is not known here, or what it says of its training is damaged.
        ConfigError: See `Several`.
    """
    if not isinstance(training, Mapping):
        raise CheckpointError(
            f"metadata.training: expected keys and values, got {training!r}. Restore the model's file."
        )
    named = training.get("output")
    outputs = named if isinstance(named, list) else [named]
    if len(outputs) != len(targets):
        raise CheckpointError(
            f"the model has {len(targets)} targets ({', '.join(targets)}) and says how {len(outputs)} of them are "
            f"predicted (output: {named!r}). Restore its file."
        )
    parts = {
        target: known_output(name, spec, training)
        for (target, spec), name in zip(targets.items(), outputs, strict=True)
    }
    return Several(parts) if isinstance(named, list) else next(iter(parts.values()))
