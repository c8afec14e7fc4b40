"""polymodal: multimodal dense prediction by channel exchanging.

Several aligned images of one scene in, one dense map out. `fuse` makes networks with norms multimodal; see the README.
"""

import importlib
from typing import TYPE_CHECKING, Any

from polymodal.errors import CheckpointError, ConfigError, DataError, ExportError, FusionError, PolymodalError

if TYPE_CHECKING:
    from polymodal.checkpoint import load, save
    from polymodal.costs import Cost, cost
    from polymodal.fusion import Exchange, Fusion
    from polymodal.inspection import inspect
    from polymodal.joining import join
    from polymodal.multimodal import Multimodal
    from polymodal.nn import Prediction
    from polymodal.runs.predictor import Predictor
    from polymodal.runs.publish import push_to_hub
    from polymodal.speed import accelerate
    from polymodal.surgery import fuse
    from polymodal.transfer import take_over

__version__ = "0.1.0"

__all__ = [
    "CheckpointError",
    "ConfigError",
    "Cost",
    "DataError",
    "Exchange",
    "ExportError",
    "Fusion",
    "FusionError",
    "Multimodal",
    "PolymodalError",
    "Prediction",
    "Predictor",
    "accelerate",
    "cost",
    "fuse",
    "inspect",
    "join",
    "load",
    "push_to_hub",
    "save",
    "take_over",
]

# Loaded when first used, so that `polymodal --help` does not wait for torch.
_HOMES = {
    "polymodal.checkpoint": ("load", "save"),
    "polymodal.costs": ("Cost", "cost"),
    "polymodal.fusion": ("Exchange", "Fusion"),
    "polymodal.inspection": ("inspect",),
    "polymodal.joining": ("join",),
    "polymodal.multimodal": ("Multimodal",),
    "polymodal.nn": ("Prediction",),
    "polymodal.runs.predictor": ("Predictor",),
    "polymodal.runs.publish": ("push_to_hub",),
    "polymodal.speed": ("accelerate",),
    "polymodal.surgery": ("fuse",),
    "polymodal.transfer": ("take_over",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'polymodal' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
