"""What training a fused network is, whatever it predicts."""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from polymodal.data import TargetSpec
from polymodal.data.sampler import TurnSampler
from polymodal.errors import CheckpointError, ConfigError
from polymodal.fusion import Fusion
from polymodal.metrics import PredictionScores
from polymodal.multimodal import Multimodal
from polymodal.names import ENSEMBLE
from polymodal.nn import Prediction
from polymodal.nn.ensemble import main_output
from polymodal.processes import as_first
from polymodal.run_folder import EXCHANGED, PENALTY, TRAIN_LOSS, WEIGHT, score_column
from polymodal.speed import Speed, accelerate
from polymodal.surgery import fuse
from polymodal.tasks.finite import LossOfBatch
from polymodal.tasks.learning import Learns, check_learns, keep_shared
from polymodal.tasks.means import Mean
from polymodal.tasks.output import Output
from polymodal.tasks.resume import AS_BEFORE, take_settings
from polymodal.tasks.several import Several, output_of
from polymodal.tasks.start import check_start, start


def check_arguments(arguments: Mapping[str, Any] | None, *of_data: str) -> None:
    """Refuse arguments of a network that the data set says.

    Raises:
        ConfigError: One of these is given.
    """
    given = [name for name in of_data if name in (arguments or {})]
    if given:
        raise ConfigError(f"network_args.{given[0]}: the data set says it; leave it out.")


def output_at(output: Any, size: Sequence[int] | None) -> Tensor:
    """The prediction in a network's output, logits or an image, at a size.

    Args:
        output: A prediction (B, C, h, w), or a list or dict with it, see `main_output`.
        size: Height and width to resize to, bilinearly; None for its own.

    Returns:
        (B, C, H, W).
    """
    found = main_output(output)
    if size is None or found.shape[-2:] == tuple(size):
        return found
    return F.interpolate(found, size=tuple(size), mode="bilinear")


def named_outputs(prediction: Prediction, size: Sequence[int] | None = None) -> dict[str, Tensor]:
    """What every modality and the ensemble predict, by name, each (B, C, H, W) at a size or at its own."""
    return {name: output_at(output, size) for name, output in prediction.named().items()}


