"""Which norms of a plain network every modality can have one of its own of."""

from typing import TypeGuard

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

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
