"""What a network costs: its parameters and the multiply-accumulates of one sample, counted, never estimated by hand."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from polymodal.surgery import Multimodal


@dataclass(frozen=True)
class Cost:
    """What a network costs.

    Attributes:
        parameters: Their number, all modalities together.
        macs: Multiply-accumulates of one sample with all its modalities, of convolutions and matrix products.
    """

    parameters: int
    macs: int


def cost(net: Multimodal, size: Sequence[int]) -> Cost:
    """Count a network's parameters, and its multiply-accumulates by torch's own FLOP counter.

    Args:
        net: The network; it is not changed.
        size: Height and width of the images.

    Raises:
        FusionError: When the network cannot take images of this size.
    """
    from torch.utils.flop_counter import FlopCounterMode

    ghost = copy.deepcopy(net).to("meta").eval()
    dtype = next(p.dtype for p in net.parameters() if p.is_floating_point())
    inputs = {
        name: torch.empty(1, count or net.stem.width, *size, dtype=dtype, device="meta")
        for name, count in net.channels.items()
    }
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        ghost(inputs)
    # The counter counts a multiply-accumulate as two operations.
    return Cost(sum(p.numel() for p in net.parameters()), counter.get_total_flops() // 2)
