"""Pooling to a number of places, in operations that every format has and for images of any size.

ONNX has no word for it. Written out for the size of one example, as PyTorch does, it is wrong at others.
"""

import torch
from torch import Tensor
from torch.export import ExportedProgram


def without_adaptive_pooling(program: ExportedProgram) -> ExportedProgram:
    """The same program, its adaptive average pooling as products of matrices."""
    pooling = torch.ops.aten.adaptive_avg_pool2d.default
    if all(node.target is not pooling for node in program.graph.nodes):
        return program
    return program.run_decompositions({pooling: adaptive_avg_pool2d})


def adaptive_avg_pool2d(image: Tensor, output_size: tuple[int, int]) -> Tensor:
    """`torch.nn.functional.adaptive_avg_pool2d` of images `(..., H, W)`, exact for all sizes of image and output."""
    height, width = image.shape[-2:]
    down = _shares(height, output_size[0], image)
    across = _shares(width, output_size[1], image)
    return down @ image @ across.T


def _shares(side: int, places: int, like: Tensor) -> Tensor:
    """What each pixel of a side weighs in each place, `(places, side)`.

    Place i is the mean of the pixels from floor(i side / places) to ceil((i + 1) side / places), without the last.
    """
    place = torch.arange(places, device=like.device)
    start = place * side // places
    end = ((place + 1) * side - 1) // places + 1
    pixel = torch.arange(side, device=like.device)
    inside = (pixel >= start[:, None]) & (pixel < end[:, None])
    return inside.to(like.dtype) / (end - start)[:, None].to(like.dtype)
