"""The scenes of a run as pictures: its inputs and truth, what each prediction says, and where that is wrong."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from polymodal.report.arrays import Scenes
from polymodal.report.data_uris import class_map, difference_map, error_map, holed, photograph
from polymodal.report.render import share, short


@dataclass(frozen=True)
class Tile:
    """One picture of a scene, as a data URI; whether it stays in sight where a narrow page scrolls."""

    caption: str
    alt: str
    uri: str
    kept: bool = False


def scene_tiles(scenes: Scenes, modalities: Sequence[str]) -> list[dict[str, Any]]:
    """Per scene a grid of three rows: the inputs and the truth, what each prediction says, where it is wrong."""
    inputs = [name for name in modalities if name in scenes.inputs]
    predictions = [*inputs, *(name for name in scenes.predictions if name not in inputs)]
    columns = max(len(inputs) + 1, len(predictions))
    grids = []
    for i, key in enumerate(scenes.keys):
        truth, known = scenes.target[i], scenes.known[i]
        drawn = holed(truth, known) if scenes.pictured else class_map(truth, scenes.colors, known)
        shown: list[Tile | None] = [Tile(name, f"{key}: {name}", photograph(scenes.inputs[name][i])) for name in inputs]
        shown.append(Tile("truth", f"{key}: truth", drawn, kept=True))
        said: list[Tile | None] = []
        wrong: list[Tile | None] = []
        for name in predictions:
            if name not in scenes.predictions:
                said.append(None)
                wrong.append(None)
                continue
            prediction, kept = scenes.predictions[name][i], name not in inputs
            errors, of, picture, marked = (_picture if scenes.pictured else _classes)(scenes, prediction, truth, known)
            said.append(Tile(f"{name} says", f"{key}: prediction of {name}", picture, kept))
            wrong.append(Tile(errors, f"{key}: errors of {name}, {of}", marked, kept))
        tiles = [tile for row in (shown, said, wrong) for tile in [*row, *[None] * (columns - len(row))]]
        grids.append({"key": key, "columns": columns, "tiles": tiles})
    return grids


def _picture(scenes: Scenes, prediction: np.ndarray, truth: np.ndarray, known: np.ndarray) -> tuple[str, str, str, str]:
    """How far a predicted picture is off, in short and in words, the picture, and where it is off."""
    del scenes
    off = np.abs(prediction.astype(np.float32) - truth)[known] / 255
    errors = short(float(off.mean()) if known.any() else None)
    return f"{errors} off", f"{errors} of the range", photograph(prediction), difference_map(prediction, truth, known)


def _classes(scenes: Scenes, prediction: np.ndarray, truth: np.ndarray, known: np.ndarray) -> tuple[str, str, str, str]:
    """How much of a class map is wrong, in short and in words, the map, and where it is wrong."""
    errors = share(float((prediction != truth)[known].mean()) if known.any() else None)
    picture = class_map(prediction, scenes.colors, np.ones_like(known))
    return f"{errors} wrong", f"{errors} of the pixels", picture, error_map(prediction, truth, scenes.colors, known)
