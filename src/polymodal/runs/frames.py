"""Images in memory, as cameras, OpenCV, Pillow and PyTorch hold them, in the form that files are read to."""

from typing import Any

import numpy as np
from PIL import Image, ImageOps
from torch import Tensor

from polymodal.data import InputSpec
from polymodal.data.content import Content
from polymodal.data.inputs import ENDS
from polymodal.errors import DataError

_ROUNDING = 1e-3

_MODES = ("1", "L", "I;16", "I", "F", "RGB", "RGBA")
"""Those of Pillow whose numbers are what is seen or was measured."""


def as_stored(frame: Any, spec: InputSpec, name: str) -> np.ndarray:
    """A frame as a file of its modality would be read.

    Args:
        frame: A Pillow image, which is turned upright; an array (H, W) or (H, W, C), or (C, H, W) where the last axis
            cannot be the channels'; or a tensor (H, W) or (C, H, W), or (H, W, C) where the first axis cannot be.
        spec: What its values mean.
        name: Of the modality, for messages.

    Returns:
        (C, H, W), in its own type.

    Raises:
        DataError: It is no such frame, is partly transparent or masked, or holds numbers that its kind does not have.
    """
    first = isinstance(frame, Tensor)
    if isinstance(frame, Tensor):
        frame = frame.detach().cpu()
        array = frame.float().numpy() if frame.is_floating_point() else frame.numpy()
    elif isinstance(frame, Image.Image):
        array = _of_pillow(frame, spec, name)
    elif isinstance(frame, np.ndarray):
        if np.ma.is_masked(frame):
            raise DataError(
                f"{name}: its mask hides pixels, which no model looks at. Fill them with what means that nothing was "
                f"measured, {'NaN among floats' if spec.invalid is None else f'{spec.invalid:g}'}: frame.filled(...)."
            )
        array = frame
    else:
        raise DataError(
            f"{name}: expected an array, a tensor or a Pillow image, got {type(frame).__name__}. Convert it, such as "
            "by numpy.asarray."
        )
    if array.dtype.kind not in "buif" or array.size == 0 or array.ndim not in (2, 3):
        raise DataError(
            f"{name}: expected numbers of the shape (H, W), (H, W, C) or (C, H, W), got {array.dtype} of "
            f"{array.shape}. Give one frame a call, without a batch axis."
        )
    ordered = array[None] if array.ndim == 2 else _channels_first(array, spec, name, first=first)
    raw = np.array(ordered, order="C")  # a copy: a camera may fill the same memory with its next frame
    raw = Content(raw, alpha=len(raw) == 4 and _channels(spec) == (3,)).channels(3, name)
    if raw.dtype.kind == "f" and spec.kind in ENDS:
        low, high = ENDS[spec.kind]
        known = raw[np.isfinite(raw)]
        if known.size and (known.min() < low - _ROUNDING or known.max() > high + _ROUNDING):
            raise DataError(
                f"{name}: expected floating-point values from {low:g} to {high:g} for kind {spec.kind}, got "
                f"{known.min():g} to {known.max():g}. Divide them by their full scale, or give them as uint8 or uint16."
            )
    return raw


def _channels(spec: InputSpec) -> tuple[int, ...]:
    """How many a frame may have; labels are class numbers, or colours."""
    return (3 if spec.colors else 1,) if spec.kind == "label" else (spec.channels,)


def _channels_first(array: np.ndarray, spec: InputSpec, name: str, *, first: bool) -> np.ndarray:
    known = {*_channels(spec), *((4,) if _channels(spec) == (3,) else ())}
    order = (0, 2) if first else (2, 0)
    axis = next((axis for axis in order if array.shape[axis] in known), None)
    if axis is None:
        raise DataError(
            f"{name}: expected {_channels(spec)[0]} channel(s) along the first or the last axis, got the shape "
            f"{array.shape}. All frames of a modality have the channels that it was trained with."
        )
    return array if axis == 0 else np.moveaxis(array, -1, 0)


def _of_pillow(image: Image.Image, spec: InputSpec, name: str) -> np.ndarray:
    image = ImageOps.exif_transpose(image)
    if image.mode == "P" and spec.kind != "label":
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    if image.mode not in (*_MODES, *(("P",) if spec.kind == "label" else ())):
        raise DataError(
            f"{name}: expected a Pillow image of the mode {', '.join(_MODES)} or P, got {image.mode}. Convert it first."
        )
    return np.asarray(image)
