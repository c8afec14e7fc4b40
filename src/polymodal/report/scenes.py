"""The scenes of a run as pictures: its inputs and truth, what each prediction says, and where that is wrong."""

from collections.abc import Mapping, Sequence
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


def scene_tiles(scenes: Mapping[str, Scenes], modalities: Sequence[str]) -> list[dict[str, Any]]:
    """Per scene a grid of three rows: the inputs and the truth, what each prediction says, where it is wrong.

    Of several targets each has the latter two of its own, and its truth beside what the predictions say. A modality
    that a scene lacks has no picture.

    Args:
        scenes: By target, of which the only one has no name.
        modalities: Those of the run.
    """
    first = next(iter(scenes.values()))
    inputs = [name for name in modalities if name in first.inputs]
    predictions = [*inputs, *(name for name in first.predictions if name not in inputs)]
    alone = len(scenes) == 1
    columns = max(len(inputs) + 1, len(predictions)) if alone else len(predictions) + 1
    grids = []
    for i, key in enumerate(first.keys):
        shown = [
            Tile(name, f"{key}: {name}", photograph(first.inputs[name][i])) if first.has(name, i) else None
            for name in inputs
        ]
        rows = [shown]
        for target, own in scenes.items():
            truth, said, wrong = _of_target(own, i, predictions, inputs, target)
            (shown if alone else said).append(truth)
            rows += [said, wrong]
        tiles = [tile for row in rows for tile in [*row, *[None] * (columns - len(row))]]
        grids.append({"key": key, "columns": columns, "tiles": tiles})
    return grids


def _of_target(
    scenes: Scenes, i: int, predictions: Sequence[str], inputs: Sequence[str], target: str
) -> tuple[Tile, list[Tile | None], list[Tile | None]]:
    """The truth of a scene, what each prediction says, and where it is wrong."""
    key = scenes.keys[i]
    head, of_it = (f"{target}: ", f" of {target}") if target else ("", "")
    truth, known = scenes.target[i], scenes.known[i]
    drawn = holed(truth, known) if scenes.pictured else class_map(truth, scenes.colors, known)
    said: list[Tile | None] = []
    wrong: list[Tile | None] = []
    for name in predictions:
        if name not in scenes.predictions or not scenes.has(name, i):
            said.append(None)
            wrong.append(None)
            continue
        prediction, kept = scenes.predictions[name][i], name not in inputs
        errors, of, picture, marked = (_picture if scenes.pictured else _classes)(scenes, prediction, truth, known)
        said.append(Tile(f"{head}{name} says", f"{key}: prediction{of_it} of {name}", picture, kept))
        wrong.append(Tile(errors, f"{key}: errors{of_it} of {name}, {of}", marked, kept))
    return Tile(f"{head}truth", f"{key}: truth{of_it}", drawn, kept=True), said, wrong


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
