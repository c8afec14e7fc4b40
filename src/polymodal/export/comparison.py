"""What was made of a network against the network itself, on images that it may go wrong on."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from polymodal.errors import ExportError, first_line
from polymodal.export.trials import Size, Trial, said

Run = Callable[[dict[str, Tensor]], Mapping[str, Any]]
"""From images by modality to predictions by name."""


@torch.no_grad()
def compare(
    net: Run,
    made: Run,
    channels: Mapping[str, int],
    trials: Sequence[Trial],
    what: str,
    tolerance: float,
    remedy: str,
) -> None:
    """Refuse what does not predict what the network does. Images that the network itself refuses tell nothing.

    Args:
        net: The network.
        made: What was made of it.
        channels: Of the images of each modality.
        trials: Of which sizes the images are; their values are random, and the same every time.
        what: How messages call it.
        tolerance: Relative to the largest value of a prediction.
        remedy: What to do instead, a sentence.

    Raises:
        ExportError: A prediction is another one, or there is none; or the network takes none of the images.
    """
    refusal: Exception | None = None
    compared = 0
    random = torch.Generator().manual_seed(0)
    for batch, size in trials:
        images = {name: torch.randn(batch, count, *size, generator=random) for name, count in channels.items()}
        try:
            expected = net(images)
        except Exception as error:  # whatever a network of somebody else's raises
            refusal = error
            continue
        compared += 1
        where = f"{batch} images of {said(size)}"
        try:
            found = made(images)
        except Exception as error:  # the runtimes' own, of no common class
            raise ExportError(
                f"{what} fails on {where}, which the network takes: {first_line(error)} Nothing was written. {remedy}"
            ) from error
        for name, ours in expected.items():
            theirs = torch.as_tensor(found[name])
            off = float("inf")
            if theirs.shape == ours.shape:
                off = float((theirs - ours).abs().max() / ours.abs().max().clamp_min(torch.finfo(ours.dtype).tiny))
            if not off <= tolerance:
                raise ExportError(
                    f"{what} does not predict what the network does: {name!r} differs by {off:.1e} of its largest "
                    f"value on {where}, where {tolerance:.0e} is allowed. Nothing was written. {remedy}"
                )
    if not compared:
        raise ExportError(
            f"{what} cannot be compared with the network, which takes none of the sizes that were tried: "
            f"{first_line(refusal) if refusal else 'there are none'} Nothing was written. {remedy}"
        )


def remedy(size: Size | None) -> str:
    """What to do where a network cannot leave Python as it was asked to."""
    if size is not None:
        return "Choose another format, or predict with the model folder."
    return (
        "What depends on the size of the images may be right for one: fix it with --size HEIGHT WIDTH, in Python "
        "size=(height, width). Or choose another format, or predict with the model folder."
    )
