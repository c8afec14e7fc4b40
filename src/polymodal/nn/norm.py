"""Private norms: every modality keeps statistics and scales of its own, all other layers are shared."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from polymodal.anatomy.norms import BatchNorm, PlainNorm, has_activation, is_batch_norm_2d, is_instance_norm_2d
from polymodal.errors import FusionError
from polymodal.functional import private_batch_norm, private_instance_norm, unfold
from polymodal.nn.roster import Roster
from polymodal.processes import processes


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
        memo: What was made of other norms' tensors, by the ids of these, as `copy.deepcopy` takes it: norms that share
            a tensor go on sharing what becomes of it.

    Attributes:
        frozen: Whether it normalises by the running statistics in training, too, and never updates them.
    """

    frozen: ClassVar[bool] = False

    weight: nn.Parameter
    bias: nn.Parameter | None
    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None

    def __init__(
        self, norm: PlainNorm, roster: Roster | None, *, name: str, memo: dict[int, Tensor] | None = None
    ) -> None:
        nn.Module.__init__(self)  # PyTorch's norms would make parameters (C,)
        self.roster = roster
        self.name = name
        self.channels = norm.num_features
        self.eps = norm.eps
        self.momentum = norm.momentum
        self.affine = norm.affine
        self.track_running_stats = norm.track_running_stats
        copies = 1 if roster is None else len(roster.names)
        memo = {} if memo is None else memo
        for key in ("weight", "bias"):
            self.register_parameter(key, _rows(getattr(norm, key), copies, memo))
        for key in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(key, _rows(getattr(norm, key), copies, memo))
        self.fusion: nn.Module | None = None
        self.drop = getattr(norm, "drop", nn.Identity()) if has_activation(norm) else nn.Identity()
        self.act = getattr(norm, "act", nn.Identity()) if has_activation(norm) else nn.Identity()
        self.train(norm.training)

    @property
    @abstractmethod
    def from_input(self) -> bool:
        """Whether it normalises by statistics of its input, in the mode that it is in."""

    @property
    def tracking(self) -> bool:
        """Whether it has running statistics to update; it may hold some that it was told to leave alone."""
        return self.track_running_stats and self.running_mean is not None

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
        return f"{self.channels}, {copies}" + (", frozen" if self.frozen else "")

    def _normalise(self, x: Tensor) -> Tensor:
        from_input = self.from_input
        modalities = 1 if self.roster is None else len(self.roster.present)
        if from_input:
            self._refuse_single_value(x, modalities)
        mean, var = self._present(self.running_mean), self._present(self.running_var)
        factor = self._update_factor() if from_input and self.tracking else 0.0
        y = self._function()(
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

    def _load_from_state_dict(self, *arguments: Any) -> None:
        """As any module, without what PyTorch's norms add to states from before they counted batches."""
        nn.Module._load_from_state_dict(self, *arguments)

    def _function(self) -> Callable[..., Tensor]:
        """What normalises, with the arguments of `private_batch_norm`."""
        return private_batch_norm

    def _update_factor(self) -> float:
        """The weight of the input's statistics in the running ones, now that they are to be updated."""
        return self.momentum or 0.0

    def _refuse_single_value(self, x: Tensor, modalities: int) -> None:
        """Refuse an input that has no statistics."""


class PrivateBatchNorm2d(PrivateNorm2d, nn.BatchNorm2d):  # type: ignore[misc]  # its shift may be None
    """A `PrivateNorm2d` whose statistics are those of one modality's whole batch.

    It is a `BatchNorm2d` to what looks for one, to reset its statistics, freeze it or leave it out of weight decay.
    What would make a plain norm of it is refused.
    """

    __jit_ignored_attributes__: ClassVar[list[str]] = ["num_features"]  # tracing reads all others

    def __init__(
        self, norm: BatchNorm, roster: Roster | None, *, name: str, memo: dict[int, Tensor] | None = None
    ) -> None:
        super().__init__(norm, roster, name=name, memo=memo)
        # A synchronised norm brings the processes that share its statistics; None stands for all of them.
        self.synchronised = isinstance(norm, nn.SyncBatchNorm)
        self.process_group = getattr(norm, "process_group", None)

    @property
    def num_features(self) -> int:  # type: ignore[override]
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

    def _function(self) -> Callable[..., Tensor]:
        if self.synchronised and self.training and processes(self.process_group) > 1:
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
        alone = not (self.synchronised and self.training and processes(self.process_group) > 1)
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


class PrivateInstanceNorm2d(PrivateNorm2d, nn.InstanceNorm2d):  # type: ignore[misc]  # its shift may be None
    """A `PrivateNorm2d` whose statistics are those of each sample by itself (Ulyanov et al. 2016).

    With running statistics it normalises by them in eval mode, and updates them in training by the mean over the
    samples, as PyTorch's instance norm does; unless it was told not to track them, when it does neither.
    """

    def __init__(
        self, norm: PlainNorm, roster: Roster | None, *, name: str, memo: dict[int, Tensor] | None = None
    ) -> None:
        super().__init__(norm, roster, name=name, memo=memo)
        self.num_features = norm.num_features

    @property
    def from_input(self) -> bool:
        """Whether it normalises by statistics of its input, in the mode that it is in."""
        return self.training or not self.tracking

    def _function(self) -> Callable[..., Tensor]:
        return private_instance_norm

    def _refuse_single_value(self, x: Tensor, modalities: int) -> None:
        del modalities
        if x.shape[-2:] == (1, 1):
            raise FusionError(
                f"The norm '{self.name}' cannot take statistics from a map of size 1x1: it has a single value per "
                "sample and channel. Use larger images, or a network that halves them less often."
            )


class PrivateFrozenNorm2d(PrivateNorm2d):
    """A `PrivateNorm2d` that always normalises by the running statistics and never updates them; γ and β are trained.

    To what looks for batch norms it is none, like the frozen norms of timm and torchvision: it would be reset.
    """

    frozen: ClassVar[bool] = True
    from_input = False


def make_private(
    norm: PlainNorm, roster: Roster | None, *, name: str, memo: dict[int, Tensor], frozen: bool = False
) -> PrivateNorm2d:
    """The private norm of a plain one, see `PrivateNorm2d` for the arguments.

    Args:
        norm: The plain norm.
        roster: The network's modalities, or None.
        name: Where it stands.
        memo: What was made of other norms' tensors.
        frozen: Normalise by the running statistics in training, too, and never update them.
    """
    if frozen:
        return PrivateFrozenNorm2d(norm, roster, name=name, memo=memo)
    if is_instance_norm_2d(norm):
        return PrivateInstanceNorm2d(norm, roster, name=name, memo=memo)
    assert is_batch_norm_2d(norm)
    return PrivateBatchNorm2d(norm, roster, name=name, memo=memo)


def _rows(value: Any, copies: int, memo: dict[int, Tensor]) -> Any:
    """`(C,)` to `(copies, C)` in memory of its own, a parameter to a parameter; a count stays one number."""
    if value is None:
        return None
    if id(value) not in memo:
        own = value.detach().expand(copies, -1).clone() if value.dim() else value.detach().clone()
        memo[id(value)] = nn.Parameter(own, value.requires_grad) if isinstance(value, nn.Parameter) else own
    return memo[id(value)]
