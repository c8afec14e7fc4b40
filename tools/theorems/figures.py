"""Figures: their colours, what several of them draw, and how they are stored."""

import io
from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from theorems.channels import Channels
from theorems.summary import shares

mpl.use("agg")

BLUE, ORANGE, GREEN, GREY = "#2a64c9", "#d9631e", "#2e8b57", "#777777"


def draw_shares(axis: Axes, channels: Channels, grid: list[float]) -> None:
    """Predicted and observed share over λ, of the channels whose gradient is not exactly 0."""
    live = channels.norm.amin(1) > 0
    curves = [shares(channels, live, penalty) for penalty in grid]
    for key, label, style in (
        ("formula", "formula with ‖g‖", {"color": BLUE}),
        ("formula, mismatched", "with the mismatched slope's size", {"color": ORANGE}),
        ("observed", "observed", {"color": "black", "ls": "", "marker": "o", "ms": 3.5}),
    ):
        axis.plot(grid, [curve[key] for curve in curves], label=label, **style)
    axis.set(xscale="log", xlabel="λ", ylabel="share", ylim=(-0.03, 1.03))
    axis.legend(frameon=False, fontsize=8)


def points_and_errors(points: list[tuple[float, float, int]]) -> tuple[list[float], list[float], list[float]]:
    """x, y and the binomial standard error of y."""
    return (
        [x for x, _, _ in points],
        [y for _, y, _ in points],
        [(y * (1 - y) / count) ** 0.5 for _, y, count in points],
    )


def save(figure: Figure, path: Path) -> None:
    """A PNG of 64 colours, small enough for a repository."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=100)
    Image.open(buffer).convert("RGB").quantize(64).save(path, optimize=True)
    plt.close(figure)
