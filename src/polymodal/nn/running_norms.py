"""Private norms that keep running statistics: batch, instance and frozen norms, over any number of axes."""

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from polymodal.errors import FusionError
from polymodal.functional import unfold
from polymodal.nn.norm import PrivateNorm
from polymodal.nn.roster import Roster
from polymodal.normalisation import private_batch_norm, private_instance_norm
from polymodal.processes import processes


class PrivateRunningNorm(PrivateNorm):
    """A `PrivateNorm` with running statistics, unless the plain norm had none."""

    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None
    _kept = ("running_mean", "running_var", "num_batches_tracked")

    _settings: ClassVar[tuple[str, ...]] = ("momentum", "affine", "track_running_stats")
    # For frozen norms of timm and torchvision, which say nothing of these.
    momentum: float | None = None
    affine: bool = True
    track_running_stats: bool = True

    @property
    def tracking(self) -> bool:
        """Whether it has running statistics to update; it may hold some that it was told to leave alone."""
        return self.track_running_stats and self.running_mean is not None

    def normalise(self, x: Tensor, modalities: int) -> Tensor:
        """Folded features `(B*K, C, ...)`, all modalities in one call."""
        from_input = self.from_input
        if from_input:
            self._refuse_single_value(x, modalities)
        rows = (self.running_mean, self.running_var, self.weight, self.bias)
        mean, var, *scales = (self._present(row) for row in rows)
        factor = self._update_factor() if from_input and self.tracking else 0.0
        y = self._function()(x, modalities, mean, var, *scales, training=from_input, momentum=factor, eps=self.eps)
        if factor and self.roster is not None and not self.roster.complete:
            # Selecting rows copied them: what the batch taught the present modalities is written back.
            for stored, updated in ((self.running_mean, mean), (self.running_var, var)):
                assert stored is not None
                assert updated is not None
                stored[list(self.roster.present)] = updated
        return y

    def normalise_apart(self, x: Tensor, roster: Roster) -> Tensor:
        """As `normalise`, where samples differ: each modality by the statistics of the samples that have it.

        A modality that by chance is left with a single value per channel, as each may be in a small batch, is
        normalised by the running statistics, and teaches them nothing.
        """
        if not self.from_input:
            return super().normalise_apart(x, roster)
        streams = roster.apart(x)
        few = [math.prod(stream.shape[2:]) * len(stream) == 1 for stream in streams]
        if self.running_mean is None:
            for stream in streams:
                self._refuse_single_value(stream, 1)
        factor = self._update_factor() if self.tracking else 0.0
        made = []
        for m, stream, alone in zip(roster.present, streams, few, strict=True):
            rows = (self.running_mean, self.running_var, self.weight, self.bias)
            own = (None if row is None else row[m : m + 1] for row in rows)
            made.append(self._function()(stream, 1, *own, training=not alone, momentum=factor, eps=self.eps))
        return roster.together(made)

    def _function(self) -> Callable[..., Tensor]:
        """What normalises, with the arguments of `private_batch_norm`."""
        return private_batch_norm

    def _update_factor(self) -> float:
        """The weight of the input's statistics in the running ones, now that they are to be updated."""
        return self.momentum or 0.0

    def _refuse_single_value(self, x: Tensor, modalities: int) -> None:
        """Refuse an input that has no statistics."""


