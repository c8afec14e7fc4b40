"""Pictures as data URIs: photographs as JPEG; class and error maps as PNG with alpha, to suit light and dark."""

import base64

import numpy as np
import torch

from polymodal.data.pictures import encode_png

WRONG = (224, 10, 118, 255)
HATCH = (128, 128, 128, 150)  # pixels without truth: every fourth diagonal, the rest transparent
LONG_SIDE = 320  # pixels; a page of six scenes with three predictions then stays near one megabyte


def photograph(image: np.ndarray) -> str:
    """A data URI of an image (H, W, 3) uint8, averaged down to at most `LONG_SIDE` pixels a side."""
    from torchvision.io import encode_jpeg

    down, across = _steps(image)
    height, width = image.shape[0] // down, image.shape[1] // across
    blocks = image[: height * down, : width * across].reshape(height, down, width, across, 3)
    small = blocks.mean(axis=(1, 3)).round().astype(np.uint8)
    jpeg = encode_jpeg(torch.from_numpy(small).permute(2, 0, 1).contiguous(), quality=88)
    return _uri("jpeg", jpeg.numpy().tobytes())


def holed(image: np.ndarray, known: np.ndarray) -> str:
    """A data URI of an image (H, W, 3) uint8; what is not known of it (H, W) is hatched."""
    if known.all():
        return photograph(image)
    opaque = np.full((*known.shape, 1), 255, np.uint8)
    return _png(_hatched(_shrink(np.concatenate([image, opaque], axis=2)), _shrink(known)))


def class_map(labels: np.ndarray, colors: np.ndarray, known: np.ndarray) -> str:
    """A data URI of a class map (H, W) in the classes' colours (K, 3); what is not known (H, W) is hatched."""
    return _png(_hatched(_paint(_shrink(labels), colors, alpha=255), _shrink(known)))


def error_map(prediction: np.ndarray, target: np.ndarray, colors: np.ndarray, known: np.ndarray) -> str:
    """A data URI that marks wrong pixels (H, W); right ones show the class faintly, unknown ones are hatched."""
    prediction, target = _shrink(prediction), _shrink(target)
    pixels = _paint(target, colors, alpha=64)
    pixels[prediction != target] = WRONG
    return _png(_hatched(pixels, _shrink(known)))


def difference_map(prediction: np.ndarray, target: np.ndarray, known: np.ndarray) -> str:
    """A data URI of how much two pictures (H, W, 3) uint8 differ: not at all is clear, by 64 or more opaque.

    What is not known (H, W) of the target is hatched.
    """
    error = np.abs(_shrink(prediction).astype(np.float32) - _shrink(target)).mean(2) / 255
    pixels = np.empty((*error.shape, 4), np.uint8)
    pixels[:] = WRONG
    pixels[..., 3] = (255 * np.minimum(1, 4 * error)).round()
    return _png(_hatched(pixels, _shrink(known)))


def _paint(labels: np.ndarray, colors: np.ndarray, alpha: int) -> np.ndarray:
    opaque = np.concatenate([colors, np.full((len(colors), 1), alpha)], axis=1).astype(np.uint8)
    return opaque[labels.astype(np.int64).clip(0, len(colors) - 1)]


def _hatched(pixels: np.ndarray, known: np.ndarray) -> np.ndarray:
    rows, columns = np.indices(known.shape)
    pixels[~known] = 0
    pixels[~known & ((rows + columns) % 4 == 0)] = HATCH
    return pixels


def _steps(array: np.ndarray) -> tuple[int, int]:
    """How many rows and columns become one; a side that is shorter than that becomes one pixel."""
    height, width = array.shape[:2]
    step = max(1, -(-max(height, width) // LONG_SIDE))
    return min(step, height), min(step, width)


def _shrink(array: np.ndarray) -> np.ndarray:
    down, across = _steps(array)
    return array[down // 2 :: down, across // 2 :: across]


def _png(pixels: np.ndarray) -> str:
    return _uri("png", encode_png(pixels))


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
