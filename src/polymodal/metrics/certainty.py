"""How sure a prediction of classes is, pixel by pixel: the one place where the package says what that means.

A temperature above 1 makes a network less sure of itself and never changes which class it predicts (Guo et al., "On
Calibration of Modern Neural Networks", ICML 2017, section 4.2).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def log_probabilities(logits: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    """Logarithms of the classes' probabilities, log softmax(z / T), in float32 or better.

    Args:
        logits: z, `(B, classes, ...)`.
        temperature: T > 0.
    """
    return (logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature).log_softmax(1)


def confidence(logarithms: Tensor) -> Tensor:
    """The probability of the predicted class, 1/classes..1.

    Args:
        logarithms: Of the probabilities, `(B, classes, ...)`.

    Returns:
        `(B, ...)`.
    """
    return logarithms.amax(1).exp()


def doubt(logarithms: Tensor) -> Tensor:
    """1 - `confidence`, which keeps its digits where the confidence is next to 1."""
    return -torch.expm1(logarithms.amax(1))


def entropy(logarithms: Tensor) -> Tensor:
    """Shannon's entropy of the classes' probabilities as a share of its largest value, log(classes): 0..1.

    Args:
        logarithms: Of the probabilities, `(B, classes, ...)`.

    Returns:
        `(B, ...)`.
    """
    return (-_weighted(logarithms).sum(1) / math.log(max(2, logarithms.shape[1]))).clamp(0, 1)


def disagreement(logarithms: Sequence[Tensor]) -> Tensor:
    """How far the modalities are apart: their Jensen-Shannon divergence as a share of its bound, log(modalities): 0..1.

    The entropy of their mean less the mean of their entropies (Lin, "Divergence Measures Based on the Shannon Entropy",
    1991, eq. 5.1, with equal weights): 0 where all say the same, 1 where each is sure of another class.

    Args:
        logarithms: Of the probabilities, `(B, classes, ...)` from each of two modalities or more.

    Returns:
        `(B, ...)`.
    """
    mean = torch.stack([one.exp() for one in logarithms]).mean(0)
    own = torch.stack([_weighted(one).sum(1) for one in logarithms]).mean(0)
    return ((own - torch.xlogy(mean, mean).sum(1)) / math.log(len(logarithms))).clamp(0, 1)


def _weighted(logarithms: Tensor) -> Tensor:
    """Each p log p, 0 where the probability is."""
    return torch.where(logarithms.isneginf(), 0.0, logarithms.exp() * logarithms)
