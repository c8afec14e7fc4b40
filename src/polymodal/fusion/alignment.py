"""Alignment: the modalities' features are drawn towards one distribution, and nothing else passes between them.

Source: the maximum mean discrepancy of Gretton et al., "A Kernel Two-Sample Test", JMLR 2012, with the sum of Gaussian
    kernels of Long et al., "Learning Transferable Features with Deep Adaptation Networks", ICML 2015.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polymodal import functional
from polymodal.anatomy import Anatomy
from polymodal.errors import FusionError
from polymodal.fusion.base import Plan
from polymodal.fusion.stages import StageFusion, layout_at
from polymodal.limits import FROM_0, check
from polymodal.nn import Roster, behind, stand_behind
from polymodal.nn.static import Mark

GRID = 8
"""Features are averaged to at most so many rows and columns: the kernels compare every place with every other one. Of
signals, tokens and volumes it is as many places."""

_POOLING: dict[int, Callable[..., Tensor]] = {
    1: F.adaptive_avg_pool1d,
    2: F.adaptive_avg_pool2d,
    3: F.adaptive_avg_pool3d,
}


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
    takes_gaps: ClassVar[bool] = True  # the features of two modalities need not be of the same samples

    weight: float = 1.0

    def __post_init__(self) -> None:
        check(vars(self), {"weight": FROM_0}, kind=FusionError)

    def plan(self, anatomy: Anatomy, sites: Sequence[str]) -> Plan:
        """Watch the sites' features, wherever their channels are.

        Raises:
            FusionError: When a site returns no tensor.
        """
        channels = {site: layout_at(anatomy, site)[1] for site in sites}

        def install(network: nn.Module, roster: Roster) -> None:
            for site, axis in channels.items():
                stand_behind(network, site, Watch(roster, axis))

        return Plan(install)

    def loss(self, network: nn.Module, sites: Sequence[str]) -> Tensor:
        """The weighted Σ_sites Σ_pairs MMD² of the last forward pass, a scalar; 0 if it was no training."""
        total = super().loss(network, sites)
        for site in sites:
            for one, other in combinations(behind(network, site).seen(), 2):
                total = total + functional.mmd(one, other)
        return self.weight * total


class Watch(nn.Module):
    """Notes the features of one site for the loss.

    Args:
        roster: The network's modalities.
        axis: Where the channels of the features are, 1 or -1.
    """

    def __init__(self, roster: Roster, axis: int) -> None:
        super().__init__()
        self.roster = roster
        self.axis = axis
        self._seen: Sequence[Tensor] = ()

    def __getstate__(self) -> dict[str, Any]:
        # What was noted belongs to a graph, which can be neither copied nor saved.
        return {**super().__getstate__(), "_seen": ()}

    def forward(self, x: Tensor) -> Tensor:
        """Folded features `(B*K, C, ...)` or `(B*K, ..., C)`, as they are."""
        self._seen = ()
        if self.training and self.roster.fusing and torch.is_grad_enabled():
            features = x.float().movedim(self.axis, 1)
            sides = features.shape[2:]
            most = round(GRID ** (2 / len(sides)))
            self._seen = self.roster.apart(_POOLING[len(sides)](features, [min(most, side) for side in sides]))
        return x

    def static(self, mark: Mark) -> nn.Module:
        """Nothing: features go on as they are."""
        del mark
        return nn.Identity()

    def seen(self) -> list[Tensor]:
        """The features of each present modality, `(B * places, C)`; none after a forward pass that was no training."""
        return [modality.movedim(1, -1).flatten(0, -2) for modality in self._seen]
