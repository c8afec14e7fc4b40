"""Private norms: every modality keeps statistics and scales of its own, all other layers are shared."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.instancenorm import _InstanceNorm

from polymodal.errors import FusionError
from polymodal.functional import private_batch_norm, private_instance_norm, unfold
from polymodal.nn.roster import Roster

BatchNorm = nn.BatchNorm2d | nn.SyncBatchNorm
PlainNorm = BatchNorm | nn.InstanceNorm2d


def can_be_private(module: nn.Module) -> TypeGuard[PlainNorm]:
    """Whether a module is a norm of which every modality can have its own: a batch norm or an instance norm."""
    return is_batch_norm_2d(module) or is_instance_norm_2d(module)


def is_batch_norm_2d(module: nn.Module) -> TypeGuard[BatchNorm]:
    """Whether a module is a batch norm over images whose whole computation is known.

    True for `BatchNorm2d`, `SyncBatchNorm`, timm's `BatchNormAct2d` and `SyncBatchNormAct` and subclasses that do not
    change the computation; False for a subclass with a forward of its own, which could do anything.
    """
    if not isinstance(module, BatchNorm):
        return False
    forward = type(module).forward
    return forward in (_BatchNorm.forward, nn.SyncBatchNorm.forward) or has_activation(module)


def is_instance_norm_2d(module: nn.Module) -> TypeGuard[nn.InstanceNorm2d]:
    """Whether a module is an instance norm that has something to be private: scales, running statistics or both.

    False for a subclass with a forward of its own, and for one without either, which is shared like any other layer.
    """
    return (
        isinstance(module, nn.InstanceNorm2d)
        and type(module).forward is _InstanceNorm.forward
        and (module.affine or module.track_running_stats)
    )


def has_activation(module: nn.Module) -> bool:
    """Whether a batch norm is one of timm's, which drop and activate after normalising.

    Told by the class that the forward comes from, so that timm need not be imported.
    """
    computed_by = next(base for base in type(module).__mro__ if "forward" in vars(base))
    return computed_by.__module__.startswith("timm.") and computed_by.__name__ in ("BatchNormAct2d", "SyncBatchNormAct")


def takes_statistics(module: nn.Module) -> bool:
    """Whether a module is a norm that normalises by its input, in the mode that it is in, not by running statistics."""
    if isinstance(module, PrivateNorm2d):
        return module.from_input
    return isinstance(module, _NormBase) and (module.training or module.running_mean is None)


class PrivateNorm2d(nn.Module, ABC):
    """A norm with statistics, γ and β of its own for every modality (CEN eq. 5), made from a plain one.

    Every modality starts from the plain norm's values. `weight`, `bias`, `running_mean` and `running_var` have the
    shape `(M, C)`. A fusion may put a module into `fusion`; it is called with the normalised features and γ, after
    the norm and before the activation. `drop` and `act` are those of timm's `BatchNormAct2d`, and pass everything on
    elsewhere.

    Args:
        norm: The plain norm, one that `can_be_private` accepts. It is not changed.
        roster: The network's modalities; None makes a norm that all of them share (M = 1 in the shapes above).
        name: Where the norm stands in the network, for error messages.
        frozen: Normalise by the running statistics in training, too, and never update them. γ and β are trained.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None
    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None

    def __init__(self, norm: PlainNorm, roster: Roster | None, *, name: str, frozen: bool = False) -> None:
        super().__init__()
        self.roster = roster
        self.name = name
        self.num_features = norm.num_features
        self.eps = norm.eps
        self.momentum = norm.momentum
        # A norm may hold running statistics that it was told to leave alone.
        self.tracking = norm.track_running_stats and norm.running_mean is not None
        self.frozen = frozen
        copies = 1 if roster is None else len(roster.names)
        for key in ("weight", "bias"):
            value = getattr(norm, key)
            private = None if value is None else nn.Parameter(_rows(value, copies), requires_grad=value.requires_grad)
            self.register_parameter(key, private)
        for key in ("running_mean", "running_var"):
            value = getattr(norm, key)
            self.register_buffer(key, None if value is None else _rows(value, copies))
        tracked = norm.num_batches_tracked
        self.register_buffer("num_batches_tracked", None if tracked is None else tracked.detach().clone())
        self.fusion: nn.Module | None = None
        self.drop = getattr(norm, "drop", nn.Identity()) if has_activation(norm) else nn.Identity()
        self.act = getattr(norm, "act", nn.Identity()) if has_activation(norm) else nn.Identity()
        self.train(norm.training)

    @property
    def from_input(self) -> bool:
        """Whether it normalises by statistics of its input, in the mode that it is in."""
        return (self.training and not self.frozen) or self.running_mean is None

    def forward(self, x: Tensor) -> Tensor:
        """Normalise, fuse, drop, activate: `(B*M, C, H, W)` to the same shape.

        Raises:
            FusionError: When statistics are to be taken from a single value per channel, or the input has another form.
        """
        if x.dim() != 4:
            raise FusionError(
                f"The norm '{self.name}' stands behind features of shape {tuple(x.shape)}, and private norms take "
                "(batch, channels, height, width) alone. Replace it by a LayerNorm, which needs no batch."
            )
        y = self._normalise(x)
        if self.fusion is not None:
            y = self.fusion(y, self._present(self.weight))
        return self.act(self.drop(y))

    def extra_repr(self) -> str:
        """The settings that `print(model)` shows."""
        copies = "shared" if self.roster is None else ", ".join(self.roster.names)
        return f"{self.num_features}, {copies}" + (", frozen" if self.frozen else "")

    def _normalise(self, x: Tensor) -> Tensor:
        from_input = self.from_input
        modalities = 1 if self.roster is None else len(self.roster.present)
        if from_input:
            self._refuse_single_value(x, modalities)
        mean, var = self._present(self.running_mean), self._present(self.running_var)
        factor = self._update_factor() if from_input and self.tracking else 0.0
        y = self._function(from_input)(
            x,
            modalities,
            mean,
            var,
            self._present(self.weight),
            self._present(self.bias),
            training=from_input,
            momentum=factor,
            eps=self.eps,
        )
        if factor and self.roster is not None and not self.roster.complete:
            # Selecting rows copied them: what the batch taught the present modalities is written back.
            for stored, updated in ((self.running_mean, mean), (self.running_var, var)):
                assert stored is not None
                assert updated is not None
                stored[list(self.roster.present)] = updated
        return y

    def _present(self, per_modality: Tensor | None) -> Tensor | None:
        return per_modality if per_modality is None or self.roster is None else self.roster.select(per_modality)

    @abstractmethod
    def _function(self, from_input: bool) -> Callable[..., Tensor]:
        """What normalises, with the arguments of `private_batch_norm`."""

    @abstractmethod
    def _update_factor(self) -> float:
        """The weight of the input's statistics in the running ones, now that they are to be updated."""

    @abstractmethod
    def _refuse_single_value(self, x: Tensor, modalities: int) -> None:
        """Refuse an input that has no statistics."""


