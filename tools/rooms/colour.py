"""Colours: sRGB against linear light, and the random palette everything in a room is painted from."""

import colorsys

import numpy as np

from .arrays import Array, vector


def to_linear(srgb: Array) -> Array:
    """Linear light of sRGB values in 0..1 (IEC 61966-2-1)."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4).astype(np.float32)


def to_srgb(linear: Array) -> Array:
    """The sRGB values in 0..1 of linear light, clipped to what can be shown."""
    linear = np.clip(linear, 0, 1)
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055).astype(np.float32)


def hsv(hue: float, saturation: float, value: float) -> Array:
    """One sRGB colour (3,) from hue, saturation and value in 0..1; the hue wraps around."""
    return vector(colorsys.hsv_to_rgb(hue % 1, saturation, value))


def paint(rng: np.random.Generator) -> Array:
    """A random sRGB colour (3,). Walls, floors and furniture share this palette, so a colour names no class."""
    return hsv(rng.random(), rng.beta(1.3, 2.2), rng.uniform(0.25, 0.95))


def companion(rng: np.random.Generator, colour: Array) -> Array:
    """A second sRGB colour (3,) for a pattern: mostly a lighter or darker tone of the first, sometimes a stranger."""
    if rng.random() < 0.35:
        return paint(rng)
    return np.clip(colour * rng.choice([rng.uniform(0.5, 0.8), rng.uniform(1.2, 1.6)]), 0, 1).astype(np.float32)
