"""An exchange that is decided: at inference the scales do not change any more, nor what they choose."""

import copy

from torch import Tensor, nn

from polymodal import functional
from polymodal.fusion.exchange import ChannelExchange
from polymodal.multimodal import Multimodal
from polymodal.nn import PrivateNorm2d, Roster


def settled(net: Multimodal) -> Multimodal:
    """A copy whose exchange is decided: the scales do not change any more, so nothing is compared or sorted."""
    own = copy.deepcopy(net)
    for module in own.network.modules():
        if isinstance(module, PrivateNorm2d) and (keep := kept(module, own.roster)) is not None:
            module.fusion = _Settled(keep.to(module.weight.device))
    return own


def kept(norm: PrivateNorm2d, roster: Roster) -> Tensor | None:
    """Which channels are kept behind a norm, boolean `(K, C)`; None where nothing is exchanged."""
    exchange = norm.fusion
    if not isinstance(exchange, ChannelExchange) or len(roster.present) == 1:
        return None
    if not (roster.fusing and exchange.rule.exchanges):
        return None
    return exchange.choose(roster.select(norm.weight)).cpu()


class _Settled(nn.Module):
    """An exchange that was decided.

    Args:
        keep: Which channels are kept, boolean `(M, C)`.
    """

    keep: Tensor

    def __init__(self, keep: Tensor) -> None:
        super().__init__()
        self.register_buffer("keep", keep)

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        """Exchange folded features `(B*M, C, H, W)`, whatever the scales."""
        del scale
        return functional.exchange(functional.unfold(x, len(self.keep)), self.keep).flatten(0, 1)
