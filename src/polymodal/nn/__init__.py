"""Modules with state: private norms and layers, stems, the ensemble."""

from polymodal.nn.ensemble import Ensemble, OneStream, Prediction
from polymodal.nn.layer import PrivateLayer
from polymodal.nn.low_rank import LowRankConv2d
from polymodal.nn.norm import PrivateNorm
from polymodal.nn.per_sample_norms import PrivateGroupNorm, PrivateLayerNorm, PrivateRMSNorm
from polymodal.nn.roster import Roster
from polymodal.nn.running_norms import PrivateBatchNorm, PrivateFrozenNorm, PrivateInstanceNorm, PrivateRunningNorm
from polymodal.nn.slot import Attached, Exits, behind, stand_behind
from polymodal.nn.stem import PrivateConv, Stem

__all__ = [
    "Attached",
    "Ensemble",
    "Exits",
    "LowRankConv2d",
    "OneStream",
    "Prediction",
    "PrivateBatchNorm",
    "PrivateConv",
    "PrivateFrozenNorm",
    "PrivateGroupNorm",
    "PrivateInstanceNorm",
    "PrivateLayer",
    "PrivateLayerNorm",
    "PrivateNorm",
    "PrivateRMSNorm",
    "PrivateRunningNorm",
    "Roster",
    "Stem",
    "behind",
    "stand_behind",
]
