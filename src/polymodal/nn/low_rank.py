"""Convolutions that modalities share but for a private part of low rank."""

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from polymodal.nn.layer import PrivateLayer
from polymodal.nn.roster import Roster


class LowRankConv2d(nn.Module):
    """A shared convolution to which every modality adds a product of two thin matrices: W_m = W + U_m V_m.

    The product stands at the middle of the kernel, as a 1×1 convolution beside the shared one would, so it costs
    M r (C_in + C_out) parameters whatever the kernel's size (Rebuffi et al., "Efficient parametrization of multi-domain
    deep neural networks", CVPR 2018, whose parallel adapters have full rank). U = 0 at the start: every modality starts
    from the shared convolution. At inference it is absorbed, and costs nothing.

    Args:
        conv: The convolution, with one group. It becomes part of this module.
        roster: The network's modalities.
        rank: r.
    """

    per_modality: ClassVar[tuple[str, ...]] = ("up", "down")
    in_place: ClassVar[str] = "shared"

    def __init__(self, conv: nn.Conv2d, roster: Roster, rank: int) -> None:
        super().__init__()
        self.roster = roster
        self.shared = conv
        modalities, like = len(roster.names), conv.weight
        self.up = nn.Parameter(like.new_zeros(modalities, conv.out_channels, rank))
        # As PyTorch draws a layer of so many inputs.
        bound = 1 / math.sqrt(conv.in_channels)
        self.down = nn.Parameter(like.new_empty(modalities, rank, conv.in_channels).uniform_(-bound, bound))
        self.training = conv.training

    def weight_of(self, m: int) -> Tensor:
        """W_m of modality m, like the weight of the shared convolution."""
        height, width = self.shared.kernel_size
        product = (self.up[m] @ self.down[m])[..., None, None]
        top, left = (height - 1) // 2, (width - 1) // 2
        padding = (left, width - 1 - left, top, height - 1 - top)
        return self.shared.weight + nn.functional.pad(product, padding)

    def forward(self, x: Tensor) -> Tensor:
        """`(B*K, ...)` to `(B*K, ...)`; each of the K present modalities goes through its own convolution."""
        images = zip(self.roster.present, self.roster.apart(x), strict=True)
        made = [functional_call(self.shared, {"weight": self.weight_of(m)}, (image,)) for m, image in images]
        return self.roster.together(made)

    @torch.no_grad()
    def absorbed(self) -> PrivateLayer:
        """The same as a convolution of each modality's own."""
        layer = PrivateLayer(self.shared, self.roster, [{} for _ in self.roster.names])
        for m, conv in enumerate(layer.layers):
            conv.weight = nn.Parameter(self.weight_of(m))
        return layer
