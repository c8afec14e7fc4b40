"""Whether a faster way predicts the same."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Equality:
    """How near some predictions are to those of the eager network in float32, the worst of them.

    Attributes:
        classes: Share in 0..1 of the pixels at which the most probable class is the same.
        difference: Largest difference of a logit, relative to the largest logit.
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
    return Equality(
        classes=min(float((a.argmax(1) == b.argmax(1)).float().mean()) for a, b in pairs),
        difference=max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs),
    )