class PrivateBatchNorm2d(PrivateNorm2d):
    """A `PrivateNorm2d` whose statistics are those of one modality's whole batch."""

    def __init__(self, norm: BatchNorm, roster: Roster | None, *, name: str, frozen: bool = False) -> None:
        super().__init__(norm, roster, name=name, frozen=frozen)
        # A synchronised norm brings the processes that share its statistics; None stands for all of them.
        self.synchronised = isinstance(norm, nn.SyncBatchNorm)
        self.process_group = getattr(norm, "process_group", None)

    def _function(self, from_input: bool) -> Callable[..., Tensor]:
        if self.synchronised and self.training and from_input and _processes(self.process_group) > 1:
            return self._normalise_across_processes
        return private_batch_norm

    def _update_factor(self) -> float:
        if self.num_batches_tracked is not None:
            if self.momentum is None and self.roster is not None and not self.roster.complete:
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
        batch, _, *size = x.shape
        alone = not (self.synchronised and self.training and _processes(self.process_group) > 1)
        if alone and batch // modalities * size[0] * size[1] == 1:
            raise FusionError(
                f"The norm '{self.name}' cannot take statistics from one sample of size 1x1: it has a single value per "
                'channel. Train with batches of 2 or more, with larger images, or with statistics="frozen".'
            )

    def _normalise_across_processes(
        self,
        x: Tensor,
        modalities: int,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None,
        bias: Tensor | None,
        *,
        training: bool,
        momentum: float,
        eps: float,
    ) -> Tensor:
        """As `private_batch_norm`, with the statistics of all processes' batches together."""
        assert training
        from torch.distributed.nn.functional import all_reduce  # differentiable

        # In half precision neither a sum over a batch nor the number of its pixels can be represented.
        y = unfold(x, modalities).to(torch.promote_types(x.dtype, torch.float32))
        # Two passes: the variance around the common mean does not cancel as a difference of large sums does.
        dims, group = (0, 3, 4), self.process_group or torch.distributed.group.WORLD
        count = y.new_tensor([y.shape[0] * y.shape[3] * y.shape[4]])
        total = all_reduce(torch.cat([y.sum(dims).flatten(), count]), group=group)
        count, mean = total[-1].detach(), (total[:-1] / total[-1].detach()).view(1, modalities, -1, 1, 1)
        centred = y - mean
        var = all_reduce(centred.square().sum(dims), group=group) / count
        if running_mean is not None and running_var is not None:
            with torch.no_grad():
                running_mean.lerp_(mean.view_as(running_mean).to(running_mean.dtype), momentum)
                running_var.lerp_((var * (count / (count - 1).clamp(min=1))).to(running_var.dtype), momentum)
        y = centred * torch.rsqrt(var + eps).view(1, modalities, -1, 1, 1)
        if weight is not None:
            y = y * weight.view(1, modalities, -1, 1, 1)
        if bias is not None:
            y = y + bias.view(1, modalities, -1, 1, 1)
        return y.to(x.dtype).flatten(0, 1)


