"""Whether a network can take the images that it is given, said before anything runs."""

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from polymodal.errors import DataError

_SIDES = {1: ("length",), 2: ("height", "width"), 3: ("depth", "height", "width")}
"""What the axes of an image are called beside batch and channels, by their number."""


def check_inputs(
    inputs: Mapping[str, Any], channels: Mapping[str, int | None], *, subset: bool = False, axes: int = 2
) -> tuple[int, ...]:
    """Refuse images that a network cannot take.

    Args:
        inputs: Images by modality, tensors or arrays.
        channels: The network's modalities with the channels of each; None where they were never said.
        subset: Whether modalities may be absent.
        axes: How many axes an image has beside its channels.

    Returns:
        The indices of the modalities that the inputs hold.

    Raises:
        DataError: When a modality is unknown or missing, or an image does not fit; the message names it.
    """
    modalities = list(channels)
    if not isinstance(inputs, Mapping):
        raise DataError(
            f"Expected a dict of images by modality ({', '.join(modalities)}), got a {type(inputs).__name__}."
        )
    unknown = [name for name in inputs if name not in modalities]
    if unknown:
        raise DataError(f"Unknown modality {unknown[0]!r}: this network knows {', '.join(modalities)}.")
    present = tuple(m for m, name in enumerate(modalities) if name in inputs)
    missing = [name for name in modalities if name not in inputs]
    if missing and not (subset and present):
        raise DataError(
            f"Missing modality {', '.join(missing)}: give an image for each of {', '.join(modalities)}, or "
            "allow some to be absent with subset=True."
        )
    form = ", ".join(_SIDES[axes])
    for name, image in inputs.items():
        if not hasattr(image, "shape"):
            raise DataError(
                f"Modality {name!r}: expected a tensor (batch, channels, {form}), got a {type(image).__name__}. "
                "Make one of it, torch.as_tensor(...), with a batch axis in front."
            )
    shapes = {name: inputs[name].shape for name in inputs}
    open_ended = next((shape for name, shape in shapes.items() if channels[name] is None), None)
    for name, shape in shapes.items():
        # Modalities whose channels were never said all have those of the network, so at least each other's.
        count = channels[name] or (open_ended[1] if open_ended and len(open_ended) == 2 + axes else None)
        if len(shape) != 2 + axes or count not in (None, shape[1]):
            raise DataError(
                f"Modality {name!r}: expected an image (batch, {count or 'channels'}, {form}), got shape "
                f"{tuple(shape)}."
            )
    first = modalities[present[0]]
    for name, shape in shapes.items():
        if shape[0] != shapes[first][0] or shape[2:] != shapes[first][2:]:
            raise DataError(
                f"Modalities {first!r} and {name!r} do not fit together: shapes {tuple(shapes[first])} and "
                f"{tuple(shape)}. Batch, {' and '.join(form.rsplit(', ', 1))} must agree; resize or align the images "
                "first."
            )
    return present


def check_tensors(inputs: Mapping[str, Any], network: nn.Module) -> None:
    """Refuse images that are no tensors of a network's own kind: its type of numbers, on its device.

    Args:
        inputs: Images by modality, whose shapes fit.
        network: The network that is to take them.

    Raises:
        DataError: With the name of the modality and what to make of the image.
    """

    def held() -> Iterator[Tensor]:  # the first one is enough, nearly always
        return (tensor for tensor in chain(network.parameters(), network.buffers()) if tensor.is_floating_point())

    for name, image in inputs.items():
        if not isinstance(image, Tensor):
            kind = f"{type(image).__module__}.{type(image).__name__}"
            raise DataError(
                f"Modality {name!r}: expected a tensor, got a {kind}. Make one of it, torch.as_tensor(...)."
            )
        if not image.is_floating_point():
            raise DataError(
                f"Modality {name!r}: expected floating-point values, normalised as in training, got {image.dtype}. "
                "Convert and scale them first, such as image.float() / 255."
            )
        if not any(image.device == tensor.device for tensor in held()):
            device = next(held()).device
            raise DataError(
                f"Modality {name!r}: the image is on {image.device} and the network on {device}. Bring them together, "
                f"image.to({str(device)!r})."
            )
        if not any(_meet(image, tensor.dtype) for tensor in held()):
            dtype = next(held()).dtype
            raise DataError(
                f"Modality {name!r}: the image is of {image.dtype} and the network of {dtype}. Convert it, "
                f"image.to({dtype})."
            )


def _meet(image: Tensor, dtype: torch.dtype) -> bool:
    """Whether an image can be computed with in a type of numbers; autocast converts all but double precision."""
    if image.dtype == dtype:
        return True
    return torch.float64 not in (image.dtype, dtype) and torch.is_autocast_enabled(image.device.type)
