"""What absorbing saves, in multiply-accumulates and parameters."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from polymodal.costs import Cost, cost, count
from polymodal.export.absorb import Absorbed
from polymodal.multimodal import Multimodal


@dataclass(frozen=True)
class Saving:
    """What absorbing saves.

    Attributes:
        before: The cost of the network as it was.
        after: The cost of the absorbed one, whose parameters are more: convolutions that absorbed norms are no longer
            shared.
    """

    before: Cost
    after: Cost

    @property
    def share(self) -> float:
        """The share in 0..1 of the multiply-accumulates that is saved."""
        return 1 - self.after.macs / self.before.macs

    def __str__(self) -> str:
        before, after = self.before, self.after
        return (
            f"multiply-accumulates {before.macs / 1e9:.3f} G to {after.macs / 1e9:.3f} G ({-self.share:z.1%}), "
            f"parameters {before.parameters / 1e6:.2f} M to {after.parameters / 1e6:.2f} M"
        )


def saving(net: Multimodal, absorbed: Absorbed, size: Sequence[int]) -> Saving:
    """What an absorbed network saves against the one it was made of.

    Args:
        net: The network, with all its modalities.
        absorbed: What `absorb` made of it.
        size: Height and width of the images.
    """
    dtype = next(p.dtype for p in net.parameters() if p.is_floating_point())
    images = {name: torch.empty(1, channels, *size, dtype=dtype) for name, channels in absorbed.channels.items()}
    return Saving(cost(net, size), count(absorbed, images))
