"""What covers a surface: repeating patterns for walls, floors and furniture, and drawings for the flat things."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from .arrays import Array, vector
from .colour import companion, hsv, paint, to_linear
from .furniture import Part, extent

SIDE = 64  # pixels of a pattern's side: finer detail than this is below a pixel of the rendered image


@dataclass(frozen=True)
class Surface:
    """An image to cover a mesh with.

    Args:
        pixels: Linear albedo (h, w, 3) in 0..1.
        tile: Metres that one repetition covers; 0 for a drawing that is stretched over its mesh once.
    """

    pixels: Array
    tile: float = 0.0


def ripple(rng: np.random.Generator, waves: int = 6, highest: int = 5, side: int = SIDE) -> Array:
    """Smooth periodic noise (side, side) in 0..1: a few cosines of whole frequencies, so that it tiles."""
    y, x = np.mgrid[:side, :side] * (2 * np.pi / side)
    total = np.zeros((side, side))
    for _ in range(waves):
        kx, ky = rng.integers(-highest, highest + 1, 2)
        total += np.cos(kx * x + ky * y + rng.uniform(0, 2 * np.pi))
    return ((total - total.min()) / (np.ptp(total) + 1e-6)).astype(np.float32)


def pattern(rng: np.random.Generator) -> Surface:
    """A random repeating surface: plain, striped, checked, bricks, planks, marbled or dotted."""
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    repeats = int(rng.integers(2, 7))
    match rng.choice(["plain", "stripes", "checks", "bricks", "planks", "marble", "dots"]):
        case "plain":
            mask = 0.25 * ripple(rng)
        case "stripes":
            along = x if rng.random() < 0.5 else y
            mask = (along * repeats % 1) < rng.uniform(0.3, 0.7)
        case "checks":
            mask = ((x * repeats).astype(int) + (y * repeats).astype(int)) % 2 if repeats % 2 == 0 else x * 0
        case "bricks":
            row = (y * 2 * repeats).astype(int)
            mask = ((y * 2 * repeats % 1) < 0.2) | (((x * repeats + 0.5 * (row % 2)) % 1) < 0.1)
        case "planks":
            tones = rng.random(repeats)
            mask = tones[(x * repeats).astype(int)] * ((x * repeats % 1) > 0.08)
        case "marble":
            mask = ripple(rng)
        case _:
            mask = np.hypot(x * repeats % 1 - 0.5, y * repeats % 1 - 0.5) < rng.uniform(0.2, 0.4)
    first = paint(rng)
    second = companion(rng, first)
    blend = np.asarray(mask, np.float32)[..., None]
    return Surface(to_linear(first * (1 - blend) + second * blend), tile=float(rng.uniform(0.7, 2.0)))


def _canvas(background: Array, width: int, height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("RGB", (width, height), _ink(background))
    return image, ImageDraw.Draw(image)


def _ink(colour: Array) -> tuple[int, int, int]:
    red, green, blue = (round(255 * float(np.clip(c, 0, 1))) for c in colour)
    return red, green, blue


def _drawing(image: Image.Image) -> Surface:
    return Surface(to_linear(np.asarray(image, np.float32) / 255))


def rug(rng: np.random.Generator) -> Surface:
    """A rug: a pattern inside one or two borders."""
    body = pattern(rng).pixels.copy()
    for width in sorted(rng.integers(2, 9, int(rng.integers(1, 3))), reverse=True):
        edge = np.ones((SIDE, SIDE), bool)
        edge[width:-width, width:-width] = False
        body[edge] = to_linear(paint(rng))
    return Surface(body)


def picture(rng: np.random.Generator) -> Surface:
    """A framed picture: hills under a sky, or coloured shapes."""
    image, draw = _canvas(paint(rng), 48, 48)
    if rng.random() < 0.5:
        for horizon in np.sort(rng.uniform(12, 44, 3)):
            heights = horizon - 6 * ripple(rng, highest=3)[0, :48]
            draw.polygon([(0, 48), *((x, float(h)) for x, h in enumerate(heights)), (48, 48)], fill=_ink(paint(rng)))
    else:
        for _ in range(int(rng.integers(3, 9))):
            x, y, w, h = rng.uniform(0, 40), rng.uniform(0, 40), rng.uniform(5, 25), rng.uniform(5, 25)
            (draw.ellipse if rng.random() < 0.5 else draw.rectangle)((x, y, x + w, y + h), fill=_ink(paint(rng)))
    draw.rectangle((0, 0, 47, 47), outline=_ink(paint(rng)), width=int(rng.integers(2, 5)))
    return _drawing(image)


def door(rng: np.random.Generator) -> Surface:
    """A door with a frame, sunk panels and a handle."""
    painted = rng.random() < 0.4
    leaf = paint(rng) if painted else hsv(rng.uniform(0.05, 0.1), rng.uniform(0.1, 0.7), rng.uniform(0.3, 0.9))
    image, draw = _canvas(leaf, 40, 88)
    draw.rectangle((0, 0, 39, 95), outline=_ink(companion(rng, leaf)), width=3)
    rows, columns = int(rng.integers(1, 4)), int(rng.integers(1, 3))
    for row in range(rows):
        for column in range(columns):
            w, h = 30 / columns, 78 / rows
            x, y = 5 + column * w, 6 + row * h
            draw.rectangle((x + 2, y + 2, x + w - 2, y + h - 2), fill=_ink(leaf * 0.85), outline=_ink(leaf * 0.6))
    draw.ellipse((31, 44, 35, 48), fill=_ink(hsv(0.13, 0.4, 0.85)))
    return _drawing(image)


def window(rng: np.random.Generator) -> Surface:
    """A window: sky, seldom at dusk, above a strip of land, behind a frame with glazing bars."""
    image, draw = _canvas(vector([1, 1, 1]), 56, 48)
    dusk = rng.random() < 0.25
    top = hsv(rng.uniform(0.58, 0.72), 0.7, 0.35) if dusk else hsv(rng.uniform(0.53, 0.62), rng.uniform(0.2, 0.6), 0.95)
    bottom = hsv(rng.uniform(0.02, 0.1), 0.5, 0.8) if dusk else hsv(0.58, 0.05, 1.0)
    for y in range(48):
        draw.line((0, y, 56, y), fill=_ink(top + (bottom - top) * (y / 47)))
    horizon = int(rng.integers(34, 48))
    draw.rectangle((0, horizon, 56, 48), fill=_ink(hsv(rng.uniform(0.2, 0.4), 0.5, 0.2 if dusk else 0.5)))
    frame = _ink(hsv(rng.uniform(0.05, 0.12), rng.uniform(0, 0.4), rng.choice([0.25, 0.95])))
    draw.rectangle((0, 0, 55, 47), outline=frame, width=3)
    for bar in range(1, int(rng.integers(2, 4))):
        draw.line((0, 24, 56, 24), fill=frame, width=2)
        draw.line((56 * bar / 3, 0, 56 * bar / 3, 48), fill=frame, width=2)
    return _drawing(image)


def poster(rng: np.random.Generator, parts: list[Part], paper: Array) -> tuple[Surface, float, float]:
    """A drawing of furniture as large as life, to hang where the furniture could stand.

    Args:
        rng: Where the colours come from.
        parts: The furniture; its front, +y, looks out of the drawing.
        paper: sRGB colour (3,) behind it.

    Returns:
        The drawing, and its width and height in metres.
    """
    scale, slant, margin = 48.0, 0.35, 0.1  # pixels a metre; shift of a point for each metre it stands back
    wide, deep, high = extent(parts)
    width, height = wide + slant * deep + 2 * margin, high + slant * deep + 2 * margin
    image, draw = _canvas(paper, round(width * scale), round(height * scale))
    main = paint(rng)
    inks = (main, companion(rng, main))

    def at(x: float, y: float, z: float) -> tuple[float, float]:
        return (width / 2 + x - slant * y) * scale, (height - margin - slant * (deep / 2 - y) - z) * scale

    for part in sorted(parts, key=lambda p: (p.centre[1], p.centre[2])):
        colour, (cx, cy, cz) = inks[part.accent], part.centre
        dx, dy, dz = (s / 2 for s in part.size)
        (x0, y0), (x1, y1) = at(cx - dx, cy + dy, cz + dz), at(cx + dx, cy + dy, cz - dz)
        if part.shape == "sphere":
            w, h = x1 - x0, y1 - y0
            draw.ellipse((x0, y0, x1, y1), fill=_ink(colour * 0.8))
            draw.ellipse((x0 + 0.2 * w, y0 + 0.15 * h, x0 + 0.6 * w, y0 + 0.5 * h), fill=_ink(colour))
            continue
        lid = [at(cx + sx * dx, cy + sy * dy, cz + dz) for sx, sy in ((-1, 1), (1, 1), (1, -1), (-1, -1))]
        side = [at(cx + dx, cy + sy * dy, cz + sz * dz) for sy, sz in ((1, 1), (1, -1), (-1, -1), (-1, 1))]
        draw.polygon(side, fill=_ink(colour * 0.55))
        draw.polygon(lid, fill=_ink(colour))
        draw.rectangle((x0, y0, x1, y1), fill=_ink(colour * 0.8))
    return _drawing(image), width, height


FLAT: dict[str, Callable[[np.random.Generator], Surface]] = {
    "rug": rug,
    "picture": picture,
    "door": door,
    "window": window,
}
