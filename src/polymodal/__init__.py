"""polymodal: multimodal dense prediction by channel exchanging.

Several aligned images of one scene in, one dense map out. `fuse` makes any batch-norm CNN multimodal; see the README.
"""

from polymodal.checkpoint import load, save
from polymodal.errors import CheckpointError, ConfigError, DataError, FusionError, PolymodalError
from polymodal.fusion import Exchange, Fusion
from polymodal.inspection import inspect
from polymodal.nn import Prediction
from polymodal.surgery import Multimodal, fuse

__version__ = "0.1.0"

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "Exchange",
    "Fusion",
    "FusionError",
    "Multimodal",
    "PolymodalError",
    "Prediction",
    "fuse",
    "inspect",
    "load",
    "save",
]
