"""Measurements of channels as the numbers of docs/theory.md."""

from typing import Any

import torch
from torch import Tensor

from polymodal.functional import zero_probability
from theorems.channels import Channels

Numbers = dict[str, Any]


def rms(values: Tensor) -> float:
    """Root mean square."""
    return values.square().mean().sqrt().item()


def described(channels: Channels, chosen: Tensor) -> Numbers:
    """How far the chosen channels are from what the theorem assumes."""
    norm, slope, mismatched = (each[chosen] for each in (channels.norm, channels.slope, channels.mismatched))
    mean, deviation, kurtosis = channels.moments[chosen].unbind(-1)
    return {
        "channels": int(chosen.sum()),
        "median ‖g‖": norm.median().item(),
        "rms of slope/‖g‖": rms(slope / norm),
        "rms of mismatched slope/‖g‖": rms(mismatched / norm),
        "rms of slope/mismatched slope": rms(slope / mismatched),
        "x̂: rms of the channels' means": rms(mean),
        "x̂: median standard deviation": deviation.median().item(),
        "x̂: 5 % and 95 % of the standard deviations": deviation.quantile(
            torch.tensor([0.05, 0.95], dtype=deviation.dtype)
        ).tolist(),
        "x̂: median kurtosis (Gaussian: 3)": kurtosis.median().item(),
    }


def shares(channels: Channels, chosen: Tensor, penalty: float) -> Numbers:
    """The share of chosen channels and batches in which γ = 0 is a minimum, as predicted and as it is."""
    return {
        "formula": zero_probability(channels.norm[chosen], penalty).mean().item(),
        "formula, mismatched": zero_probability(channels.mismatched[chosen], penalty).mean().item(),
        "observed": (channels.slope[chosen].abs() < penalty).double().mean().item(),
    }


def scenes_together(channels: Channels, chosen: Tensor, penalty: float) -> Numbers:
    """The same when the K batches count as one: ‖g‖ falls with the number of scenes, the slope tends to its mean."""
    norm, slope = channels.norm[chosen], channels.slope[chosen]
    together = norm.square().sum(1).sqrt() / norm.shape[1]
    return {
        "scenes": 8 * norm.shape[1],
        "formula": zero_probability(together, penalty).mean().item(),
        "observed": (slope.mean(1).abs() < penalty).double().mean().item(),
    }


def binned(predicted: Tensor, observed: Tensor, bins: int = 5) -> list[tuple[float, float, int]]:
    """Mean prediction, observed share and count in bins of equally many scales, by rising prediction."""
    order = predicted.argsort().tensor_split(bins)
    return [(predicted[i].mean().item(), observed[i].double().mean().item(), len(i)) for i in order]


def ranked_right(score: Tensor, observed: Tensor) -> float:
    """How often a scale that went to zero has a higher score than one that did not (AUC): 0.5 is chance."""
    zero, other = score[observed], score[~observed]
    higher = (zero[:, None] > other).double() + 0.5 * (zero[:, None] == other).double()
    return higher.mean().item()
