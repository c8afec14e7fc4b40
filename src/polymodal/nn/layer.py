"""A layer of which every modality has a copy of its own: what independent networks are made of."""

import copy
from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from polymodal.nn.roster import Roster


class PrivateLayer(nn.Module):
    """A copy of a layer for every modality, each started from the layer's own values.

    Args:
        layer: A layer that takes one tensor and returns one, such as a convolution. It is not changed.
        roster: The network's modalities.
        memos: For each modality what was copied of other layers, as `copy.deepcopy` takes it: layers that share a
            tensor have copies that share one.
    """

    per_modality: ClassVar[tuple[str, ...]] = ("layers",)

    def __init__(self, layer: nn.Module, roster: Roster, memos: Sequence[dict[int, Any]]) -> None:
        super().__init__()
        self.roster = roster
        self.layers = nn.ModuleList(copy.deepcopy(layer, memo) for memo in memos)
        self.train(layer.training)

    def forward(self, x: Tensor) -> Tensor:
        """`(B*K, ...)` to `(B*K, ...)`; each of the K present modalities goes through its own copy."""
        images = zip(self.roster.present, self.roster.apart(x), strict=True)
        return self.roster.together([self.layers[m](image) for m, image in images])
