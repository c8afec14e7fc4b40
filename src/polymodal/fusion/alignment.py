"""Alignment: the modalities' features are drawn towards one distribution, and nothing else passes between them.

Source: the maximum mean discrepancy of Gretton et al., "A Kernel Two-Sample Test", JMLR 2012, with the sum of Gaussian
    kernels of Long et al., "Learning Transferable Features with Deep Adaptation Networks", ICML 2015.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polymodal import functional
from polymodal.errors import FusionError
from polymodal.fusion.stages import StageFusion
from polymodal.limits import FROM_0, check
from polymodal.nn import Roster, behind, stand_behind
from polymodal.nn.static import Mark

GRID = 8
"""Features are averaged to at most so many rows and columns: the kernels compare every place with every other one."""


@dataclass(frozen=True)
class Alignment(StageFusion):
    """A loss on the distance between the modalities' features at stages of the encoder.

    The sites are stages: `"early"`, `"middle"`, `"late"`, `"all"` or names. The usual baseline has a network for every
    modality: `fuse(..., convolutions="private")`.

    Args:
        weight: Of the sum over sites and pairs of modalities of the squared maximum mean discrepancy.

    Raises:
        FusionError: When the weight is below 0.
    """

    name: ClassVar[str] = "alignment"

    weight: float = 1.0

    def __post_init__(self) -> None:
        check(vars(self), {"weight": FROM_0}, kind=FusionError)

    @property
    def takes_gaps(self) -> bool:
        """The features of two modalities need not be of the same samples."""
        return True

    def install(self, network: nn.Module, sites: Sequence[str], roster: Roster) -> None:
        """Watch the sites' features."""
        for site in sites:
            stand_behind(network, site, Watch(roster))

    def loss(self, network: nn.Module, sites: Sequence[str]) -> Tensor:
        """The weighted Σ_sites Σ_pairs MMD² of the last forward pass in training, a scalar; 0 before any."""
        total = super().loss(network, sites)
        for site in sites:
            for one, other in combinations(behind(network, site).seen(), 2):
                total = total + functional.mmd(one, other)
        return self.weight * total


class Watch(nn.Module):
    """Notes the features of one site for the loss.

    Args:
        roster: The network's modalities.
    """

    def __init__(self, roster: Roster) -> None:
        super().__init__()
        self.roster = roster
        self._seen: Sequence[Tensor] = ()

    def __getstate__(self) -> dict[str, Any]:
        # What was noted belongs to a graph, which can be neither copied nor saved.
        return {**super().__getstate__(), "_seen": ()}

    def forward(self, x: Tensor) -> Tensor:
        """Folded features `(B*K, C, H, W)`, as they are."""
        self._seen = ()
        if self.training and self.roster.fusing and torch.is_grad_enabled():
            size = (min(GRID, x.shape[2]), min(GRID, x.shape[3]))
            self._seen = self.roster.apart(F.adaptive_avg_pool2d(x.float(), size))
        return x

    def static(self, mark: Mark) -> nn.Module:
        """Nothing: features go on as they are."""
        del mark
        return nn.Identity()

    def seen(self) -> list[Tensor]:
        """The features of each present modality, `(B * places, C)`; none after a forward pass that was no training."""
        return [modality.movedim(1, -1).flatten(0, 2) for modality in self._seen]
