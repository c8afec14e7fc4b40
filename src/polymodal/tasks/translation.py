"""Image-to-image translation of aligned modalities: one generator for all of them against one discriminator."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from lightning.pytorch import Callback
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from polymodal import models
from polymodal.errors import ConfigError, naming
from polymodal.files import complete_file
from polymodal.functional import fold
from polymodal.limits import ABOVE_0, FROM_0, at_least, check
from polymodal.models.registry import TRANSLATION
from polymodal.names import ENSEMBLE
from polymodal.nn import Prediction
from polymodal.processes import mean_of_all
from polymodal.run_folder import PICTURES
from polymodal.tasks.base import Task, check_arguments, named_outputs
from polymodal.tasks.gaps import may_lack
from polymodal.tasks.images import as_picture, contact_sheet, truth_at, viewable
from polymodal.tasks.optim import Optimiser
from polymodal.tasks.outputs import Images
from polymodal.tasks.several import output_of

_LIMITS = {"discriminator_filters": at_least(1), "discriminator_factor": ABOVE_0, "l1_weight": FROM_0}

SHOWN = 4
"""How many validation scenes are kept as a picture after every validation."""

ADAM = Optimiser(name="adam", lr=2e-4, scales_factor=1.0, weight_decay=0.0, schedule="constant", betas=(0.5, 0.999))
"""How the papers train generator and discriminator."""


class Translation(Task):
    """Trains a fused generator, and a discriminator that all modalities share (CEN sec. 4.2; Isola et al. 2017).

    generator's loss = Σ_m BCE(D(x_m, y_m), real) + l1_weight · (Σ_m L1(y_m, t) + L1(ensemble of the detached y_m, t))
        + what the fusion adds (λ · penalty);
    discriminator's loss = Σ_m ½ (BCE(D(x_m, t), real) + BCE(D(x_m, y_m), made)).

    x_m is a modality as the generator takes it, tiled to the same channels where they differ; y_m what is predicted
    from it, t the target. Where there is one prediction alone, it is held against every modality and the mean is taken.
    Pixels without truth count in no loss. In each step the discriminator comes first, and both losses see the same
    predictions. `trainer.max_steps` counts the steps of both.

    Args:
        network: The generator, see `polymodal.models.create`; "translation-unet" is the papers'.
        network_args: Its arguments, without those that the data says: the channels of the target, and `depth`, as far
            as the training images can be halved.
        discriminator_filters: Channels of the discriminator's first layer.
        discriminator_factor: What the optimiser's learning rates are multiplied by for the discriminator: less than 1
            where it wins so soon that the generator learns nothing from it (two time scales, Heusel et al. 2017).
        l1_weight: Of the L1 losses beside the adversarial ones.
        optimiser: Of both networks, each with a state and a schedule of its own.
        extractor: What FID and KID look at, see `polymodal.metrics.feature_extractor`; None for no FID and KID.
        stretched: Score the trained model as the released code does, see `ImageScores`.
        **settings: See `Task`.

    Raises:
        ConfigError: A setting cannot work with the data, found before training starts.
    """

    chosen_by: ClassVar[str] = "MAE"
    chosen_mode: ClassVar[Literal["min", "max"]] = "min"
    alternates: ClassVar[bool] = True
    predicts = Images

    def __init__(
        self,
        network: str = TRANSLATION,
        network_args: dict[str, Any] | None = None,
        discriminator_filters: int = 64,
        discriminator_factor: float = 1.0,
        l1_weight: float = 100.0,
        optimiser: Optimiser = ADAM,
        extractor: Literal["inception", "lite0"] | None = "inception",
        stretched: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__(network, network_args, **settings)
        self.discriminator_filters = discriminator_filters
        self.discriminator_factor = discriminator_factor
        self.l1_weight = l1_weight
        check(vars(self), _LIMITS)
        check_arguments(network_args, "classes", "out_channels")
        optimiser.check_used(ADAM)
        self.automatic_optimization = False
        self.optimiser = optimiser
        self.scoring = {"extractor": extractor, "stretched": stretched}

    def configure_callbacks(self) -> list[Callback]:
        """No callbacks, but the first look at the trainer, which would refuse these settings without a remedy.

        Raises:
            ConfigError: Gradients are to be clipped or accumulated.
        """
        for setting, neutral in (("gradient_clip_val", 0), ("accumulate_grad_batches", 1)):
            value = getattr(self.trainer, setting)
            if (value or neutral) != neutral:
                raise ConfigError(
                    f"trainer.{setting} is {value}, and translation takes a step of either network for every batch, "
                    "with the gradients as they are. Leave the setting out; data.batch_size is the size of a step."
                )
        return []

    def configure_model(self) -> None:
        """Build the fused generator for the data module's modalities and target, and the discriminator."""
        if self.net is not None:
            return
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        self.target = data.target
        if self.target.kind == "label":
            raise ConfigError(
                "data.target: translation predicts images, and the data set's target is labels. Name a modality as the "
                "target, such as --data.target depth, or train polymodal.tasks.Segmentation."
            )
        self.arguments = {**self._arguments(data), **self.network_args}
        if may_lack(data):
            raise ConfigError(
                "data.dropout, optional modalities: a discriminator compares what every modality of a sample predicts, "
                "so translation learns from complete samples alone. Leave them out."
            )
        self._check_extractor(data)
        self.net = self.fuse(models.create(self.network, **self.arguments), data.channels)
        seen = self.net.stem.width + self.target.channels
        self.discriminator = models.PatchDiscriminator(seen, self.discriminator_filters)
        output = output_of(self.targets, {**self.output_settings, "stretched": False})
        self.scores = output.scores([*self.net.branches, ENSEMBLE])

    def _check_extractor(self, data: Any) -> None:
        """Refuse now what FID and KID would refuse after the first epoch, or when all else is done."""
        if self.scoring["extractor"] is None:
            return
        remedy = "Set model.extractor to null for no FID and KID"
        if self.target.channels not in (1, 3):
            raise ConfigError(
                f"model.extractor: FID and KID look at images of 1 or 3 channels, and the target has "
                f"{self.target.channels}. {remedy}."
            )
        trainer, scored = self.trainer, {data.val_split: (data.val_dataloader(), self.trainer.limit_val_batches)}
        if data.test_split in data.description.splits:
            scored[data.test_split] = data.test_dataloader(), trainer.limit_test_batches
        for split, (loader, limit) in scored.items():
            images = len(loader.dataset)
            batches = limit if isinstance(limit, int) else int(limit * len(loader))
            together = (loader.batch_size or images) * trainer.world_size  # a sampler of batches says no size
            if min(batches * together, images) == 1:
                raise ConfigError(
                    f"model.extractor: FID and KID compare sets of images, and of {split} a single one is scored. "
                    f"{remedy}, or score more images."
                )

    def _arguments(self, data: Any) -> dict[str, Any]:
        """What the data says of the generator."""
        if self.network != TRANSLATION:
            return {"classes": self.target.channels}
        height, width = data.train_dataloader().dataset[0]["targets"][self.target.name].shape[-2:]
        depth = self.network_args.get("depth") or models.depth_for(height, width)
        if type(depth) is not int:
            raise ConfigError(f"network_args.depth: expected a number of down blocks, got {depth!r}.")
        loaders = {"train": data.train_dataloader, data.val_split: data.val_dataloader}
        if data.test_split in data.description.splits:
            loaders[data.test_split] = data.test_dataloader
        for split, loader in loaders.items():
            height, width = next(iter(loader().dataset[0]["inputs"].values())).shape[-2:]
            if height % 2**depth or width % 2**depth:
                raise ConfigError(
                    f"images of {split} are {width}x{height} (width x height), which a generator with {depth} down "
                    f"blocks cannot halve so often: sides must be multiples of {2**depth}. Set data.size to such a "
                    f"height and width, or model.network_args.depth to less."
                )
        return {"out_channels": self.target.channels, "depth": depth}

    def configure_optimizers(self) -> Any:
        """An optimiser and a schedule, step by step, for each of the two networks."""
        steps = self.planned_steps()
        if self.trainer.max_steps > 0:
            steps = min(steps, -(-self.trainer.max_steps // 2))  # each batch counts as a step of either network
        built = self.build_optimisers(steps)
        return [optimiser for optimiser, _ in built], [schedule for _, schedule in built]

    def logged(self) -> list[str]:
        """The other losses, too."""
        return [*super().logged(), *(f"train/{name}" for name in ("adversarial", "l1", "discriminator"))]

    def build_optimisers(self, steps: int) -> list[tuple[Optimizer, LambdaLR]]:
        """One of the generator and one of the discriminator."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        batch_size = data.batch_size * self.trainer.world_size
        slower = self.optimiser.times(self.discriminator_factor)
        rates = {self.fused: self.optimiser, self.discriminator: slower}
        return [optimiser.build(network, steps, batch_size) for network, optimiser in rates.items()]

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        """One batch: a step of the discriminator, then one of the generator."""
        del batch_idx
        for_generator, for_discriminator = self.optimizers()  # type: ignore[attr-defined]
        prediction = self._predict(batch)
        penalty = self.fused.fusion_loss()
        sides = self._sides(prediction, batch)

        judged = self._discriminator_loss(sides)
        self.check_finite(judged, batch)
        for_discriminator.zero_grad()
        self.manual_backward(judged)
        for_discriminator.step()

        self.discriminator.requires_grad_(False)  # nothing of it is to learn from what follows
        adversarial = sides.count * _bce(self.discriminator(sides.given, sides.made), real=True)
        self.discriminator.requires_grad_(True)
        images = named_outputs(prediction).values()
        l1 = torch.stack([masked_l1(image, *self._truth(batch)) for image in images]).sum()
        loss = adversarial + self.l1_weight * l1 + penalty
        self.check_finite(loss, batch)
        for_generator.zero_grad()
        self.manual_backward(loss)
        for_generator.step()
        for schedule in self.lr_schedulers():  # type: ignore[union-attr]
            schedule.step()

        losses = {"loss": loss, "adversarial": adversarial, "l1": l1, "discriminator": judged}
        size = len(batch["key"])
        for name, value in losses.items():
            self.log_mean(f"train/{name}", value, size, prog_bar=name in ("loss", "discriminator"))
        self.log_mean("penalty", penalty, size)

    def _predict(self, batch: Mapping[str, Any]) -> Prediction:
        with naming(", ".join(batch["key"])):
            prediction = self(batch["inputs"])
        (height, width), given = prediction.ensemble.shape[-2:], next(iter(batch["inputs"].values())).shape[-2:]
        if (height, width) != given:
            raise ConfigError(
                f"model.network: {self.network} predicts {width}x{height} (width x height) from images of "
                f"{given[1]}x{given[0]}, and an image is made at full size. Take a network that returns the size of "
                f"its images, such as {TRANSLATION} or smp/Unet."
            )
        return prediction

    def _truth(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """The image that is to be predicted, and where there is truth."""
        return batch["targets"][self.target.name], batch["targets_valid"][self.target.name]

    def _sides(self, prediction: Prediction, batch: Mapping[str, Any]) -> "Sides":
        """What the discriminator tells apart."""
        outputs = list(prediction.per_modality.values())
        count = len(self.fused.modalities)
        real, valid = (fold([tensor] * count) for tensor in self._truth(batch))
        made = where_known(valid, fold(outputs or [prediction.ensemble] * count), real)
        return Sides(self.fused.stem(batch["inputs"]), made, real, len(outputs) or 1)

    def _discriminator_loss(self, sides: "Sides") -> Tensor:
        real = _bce(self.discriminator(sides.given, sides.real), real=True)
        made = _bce(self.discriminator(sides.given, sides.made.detach()), real=False)
        return sides.count * (real + made) / 2

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        """One batch: every prediction against the target, at the size of the inputs."""
        images = named_outputs(self._predict(batch))
        target, valid = truth_at(*self._truth(batch), images[ENSEMBLE].shape[-2:], self.target)
        # The last step of an epoch may have spoilt the weights, and its checkpoint is written after the validation.
        self.check_finite(torch.stack([image.float().sum() for image in images.values()]), batch)
        if not self.counts(batch_idx):
            return
        for name, image in images.items():
            self.scores.update(name, image, target, valid)

    def on_validation_epoch_end(self) -> None:
        """The scores over the whole set, and a picture of some of its scenes."""
        if self.trainer.is_global_zero and not self.trainer.sanity_checking:
            self._keep_picture(Path(self.trainer.default_root_dir) / PICTURES)
        self.log_scores()

    def _keep_picture(self, folder: Path) -> None:
        """Write `epoch_<number>.png`: a scene a row, with inputs, predictions of each modality, ensemble, target."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        dataset, precision = data.val_dataloader().dataset, self.trainer.precision_plugin
        rows: list[list[np.ndarray]] = []
        for index in np.linspace(0, len(dataset) - 1, min(SHOWN, len(dataset))).round().astype(int):
            scene = dataset[int(index)]
            batch = precision.convert_input({name: x[None].to(self.device) for name, x in scene["inputs"].items()})
            with precision.forward_context():
                images = named_outputs(self(batch))
            size = images[ENSEMBLE].shape[-2:]
            inputs = [viewable(x, data.inputs[name]) for name, x in scene["inputs"].items()]
            truth, known = self._truth(scene)
            truth, _ = truth_at(truth[None], known[None], size, self.target)
            row = [picture.permute(1, 2, 0).numpy() for picture in inputs]
            row += [as_picture(image) for image in (*(image[0] for image in images.values()), truth[0])]
            if not rows or row[0].shape == rows[0][0].shape:  # scenes of other sizes do not fit on one sheet
                rows.append(row)
        with complete_file(folder / f"epoch_{self.current_epoch + 1:04d}.png") as file:
            contact_sheet(rows).save(file)


@dataclass(frozen=True)
class Sides:
    """What the discriminator is shown; of everything there are as many rows as the generator's features have.

    Attributes:
        given: What every image was made from, (B*M, C, H, W).
        made: Predictions, (B*M, C', H, W).
        real: The target for each of them, (B*M, C', H, W).
        count: How many predictions there are of a sample.
    """

    given: Tensor
    made: Tensor
    real: Tensor
    count: int


def masked_l1(image: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """The mean absolute difference over the pixels with truth; 0 where there is none.

    Args:
        image: (B, C, H, W).
        target: (B, C, H, W).
        valid: bool (B, 1, H, W).
    """
    known = valid.expand_as(target)
    # The gradients of several processes are averaged: this makes them those of all their known pixels together.
    count = mean_of_all(known.sum().float()).clamp(min=1)
    return ((image.float() - target).abs() * known).sum() / count


def where_known(valid: Tensor, image: Tensor, target: Tensor) -> Tensor:
    """The image where there is truth, and elsewhere what the target holds there, so that nothing tells them apart."""
    return torch.where(valid, image, target.to(image.dtype))


def _bce(logits: Tensor, *, real: bool) -> Tensor:
    wanted = torch.full_like(logits, float(real))
    return F.binary_cross_entropy_with_logits(logits.float(), wanted.float())
