"""Modules with state: private norms and layers, stems, the ensemble."""

from polymodal.nn.ensemble import Ensemble, OneStream, Prediction
from polymodal.nn.layer import PrivateLayer
from polymodal.nn.low_rank import LowRankConv2d
from polymodal.nn.norm import PrivateBatchNorm2d, PrivateFrozenNorm2d, PrivateInstanceNorm2d, PrivateNorm2d
from polymodal.nn.roster import Roster
from polymodal.nn.slot import Attached, Exits, behind, stand_behind
from polymodal.nn.stem import PrivateConv2d, Stem

__all__ = [
    "Attached",
    "Ensemble",
    "Exits",
    "LowRankConv2d",
    "OneStream",
    "Prediction",
    "PrivateBatchNorm2d",
    "PrivateConv2d",
    "PrivateFrozenNorm2d",
    "PrivateInstanceNorm2d",
    "PrivateLayer",
    "PrivateNorm2d",
    "Roster",
    "Stem",
    "behind",
    "stand_behind",
]
