"""The same room by day: what its things are usually made of, under light from everywhere."""

from dataclasses import replace

import numpy as np

from .arrays import Array, vector
from .colour import hsv, to_linear
from .layout import Room
from .surfaces import Surface

# What a class is usually made of: hue, saturation and value of its colour, each from and to. Windows and pictures keep
# theirs: a sky looks like a sky as it is, and what a picture shows nobody knows.
MATERIALS: dict[str, tuple[tuple[float, float], tuple[float, float], tuple[float, float]]] = {
    "wall": ((0.09, 0.13), (0.08, 0.2), (0.8, 0.92)),  # plaster
    "floor": ((0.06, 0.09), (0.45, 0.6), (0.45, 0.6)),  # oak
    "ceiling": ((0.1, 0.14), (0.0, 0.05), (0.93, 1.0)),  # lime
    "rug": ((0.96, 1.0), (0.6, 0.75), (0.45, 0.6)),  # red wool
    "door": ((0.05, 0.08), (0.5, 0.65), (0.35, 0.5)),  # stained wood
    "table": ((0.08, 0.11), (0.45, 0.6), (0.65, 0.8)),  # pine
    "chair": ((0.55, 0.65), (0.1, 0.3), (0.25, 0.4)),  # dark steel and leather
    "cabinet": ((0.03, 0.06), (0.55, 0.7), (0.3, 0.42)),  # mahogany
    "bed": ((0.57, 0.63), (0.35, 0.5), (0.7, 0.85)),  # blue linen
    "sofa": ((0.33, 0.42), (0.4, 0.55), (0.4, 0.55)),  # green cloth
    "ball": ((0.0, 0.06), (0.8, 0.95), (0.85, 1.0)),  # orange rubber
}
SKY = 3.0  # light from everywhere, as a share of what the lamp gives at 2 m
CONTRAST = 0.6  # of a pattern, whose tones stay while its colours go: the power of its relative brightness
BRIGHTNESS = vector([0.2126, 0.7152, 0.0722])


def by_day(rng: np.random.Generator, room: Room) -> Room:
    """The room in its usual materials: the same shapes and patterns, other colours, and hardly any shade.

    Args:
        rng: Where the tone of each material is drawn from.
        room: The room, which stays as it is.
    """
    tones = {
        label: to_linear(hsv(*(rng.uniform(*limits) for limits in material))) for label, material in MATERIALS.items()
    }
    things = [
        replace(thing, surface=_dyed(thing.surface, tones[thing.label])) if thing.label in tones else thing
        for thing in room.things
    ]
    return replace(room, things=things, ambient=SKY)


def _dyed(surface: Surface, tone: Array) -> Surface:
    """A surface in another colour, its pattern in tones of it."""
    brightness = surface.pixels @ BRIGHTNESS
    relative = (brightness / brightness.mean()).clip(0.1, 10) ** CONTRAST
    return replace(surface, pixels=np.clip(relative[..., None] * tone, 0, 1).astype(np.float32))
