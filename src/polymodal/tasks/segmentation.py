"""Semantic segmentation of aligned modalities: the loss, the training and validation steps."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from polymodal import models
from polymodal.data.histogram import ONE_CLASS
from polymodal.errors import ConfigError
from polymodal.limits import FROM_0, Limit, check
from polymodal.names import ENSEMBLE
from polymodal.nn import Prediction
from polymodal.processes import in_turn, mean_of_all
from polymodal.run_folder import PENALTY, TRAIN_LOSS, VAL_LOSS
from polymodal.tasks.base import Task, check_arguments, named_outputs, output_at
from polymodal.tasks.gaps import check_gaps, of_those_with
from polymodal.tasks.means import Mean
from polymodal.tasks.optim import Optimiser
from polymodal.tasks.outputs import Labels
from polymodal.tasks.start import check_start

_CLASS_WEIGHTS = Limit(
    lambda given: given in (None, "sqrt") or (all(map(FROM_0.holds, given)) and sum(given) > 0),
    'null, "sqrt", or a weight for each class, finite and 0 or more, not all of them 0',
)

AUXILIARY_WEIGHT = 0.4
"""Weight of the loss of an auxiliary head in training (Zhao et al. 2017, section 4)."""


class Segmentation(Task):
    """Trains one fused network on a data module's modalities (CEN eq. 4).

    loss = Σ_m CE(prediction_m) + CE(ensemble of the detached predictions) + what the fusion adds (λ · penalty).

    Args:
        network: Name of the plain network, see `polymodal.models.create`.
        network_args: Its arguments, without `classes`, which the data set says.
        weights: Pretrained weights of the encoder: "imagenet" (downloaded by the network's library),
            "efficientnet-lite0" to 2 (from an installed package) or a file, see
            `polymodal.models.load_encoder_weights`.
        optimiser: Optimiser, learning rates and schedule.
        class_weights: None; "sqrt" for weights proportional to the class frequency in the training split to the power
            -0.5, with mean 1; or one weight for each class.
        **settings: See `Task`.

    Raises:
        ConfigError: A setting cannot work with the data, found before training starts.
    """

    chosen_by: ClassVar[str] = "mean_iou"
    chosen_mode: ClassVar[Literal["min", "max"]] = "max"
    predicts = Labels

    class_weight: Tensor

    def __init__(
        self,
        network: str = "rooms-unet",
        network_args: dict[str, Any] | None = None,
        weights: str | None = None,
        optimiser: Optimiser = Optimiser(),  # noqa: B008 (frozen)
        class_weights: Literal["sqrt"] | list[float] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(network, network_args, **settings)
        check_arguments(network_args, "classes")
        check({"class_weights": class_weights}, {"class_weights": _CLASS_WEIGHTS})
        check_start(self.start_from, self.start_like, weights)
        optimiser.check_used(Optimiser())
        self.weights = weights
        self.optimiser = optimiser
        self.class_weights = class_weights
        self.scoring = {}
        self._losses: list[tuple[Tensor, int]] = []  # of the batches that were validated

    def configure_model(self) -> None:
        """Build the fused network for the data module's modalities and classes."""
        if self.net is not None:
            return
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        if self.statistics == "batch" and data.batch_size == 1:
            raise ConfigError(
                'batch size 1 with statistics "batch": a norm learns nothing from a single sample. '
                "Use --data.batch_size 2 or more, or --model.statistics frozen with pretrained weights."
            )
        if data.num_classes == 1:
            raise ConfigError(f"{data.root}: target: {ONE_CLASS}")
        self.target = data.target
        self.arguments = {**self.network_args, "classes": data.num_classes}
        if self.weights == "imagenet":
            plain = models.create_pretrained(self.network, **self.arguments)
        else:
            plain = models.create(self.network, **self.arguments)
            if self.weights is not None:
                models.load_encoder_weights(plain, self.weights)
        self.net = self.fuse(plain, data.channels)
        check_gaps(self.net.fusion, data)
        self.scores = self.output.scores([*self.net.branches, ENSEMBLE])
        # Not persistent: the weights are made again from the data, and a saved model needs none.
        self.register_buffer("class_weight", self._class_weight(data), persistent=False)

    def _class_weight(self, data: Any) -> Tensor:
        if self.class_weights is None:
            return torch.ones(data.num_classes)
        if self.class_weights == "sqrt":
            # A class that the training split lacks weighs as one that has a millionth of the pixels.
            weight = data.class_frequencies().float().clamp(min=1e-6).rsqrt()
            return weight / weight.mean()
        if len(self.class_weights) != data.num_classes:
            raise ConfigError(
                f"class_weights: expected one for each of {data.num_classes} classes of the data set, got "
                f"{len(self.class_weights)}."
            )
        return torch.tensor(self.class_weights, dtype=torch.float32)

    def segmentation_loss(
        self, prediction: Prediction, target: Tensor, present: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Σ_m CE(prediction_m) + CE(ensemble), without what the fusion adds; CE(prediction) where there is one alone.

        Each CE is the sum over the samples that have a modality, divided by the weights of all labelled pixels.

        Args:
            prediction: Logits at any size; they are resized to the target's.
            target: (B, H, W) with the ignored value where there is no truth.
            present: Which samples have a modality, boolean (B,), by modality; None for all.

        Returns:
            A scalar, 0 when every pixel is ignored.
        """
        size = target.shape[-2:]
        # The gradients of several processes are averaged: this makes them those of all their labelled pixels together.
        total = mean_of_all(self._weight_of(target)).clamp(min=1e-6)

        def loss(name: str, logits: Tensor) -> Tensor:
            return self._cross_entropy(*of_those_with(name, present, logits, target), total)

        losses = [loss(name, logits) for name, logits in named_outputs(prediction, size).items()]
        for name, output in (prediction.per_modality or {ENSEMBLE: prediction.ensemble}).items():
            if isinstance(output, Mapping) and "aux" in output:
                losses.append(AUXILIARY_WEIGHT * loss(name, output_at(output["aux"], size)))
        return torch.stack(losses).sum()

    def _weight_of(self, target: Tensor) -> Tensor:
        """The weights of all labelled pixels together."""
        known = target != self.target.ignore
        return self.class_weight.float()[target.where(known, 0)].where(known, 0.0).sum()

    def _cross_entropy(self, logits: Tensor, target: Tensor, total_weight: Tensor) -> Tensor:
        # Not reduction="mean", which is 0 / 0 in a batch without any labelled pixel.
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        weight = self.class_weight.to(logits.dtype)  # which a trainer of another precision has converted
        total = F.cross_entropy(logits, target, weight, ignore_index=self.target.ignore, reduction="sum")
        return total / total_weight

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        """One batch: forward, loss, the check that it is finite."""
        del batch_idx
        present = {"present": batch["present"]} if "present" in batch else {}  # a loss of one's own may not know of it
        loss = self.segmentation_loss(self.predict_batch(batch), batch["targets"][self.target.name], **present)
        penalty = self.fused.fusion_loss()
        loss = loss + penalty
        self.check_finite(loss, batch)
        size = len(batch["key"])
        self.log_mean(TRAIN_LOSS, loss, size, prog_bar=True)
        self.log_mean(PENALTY, penalty, size)
        return loss

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        """One batch: the loss, and counting at the labels' own resolution."""
        target = batch["targets"][self.target.name]
        present = batch.get("present")
        predictions = named_outputs(self.predict_batch(batch), target.shape[-2:])
        total = self._weight_of(target).clamp(min=1e-6)
        losses = [
            self._cross_entropy(*of_those_with(name, present, logits, target), total)
            for name, logits in predictions.items()
        ]
        loss = torch.stack(losses).sum()
        # The last step of an epoch may have spoilt the weights, and its checkpoint is written after the validation.
        self.check_finite(loss, batch)
        if not self.counts(batch_idx):
            return
        self._losses.append((loss, len(batch["key"])))
        for name, logits in predictions.items():
            self.scores.update(name, *of_those_with(name, present, logits, target))

    def on_validation_epoch_end(self) -> None:
        """The loss and the scores over the whole set."""
        if not self.trainer.sanity_checking:
            mean = Mean()
            for loss, samples in in_turn([(loss.cpu(), samples) for loss, samples in self._losses]):
                mean.update(loss, samples)
            self.log(VAL_LOSS, mean.compute())
        self.log_scores()
        self._losses.clear()

    def logged(self) -> list[str]:
        """The loss of the validation, too."""
        return [*super().logged(), VAL_LOSS]

    def build_optimisers(self, steps: int) -> list[tuple[Optimizer, LambdaLR]]:
        """One, of the network."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        batch_size = data.batch_size * self.trainer.accumulate_grad_batches * self.trainer.world_size
        return [self.optimiser.build(self.fused, steps, batch_size)]

    def configure_optimizers(self) -> Any:
        """The optimiser and its schedule, step by step."""
        [(optimiser, schedule)] = self.build_optimisers(self.planned_steps())
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
