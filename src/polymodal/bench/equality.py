"""Whether a faster way predicts the same."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Equality:
    """How near some predictions are to those of the eager network in float32, the worst of them.

    Attributes:
        classes: Share in 0..1 of the pixels at which the most probable class is the same; none is where a logit is NaN.
        difference: Largest difference of a logit, relative to the largest logit; NaN when any logit is.
    """

    classes: float
    difference: float


def equality(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Equality:
    """Compare logits by name.

    Args:
        found: Logits (B, classes, h, w) by name, in any precision.
        expected: The logits to compare with; those of other names are left out.
    """
    pairs = [(logits.detach().float().cpu(), expected[name].float().cpu()) for name, logits in found.items()]
    same = [(a.argmax(1) == b.argmax(1)) & ~(a + b).isnan().any(1) for a, b in pairs]
    # Torch's maximum of NaN and a number is NaN; Python's depends on their order.
    differences = torch.stack([(a - b).abs().max() / b.abs().max() for a, b in pairs])
    return Equality(min(float(one.float().mean()) for one in same), float(differences.max()))
