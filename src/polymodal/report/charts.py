"""Four small charts as inline SVG in one hand: lines over epochs, a histogram on a log axis, channels, reliability.

Colours are CSS variables, so a chart follows the page's light or dark scheme; text is escaped by `Markup.format`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from markupsafe import Markup

WIDTH, HEIGHT = 360, 220
LEFT, TOP, BOTTOM = 38, 14, 30
TITLE = HEIGHT - 3  # of the axis, below its labels
PLOT = 150  # the least width of what is drawn between the labels
LETTER = 6.8  # about as wide as letters of the charts' size are
BINS_PER_DECADE = 6
DASHES = ("", "7 3", "2 3", "9 3 2 3")


@dataclass(frozen=True)
class Series:
    """One line: {epoch: value} in a CSS colour; a dash pattern tells it apart without colour."""

    name: str
    color: str
    points: Mapping[int, float]
    dash: str = ""


def dash(index: int) -> str:
    """The dash pattern of the n-th of several lines."""
    return DASHES[index % len(DASHES)]


def line_chart(title: str, series: Sequence[Series], *, percent: bool = False, digits: int = 1) -> Markup | None:
    """Lines over epochs, each named at its end; `percent` fixes the axis to 0..100.

    None where there are no two epochs with finite values to draw a line between.
    """
    finite = [replace(s, points={e: v for e, v in s.points.items() if math.isfinite(v)}) for s in series]
    finite = [s for s in finite if s.points]
    epochs = [e for s in finite for e in s.points]
    if len(set(epochs)) < 2:
        return None
    labels = [f"{s.name} {s.points[max(s.points)]:.{digits}f}" for s in finite]
    right = 14 + LETTER * max(map(len, labels))
    width = max(WIDTH, LEFT + PLOT + right)
    values = [v for s in finite for v in s.points.values()]
    first, last = min(epochs), max(epochs)
    ticks = [0.0, 25.0, 50.0, 75.0, 100.0] if percent else tick_values(min(0.0, *values), max(values))
    plot_width = width - LEFT - right
    x, y = across(first, last, LEFT, plot_width), _upwards(ticks[0], ticks[-1], HEIGHT - BOTTOM)
    parts = [_grid(y(t), f"{t:g}", width - right) for t in ticks]
    whole = [t for t in tick_values(first, last, count=4) if first <= t <= last and t == int(t)] or [float(first)]
    parts += [_x_label(x(t), f"{t:g}") for t in whole]
    parts.append(_x_label(LEFT + plot_width / 2, "epoch", TITLE))
    heights = _spread([y(s.points[max(s.points)]) for s in finite], gap=13)
    line = Markup(
        '<polyline class="line" points="{0}" stroke="{1}" stroke-dasharray="{2}"/>'
        '<circle cx="{3:.1f}" cy="{4:.1f}" r="2.6" fill="{1}"/>'
        '<text class="end" x="{5:.1f}" y="{6:.1f}" fill="{1}">{7}</text>'
    )
    for s, label, height in zip(finite, labels, heights, strict=True):
        path = " ".join(f"{x(e):.1f},{y(v):.1f}" for e, v in sorted(s.points.items()))
        end_x, end_y = x(max(s.points)), y(s.points[max(s.points)])
        parts.append(line.format(path, s.color, s.dash, end_x, end_y, width - right + 9, height + 4, label))
    return _svg(f"{title}: " + ", ".join(labels), parts, width)


def scale_histogram(
    name: str, color: str, start: np.ndarray, inside: np.ndarray, outside: np.ndarray, threshold: float | None
) -> Markup:
    """How many channels have which |γ|: above, the end inside and outside the own part; below, mirrored, the start.

    With a threshold above 0 it is marked, and the axis goes beyond it.
    """
    floor = threshold / 100 if threshold else 1e-4
    values = [np.nan_to_num(np.abs(v).ravel(), posinf=0).clip(floor) for v in (start, inside, outside)]
    top = max(float(v.max(initial=10 * (threshold or floor))) for v in values)
    bins = math.floor(math.log10(top / floor) * BINS_PER_DECADE) + 1
    edges = floor * 10 ** (np.arange(bins + 1) / BINS_PER_DECADE)
    # θ lies on an edge up to rounding: values equal to an edge belong to the bin above it.
    places = [np.floor(np.log10(v / floor) * BINS_PER_DECADE + 1e-9).astype(int).clip(0, bins - 1) for v in values]
    before, own, rest = (np.bincount(place, minlength=bins) for place in places)
    ticks = tick_values(0, float(max((own + rest).max(), 1)), count=4)
    right, axis, depth = 12, HEIGHT - BOTTOM - 42, 36
    plot_width = WIDTH - LEFT - right

    def x(value: float) -> float:
        return LEFT + plot_width * math.log(value / edges[0]) / math.log(edges[-1] / edges[0])

    y = _upwards(0, ticks[-1], axis)
    parts = [_grid(y(t), f"{t:g}", WIDTH - right) for t in ticks]
    bar = Markup('<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" fill="{}" opacity="{}"/>')
    for i in range(bins):
        left, width = x(edges[i]) + 0.5, x(edges[i + 1]) - x(edges[i]) - 1
        mirrored = axis + depth * before[i] / max(before.max(), 1)
        for upper, lower, fill, opacity in (
            (y(own[i]), axis, color, 1),
            (y(own[i] + rest[i]), y(own[i]), color, 0.4),
            (axis, mirrored, "var(--soft)", 0.6),
        ):
            if lower > upper:
                parts.append(bar.format(left, upper, width, lower - upper, fill, opacity))
    decades = range(math.ceil(math.log10(edges[0]) - 1e-9), math.floor(math.log10(edges[-1])) + 1)
    parts += [_x_label(x(10.0**d), f"{10.0**d:g}") for d in decades]
    parts.append(_x_label(LEFT + plot_width / 2, "|γ|", TITLE))
    parts += [_side_label("end", TOP + 10), _side_label("start", axis + 14)]
    if threshold:
        mark = Markup(
            '<line class="theta" x1="{0:.1f}" x2="{0:.1f}" y1="{1}" y2="{2}"/>'
            '<text class="end" x="{3:.1f}" y="{4}" fill="var(--ink)">θ = {5:g}</text>'
        )
        parts.append(mark.format(x(threshold), TOP, axis + depth, x(threshold) + 5, TOP + 10, threshold))
    return _svg(f"Histogram of the scales of {name}: {int(own.sum() + rest.sum())} channels", parts)


@dataclass(frozen=True)
class Bin:
    """Pixels of about one confidence; its mean and their accuracy in per cent, None where there are no pixels."""

    pixels: int
    confidence: float | None
    accuracy: float | None


def reliability_diagram(name: str, color: str, bins: Sequence[Bin]) -> Markup | None:
    """Accuracy over confidence, both in per cent, with the diagonal of a confidence that can be believed.

    The larger a dot, the more pixels. None where there are no pixels.
    """
    total = sum(b.pixels for b in bins)
    found = [(b.pixels / total, b.confidence, b.accuracy) for b in bins if b.pixels]
    dots = [(share, sure, right) for share, sure, right in found if sure is not None and right is not None]
    if not dots:
        return None
    right_margin = 20
    x, y = across(0, 100, LEFT, WIDTH - LEFT - right_margin), _upwards(0, 100, HEIGHT - BOTTOM)
    ticks = (0, 25, 50, 75, 100)
    parts = [_grid(y(t), f"{t:g}", WIDTH - right_margin) for t in ticks]
    parts += [_x_label(x(t), f"{t:g}") for t in ticks]
    parts.append(_x_label(x(50), "confidence, %", TITLE))
    diagonal = Markup('<line class="theta" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>')
    parts.append(diagonal.format(x(0), y(0), x(100), y(100)))
    path = " ".join(f"{x(sure):.1f},{y(right):.1f}" for _, sure, right in dots)
    parts.append(Markup('<polyline class="line" points="{}" stroke="{}"/>').format(path, color))
    dot = Markup('<circle cx="{:.1f}" cy="{:.1f}" r="{:.1f}" fill="{}"/>')
    parts += [dot.format(x(sure), y(right), 1.5 + 9 * math.sqrt(share), color) for share, sure, right in dots]
    said = ", ".join(f"{right:.0f} % right at {sure:.0f} %" for _, sure, right in dots)
    return _svg(f"Reliability of {name}: {said}", parts)


def channel_strip(alt: str, keep: np.ndarray, part: np.ndarray, own: str, others: str, columns: int) -> Markup:
    """One cell a channel (C,), in rows of `columns`: in the colour it keeps or gets; the own part is underlined."""
    pitch_x, pitch_y, cell, line = 8, 16, 11, 2
    rows = -(-len(keep) // columns)

    def strokes(mask: np.ndarray, offset: float, length: float) -> str:
        """Dashes of one path, moves relative to each other: thousands of channels stay small."""
        path, at = [], (0, 0)
        for index in np.flatnonzero(mask).tolist():
            row, column = divmod(index, columns)
            spot = (column * pitch_x, row * pitch_y)
            path.append(f"m{spot[0] - at[0]} {spot[1] - at[1]}h{length:g}")
            at = (spot[0] + int(length), spot[1])
        return f"M0 {offset:g}" + "".join(path) if path else ""

    return Markup(
        '<svg class="strip" viewBox="0 0 {} {}" role="img" aria-label="{}">'
        '<path d="{}" stroke="{}" stroke-width="{}" opacity=".32"/><path d="{}" stroke="{}" stroke-width="{}"/>'
        '<path d="{}" stroke="var(--ink)" stroke-width="{}"/></svg>'
    ).format(
        *(columns * pitch_x, rows * pitch_y, alt),
        *(strokes(keep, cell / 2, pitch_x - 1), own, cell),
        *(strokes(~keep, cell / 2, pitch_x - 1), others, cell),
        *(strokes(part, cell + 1.5, pitch_x), line - 0.5),
    )


def across(low: float, high: float, left: float, width: float) -> Callable[[float], float]:
    """Where values from `low` to `high` lie on an axis that begins at `left`."""
    return lambda value: left + width * (value - low) / (high - low)


def _upwards(low: float, high: float, bottom: float) -> Callable[[float], float]:
    """How high values from `low` to `high` lie, from `bottom` to the top of the plot."""
    return lambda value: TOP + (bottom - TOP) * (1 - (value - low) / (high - low))


def _svg(alt: str, parts: Sequence[Markup], width: float = WIDTH) -> Markup:
    return Markup('<svg class="chart" viewBox="0 0 {:.0f} {}" role="img" aria-label="{}">{}</svg>').format(
        width, HEIGHT, alt, Markup("").join(parts)
    )


def _grid(y: float, label: str, end: float) -> Markup:
    return Markup(
        '<line class="grid" x1="{}" x2="{:.1f}" y1="{:.1f}" y2="{:.1f}"/>'
        '<text x="{}" y="{:.1f}" text-anchor="end">{}</text>'
    ).format(LEFT, end, y, y, LEFT - 6, y + 4, label)


def _x_label(x: float, label: str, y: int = HEIGHT - BOTTOM + 14) -> Markup:
    return Markup('<text x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(x, y, label)


def _side_label(label: str, y: float) -> Markup:
    return Markup('<text x="{}" y="{:.1f}">{}</text>').format(LEFT + 4, y, label)


def tick_values(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers whose first and last enclose low..high.

    Values that six digits cannot tell apart are as good as equal: no labels would tell their ticks apart.
    """
    largest = max(abs(low), abs(high))
    span = high - low if high - low > 1e-5 * largest else largest or 1.0
    power = 10.0 ** math.floor(math.log10(span / count))
    step = next(m * power for m in (1, 2, 5, 10) if m * power * count >= span * 0.999)
    begin, end = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{i * step:.12g}") for i in range(begin, max(end, begin + 1) + 1)]


def _spread(heights: Sequence[float], gap: float) -> list[float]:
    """Heights pushed apart to at least `gap`, in their order, within the plot."""
    order = sorted(range(len(heights)), key=heights.__getitem__)
    placed: list[float] = []
    for i in order:
        placed.append(max(heights[i], placed[-1] + gap if placed else TOP))
    overflow = placed[-1] - (HEIGHT - BOTTOM)
    limit = HEIGHT - BOTTOM if overflow > 0 else math.inf
    for k in range(len(placed) - 1, -1, -1):
        placed[k] = min(placed[k], limit)
        limit = placed[k] - gap
    result = [0.0] * len(heights)
    for i, height in zip(order, placed, strict=True):
        result[i] = height
    return result
