"""A trained model on the scenes of a split: what every kind of score begins with, and what its file says of itself."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor

from polymodal import checkpoint
from polymodal.data import InputSpec, TargetSpec
from polymodal.data.track import track
from polymodal.errors import CheckpointError, ConfigError, naming
from polymodal.metrics import PredictionScores, Reliability
from polymodal.multimodal import Multimodal
from polymodal.names import ENSEMBLE
from polymodal.run_folder import TEMPERATURES, scores_file
from polymodal.runs.scored import part
from polymodal.scores import as_plain
from polymodal.speed import accelerate
from polymodal.tasks.base import named_outputs
from polymodal.tasks.gaps import may_lack
from polymodal.tasks.output import Output
from polymodal.tasks.protocol import Protocol
from polymodal.tasks.several import Several, output_of

SCORES_ON = "scores on "
"""How a line begins that says how far the scoring is, before the split."""


def best_device() -> torch.device:
    """Where evaluation and prediction run: a GPU when there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def trained(model: Path) -> Multimodal:
    """The network of a model folder, ready to predict on the best device as fast as is known for it.

    Raises:
        CheckpointError: The folder holds no model.
    """
    return accelerate(checkpoint.load(model).to(best_device()))


def temperatures_of(metadata: Mapping[str, Any], source: Path) -> dict[str, float]:
    """The temperatures that a model's confidence is taken at, by prediction; none where nobody fitted any.

    Args:
        metadata: What the model says of itself.
        source: Where that stands.

    Raises:
        CheckpointError: They are none.
    """
    found, names = metadata.get(TEMPERATURES) or {}, (*metadata["inputs"], ENSEMBLE)
    known = isinstance(found, Mapping) and all(
        name in names and type(value) in (int, float) and 0 < value < math.inf for name, value in found.items()
    )
    if not known:
        raise CheckpointError(
            f"{source}: {TEMPERATURES}: expected numbers above 0 for {', '.join(names)}, got {str(found)[:60]}. Fit "
            "them again with polymodal calibrate."
        )
    return dict(found)


@dataclass(frozen=True)
class Scored:
    """A batch to be predicted and scored.

    Attributes:
        keys: Of its samples.
        loaded: (B, C_m, H, W) by modality, as they were loaded, on the CPU.
        valid: Where something was measured, (B, 1, H, W) by modality, on the CPU.
        inputs: Those that were loaded, on the best device.
        truth: What predictions are held against, the target itself first, on the best device; of several targets that
            of each.
        present: Which samples have a modality, boolean (B,), by modality; None where all have all.
    """

    keys: list[str]
    loaded: dict[str, Tensor]
    valid: dict[str, Tensor]
    inputs: dict[str, Tensor]
    truth: tuple[Any, ...]
    present: dict[str, Tensor] | None = None

    def counted(self, name: str, predictions: Mapping[str, Tensor], output: Output | Several) -> list[Any]:
        """A prediction and what it is held against: samples without its modality count for nothing."""
        rows = (self.present or {}).get(name)
        if rows is None:
            return [predictions[name], *self.truth]
        main = predictions[ENSEMBLE]
        rows = rows.to(main.device)
        of_those = predictions.get(name, main).where(rows.view(-1, *(1,) * (main.dim() - 1)), main)
        return [of_those, *output.only_of(self.truth, rows)]


