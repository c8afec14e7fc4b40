"""Modules with state: private norms, stems, the ensemble."""

from polymodal.nn.ensemble import Ensemble, Prediction
from polymodal.nn.norm import PrivateBatchNorm2d, PrivateInstanceNorm2d, PrivateNorm2d
from polymodal.nn.roster import Roster
from polymodal.nn.stem import PrivateConv2d, Stem

__all__ = [
    "Ensemble",
    "Prediction",
    "PrivateBatchNorm2d",
    "PrivateConv2d",
    "PrivateInstanceNorm2d",
    "PrivateNorm2d",
    "Roster",
    "Stem",
]
