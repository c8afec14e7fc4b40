"""Which class has the largest score, pixel by pixel."""

import torch
from torch import Tensor


def largest(scores: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """The largest score along the classes, and the first class that has it: `scores.max(dim)`, several times as fast.

    On a CPU, `max` and `argmax` go through the classes pixel by pixel, each of them a whole map apart. Here one map
    after the other is held against the largest so far.

    Args:
        scores: Of at least one class; floating-point.
        dim: The axis of the classes.

    Returns:
        The scores, and the class numbers (int64), both without that axis. A pixel with NaN has the score NaN, and
        whichever class.
    """
    if scores.device.type != "cpu" or scores.stride(dim) == 1:
        return scores.max(dim)
    first, *others = scores.unbind(dim)
    best, classes = first.clone(), torch.zeros_like(first, dtype=torch.int32)
    for number, own in enumerate(others, 1):
        classes.masked_fill_(own > best, number)
        torch.maximum(best, own, out=best)
    return best, classes.long()
