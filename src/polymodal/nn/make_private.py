"""Which private norm a plain one becomes."""

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from polymodal.anatomy.norms import Statistics, axes_of, kind_of
from polymodal.nn.norm import PrivateNorm
from polymodal.nn.per_sample_norms import PrivateGroupNorm, PrivateLayerNorm, PrivateRMSNorm
from polymodal.nn.roster import Roster
from polymodal.nn.running_norms import (
    PrivateBatchNorm1d,
    PrivateBatchNorm2d,
    PrivateBatchNorm3d,
    PrivateFrozenNorm,
    PrivateInstanceNorm1d,
    PrivateInstanceNorm2d,
    PrivateInstanceNorm3d,
)

_PRIVATE: dict[tuple[Statistics, tuple[int, ...]], type[PrivateNorm]] = {
    ("batch", (2, 3)): PrivateBatchNorm1d,
    ("batch", (4,)): PrivateBatchNorm2d,
    ("batch", (5,)): PrivateBatchNorm3d,
    ("batch", ()): PrivateBatchNorm2d,  # synchronised
    ("instance", (3,)): PrivateInstanceNorm1d,
    ("instance", (4,)): PrivateInstanceNorm2d,
    ("instance", (5,)): PrivateInstanceNorm3d,
    ("fixed", ()): PrivateFrozenNorm,
    ("layer", ()): PrivateLayerNorm,
    ("group", ()): PrivateGroupNorm,
    ("rms", ()): PrivateRMSNorm,
}
"""By what it computes, and how many axes it takes."""


def make_private(
    norm: nn.Module, roster: Roster | None, *, name: str, memo: dict[int, Tensor], frozen: bool = False
) -> PrivateNorm:
    """The private norm of a plain one, see `PrivateNorm` for the arguments.

    Args:
        norm: The plain norm.
        roster: The network's modalities, or None.
        name: Where it stands.
        memo: What was made of other norms' tensors.
        frozen: Normalise by the running statistics in training, too, and never update them.
    """
    kind = kind_of(norm)
    assert kind is not None
    made = PrivateFrozenNorm if frozen else _PRIVATE[kind.statistics, axes_of(norm)]
    return made(norm, roster, name=name, memo=memo)


def takes_statistics(module: nn.Module) -> bool:
    """Whether a module is a norm over places that normalises by its input, in the mode that it is in."""
    if isinstance(module, PrivateNorm):
        return module.from_input and not module.kind.per_sample
    return isinstance(module, _NormBase) and (module.training or module.running_mean is None)
