"""The learned ensemble of the modalities' predictions, and what a multimodal network returns."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from polymodal.errors import FusionError
from polymodal.functional import ensemble, unfold
from polymodal.names import ENSEMBLE
from polymodal.nn.roster import Roster


@dataclass
class Prediction:
    """What a multimodal network returns.

    Attributes:
        per_modality: For every modality that was given, what the network predicts from it: a tensor `(B, ...)`, or
            the list or dict of tensors that the plain network returns, a list for a tuple, too. Empty where the fusion
            makes one stream, if there are no predictions beside it or they were not asked for. Where samples differ in
            the modalities that they have, NaN for the samples without this one.
        ensemble: The weighted sum of the detached predictions, of the same form; or the one stream's prediction.
        weights: α, `(K,)`: the weights of the K modalities that were given, summing to one; `(0,)` for one stream.
            Where samples differ in the modalities that they have, `(B, K)`, 0 for the absent ones.
    """

    per_modality: dict[str, Any]
    ensemble: Any
    weights: Tensor

    def named(self) -> dict[str, Any]:
        """All predictions by name, that of the ensemble last.

        Raises:
            FusionError: A modality that predicts has the ensemble's name.
        """
        if ENSEMBLE in self.per_modality:
            raise FusionError(f"The modality {ENSEMBLE!r} is called as the prediction of all is. Give it another name.")
        return {**self.per_modality, ENSEMBLE: self.ensemble}


# So that torch.export and torch.func see the tensors in it.
_pytree.register_dataclass(Prediction, serialized_type_name="polymodal.Prediction")


class Ensemble(nn.Module):
    """Weights the modalities' predictions by softmax(α), α learned and equal at the start (CEN eq. 4).

    The predictions are detached, as in the released code: a loss on the ensemble trains α alone.

    Args:
        roster: The network's modalities.
    """

    per_modality: ClassVar[tuple[str, ...]] = ("alpha",)

    def __init__(self, roster: Roster) -> None:
        super().__init__()
        self.roster = roster
        self.alpha = nn.Parameter(torch.ones(len(roster.names)))

    def forward(self, output: Any) -> Prediction:
        """Unfold a network's output.

        Args:
            output: Folded tensors `(B*K, ...)`: one, or a list, tuple or dict of them, nested at will.

        Raises:
            FusionError: When something in the output is no tensor, has other rows than the images, or has no mean.
        """
        map_tensors(lambda x: _check_rows(x, self.roster.rows), output)
        map_tensors(_check_numbers, output)
        if self.roster.patterns:
            return self._of_gaps(output)
        weights = self.roster.select(self.alpha).softmax(0)
        mean = map_tensors(lambda x: ensemble(self.roster.streams(x), weights.to(x.dtype)), output)
        return Prediction(self.roster.by_name(_apart(output, len(self.roster.present))), mean, weights)

    def _of_gaps(self, output: Any) -> Prediction:
        """As `forward`, where samples differ in their modalities."""
        there = self.roster.there()
        weights = self.roster.select(self.alpha).expand(there.shape).masked_fill(~there, -math.inf).softmax(1)

        def weighted(x: Tensor) -> Tensor:
            form = (*there.shape, *(1,) * (x.dim() - 1))
            streams = unfold(x.detach(), there.shape[1])
            return (torch.where(there.view(form), streams, 0) * weights.to(x.dtype).view(form)).sum(1)

        spread = map_tensors(self.roster.spread, output)
        own = self.roster.by_name(_apart(spread, there.shape[1]))
        return Prediction(own, map_tensors(weighted, spread), weights)


class OneStream(nn.Module):
    """Stands where the ensemble would, in a network whose fusion makes one stream: its prediction is the main one.

    Args:
        roster: The network's modalities.
    """

    def __init__(self, roster: Roster) -> None:
        super().__init__()
        self.roster = roster

    def forward(self, output: Any) -> Prediction:
        """A network's output `(B, ...)` as it is; where branches went on, `(B*(1+K), ...)` with the main one first.

        Raises:
            FusionError: When something in it is no tensor, or has other rows where they must be told apart.
        """
        if self.roster.branching or self.roster.patterns:
            map_tensors(lambda x: _check_rows(x, self._rows()), output)
        if not self.roster.branching:
            return Prediction({}, map_tensors(self.roster.in_order, output), torch.empty(0))
        if self.roster.patterns:
            output = map_tensors(self._spread, output)
        main, *own = _apart(output, 1 + len(self.roster.present))
        return Prediction(self.roster.by_name(own), main, torch.empty(0))

    def _rows(self) -> int | None:
        """How many rows the output of the last forward pass is to have; None before the first."""
        roster = self.roster
        if roster.rows is None:
            return None
        batch = len(roster.there()) if roster.patterns else roster.rows // len(roster.present)
        return batch + roster.rows if roster.branching else batch

    def _spread(self, x: Tensor) -> Tensor:
        """The rows of the one stream, then those of every modality, to `(B*(1+K), ...)`."""
        batch, modalities = self.roster.there().shape
        main, own = x.tensor_split([batch])
        streams = [self.roster.in_order(main).unsqueeze(1), unfold(self.roster.spread(own), modalities)]
        return torch.cat(streams, 1).flatten(0, 1)


def _apart(output: Any, modalities: int) -> list[Any]:
    """One output for each modality, of the form of the folded one."""
    if isinstance(output, Tensor):
        # Not one index after the other: the backward pass of each would fill a whole folded tensor with zeros.
        return list(unfold(output, modalities).unbind(1))
    if isinstance(output, dict):
        named = {key: _apart(value, modalities) for key, value in output.items()}
        return [{key: parts[m] for key, parts in named.items()} for m in range(modalities)]
    if isinstance(output, list | tuple):
        listed = [_apart(value, modalities) for value in output]
        return [[parts[m] for parts in listed] for m in range(modalities)]
    return [output] * modalities


def _check_rows(x: Tensor, rows: int | None) -> None:
    """Refuse a tensor of which it is not known which rows are whose."""
    if x.dim() == 0:
        raise FusionError(
            "The network returned a scalar, such as a loss, which belongs to no modality: let it return predictions "
            "alone, and take the loss of them outside."
        )
    if rows is not None and not torch.compiler.is_compiling() and x.shape[0] != rows:
        raise FusionError(
            f"The network returned a tensor of shape {tuple(x.shape)}, where {rows} rows are to be told apart, one for "
            "each sample of each modality. Let it return predictions with the batch in the first axis, and nothing "
            "else."
        )


def _check_numbers(x: Tensor) -> None:
    """Refuse a tensor of which there is no weighted mean."""
    if not (x.is_floating_point() or x.is_complex()):
        raise FusionError(
            f"The network returned a tensor of {x.dtype}, such as class numbers, of which an ensemble has no weighted "
            "mean: let it return the values that they are made of, and make them of the predictions outside."
        )


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


def main_output(output: Any) -> Tensor:
    """The prediction in a network's output: a tensor itself, or the first in a list or dict.

    In a dict, "out" (torchvision) and "logits" (transformers) go before what else it holds.
    """
    if isinstance(output, Mapping):
        output = next((output[key] for key in ("out", "logits") if key in output), next(iter(output.values())))
    elif not isinstance(output, Tensor):
        output = output[0]
    assert isinstance(output, Tensor)
    return output
