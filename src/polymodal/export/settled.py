"""A network in which all is decided: at inference scales do not change any more, nor what they choose."""

import copy
from typing import Any

from polymodal.multimodal import Multimodal
from polymodal.nn import LowRankConv2d, PrivateNorm


def settled(net: Multimodal) -> Multimodal:
    """A copy in which nothing is compared, sorted or multiplied out, for the modalities that are present.

    Its exchange is decided, and private parts of low rank are absorbed into convolutions of each modality's own.
    """
    own = copy.deepcopy(net)
    for name, module in list(own.network.named_modules()):
        if isinstance(module, LowRankConv2d):
            layer = module.absorbed()
            layer._forward_pre_hooks.update(module._forward_pre_hooks)
            layer._forward_hooks.update(module._forward_hooks)
            own.network.set_submodule(name, layer)
        elif isinstance(module, PrivateNorm):
            fusion: Any = module.fusion
            if hasattr(fusion, "decided"):
                module.fusion = fusion.decided(None if module.weight is None else module.weight.detach())
    return own
