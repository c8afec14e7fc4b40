"""The files of a scene's predictions, which are filled part by part and appear when all are complete."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from polymodal.data.georeference import Georeference, write_geotiff
from polymodal.files import publish, workplace
from polymodal.runs.opened import Opened
from polymodal.runs.parts import OnDisk, Thinned
from polymodal.tasks.windows import Part, Size

_ROWS = "rows"
"""What a workplace's file is called to which rows go before they are a picture."""


@dataclass(frozen=True)
class Canvas:
    """What maps of a scene are drawn on.

    Args:
        size: Height and width of the scene.
        step: Every how many rows and columns pictures for people show.
        picture: What people see of the scene, with this step.
        path_of: The PNG file of a prediction, by its name, that ends in something.
        reference: The place of the scene, which maps keep as GeoTIFF; pictures for people are PNG.
        absent: Of a scene with a place, which pixels (h, w) of a part nothing is known of; None for none.
    """

    size: Size
    step: int
    picture: np.ndarray
    path_of: Callable[[str, str], Path]
    reference: Georeference | None
    absent: Callable[[Part], np.ndarray | None]


def write_maps(
    opened: Opened, parts: Iterable[tuple[Part, Mapping[str, Tensor]]], canvas: Canvas, *, certainty: bool
) -> list[Path]:
    """Write what is predicted of a scene.

    Args:
        opened: The model.
        parts: As `predicted_parts` gives them.
        canvas: Where to, and as what.
        certainty: Whether to write how sure each prediction is, too.

    Returns:
        The files, in their order.

    Raises:
        OSError: One cannot be written.
    """
    sure = [f"_{what}" for what in opened.output.maps]
    paths: dict[tuple[str, str], Path] = {}
    places: dict[tuple[str, str], Path] = {}
    grown: dict[tuple[str, str], OnDisk | Thinned] = {}
    with ExitStack() as stack:
        for part, scores in parts:
            absent = canvas.absent(part) if canvas.reference else None
            for key, pixels in _pixels(opened, scores, certainty=certainty):
                exact = key[1] in sure or opened.output.exact(key[1])
                if key not in grown:
                    path = canvas.path_of(*key)
                    paths[key] = path.with_suffix(".tif") if exact and canvas.reference else path
                    places[key] = stack.enter_context(workplace(paths[key]))
                    grown[key] = (
                        OnDisk(places[key] / _ROWS, canvas.size) if exact else Thinned(canvas.size, canvas.step)
                    )
                if key[1] in sure and not canvas.reference:
                    pixels = (pixels * 65535).round().astype(np.uint16)
                nodata = opened.output.nodata(key[1], pixels)
                if exact and absent is not None and nodata is not None:
                    pixels = pixels.copy()
                    pixels[absent] = nodata
                grown[key].put(part, pixels)
        for key, path in paths.items():
            _save(opened, canvas, key, grown.pop(key).array, places[key] / path.name)
        for key, path in paths.items():
            publish(places[key], path.name)
    return list(paths.values())


def _pixels(
    opened: Opened, scores: Mapping[str, Tensor], *, certainty: bool
) -> Iterator[tuple[tuple[str, str], np.ndarray]]:
    """What the files of a part of a scene are made of, by prediction and by the ending of the file's name."""
    for name, one in scores.items():
        for ending, pixels in opened.output.pixels(one).items():
            yield (name, ending), pixels
    sure = opened.output.certainty(scores, opened.temperatures) if certainty else {}
    for name, said in sure.items():
        for what, values in said.items():
            yield (name, f"_{what}"), values


def _save(opened: Opened, canvas: Canvas, key: tuple[str, str], array: np.ndarray, file: Path) -> None:
    name, ending = key
    if file.suffix == ".tif" and canvas.reference:
        colors, names = opened.output.legend_of(ending)
        nodata = opened.output.nodata(ending, array)
        write_geotiff(file, array, canvas.reference, nodata=nodata, colors=colors, names=names)
    elif ending in (f"_{what}" for what in opened.output.maps):
        Image.fromarray(array).save(file)
    else:
        opened.output.image(ending, array, canvas.picture, name).save(file)