class Tested:
    """A model of a folder, and a split that it is scored on.

    Args:
        model: The model folder.
        data: A data module that was set up with the model's modalities.
        split: "val" or "test".
        protocol: How it is tested.
        elsewhere: What the data set is called when it is not the one that the model was trained with, a name that no
            other has.
        net: The folder's network, where it is loaded already.

    Attributes:
        net: The network.
        output: How its predictions are scored.
        file: What its file of scores is called.
        inputs: What the values of each modality mean.

    Raises:
        ConfigError: The protocol makes no sense for what is predicted.
    """

    def __init__(
        self,
        model: Path,
        data: Any,
        split: str,
        protocol: Protocol = Protocol(),  # noqa: B008 - frozen
        elsewhere: str = "",
        net: Multimodal | None = None,
    ) -> None:
        self._config = checkpoint.read_config(model)
        self.output = output_of(data.targets, self._config["metadata"]["training"])
        self.output.check_protocol(protocol)
        self._data, self._split, self._protocol, self._elsewhere = data, split, protocol, elsewhere
        self._model = model
        self.net = net or trained(model)
        self.file = scores_name(split, protocol, elsewhere)
        self.inputs: Mapping[str, InputSpec] = data.inputs

    def scores(self, names: Sequence[str]) -> PredictionScores:
        """What counts predictions of these names, on the best device."""
        return self.output.scores(names).to(best_device())

    def reliability(self, names: Sequence[str], temperatures: Mapping[str, float] | None = None) -> Reliability | None:
        """What counts whether the confidence of these predictions can be believed, on the best device.

        None where they have none, or where the protocol averages probabilities, for which no temperature is fitted.

        Args:
            names: The predictions.
            temperatures: By prediction; the model's if not given.

        Raises:
            CheckpointError: The model's are none.
        """
        if temperatures is None:
            temperatures = temperatures_of(self._config["metadata"], self._model)
        counts = self.output.reliability(names, temperatures)
        return None if counts is None or self._protocol.averages else counts.to(best_device())

    def predict(
        self, inputs: Mapping[str, Tensor], batch: Scored, *, subset: bool = False, per_modality: bool = True
    ) -> dict[str, Tensor]:
        """Predictions by name, as the protocol makes them, at the size of the truth.

        Args:
            inputs: Those of the batch, or what became of them.
            batch: Whose truth they are held against.
            subset: Whether modalities may be absent.
            per_modality: Whether each modality's own are wanted where they cost more.
        """
        return self._protocol(
            lambda views: named_outputs(
                self.net(views, subset=subset, per_modality=per_modality, present=batch.present)
            ),
            inputs,
            self.inputs,
            size_of_truth(batch.truth),
        )

    @property
    def gaps(self) -> bool:
        """Whether scenes of the split lack modalities."""
        return may_lack(self.dataset)

    @property
    def dataset(self) -> Any:
        """The scenes of the split."""
        return self._loader().dataset

    def each_batch(
        self,
        score: Callable[[Scored], None],
        limit: int | float = 1.0,
        lines: bool = False,
        *,
        gaps: bool = False,
    ) -> list[str]:
        """Score the batches one after the other, without gradients.

        Args:
            score: What is done with each.
            limit: How many of the split's first batches, or what share of them; see `part`.
            lines: Whether to print how far it is where no bar can be drawn.
            gaps: Whether `score` knows of scenes that lack modalities.

        Returns:
            The keys of the samples that were scored, in order.

        Raises:
            ConfigError: The limit leaves nothing, or scenes lack modalities.
            DataError: As `score` raises it, with the keys of its batch.
        """
        self._data.setup("test" if self._split == "test" else "validate")
        if self.gaps and not gaps:
            raise ConfigError(
                f"scenes of {split_of(self._data, self._split)!r} lack modalities (`optional` in dataset.yaml), and "
                "this compares what is measured on every one of them. Use a split of complete scenes."
            )
        loader = self._loader()
        batches = part(len(loader), limit, self._split)
        keys: list[str] = []
        with torch.inference_mode():
            for batch in track(islice(loader, batches), f"{SCORES_ON}{self._split}, batches", batches, lines):
                inputs = {name: image.to(best_device()) for name, image in batch["inputs"].items()}
                truth = self.output.truth(batch, next(iter(inputs.values())).shape[-2:])
                with naming(", ".join(batch["key"])):
                    moved = move_data_to_device(truth, best_device())
                    present = batch.get("present")
                    score(Scored(batch["key"], batch["inputs"], batch["valid"], inputs, moved, present))
                keys += batch["key"]
        return keys

    def facts(self, keys: Sequence[str], counts: PredictionScores) -> dict[str, Any]:
        """What a file of scores says of the model, the scenes and the way to test, and the scores.

        Args:
            keys: Of the samples that were scored.
            counts: What counted them.
        """
        data, own = self._data, split_of(self._data, self._split)
        return {
            "split": self._split,
            "model": self._config.get("weights"),
            "scored_on": f"{self._elsewhere}/{own}" if self._elsewhere else name_of_split(data, own),
            "identity": data.identity(own),
            "truth": data.identity(own, []),
            "protocol": asdict(self._protocol),
            "samples": len(keys),
            "split_samples": len(self.dataset),
            **({"lacking": self._lacking(keys)} if self.gaps else {}),
            "modalities": list(self.net.modalities),
            "classes": classes_of(data.targets),
            "scores": as_plain(counts.scored),
            "predictions": counts.compute(),
            **self._config["metadata"]["training"],
            "network": self._config["network"]["name"],
            "fusion": self.net.fusion.name,
        }

    def _lacking(self, keys: Sequence[str]) -> dict[str, int]:
        """How many of the scenes lack each modality."""
        dataset = self.dataset
        return {name: sum(not dataset.present(key)[name] for key in keys) for name in self.net.modalities}

    def _loader(self) -> Any:
        return self._data.test_dataloader() if self._split == "test" else self._data.val_dataloader()


def size_of_truth(truth: Sequence[Any]) -> Sequence[int]:
    """Height and width of what predictions are held against, of one target or of several."""
    first = truth[0]
    return first.shape[-2:] if isinstance(first, Tensor) else size_of_truth(first)


def classes_of(targets: Mapping[str, TargetSpec]) -> list[str] | dict[str, list[str]]:
    """What a file of scores says of the classes: those of the target, or of each of several by its name."""
    classes = {name: list(target.classes) for name, target in targets.items()}
    return classes if len(classes) > 1 else next(iter(classes.values()))


def scores_name(split: str, protocol: Protocol, elsewhere: str = "") -> str:
    """The file of scores in a run folder."""
    return scores_file(split, re.sub(r"[^\w-]+", "-", elsewhere), protocol.name)


def split_of(data: Any, split: str) -> str:
    """What the data set calls the split "val" or "test".

    Raises:
        ConfigError: It is neither.
    """
    if split not in ("val", "test"):
        raise ConfigError(f'split: expected "val" or "test", those that a run has, got {split!r}.')
    return data.test_split if split == "test" else data.val_split


def name_of_split(data: Any, split: str) -> str:
    """The data set and the split, which tell whether a checkpoint was chosen on the scenes that it is scored on."""
    return f"{data.description.name}/{split}"
