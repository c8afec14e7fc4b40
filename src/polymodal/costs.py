"""What a network costs: its parameters and the multiply-accumulates of one sample, counted, never estimated by hand."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from polymodal.anatomy import ByShapes, ghost
from polymodal.multimodal import Multimodal, require_fused


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
        ConfigError: `fuse` has not made the network.
        PolymodalError, RuntimeError: When it cannot take images of this size, as its layers say it.
    """
    if not isinstance(getattr(net, "channels", None), Mapping):  # an absorbed network has them, too
        require_fused(net)
    dtype = next(p.dtype for p in net.parameters() if p.is_floating_point())
    return count(net, {n: torch.empty(1, c or net.stem.width, *size, dtype=dtype) for n, c in net.channels.items()})


def count(network: nn.Module, inputs: Mapping[str, Tensor]) -> Cost:
    """As `cost`, for any network that takes images by modality.

    Args:
        network: The network; it is not changed.
        inputs: One sample.
    """
    from torch.utils.flop_counter import FlopCounterMode

    copied = ghost(network)
    with FlopCounterMode(display=False) as counter, torch.no_grad(), ByShapes():
        copied({name: image.to("meta") for name, image in inputs.items()})
    # The counter counts a multiply-accumulate as two operations.
    return Cost(sum(p.numel() for p in network.parameters()), counter.get_total_flops() // 2)
