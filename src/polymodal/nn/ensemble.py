"""The learned ensemble of the modalities' predictions, and what a multimodal network returns."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from polymodal.errors import FusionError
from polymodal.functional import ensemble, unfold
from polymodal.nn.roster import Roster


@dataclass
class Prediction:
    """What a multimodal network returns.

    Attributes:
        per_modality: For every modality that was given, what the network predicts from it: a tensor `(B, ...)`, or
            the list or dict of tensors that the plain network returns. Empty where the fusion makes one stream.
        ensemble: The weighted sum of the detached predictions, of the same form; or the one stream's prediction.
        weights: α, `(K,)`: the weights of the K modalities that were given, summing to one; `(0,)` for one stream.
    """

    per_modality: dict[str, Any]
    ensemble: Any
    weights: Tensor


class Ensemble(nn.Module):
    """Weights the modalities' predictions by softmax(α), α learned and equal at the start (CEN eq. 4).

    The predictions are detached, as in the released code: a loss on the ensemble trains α alone.

    Args:
        roster: The network's modalities.
    """

    def __init__(self, roster: Roster) -> None:
        super().__init__()
        self.roster = roster
        self.alpha = nn.Parameter(torch.ones(len(roster.names)))

    def forward(self, output: Any) -> Prediction:
        """Unfold a network's output.

        Args:
            output: Folded tensors `(B*K, ...)`: one, or a list, tuple or dict of them, nested at will.

        Raises:
            FusionError: When something in the output is no tensor.
        """
        weights = self.roster.select(self.alpha).softmax(0)
        present = [self.roster.names[m] for m in self.roster.present]

        def unfolded(x: Tensor) -> Tensor:
            return unfold(x, len(present))

        return Prediction(
            per_modality={
                name: map_tensors(lambda x, k=k: unfolded(x)[:, k], output) for k, name in enumerate(present)
            },
            ensemble=map_tensors(lambda x: ensemble(unfolded(x), weights.to(x.dtype)), output),
            weights=weights,
        )


class OneStream(nn.Module):
    """Stands where the ensemble would, in a network whose fusion left one stream: its prediction is the only one."""

    def forward(self, output: Any) -> Prediction:
        """A network's output `(B, ...)` as it is."""
        return Prediction(per_modality={}, ensemble=map_tensors(lambda x: x, output), weights=torch.empty(0))


def map_tensors(function: Any, output: Any) -> Any:
    """Apply a function to every tensor in nested lists, tuples and dicts."""
    if output is None:  # an auxiliary head that is switched off
        return None
    if isinstance(output, Tensor):
        return function(output)
    if isinstance(output, dict):
        return {key: map_tensors(function, value) for key, value in output.items()}
    if isinstance(output, list | tuple):
        return [map_tensors(function, value) for value in output]
    raise FusionError(
        "A network can be made multimodal when it returns tensors, or lists, tuples or dicts of them; this one "
        f"returned a {type(output).__name__}."
    )
