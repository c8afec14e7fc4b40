"""A network whose fusion is decided: at inference scales do not change any more, nor what they choose."""

import copy
from typing import Any

from polymodal.multimodal import Multimodal
from polymodal.nn import PrivateNorm2d


def settled(net: Multimodal) -> Multimodal:
    """A copy whose exchange is decided for the modalities that are present, so that nothing is compared or sorted."""
    own = copy.deepcopy(net)
    for norm in (module for module in own.network.modules() if isinstance(module, PrivateNorm2d)):
        fusion: Any = norm.fusion
        if hasattr(fusion, "decided"):
            norm.fusion = fusion.decided(norm.weight.detach())
    return own
