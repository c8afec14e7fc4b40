"""A class map as a picture for people: class colours over the scene, and a legend of the classes that are there."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

SMALLEST = 480
"""Pixels that the shorter side of a picture has at least, so that small scenes can be seen."""

LARGEST = 1920
"""Pixels that no side is enlarged beyond: a strip of a scene stays a strip."""

OPACITY = 0.5
MARGIN, ROW, SWATCH, TEXT = 18, 28, 18, 16
PAPER, INK, PALE = (255, 255, 255), (28, 28, 30), (110, 110, 115)


def overlay(
    picture: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    colors: Sequence[tuple[int, int, int]],
    title: str,
) -> Image.Image:
    """Class colours over a picture, with outlines and a legend at its right.

    Args:
        picture: uint8 (H, W, 3).
        labels: (H, W) class numbers.
        classes: Names by class number.
        colors: Red, green and blue by class number.
        title: Stands above the legend.

    Returns:
        The picture, enlarged by a whole factor when it is small, and the legend: the largest class first, with its
        share of the pixels.
    """
    large = enlarged(labels)
    height, width = large.shape
    scene = Image.fromarray(picture).convert("L").resize((width, height), Image.Resampling.BICUBIC)
    grey = np.asarray(scene, np.float32)[..., None]
    painted = np.array(colors, np.float32)[large]
    # In grey the scene keeps its shapes, and every hue in the picture is one of the legend.
    mixed = (1 - OPACITY) * grey + OPACITY * painted
    mixed[_outlines(large)] = 255
    shown = Image.fromarray(mixed.round().astype(np.uint8))

    legend = _legend(labels, classes, colors, title, height)
    canvas = Image.new("RGB", (width + legend.width, max(height, legend.height)), PAPER)
    canvas.paste(shown, (0, 0))
    canvas.paste(legend, (width, 0))
    return canvas


def enlarged(pixels: np.ndarray) -> np.ndarray:
    """Pixels (H, W, ...), each as often as it takes for the shorter side to be seen and the longer one to be shown."""
    height, width = pixels.shape[:2]
    factor = max(1, min(-(-SMALLEST // min(height, width)), LARGEST // max(height, width)))
    return pixels.repeat(factor, 0).repeat(factor, 1)


def _outlines(labels: np.ndarray) -> np.ndarray:
    """The pixels at whose right or bottom another class begins."""
    edges = np.zeros(labels.shape, bool)
    edges[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    edges[:-1] |= labels[:-1] != labels[1:]
    return edges


def _legend(
    labels: np.ndarray, classes: Sequence[str], colors: Sequence[tuple[int, int, int]], title: str, height: int
) -> Image.Image:
    counts = np.bincount(labels.ravel(), minlength=len(classes))
    present = [int(index) for index in np.argsort(-counts, kind="stable") if counts[index]]
    rows = max(1, (height - 2 * MARGIN - ROW) // ROW)
    columns = [present[start : start + rows] for start in range(0, len(present), rows)]
    text, bold = _font("DejaVuSans.ttf"), _font("DejaVuSans-Bold.ttf")
    share_width = round(text.getlength("100 %"))
    widths = [max(round(text.getlength(classes[index])) for index in column) for column in columns]
    steps = [SWATCH + 10 + width + 14 + share_width + MARGIN for width in widths]
    size = (MARGIN + max(sum(steps), round(bold.getlength(title)) + MARGIN), 2 * MARGIN + ROW * (1 + len(columns[0])))
    legend = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(legend)
    draw.text((MARGIN, MARGIN), title, INK, bold, anchor="lt")
    x = MARGIN
    for column, width, step in zip(columns, widths, steps, strict=True):
        for row, index in enumerate(column, start=1):
            middle = MARGIN + row * ROW + ROW // 2
            box = (x, middle - SWATCH // 2, x + SWATCH, middle + SWATCH // 2)
            draw.rounded_rectangle(box, 4, fill=tuple(colors[index]), outline=PALE)
            draw.text((x + SWATCH + 10, middle), classes[index], INK, text, anchor="lm")
            share = 100 * counts[index] / labels.size
            number = "< 1 %" if share < 1 else f"{share:.0f} %"
            draw.text((x + SWATCH + 10 + width + 14 + share_width, middle), number, PALE, text, anchor="rm")
        x += step
    return legend


def _font(name: str) -> ImageFont.FreeTypeFont:
    """From matplotlib, as a system may have none; it knows Latin, Greek and Cyrillic."""
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", name), TEXT)
