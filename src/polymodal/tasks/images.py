"""Images as they are predicted: at the size of their inputs, as pictures for people, and as files like the target's."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from polymodal.data import InputSpec, TargetSpec
from polymodal.data.target import restore_target, stored_bits

GAP = 4
"""Pixels between the pictures of a sheet."""


def truth_at(image: Tensor, valid: Tensor, size: Sequence[int], target: TargetSpec) -> tuple[Tensor, Tensor]:
    """A target at the size of the inputs, at which images are predicted and scored.

    Args:
        image: (B, C, H, W) from -1 to 1.
        valid: Where there is truth, (B, 1, H, W).
        size: Height and width.
        target: What is predicted. Depth is not interpolated, as between two depths there is no third. Of anything else
            a pixel is the mean of the truth that it covers, and known where that is more than half of it.

    Returns:
        The target, (B, C, *size), 0 where there is no truth, and the bool mask of where there is, (B, 1, *size).
    """
    if image.shape[-2:] == tuple(size):
        return image, valid
    way: dict[str, Any] = (
        {"mode": "nearest-exact"} if target.kind == "depth" else {"mode": "bilinear", "antialias": True}
    )
    image, share = (F.interpolate(tensor, size=tuple(size), **way) for tensor in (image, valid.float()))
    known = share > 0.5
    return torch.where(known, image / share, 0.0), known


def viewable(image: Tensor, spec: InputSpec) -> Tensor:
    """A normalised input as a picture.

    Colours come back as they were; anything else is stretched from its 2nd to its 98th percentile, channel by channel.

    Args:
        image: (C, H, W) as the network takes it.
        spec: How it was normalised.

    Returns:
        uint8 (3, H, W).
    """
    values = image * torch.tensor(spec.std).view(-1, 1, 1) + torch.tensor(spec.mean).view(-1, 1, 1)
    if spec.kind == "label":
        values = image.argmax(0, keepdim=True).float() / max(1, spec.channels - 1)
    elif spec.kind == "normal":
        values = (values + 1) / 2
    elif spec.kind != "image":
        low, high = np.percentile(values.flatten(1).numpy(), (2, 98), axis=1)[..., None, None]
        values = (values - torch.tensor(low)) / torch.tensor(np.maximum(high - low, 1e-6))
    three = values[:3] if values.shape[0] >= 3 else values[:1].expand(3, -1, -1)
    return (three.clamp(0, 1) * 255).round().byte()


def as_picture(image: Tensor) -> np.ndarray:
    """An image from -1 to 1, (C, H, W), as uint8 (H, W, 3); other than three channels become the grey of the first."""
    three = image if image.shape[0] == 3 else image[:1].expand(3, -1, -1)
    return ((three.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy()


def as_file(image: Tensor, target: TargetSpec) -> Image.Image:
    """A predicted image as a PNG file of the target holds it: in the same units, with `stored_bits`.

    Depth and raw values are divided by the scale. A prediction that would take the value that means no measurement, in
    all channels, takes the next one.

    Args:
        image: (C, H, W) from -1 to 1.
        target: What is predicted, as `settle_target` returns it.
    """
    values = restore_target(image.float().clamp(-1, 1), target).cpu()
    bits = stored_bits(target)
    largest = 2**bits - 1
    if target.kind in ("depth", "raw"):
        stored = values / target.scale
    else:
        stored = ((values + 1) / 2 if target.kind == "normal" else values) * largest
    stored = stored.round().clamp(0, largest)
    if target.invalid is not None and 0 <= target.invalid <= largest:
        unmeasured = (stored == target.invalid).all(0)
        stored = torch.where(unmeasured, target.invalid + (1 if target.invalid < largest else -1), stored)
    pixels = stored.numpy().astype(np.uint16 if bits == 16 else np.uint8)
    return Image.fromarray(pixels[0] if pixels.shape[0] == 1 else np.moveaxis(pixels, 0, -1))


def contact_sheet(rows: Sequence[Sequence[np.ndarray]]) -> Image.Image:
    """Pictures (H, W, 3), all of one size, in rows and columns on white."""
    height, width = (side + GAP for side in rows[0][0].shape[:2])
    sheet = Image.new("RGB", (len(rows[0]) * width - GAP, len(rows) * height - GAP), "white")
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            sheet.paste(Image.fromarray(picture), (x * width, y * height))
    return sheet
