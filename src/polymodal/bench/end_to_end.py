"""From the files of a scene to the file of its class map, as `polymodal predict` goes: what a user waits for."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from polymodal.bench.case import Networks
from polymodal.data import InputSpec, resize_inputs
from polymodal.data.pictures import encode_png
from polymodal.files import write_file
from polymodal.metrics.largest import largest
from polymodal.names import ENSEMBLE
from polymodal.runs.predict import read_scene
from polymodal.runs.scenes import Scene
from polymodal.tasks.base import output_at


def from_files(
    run: Callable[[Mapping[str, Tensor]], dict[str, Tensor]], networks: Networks
) -> Callable[[], dict[str, Tensor]]:
    """What reads a case's images from files, predicts, and writes the ensemble's class maps.

    Args:
        run: Predicts from images by modality.
        networks: With the images; the files lie where exported files do.

    Returns:
        What returns the logits by name.
    """
    case, folder = networks.case, networks.exports / "scenes"
    specs = {name: _spec(channels) for name, channels in case.channels.items()}
    scenes = [_written(networks, specs, folder / str(i), i) for i in range(case.batch)]

    def predict() -> dict[str, Tensor]:
        read = [resize_inputs(*read_scene(scene, specs), scene.named, None)[0] for scene in scenes]
        found = run({name: torch.stack([own[name] for own in read]).to(case.device) for name in specs})
        labels = largest(output_at(found[ENSEMBLE], case.size), 1)[1].cpu().numpy()
        for i, one in enumerate(labels.astype(np.uint8 if case.classes <= 256 else np.uint16)):
            Image.fromarray(one).save(folder / str(i) / "map.png")
        return found

    return predict


def _spec(channels: int) -> InputSpec:
    """What files of so many channels hold: colours, depth in millimetres, or the numbers themselves."""
    if channels == 3:
        return InputSpec("image", 3, mean=(0.5,) * 3, std=(0.125,) * 3)
    if channels == 1:
        return InputSpec("depth", 1, scale=0.001, unit="m", mean=(4.0,), std=(1.0,))
    return InputSpec("raw", channels)


def _written(networks: Networks, specs: Mapping[str, InputSpec], folder: Path, i: int) -> Scene:
    """A sample of the images as files."""
    files = {}
    for name, spec in specs.items():
        image = networks.inputs[name][i].cpu().numpy()
        values = image * np.reshape(spec.std, (-1, 1, 1)) + np.reshape(spec.mean, (-1, 1, 1))
        files[name] = folder / f"{name}.{'npy' if spec.kind == 'raw' else 'png'}"
        files[name].parent.mkdir(parents=True, exist_ok=True)
        if spec.kind == "raw":
            np.save(files[name], values.astype(np.float32))
        elif spec.kind == "image":
            write_file(files[name], encode_png((values * 255).round().clip(0, 255).astype(np.uint8).transpose(1, 2, 0)))
        else:
            write_file(files[name], encode_png((values[0] * 1000).round().clip(1, 65535).astype(np.uint16)))
    return Scene("scene", files)