class Task(LightningModule):
    """A fused network and how it is trained.

    Args:
        network: Name of the plain network, see `polymodal.models.create`.
        network_args: Its arguments, without those that the data set says.
        fusion: The fusion method; none means shared convolutions and nothing exchanged.
        sites: Where it acts: "auto", or patterns of layer names.
        stems: "repeat" or "private", for all modalities or by name.
        norms: "private" or "shared".
        convolutions: "shared", "private" for a network of its own for every modality, or {rank: r} for a private part
            of low rank.
        statistics: "batch" or "frozen", or the patterns of the norms that are frozen.
        speed: How the training of the network runs, without changing what is trained beyond rounding: "auto", "off" for
            debugging, or "compile", which pays where epochs take many minutes; see `polymodal.speed.accelerate`. The
            precision is the trainer's.
        start_from: A run or model, of the same network and fusion, that the training starts from: its folder, the name
            of one that comes with the package, or an address on the Hub; classes, modalities and sizes may be others,
            and without a fusion it may have had any. What was taken over is printed, and kept in the run.
        start_like: For modalities that it does not know: the one that each starts like, such as {thermal: depth}.
        learns: "all"; or "private" for what is each modality's own, such as norms and parts of low rank, while what
            they share stays as it is in the model that the training starts from.

    Attributes:
        chosen_by: The validation score of the ensemble by which the best checkpoint is chosen, `val/<score>/ensemble`;
            of several targets "<target>/<score>".
        chosen_mode: Whether it is the largest or the smallest one.
        predicts: How its predictions are scored, shown and written; of a task of several targets one for each, in the
            order of `data.target`.
        alternates: Whether networks learn in turn, so that a backward pass reaches only some of the parameters.
        arguments: All of the plain network's arguments, once it is built.
        scoring: Settings of the scores, which a trained model keeps with it.
        net: The fused network; None until a trainer starts.
        targets: What is to be predicted, by name, once the network is built.
        scores: Of a validation, once the network is built.
        means: Of this epoch, by name, what `log_mean` was given.
    """

    chosen_by: ClassVar[str]
    chosen_mode: ClassVar[Literal["min", "max"]]
    alternates: ClassVar[bool] = False
    predicts: ClassVar[type[Output] | tuple[type[Output], ...]]

    arguments: dict[str, Any]
    scoring: dict[str, Any]
    scores: PredictionScores
    targets: dict[str, TargetSpec]

    _last_loss: LossOfBatch | None = None

    def __init__(
        self,
        network: str,
        network_args: dict[str, Any] | None = None,
        fusion: Fusion | None = None,
        sites: str | list[str] = "auto",
        stems: str | dict[str, str] = "repeat",
        norms: Literal["private", "shared"] = "private",
        convolutions: Literal["private", "shared"] | dict[str, Any] = "shared",
        statistics: str | list[str] = "batch",
        speed: Speed = "auto",
        start_from: str | None = None,
        start_like: dict[str, str] | None = None,
        learns: Learns = "all",
    ) -> None:
        super().__init__()
        check_start(start_from, start_like)
        check_learns(learns, start_from)
        self.network = network
        self.network_args = dict(network_args or {})
        self.fusion = fusion
        self.statistics = statistics
        self.speed: Speed = speed
        self.start_from = start_from
        self.start_like = start_like
        self.learns: Learns = learns
        self.net: Multimodal | None = None
        self.means = nn.ModuleDict()
        self._ways: dict[str, Any] = {
            "fusion": fusion,
            "sites": sites,
            "stems": stems,
            "norms": norms,
            "convolutions": convolutions,
            "statistics": statistics,
        }

    @property
    def target(self) -> TargetSpec:
        """What is to be predicted, of a task of one target."""
        [target] = self.targets.values()
        return target

    @target.setter
    def target(self, target: TargetSpec) -> None:
        self.targets = {target.name: target}

    @property
    def output_settings(self) -> dict[str, Any]:
        """What a trained model keeps of how its predictions are scored, shown and written.

        Raises:
            ConfigError: It does not predict as many targets as there are.
        """
        named = [part.name for part in (self.predicts if isinstance(self.predicts, tuple) else (self.predicts,))]
        if len(named) != len(self.targets):
            raise ConfigError(
                f"data.target: {type(self).__name__} learns {len(named)} target(s) and is given "
                f"{', '.join(self.targets)}. Name as many, in the order of its `predicts`."
            )
        return {"output": named if isinstance(self.predicts, tuple) else named[0], **self.scoring}

    @property
    def output(self) -> Output | Several:
        """How its predictions are scored, shown and written, once `targets` are known.

        Raises:
            ConfigError: It does not predict as many targets as there are.
        """
        return output_of(self.targets, self.output_settings)

    def fuse(self, plain: nn.Module, channels: Mapping[str, int | None]) -> Multimodal:
        """A plain network made multimodal as the settings say, ready to be trained.

        Args:
            plain: The network; it is changed.
            channels: Of each modality.
        """
        net = fuse(plain, channels, **self._ways, inplace=True)
        if self.start_from is not None:
            start(net, self.start_from, self.network, self.targets, self.start_like)
        if self.learns == "private":
            keep_shared(net)
        return accelerate(net, self.speed)

    @property
    def fused(self) -> Multimodal:
        """The fused network, once `configure_model` has built it."""
        assert self.net is not None, "the network is built when a trainer starts"
        return self.net

    def forward(self, inputs: Mapping[str, Tensor], present: Mapping[str, Tensor] | None = None) -> Prediction:
        """Predict from every modality, each (B, C_m, H, W), of the samples that have it, boolean (B,) by modality."""
        return self.fused(inputs, per_modality=True, present=present)

    def predict_batch(self, batch: Mapping[str, Any]) -> Prediction:
        """Predict from every modality of a batch, of the samples that have it."""
        present = {"present": batch["present"]} if "present" in batch else {}
        return self(batch["inputs"], **present)

    def mean(self, name: str) -> Mean:
        """The mean of a name, from now on if it is new."""
        if name not in self.means:
            self.means[name] = Mean().to(self.device)
        mean = self.means[name]
        assert isinstance(mean, Mean)
        return mean

    def log_mean(self, name: str, value: Tensor, samples: int, prog_bar: bool = False) -> None:
        """Log the mean of a value over the epoch's samples, which a break does not change, as it would that of `log`.

        Args:
            name: How it is called in metrics.csv.
            value: The mean over a batch.
            samples: How many the batch has.
            prog_bar: Whether a progress bar shows it.
        """
        self.mean(name).update(value, samples)
        self.show_mean(name, prog_bar)

    def show_mean(self, name: str, prog_bar: bool = False) -> None:
        """Log a mean as it is."""
        attribute = f"means.{name}"
        self.log(name, self.mean(name), on_step=False, on_epoch=True, prog_bar=prog_bar, metric_attribute=attribute)

    def counts(self, batch_idx: int) -> bool:
        """Whether a batch of a validation is this process's own, not one that keeps it in step with the others."""
        sampler = getattr(self.trainer.val_dataloaders, "sampler", None)
        return not isinstance(sampler, TurnSampler) or batch_idx < sampler.own

    def on_validation_epoch_start(self) -> None:
        """Validate one network: the processes' own have statistics of what each of them saw."""
        as_first(self.buffers())

    def log_scores(self) -> None:
        """Log the scores of a validation, and forget what was counted; those of an untrained network are not logged."""
        if not self.trainer.sanity_checking:
            for name, figures in self.scores.compute().items():
                for score in self.scores.scored:
                    shown = (score.key, name) == (self.chosen_by, ENSEMBLE)
                    self.log(score_column(score.key, name), torch.tensor(figures[score.key]), prog_bar=shown)
        self.scores.reset()

    def logged(self) -> list[str]:
        """The names of all that an epoch logs, once the network is built; a task adds its losses."""
        net = self.fused
        scores = [score_column(score.key, name) for name in self.scores.names for score in self.scores.scored]
        exchanged = [EXCHANGED + name for name in (net.modalities if net.exchange_state() else ())]
        return [TRAIN_LOSS, PENALTY, *scores, *exchanged, *(WEIGHT + name for name in net.weights())]

    @abstractmethod
    def build_optimisers(self, steps: int) -> list[tuple[Optimizer, LambdaLR]]:
        """The optimisers for a training of so many steps, each with its schedule."""

    def planned_steps(self) -> int:
        """Steps of the whole training, which schedules are made for.

        Raises:
            ConfigError: Neither epochs nor steps are limited.
        """
        steps = self.trainer.estimated_stepping_batches
        if not math.isfinite(steps):
            raise ConfigError(
                "trainer.max_epochs and trainer.max_steps leave open how long the training is, and learning rates fall "
                "along its whole length. Set one of them; trainer.max_time may end it earlier."
            )
        if steps < (self.trainer.min_steps or 0):
            raise ConfigError(
                f"--trainer.min_steps {self.trainer.min_steps}: the training has {int(steps)} steps; raise "
                "--trainer.max_epochs or --trainer.max_steps."
            )
        return int(steps)

    def check_finite(self, loss: Tensor, batch: Mapping[str, Any]) -> None:
        """Stop a training whose loss is no number any more.

        A GPU's answer is read at the next call or at the end of the epoch, before a checkpoint is written: to ask for
        it at once would make the host wait for the device in every step.

        Raises:
            PolymodalError: With the samples of the batch.
        """
        self._refuse_if_not_finite()
        self._last_loss = LossOfBatch.of(loss, self.current_epoch + 1, self.global_step, batch["key"])
        if self._last_loss.copied is None:
            self._refuse_if_not_finite()

    def on_train_epoch_end(self) -> None:
        """Read the last answer of `check_finite`; checkpoints are written after this."""
        self._refuse_if_not_finite()

    def _refuse_if_not_finite(self) -> None:
        last, self._last_loss = self._last_loss, None
        if last is not None:
            # By the statistics of other weights, features grow from layer to layer until they overflow.
            frozen = "" if self.statistics == "batch" else ", take the weights that the frozen statistics are of"
            last.check(frozen)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Read the last answer of `check_finite`: no checkpoint holds weights that it has spoilt."""
        del checkpoint
        self._refuse_if_not_finite()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse the checkpoint of another model or optimiser, before any of it is taken over.

        The rates, the weight decay and the like are this recipe's, not the checkpoint's.

        Raises:
            CheckpointError: Its tensors are not those of this model, or were not trained by this optimiser.
        """
        given, wanted = checkpoint["state_dict"], self.state_dict()
        fits = [name for name in wanted if name in given and given[name].shape == wanted[name].shape]
        others = sorted(given.keys() ^ wanted.keys()) or [name for name in wanted if name not in fits]
        if others:
            raise CheckpointError(
                f"{self.trainer.ckpt_path} belongs to another model: {len(fits)} of {len(wanted)} tensors fit; the "
                f"first that do not: {', '.join(others[:3])}. {AS_BEFORE}"
            )
        fresh = [optimiser for optimiser, _ in self.build_optimisers(steps=1)]
        take_settings(checkpoint, fresh, self.trainer.ckpt_path)
