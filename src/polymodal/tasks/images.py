"""Images as they are predicted: at the size of their inputs, as pictures for people, and as files like the target's."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from polymodal.data import TargetSpec
from polymodal.data.target import restore_target
from polymodal.metrics import ImageScores, feature_extractor


def image_scores(names: list[str], scoring: Mapping[str, Any]) -> ImageScores:
    """The scores of named predictions, by the settings `extractor` and `stretched`."""
    extractor = scoring.get("extractor")
    return ImageScores(
        names, None if extractor is None else feature_extractor(extractor), stretched=bool(scoring.get("stretched"))
    )


def truth_at(batch: Mapping[str, Tensor], size: Sequence[int], target: TargetSpec) -> tuple[Tensor, Tensor]:
    """The target of a batch at the size of its inputs, at which images are predicted and scored.

    Args:
        batch: With "target" (B, C, H, W) from -1 to 1, and "target_valid" (B, 1, H, W).
        size: Height and width.
        target: What is predicted. Depth is not interpolated, as between two depths there is no third.

    Returns:
        The target, (B, C, *size), and the bool mask of where there is truth, (B, 1, *size).
    """
    image, valid = batch["target"], batch["target_valid"]
    if image.shape[-2:] == tuple(size):
        return image, valid
    known = F.interpolate(valid.float(), size=tuple(size), mode="nearest-exact").bool()
    if target.kind == "depth":
        return F.interpolate(image, size=tuple(size), mode="nearest-exact"), known
    return F.interpolate(image, size=tuple(size), mode="bilinear", antialias=True), known


def as_picture(image: Tensor) -> np.ndarray:
    """An image from -1 to 1, (C, H, W), as uint8 (H, W, 3); other than three channels become the grey of the first."""
    three = image if image.shape[0] == 3 else image[:1].expand(3, -1, -1)
    return ((three.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy()


def as_file(image: Tensor, target: TargetSpec) -> Image.Image:
    """A predicted image as a file of the target holds it: in the same units, with as many bits where PNG allows.

    Depth and raw values are divided by the scale; a prediction never takes the value that means no measurement.

    Args:
        image: (C, H, W) from -1 to 1, of 1 or 3 channels.
        target: What is predicted.
    """
    values = restore_target(image.float().clamp(-1, 1), target).cpu()
    if target.kind in ("depth", "raw"):
        assert target.range is not None
        stored = (values / target.scale).round()
        deep = target.bits == 16 or max(target.range) / target.scale > 255
    else:
        deep = target.bits == 16 and image.shape[0] == 1
        stored = ((values + 1) / 2 if target.kind == "normal" else values) * (65535 if deep else 255)
    stored = stored.round().clamp(1 if target.kind in ("depth", "raw") and target.invalid == 0 else 0)
    pixels = stored.clamp(max=65535 if deep else 255).numpy().astype(np.uint16 if deep else np.uint8)
    return Image.fromarray(pixels[0] if pixels.shape[0] == 1 else np.moveaxis(pixels, 0, -1))


def contact_sheet(rows: Sequence[Sequence[np.ndarray]], gap: int = 4) -> Image.Image:
    """Pictures (H, W, 3), all of one size, in rows and columns on white."""
    height, width = rows[0][0].shape[:2]
    size = (len(rows[0]) * (width + gap) - gap, len(rows) * (height + gap) - gap)
    sheet = Image.new("RGB", size, "white")
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            sheet.paste(Image.fromarray(picture), (x * (width + gap), y * (height + gap)))
    return sheet


def masked_l1(image: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """The mean absolute difference over the pixels with truth; 0 where there is none.

    Args:
        image: (B, C, H, W).
        target: (B, C, H, W).
        valid: bool (B, 1, H, W).
    """
    known = valid.expand_as(target)
    return ((image.float() - target).abs() * known).sum() / known.sum().clamp(min=1)


def where_known(valid: Tensor, image: Tensor, target: Tensor) -> Tensor:
    """The image where there is truth, and elsewhere what the target holds there, so that nothing tells them apart."""
    return torch.where(valid, image, target.to(image.dtype))
