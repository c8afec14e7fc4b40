"""A network in an ONNX file that was written by hand, so that nothing must be trained or exported."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fixtures_data import target_of
from polymodal.data import FolderDataset


def by_brightness(
    file: Path, root: Path, outliers: Sequence[str] = (), metadata: Mapping[str, Any] | None = None
) -> Path:
    """Write an ONNX file that tells the two classes of the scenes by how bright a pixel is, in two convolutions.

    Weights for a channel that is always 0 are so large in `outliers` that 8 bits have nothing left for the others.
    """
    import onnx

    scenes = FolderDataset(root, "train")
    bright = {name: ([], []) for name in scenes.inputs}
    for scene in scenes:
        for name, image in scene["inputs"].items():
            for label in (0, 1):
                bright[name][label].append(image.mean(0)[(target_of(scene) == label) & scene["valid"][name][0]])
    nodes: list[Any] = []
    constants: list[Any] = []

    def convolve(source: str, made: str, weight: list[list[float]], bias: list[float]) -> None:
        kernel = np.array(weight, np.float32)[:, :, None, None]
        constants.extend(onnx.numpy_helper.from_array(value, f"{made}.{part}") for part, value in
                         (("weight", kernel), ("bias", np.array(bias, np.float32))))  # fmt: skip
        nodes.append(onnx.helper.make_node("Conv", [source, f"{made}.weight", f"{made}.bias"], [made], made))

    for name, spec in scenes.inputs.items():
        middle = float(np.mean([torch.cat(values).mean() for values in bright[name]]))
        outlier = 1000.0 if name in outliers else 0.0  # for a channel that is 0
        convolve(name, f"{name}.first", [[1 / spec.channels] * spec.channels, [0] * spec.channels], [-middle, 0])
        convolve(f"{name}.first", f"prediction_{name}", [[-1, outlier], [1, outlier]], [0, 0])
    predictions = [f"prediction_{name}" for name in scenes.inputs]
    constants.append(onnx.numpy_helper.from_array(np.float32(1 / len(predictions)), "weight"))
    weighted = [f"{prediction}.weighted" for prediction in predictions]
    nodes.extend(
        onnx.helper.make_node("Mul", [one, "weight"], [made], made)
        for one, made in zip(predictions, weighted, strict=True)
    )
    nodes.append(onnx.helper.make_node("Sum", weighted, ["prediction_ensemble"], "sum"))

    def port(name: str, channels: int) -> Any:
        return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", channels, "height", "width"])

    taken = [port(name, spec.channels) for name, spec in scenes.inputs.items()]
    made = [port(name, 2) for name in (*predictions, "prediction_ensemble")]
    graph = onnx.helper.make_graph(nodes, "brightness", taken, made, constants)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    said = {
        "format": 2,
        "modalities": {name: spec.channels for name, spec in scenes.inputs.items()},
        "outputs": [*scenes.inputs, "ensemble"],
        "step": 1,
        "size": None,
        "folded": True,
        "metadata": dict(metadata or {}),
    }
    onnx.helper.set_model_props(model, {"polymodal": json.dumps(said)})
    onnx.save(model, file)
    return file