class PrivateBatchNorm(PrivateRunningNorm):
    """A `PrivateNorm` whose statistics are those of one modality's whole batch.

    It is a batch norm to what looks for one, to reset its statistics, freeze it or leave it out of weight decay. What
    would make a plain norm of it is refused.
    """

    __jit_ignored_attributes__: ClassVar[list[str]] = ["num_features"]  # tracing reads all others

    def __init__(self, norm: Any, roster: Roster | None, *, name: str, memo: dict[int, Tensor] | None = None) -> None:
        super().__init__(norm, roster, name=name, memo=memo)
        # A synchronised norm brings the processes that share its statistics; None stands for all of them.
        self.synchronised = isinstance(norm, nn.SyncBatchNorm)
        self.process_group = getattr(norm, "process_group", None)

    @property
    def num_features(self) -> int:
        """Refused, as it is what converters ask for first to make a plain norm of another kind.

        Raises:
            FusionError: Always, with the remedy.
        """
        raise FusionError(
            f"The norm '{self.name}' is private: no plain norm can be made of it, as convert_sync_batchnorm, "
            "freeze_batch_norm_2d and the like would. Convert the plain network and fuse it then; for frozen "
            'statistics, fuse it with statistics="frozen".'
        )

    def __dir__(self) -> list[str]:
        """Without what is refused, for tools that read every attribute there is."""
        return [name for name in super().__dir__() if name != "num_features"]

    @property
    def from_input(self) -> bool:
        """Whether it normalises by statistics of its input, in the mode that it is in."""
        return self.training or self.running_mean is None

    @property
    def _across_processes(self) -> bool:
        """Whether its statistics are now those of several processes together."""
        return self.synchronised and self.training and processes(self.process_group) > 1

    def _function(self) -> Callable[..., Tensor]:
        if self._across_processes:
            if self.roster is not None and self.roster.patterns:
                raise FusionError(
                    f"The norm '{self.name}' takes its statistics from all processes together, which is not possible "
                    "where samples lack modalities: processes may differ in the modalities that they have. Train "
                    "without trainer.sync_batchnorm."
                )
            return self._normalise_across_processes
        return private_batch_norm

    def _update_factor(self) -> float:
        if self.num_batches_tracked is not None:
            partial = self.roster is not None and (self.roster.patterns or not self.roster.complete)
            if self.momentum is None and partial:
                raise FusionError(
                    f"The norm '{self.name}' averages over all batches (momentum=None) and counts them for all "
                    "modalities together, so it cannot be trained on some of them. Give it a momentum, such as 0.1, "
                    "before fusing."
                )
            self.num_batches_tracked.add_(1)
            if self.momentum is None:
                return 1.0 / self.num_batches_tracked.item()
        return self.momentum or 0.0

    def _refuse_single_value(self, x: Tensor, modalities: int) -> None:
        if not self._across_processes and x.shape[0] // modalities * math.prod(x.shape[2:]) == 1:
            raise FusionError(
                f"The norm '{self.name}' cannot take statistics from one sample of size {_size(x)}: it has a single "
                'value per channel. Train with batches of 2 or more, with larger images, or with statistics="frozen".'
            )

    def _normalise_across_processes(
        self, x: Tensor, modalities: int, *rows: Tensor | None, training: bool, momentum: float, eps: float
    ) -> Tensor:
        """As `private_batch_norm`, with the statistics of all processes' batches together."""
        assert training
        running_mean, running_var, weight, bias = rows
        from torch.distributed.nn.functional import all_reduce  # differentiable

        # In half precision neither a sum over a batch nor the number of its pixels can be represented.
        y = unfold(x, modalities).to(torch.promote_types(x.dtype, torch.float32))
        # Two passes: the variance around the common mean does not cancel as a difference of large sums does.
        dims, group = (0, *range(3, y.dim())), self.process_group or torch.distributed.group.WORLD
        form = (1, modalities, -1, *(1,) * (y.dim() - 3))
        count = y.new_tensor([y.shape[0] * math.prod(y.shape[3:])])
        total = all_reduce(torch.cat([y.sum(dims).flatten(), count]), group=group)
        count, mean = total[-1].detach(), (total[:-1] / total[-1].detach()).view(form)
        centred = y - mean
        var = all_reduce(centred.square().sum(dims), group=group) / count
        if running_mean is not None and running_var is not None:
            with torch.no_grad():
                running_mean.lerp_(mean.view_as(running_mean).to(running_mean.dtype), momentum)
                running_var.lerp_((var * (count / (count - 1).clamp(min=1))).to(running_var.dtype), momentum)
        y = centred * torch.rsqrt(var + eps).view(form)
        if weight is not None:
            y = y * weight.view(form)
        if bias is not None:
            y = y + bias.view(form)
        return y.to(x.dtype).flatten(0, 1)


class PrivateBatchNorm1d(PrivateBatchNorm, nn.BatchNorm1d):  # type: ignore[misc, override]  # its shift may be None
    """A private batch norm of `(N, C)` or `(N, C, L)`."""


class PrivateBatchNorm2d(PrivateBatchNorm, nn.BatchNorm2d):  # type: ignore[misc, override]
    """A private batch norm of images `(N, C, H, W)`; of a synchronised norm, whatever that takes."""


class PrivateBatchNorm3d(PrivateBatchNorm, nn.BatchNorm3d):  # type: ignore[misc, override]
    """A private batch norm of volumes `(N, C, D, H, W)`."""


class PrivateInstanceNorm(PrivateRunningNorm):
    """A `PrivateNorm` whose statistics are those of each sample by itself (Ulyanov et al. 2016).

    With running statistics it normalises by them in eval mode, and updates them in training by the mean over the
    samples, as PyTorch's instance norm does; unless it was told not to track them, when it does neither.
    """

    _settings = (*PrivateRunningNorm._settings, "num_features")

    @property
    def from_input(self) -> bool:
        """Whether it normalises by statistics of its input, in the mode that it is in."""
        return self.training or not self.tracking

    def normalise_apart(self, x: Tensor, roster: Roster) -> Tensor:
        """As `normalise`; a single value per sample is no chance here, whoever has the modality."""
        if self.from_input:
            self._refuse_single_value(x, 1)
        return super().normalise_apart(x, roster)

    def _function(self) -> Callable[..., Tensor]:
        return private_instance_norm

    def _refuse_single_value(self, x: Tensor, modalities: int) -> None:
        del modalities
        if math.prod(x.shape[2:]) == 1:
            raise FusionError(
                f"The norm '{self.name}' cannot take statistics from a map of size {_size(x)}: it has a single value "
                "per sample and channel. Use larger images, or a network that halves them less often."
            )


class PrivateInstanceNorm1d(PrivateInstanceNorm, nn.InstanceNorm1d):  # type: ignore[misc]  # its shift may be None
    """A private instance norm of `(N, C, L)`."""


class PrivateInstanceNorm2d(PrivateInstanceNorm, nn.InstanceNorm2d):  # type: ignore[misc]
    """A private instance norm of images `(N, C, H, W)`."""


class PrivateInstanceNorm3d(PrivateInstanceNorm, nn.InstanceNorm3d):  # type: ignore[misc]
    """A private instance norm of volumes `(N, C, D, H, W)`."""


class PrivateFrozenNorm(PrivateRunningNorm):
    """A `PrivateNorm` that always normalises by the running statistics and never updates them.

    γ and β are trained, unless the plain norm kept them as constants.

    To what looks for batch norms it is none, like the frozen norms of timm and torchvision: it would be reset.
    """

    frozen: ClassVar[bool] = True
    from_input = False


def _size(x: Tensor) -> str:
    """The extent of a map `(N, C, ...)` for people."""
    return "x".join(map(str, x.shape[2:])) or "1"
