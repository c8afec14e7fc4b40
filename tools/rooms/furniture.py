"""Furniture as lists of boxes, cylinders and spheres: standing on z = 0, centred, its back towards -y (metres)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Part:
    """One solid of a piece of furniture.

    Args:
        shape: A sphere takes its radius, an upright cylinder its radius and height from `size`.
        centre: Metres.
        size: Full extents, metres.
        accent: Whether the piece's second surface covers it.
    """

    shape: Literal["box", "cylinder", "sphere"]
    centre: Triple
    size: Triple
    accent: bool = False


def _legs(rng: np.random.Generator, width: float, depth: float, height: float, thick: float) -> list[Part]:
    shape: Literal["box", "cylinder"] = "box" if rng.random() < 0.5 else "cylinder"
    x, y = (width - thick) / 2, (depth - thick) / 2
    corners = ((-x, -y), (-x, y), (x, -y), (x, y))
    return [Part(shape, (cx, cy, height / 2), (thick, thick, height), accent=True) for cx, cy in corners]


def table(rng: np.random.Generator) -> list[Part]:
    """A round table on one foot, or a rectangular one on four legs."""
    width, depth, height = rng.uniform(0.9, 1.7), rng.uniform(0.65, 1.0), rng.uniform(0.55, 0.8)
    thick = rng.uniform(0.04, 0.08)
    if rng.random() < 0.35:
        return [
            Part("cylinder", (0, 0, height - thick / 2), (width, width, thick)),
            Part("cylinder", (0, 0, (height - thick) / 2), (0.12, 0.12, height - thick), accent=True),
            Part("cylinder", (0, 0, 0.02), (width / 2, width / 2, 0.04), accent=True),
        ]
    top = Part("box", (0, 0, height - thick / 2), (width, depth, thick))
    return [top, *_legs(rng, width, depth, height - thick, rng.uniform(0.05, 0.1))]


def chair(rng: np.random.Generator) -> list[Part]:
    """A chair with a back."""
    width, depth, seat = rng.uniform(0.42, 0.55), rng.uniform(0.42, 0.55), rng.uniform(0.42, 0.5)
    back = rng.uniform(0.45, 0.7)
    return [
        Part("box", (0, 0, seat - 0.03), (width, depth, 0.06)),
        Part("box", (0, -depth / 2 + 0.03, seat + back / 2), (width, 0.06, back)),
        *_legs(rng, width, depth, seat - 0.06, rng.uniform(0.04, 0.06)),
    ]


def cabinet(rng: np.random.Generator) -> list[Part]:
    """A chest or wardrobe with doors and knobs."""
    width, depth, height = rng.uniform(0.6, 1.5), rng.uniform(0.35, 0.6), rng.uniform(0.8, 2.0)
    parts = [Part("box", (0, 0, height / 2), (width, depth, height))]
    doors = int(rng.integers(1, 4))
    for index in range(doors):
        x = width * ((index + 0.5) / doors - 0.5)
        leaf = (width / doors - 0.06, 0.02, height - 0.1)
        parts.append(Part("box", (x, depth / 2 + 0.01, height / 2), leaf, accent=True))
        parts.append(Part("sphere", (x + width / doors * 0.3, depth / 2 + 0.04, height * 0.5), (0.06, 0.06, 0.06)))
    return parts


def bed(rng: np.random.Generator) -> list[Part]:
    """A bed with a headboard against the wall, a mattress and one or two pillows."""
    width, length, base = rng.uniform(0.95, 1.7), rng.uniform(1.85, 2.1), rng.uniform(0.2, 0.32)
    head, mattress = rng.uniform(0.7, 1.1), rng.uniform(0.16, 0.26)
    parts = [
        Part("box", (0, 0, base / 2), (width, length, base), accent=True),
        Part("box", (0, 0.03, base + mattress / 2), (width - 0.04, length - 0.08, mattress)),
        Part("box", (0, -length / 2 + 0.03, head / 2), (width, 0.06, head), accent=True),
    ]
    pillows = 2 if width > 1.3 else 1
    for index in range(pillows):
        x = width * ((index + 0.5) / pillows - 0.5)
        parts.append(Part("box", (x, -length / 2 + 0.3, base + mattress + 0.06), (0.55, 0.36, 0.12), accent=True))
    return parts


def sofa(rng: np.random.Generator) -> list[Part]:
    """A sofa: seat, back, arms and, often, cushions."""
    width, depth, seat = rng.uniform(1.3, 2.2), rng.uniform(0.75, 0.95), rng.uniform(0.36, 0.46)
    back, arm, thick = rng.uniform(0.72, 0.95), rng.uniform(0.52, 0.66), rng.uniform(0.14, 0.22)
    parts = [
        Part("box", (0, 0, seat / 2), (width, depth, seat)),
        Part("box", (0, -depth / 2 + thick / 2, back / 2), (width, thick, back)),
        Part("box", (-width / 2 + thick / 2, 0, arm / 2), (thick, depth, arm)),
        Part("box", (width / 2 - thick / 2, 0, arm / 2), (thick, depth, arm)),
    ]
    for side in (-1, 1):
        if rng.random() < 0.5:
            centre = (side * (width / 2 - thick - 0.24), -depth / 2 + thick + 0.09, seat + 0.18)
            parts.append(Part("box", centre, (0.38, 0.14, 0.36), accent=True))
    return parts


def ball(rng: np.random.Generator) -> list[Part]:
    """A ball on the floor."""
    diameter = rng.uniform(0.4, 0.85)
    return [Part("sphere", (0, 0, diameter / 2), (diameter, diameter, diameter))]


def extent(parts: list[Part]) -> Triple:
    """Width, depth and height of the box about the origin that holds all parts, metres."""
    width = 2 * max(abs(p.centre[0]) + p.size[0] / 2 for p in parts)
    depth = 2 * max(abs(p.centre[1]) + p.size[1] / 2 for p in parts)
    return width, depth, max(p.centre[2] + p.size[2] / 2 for p in parts)


FURNITURE: dict[str, Callable[[np.random.Generator], list[Part]]] = {
    "table": table,
    "chair": chair,
    "cabinet": cabinet,
    "bed": bed,
    "sofa": sofa,
    "ball": ball,
}
