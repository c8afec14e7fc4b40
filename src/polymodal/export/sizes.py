"""What the free sizes of an ONNX graph are called: batch, height and width, wherever they stand."""

import re
from typing import Any

AXES = {0: "batch", 2: "height", 3: "width"}
"""Of an image (B, C, H, W)."""


def name_sizes(model: Any) -> None:
    """Name the free sizes of a graph's images, and what depends on them, such as `(height/32)*8`.

    Args:
        model: As onnx_ir holds it. Its sizes are symbols of torch.export, such as `s42`, or `32*h`.
    """
    words: dict[str, str] = {}
    for image in model.graph.inputs:
        for axis, word in AXES.items():
            words.setdefault(_symbol(image.shape[axis]), word)
    words.pop("", None)
    within = dict(words)
    for said, word in words.items():
        if multiple := re.fullmatch(r"(\d+)\*(\w+)", said):
            within[multiple[2]] = f"({word}/{multiple[1]})"
    values = [*model.graph.inputs, *model.graph.outputs, *(out for node in model.graph for out in node.outputs)]
    for value in values:
        if value.shape is None:
            continue
        named = value.shape.copy()  # a shape that several values share cannot be changed
        for axis, dim in enumerate(value.shape):
            if said := _symbol(dim):
                named[axis] = words.get(said) or re.sub(r"\w+", lambda found: within.get(found[0], found[0]), said)
        value.shape = named


def _symbol(dim: Any) -> str:
    """What a size is called; empty where it is fixed."""
    return "" if isinstance(dim, int) else str(dim.value or "")