class PrivateInstanceNorm2d(PrivateNorm2d):
    """A `PrivateNorm2d` whose statistics are those of each sample by itself (Ulyanov et al. 2016).

    With running statistics it normalises by them in eval mode, and updates them in training by the mean over the
    samples, as PyTorch's instance norm does; unless it was told not to track them, when it does neither.
    """

    @property
    def from_input(self) -> bool:
        """Whether it normalises by statistics of its input, in the mode that it is in."""
        return super().from_input or not (self.tracking or self.frozen)

    def _function(self, from_input: bool) -> Callable[..., Tensor]:
        del from_input
        return private_instance_norm

    def _update_factor(self) -> float:
        return self.momentum or 0.0

    def _refuse_single_value(self, x: Tensor, modalities: int) -> None:
        del modalities
        if x.shape[-2:] == (1, 1):
            raise FusionError(
                f"The norm '{self.name}' cannot take statistics from a map of size 1x1: it has a single value per "
                "sample and channel. Use larger images, or a network that halves them less often."
            )


def make_private(norm: PlainNorm, roster: Roster | None, *, name: str, frozen: bool = False) -> PrivateNorm2d:
    """The private norm of a plain one, see `PrivateNorm2d` for the arguments."""
    if is_instance_norm_2d(norm):
        return PrivateInstanceNorm2d(norm, roster, name=name, frozen=frozen)
    assert is_batch_norm_2d(norm)
    return PrivateBatchNorm2d(norm, roster, name=name, frozen=frozen)


def _rows(value: Tensor, copies: int) -> Tensor:
    """`(C,)` to `(copies, C)`, in memory of its own."""
    return value.detach().expand(copies, -1).clone()


def _processes(group: torch.distributed.ProcessGroup | None) -> int:
    """How many processes share a synchronised norm's statistics."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return 1
    return torch.distributed.get_world_size(group)
