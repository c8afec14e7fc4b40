"""The learned ensemble of the modalities' predictions, and what a multimodal network returns."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from polymodal.errors import FusionError
from polymodal.functional import ensemble, unfold
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


# So that torch.export and torch.func see the tensors in it.
_pytree.register_dataclass(Prediction, serialized_type_name="polymodal.Prediction")


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
            FusionError: When something in the output is no tensor, or a scalar.
        """
        if self.roster.patterns:
            return _of_patterns(self, output, lambda modalities: modalities)
        weights = self.roster.select(self.alpha).softmax(0)
        present = [self.roster.names[m] for m in self.roster.present]

        def weighted(x: Tensor) -> Tensor:
            if x.dim() == 0:
                raise FusionError(
                    "The network returned a scalar, such as a loss, which belongs to no modality: let it return "
                    "predictions alone, and take the loss of them outside."
                )
            return ensemble(unfold(x, len(present)), weights.to(x.dtype))

        mean = map_tensors(weighted, output)
        return Prediction(dict(zip(present, _apart(output, len(present)), strict=True)), mean, weights)


class OneStream(nn.Module):
    """Stands where the ensemble would, in a network whose fusion makes one stream: its prediction is the main one.

    Args:
        roster: The network's modalities.
    """

    def __init__(self, roster: Roster) -> None:
        super().__init__()
        self.roster = roster

    def forward(self, output: Any) -> Prediction:
        """A network's output `(B, ...)` as it is; where branches went on, `(B*(1+K), ...)` with the main one first."""
        if self.roster.patterns:
            return _of_patterns(self, output, lambda modalities: 1 + modalities if self.roster.branching else 1)
        if not self.roster.branching:
            return Prediction({}, map_tensors(lambda x: x, output), torch.empty(0))
        main, *own = _apart(output, 1 + len(self.roster.present))
        names = [self.roster.names[m] for m in self.roster.present]
        return Prediction(dict(zip(names, own, strict=True)), main, torch.empty(0))


def _of_patterns(ensemble: Ensemble | OneStream, output: Any, streams: Callable[[int], int]) -> Prediction:
    """The predictions of a batch whose samples differ in the modalities that they have.

    Args:
        ensemble: What makes the predictions of samples that have the same.
        output: A network's output, the rows of the patterns one behind the other.
        streams: How many rows a sample of so many modalities has.
    """
    roster = ensemble.roster
    patterns, sizes = roster.patterns, [streams(len(p.present)) * len(p.samples) for p in roster.patterns]
    ends = list(accumulate(sizes))
    parts = []
    for pattern, size, end in zip(patterns, sizes, ends, strict=True):
        with roster.at(pattern):
            parts.append(ensemble(map_tensors(lambda x, rows=slice(end - size, end): x[rows], output)))
    samples = torch.cat([p.samples for p in patterns])
    order = samples.argsort()

    def in_order(tensors: Sequence[Tensor]) -> Tensor:
        return torch.cat(tuple(tensors))[order]

    def with_gaps(tensors: Sequence[Tensor], where: Tensor) -> Tensor:
        found = torch.cat(tuple(tensors))
        gaps = found.new_full((len(order), *found.shape[1:]), math.nan)
        return gaps.index_copy(0, where, found)

    own = {}
    for name in (roster.names[m] for m in roster.present):
        have = [(part.per_modality[name], p) for part, p in zip(parts, patterns, strict=True) if name in part.per_modality]
        if have:
            where = torch.cat([p.samples for _, p in have])
            own[name] = _merged(partial(with_gaps, where=where), [output for output, _ in have])
    weights = torch.empty(0)
    if parts[0].weights.numel():
        weights = parts[0].weights.new_zeros(len(order), len(roster.present))
        for part, p in zip(parts, patterns, strict=True):
            columns = torch.tensor([roster.present.index(m) for m in p.present], device=order.device)
            weights = weights.index_put((p.samples[:, None], columns), part.weights)
    return Prediction(own, _merged(in_order, [part.ensemble for part in parts]), weights)


def _merged(function: Callable[[Sequence[Tensor]], Tensor], outputs: Sequence[Any]) -> Any:
    """One output of several of the same form, each tensor made of theirs."""
    first = outputs[0]
    if first is None:
        return None
    if isinstance(first, Tensor):
        return function(outputs)
    if isinstance(first, dict):
        return {key: _merged(function, [output[key] for output in outputs]) for key in first}
    return [_merged(function, parts) for parts in zip(*outputs, strict=True)]


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
    """The prediction in a network's output: a tensor itself, under "out" in a dict, the first one in a list."""
    if isinstance(output, Mapping):
        output = output["out"]
    elif not isinstance(output, Tensor):
        output = output[0]
    assert isinstance(output, Tensor)
    return output
