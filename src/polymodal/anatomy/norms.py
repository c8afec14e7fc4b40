"""The norms that are known: what each computes, and whether every modality can have one of its own."""

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

Statistics = Literal["batch", "fixed", "instance", "layer", "group", "rms"]


@dataclass(frozen=True)
class Kind:
    """What a norm computes.

    Attributes:
        statistics: Over what it takes them: `"batch"`, all samples and places; `"fixed"`, none, as they are given;
            `"instance"`, the places of one sample and channel; `"layer"` and `"rms"`, the channels of one place;
            `"group"`, groups of channels and the places of one sample.
        axis: Where its channels are: 1 for `(N, C, ...)`, -1 for `(N, ..., C)`.
        maps_first: Whether, against that, they are at 1 in maps `(N, C, H, W)`.
        float32: Whether it computes in single precision, whatever it is given.
    """

    statistics: Statistics
    axis: Literal[1, -1] = 1
    maps_first: bool = False
    float32: bool = False

    def axis_in(self, x: Tensor) -> int:
        """Where the channels of features are, 1 or -1."""
        return 1 if self.maps_first and x.dim() == 4 else self.axis

    @property
    def per_sample(self) -> bool:
        """Whether each sample is normalised by itself and nothing is kept, so that γ and β alone differ."""
        return self.statistics in ("layer", "group", "rms")


_LAST, _LAST_32 = Kind("layer", -1), Kind("layer", -1, float32=True)
_FIRST, _FIRST_32 = Kind("layer"), Kind("layer", float32=True)

_KINDS = {
    "torch": {
        **dict.fromkeys(("_BatchNorm", "SyncBatchNorm"), Kind("batch")),
        "_InstanceNorm": Kind("instance"),
        "LayerNorm": _LAST,
        "GroupNorm": Kind("group"),
        "RMSNorm": Kind("rms", -1),
    },
    "torchvision": {"FrozenBatchNorm2d": Kind("fixed"), "LayerNorm2d": _FIRST},
    "segmentation_models_pytorch": {"LayerNorm": Kind("layer", -1, maps_first=True), "LayerNorm2d": _FIRST},
    "timm": {
        **dict.fromkeys(("BatchNormAct2d", "SyncBatchNormAct"), Kind("batch")),
        "FrozenBatchNormAct2d": Kind("fixed"),
        **dict.fromkeys(("LayerNorm", "LayerNormAct"), _LAST),
        **dict.fromkeys(("LayerNormFp32", "LayerNormActFp32"), _LAST_32),
        **dict.fromkeys(("LayerNorm2d", "LayerNormAct2d", "LayerNormExp2d"), _FIRST),
        **dict.fromkeys(("LayerNorm2dFp32", "LayerNormAct2dFp32"), _FIRST_32),
        **dict.fromkeys(("GroupNorm", "GroupNorm1", "GroupNormAct"), Kind("group")),
        **dict.fromkeys(("RmsNorm", "RmsNormAct"), Kind("rms", -1)),
        **dict.fromkeys(("RmsNormFp32", "RmsNormActFp32"), Kind("rms", -1, float32=True)),
        **dict.fromkeys(("RmsNorm2d", "RmsNormAct2d"), Kind("rms")),
        **dict.fromkeys(("RmsNorm2dFp32", "RmsNormAct2dFp32"), Kind("rms", float32=True)),
    },
}
"""By package, so that it need not be imported, and by the class that the computation comes from."""

_AXES: dict[type[nn.Module], tuple[int, ...]] = {
    nn.BatchNorm1d: (2, 3),
    nn.BatchNorm2d: (4,),
    nn.BatchNorm3d: (5,),
    nn.InstanceNorm1d: (3,),
    nn.InstanceNorm2d: (4,),
    nn.InstanceNorm3d: (5,),
}


def kind_of(module: nn.Module) -> Kind | None:
    """What a norm computes; None for what is no norm, or one with a computation of its own, which could be anything."""
    base = _computed_by(module)
    return None if base is None else _KINDS.get(base.__module__.partition(".")[0], {}).get(base.__name__)


def can_be_private(module: nn.Module) -> bool:
    """Whether a module is a known norm with something to be private: scales, or statistics of more than a sample."""
    kind = kind_of(module)
    if kind is None:
        return False
    return kind.statistics == "batch" or any(
        getattr(module, name, None) is not None for name in ("weight", "bias", "running_mean")
    )


def has_scales(module: Any) -> bool:
    """Whether a norm has a scale for each channel, by which channels can be chosen and exchanged."""
    return module.weight is not None and module.weight.dim() == 1


def axes_of(module: nn.Module) -> tuple[int, ...]:
    """How many axes the features that a norm takes may have; empty when any number from two on."""
    return next((axes for kind, axes in _AXES.items() if isinstance(module, kind)), ())


def has_activation(module: nn.Module) -> bool:
    """Whether a known norm is one of timm's that drop and activate after normalising."""
    base = _computed_by(module)
    return base is not None and "Act" in base.__name__


def is_batch_norm(module: nn.Module) -> bool:
    """Whether a module is a batch norm that takes statistics in training."""
    kind = kind_of(module)
    return kind is not None and kind.statistics == "batch"


def _computed_by(module: nn.Module) -> type | None:
    """The class that a module's forward comes from; None where it is the object's own."""
    if "forward" in vars(module):
        return None
    return next(base for base in type(module).__mro__ if "forward" in vars(base))
