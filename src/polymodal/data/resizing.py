"""Modalities of another resolution than the rest, as of a thermal camera beside a colour one, brought to one size."""

from collections.abc import Mapping

import numpy as np
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as V

from polymodal.data.inputs import EXACT, InputSpec
from polymodal.errors import DataError

Size = tuple[int, int]


def aligned(
    raw: Mapping[str, np.ndarray], specs: Mapping[str, InputSpec], files: Mapping[str, str], size: Size | None = None
) -> dict[str, np.ndarray]:
    """The files of a sample, those that `resize` allows at the size of the others.

    Args:
        raw: (C_m, H_m, W_m) by modality, as they are stored.
        specs: What the values mean, by modality.
        files: Names for messages, by modality.
        size: Height and width of the target; where there is none, those of the first modality without `resize`, or, of
            modalities with it alone, those that the training's samples suggest.

    Returns:
        By modality, in the types of the files.

    Raises:
        DataError: A file's sides have another ratio than those of the others, so that it cannot show the same.
    """
    fixed = size or next((_size(raw[name]) for name in raw if specs[name].resize is None), None)
    if fixed is None:
        name = next(iter(raw))
        factors = specs[name].resize or (1.0, 1.0)
        height, width = (round(side * factor) for side, factor in zip(_size(raw[name]), factors, strict=True))
        fixed = height, width
    return {
        name: array if specs[name].resize is None else resized(array, specs[name], fixed, files[name])
        for name, array in raw.items()
    }


def resized(raw: np.ndarray, spec: InputSpec, size: Size, file: str) -> np.ndarray:
    """A file's values at another size: between them for images, normals and raw values without holes, else the nearest.

    Between two depths, two classes, or a value and a hole there is no third.

    Raises:
        DataError: See `aligned`.
    """
    check_ratio(_size(raw), size, file)
    if _size(raw) == size:
        return raw
    smooth = spec.kind not in EXACT and raw.dtype.kind != "b" and not _holed(raw, spec)
    # float64 holds every stored number; torch has no whole numbers of 16 bits without a sign.
    tensor = torch.from_numpy(raw.astype(np.float64))
    mode = InterpolationMode.BILINEAR if smooth else InterpolationMode.NEAREST_EXACT
    moved = V.resize(tensor, list(size), mode).numpy()
    return (np.rint(moved) if raw.dtype.kind in "iu" else moved).astype(raw.dtype)


def check_ratio(own: Size, size: Size, file: str) -> None:
    """Refuse to stretch: a file of another ratio of its sides, by more than rounding, shows something else.

    Raises:
        DataError: With both sizes.
    """
    (height, width), (other_height, other_width) = own, size
    if abs(height * other_width - width * other_height) > max(other_height, other_width):
        raise DataError(
            f"{file}: {width}x{height} (width x height) cannot be resized to the others' {other_width}x{other_height}: "
            "the ratio of its sides is another one. Cut all of a sample's files to what they show in common."
        )


def _size(raw: np.ndarray) -> Size:
    return raw.shape[1], raw.shape[2]


def _holed(raw: np.ndarray, spec: InputSpec) -> bool:
    if raw.dtype.kind == "f" and not np.isfinite(raw).all():
        return True
    return spec.invalid is not None and bool((raw == spec.invalid).any())
