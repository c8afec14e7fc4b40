"""Files of OpenVINO: written with what they say of themselves, and run as they are checked."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from polymodal.export.comparison import Run
from polymodal.export.session import DESCRIPTION, by_prediction, needed_package

EXTRA = "openvino"


def write_openvino(model: Any, file: Path, description: Mapping[str, Any]) -> None:
    """Write a model, an .xml with a .bin beside it, its weights as they are.

    Args:
        model: As OpenVINO holds it.
        file: The .xml.
        description: What it says of itself.
    """
    openvino = needed_package("openvino", "format openvino", EXTRA)
    model.set_rt_info(json.dumps(description), [DESCRIPTION])
    openvino.save_model(model, file, compress_to_fp16=False)


def run_openvino(file: Path, outputs: Sequence[str]) -> Run:
    """What runs a file on the CPU, with float32 where it has no 8 bits.

    Args:
        file: The .xml.
        outputs: The names of the predictions.
    """
    openvino = needed_package("openvino", "format openvino", EXTRA)
    compiled = openvino.compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda images: by_prediction(compiled({name: image.numpy() for name, image in images.items()}), outputs)
