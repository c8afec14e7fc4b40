"""Sensors that lie: what goes wrong with an image of each kind, at five strengths, drawn by a seed.

All of them act on one image at the size at which the network sees it, in the values of its kind (image: 0 to 1; depth
and raw: in their unit; normal: -1 to 1), and on the mask of what was measured. The strengths of noise, blur and JPEG
are those of ImageNet-C (Hendrycks and Dietterich, ICLR 2019; its code: gaussian_noise, gaussian_blur,
jpeg_compression), blur in proportion to the shorter side of the image; the others are this package's own.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from zlib import crc32

import torch
from torch import Generator, Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as V

from polymodal.data.inputs import EXACT, InputSpec
from polymodal.errors import ConfigError

STRENGTHS = (1, 2, 3, 4, 5)

_REFERENCE = 224
"""Pixels of the shorter side for which lengths are given."""

Result = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Frame:
    """What a fault is given: values (C, H, W), the mask (1, H, W), their meaning, its amount, and what draws."""

    values: Tensor
    valid: Tensor
    spec: InputSpec
    amount: float
    draw: Generator


Change = Callable[[Frame], Result]
"""To the values and the mask with the fault."""


def _dark(frame: Frame) -> Result:
    """Less light, by a factor."""
    return frame.values * frame.amount, frame.valid


def _overexposed(frame: Frame) -> Result:
    """More light than the sensor holds, by a factor."""
    return (frame.values * frame.amount).clamp(max=1), frame.valid


def _noise(frame: Frame) -> Result:
    """Normal noise; of an image in its full scale, of raw values in their own deviations."""
    noise = torch.randn(frame.values.shape, generator=frame.draw) * frame.amount
    if frame.spec.kind == "image":
        return (frame.values + noise).clamp(0, 1), frame.valid
    return frame.values + noise * torch.tensor(frame.spec.std)[:, None, None], frame.valid


def _blur(frame: Frame) -> Result:
    """Out of focus: a Gaussian of so many pixels, over what was measured."""
    sigma = frame.amount * _scale(frame.values)
    shorter = min(frame.values.shape[-2:])
    radius = max(1, min(math.ceil(3 * sigma), (shorter - 1) // 2))
    blur = partial(V.gaussian_blur, kernel_size=[2 * radius + 1] * 2, sigma=[sigma, sigma])
    known = frame.valid.float()
    share = 1.0 if frame.valid.all() else blur(known).clamp(min=1e-6)
    return blur(frame.values * known) / share, frame.valid


def _jpeg(frame: Frame) -> Result:
    """Compressed to a quality; channels beyond three, a JPEG file's, each by itself."""
    stored = (frame.values * 255).round().clamp(0, 255).byte()
    parts = stored.split(1) if stored.shape[0] != 3 else (stored,)
    return torch.cat([V.jpeg(part, int(frame.amount)) for part in parts]).float() / 255, frame.valid


def _holes(frame: Frame) -> Result:
    """A share of the pixels without measurement, in patches, as on glass and dark or shining things."""
    height, width = frame.values.shape[-2:]
    coarse = torch.rand(1, 1, max(2, height // 16), max(2, width // 16), generator=frame.draw)
    field = F.interpolate(coarse, size=(height, width), mode="bicubic")[0]
    order = field.flatten().argsort()
    hole = torch.zeros(height * width, dtype=torch.bool)
    hole[order[: round(frame.amount * len(order))]] = True
    return frame.values, frame.valid & ~hole.view(1, height, width)


def _lines(frame: Frame) -> Result:
    """A share of the rows without measurement."""
    height = frame.values.shape[-2]
    lost = torch.randperm(height, generator=frame.draw)[: round(frame.amount * height)]
    kept = torch.ones(1, height, 1, dtype=torch.bool)
    kept[:, lost] = False
    return frame.values, frame.valid & kept


def _quantised(frame: Frame) -> Result:
    """So many steps between the nearest and the farthest that was measured, in each channel."""
    low, high = _reach(frame.values, frame.valid)
    step = ((high - low) / (frame.amount - 1)).clamp(min=1e-12)
    return ((frame.values - low) / step).round() * step + low, frame.valid


def _range_noise(frame: Frame) -> Result:
    """Noise that grows with the square of the distance, as of structured light (Khoshelham and Elberink, Sensors 2012).

    The amount is its share of the distance at the median of what was measured.
    """
    known = frame.values[frame.valid.expand_as(frame.values)]
    middle = known.median().abs().clamp(min=1e-12) if known.numel() else torch.tensor(1.0)
    deviation = frame.amount * frame.values**2 / middle
    return frame.values + torch.randn(deviation.shape, generator=frame.draw) * deviation, frame.valid


def _bleeding(frame: Frame) -> Result:
    """Beside an edge, a value between those of its two sides, drawn anew for every pixel."""
    radius = max(1, round(frame.amount * _scale(frame.values)))
    low, high = _reach(frame.values, frame.valid)
    far = torch.where(frame.valid, frame.values, low)
    near = torch.where(frame.valid, frame.values, high)
    above = F.max_pool2d(far[None], 2 * radius + 1, 1, radius)[0]
    below = -F.max_pool2d(-near[None], 2 * radius + 1, 1, radius)[0]
    edge = above - below > 0.05 * (high - low)
    mixed = torch.lerp(below, above, torch.rand(frame.values.shape, generator=frame.draw))
    return torch.where(edge, mixed, frame.values), frame.valid


def _black(frame: Frame) -> Result:
    """No signal: a black picture, or no measurement at all."""
    if frame.spec.kind == "image":
        return torch.zeros_like(frame.values), frame.valid
    return frame.values, torch.zeros_like(frame.valid)


def _shifted(frame: Frame) -> Result:
    """Not aligned with the others: moved by so many pixels in a direction that is drawn."""
    angle = float(torch.rand((), generator=frame.draw)) * 2 * math.pi
    length = frame.amount * _scale(frame.values)
    return _moved(frame, 0.0, [round(length * math.cos(angle)), round(length * math.sin(angle))])


def _rotated(frame: Frame) -> Result:
    """Not aligned with the others: turned by so many degrees, to a side that is drawn."""
    side = 1 if float(torch.rand((), generator=frame.draw)) < 0.5 else -1
    return _moved(frame, side * frame.amount, [0, 0])


def _moved(frame: Frame, angle: float, shift: list[int]) -> Result:
    """Moved; beside the image a picture is black, and of all else nothing is measured.

    An interpolated pixel is the mean of what was measured, and counts as measured where that is more than half of it.
    """
    way = InterpolationMode.NEAREST if frame.spec.kind in EXACT else InterpolationMode.BILINEAR
    move = partial(V.affine, angle=angle, translate=shift, scale=1.0, shear=[0.0, 0.0], interpolation=way)
    known, beside = frame.valid.float(), float(frame.spec.kind == "image")
    share = move(known - beside) + beside  # zeros come in
    return move(frame.values * known) / share.clamp(min=0.5), share > 0.5


_OF_IMAGES: dict[str, tuple[Change, Sequence[float]]] = {
    "dark": (_dark, (0.5, 0.35, 0.25, 0.15, 0.08)),
    "overexposed": (_overexposed, (1.5, 2.0, 2.75, 4.0, 6.0)),
    "noise": (_noise, (0.08, 0.12, 0.18, 0.26, 0.38)),
    "blur": (_blur, (1, 2, 3, 4, 6)),
    "jpeg": (_jpeg, (25, 18, 15, 10, 7)),
}
_OF_DEPTH: dict[str, tuple[Change, Sequence[float]]] = {
    "holes": (_holes, (0.1, 0.2, 0.3, 0.45, 0.6)),
    "lines": (_lines, (0.1, 0.2, 0.3, 0.45, 0.6)),
    "quantised": (_quantised, (64, 32, 16, 8, 4)),
    "range-noise": (_range_noise, (0.01, 0.02, 0.04, 0.08, 0.16)),
    "bleeding": (_bleeding, (1, 2, 3, 4, 6)),
}
_OF_ALL: dict[str, tuple[Change, Sequence[float]]] = {
    "black": (_black, (1.0,)),
    "shifted": (_shifted, (2, 4, 8, 16, 32)),
    "rotated": (_rotated, (1, 2, 4, 8, 16)),
}
CORRUPTIONS: dict[str, dict[str, tuple[Change, Sequence[float]]]] = {
    "image": _OF_IMAGES | _OF_ALL,
    "depth": _OF_DEPTH | _OF_ALL,
    "raw": {name: _OF_IMAGES[name] for name in ("noise", "blur")}
    | {name: _OF_DEPTH[name] for name in ("holes", "lines", "quantised")}
    | _OF_ALL,
    "normal": {name: _OF_DEPTH[name] for name in ("holes", "lines")} | _OF_ALL,
    "label": _OF_ALL,
}
"""By kind and name: what it does, and the amounts of its strengths."""


@dataclass(frozen=True)
class Corruption:
    """What goes wrong with one modality.

    Args:
        modality: Whose images.
        name: One of its kind's in `CORRUPTIONS`.
        strength: From 1 on.
    """

    modality: str
    name: str
    strength: int

    def __call__(self, image: Tensor, valid: Tensor, spec: InputSpec, key: str) -> Tensor:
        """An image of the modality with this fault, the same one for the same key.

        Args:
            image: (C, H, W) as the network takes it.
            valid: Where something was measured, (1, H, W).
            spec: What its values mean.
            key: Of the sample.

        Returns:
            As `image`, 0 where nothing is measured any more.
        """
        change, amounts = CORRUPTIONS[spec.kind][self.name]
        draw = Generator().manual_seed(crc32(f"{self.modality}/{self.name}/{self.strength}/{key}".encode()))
        mean, std = (torch.tensor(part)[:, None, None] for part in (spec.mean, spec.std))
        values, measured = change(Frame(image * std + mean, valid, spec, amounts[self.strength - 1], draw))
        return ((values - mean) / std).masked_fill(~measured, 0.0)

    def __str__(self) -> str:
        return f"{self.modality}/{self.name}:{self.strength}"


def chosen_corruptions(given: str, inputs: dict[str, InputSpec]) -> list[Corruption]:
    """The faults that are meant, modality by modality.

    Args:
        given: "all", or names with commas between them: `dark` of every modality that can have it, `rgb/dark` of one,
            each with its strengths or, as `dark:3`, with one.
        inputs: The model's.

    Raises:
        ConfigError: There is no such fault, modality or strength, or one is named twice.
    """
    if given == "all":
        given = ",".join(f"{modality}/{name}" for modality, spec in inputs.items() for name in CORRUPTIONS[spec.kind])
    found: list[Corruption] = []
    for words in given.split(","):
        where, slash, what = words.rpartition("/")
        name, colon, strength = what.partition(":")
        if slash and where not in inputs:
            raise ConfigError(f"--corrupt: the model has no modality {where!r}; it has {', '.join(inputs)}.")
        able = {m: spec for m, spec in inputs.items() if name in CORRUPTIONS[spec.kind] and where in ("", m)}
        if not able:
            known = {m: CORRUPTIONS[spec.kind] for m, spec in inputs.items() if where in ("", m)}
            listed = "; ".join(f"{m} has {', '.join(names)}" for m, names in known.items())
            raise ConfigError(f"--corrupt: there is no {name!r} here: {listed}.")
        for modality, spec in able.items():
            levels = strengths(spec, name)
            if colon and strength not in map(str, levels):
                raise ConfigError(f"--corrupt: {words}: expected a strength from 1 to {levels[-1]}, got {strength!r}.")
            added = [Corruption(modality, name, level) for level in levels if not colon or strength == str(level)]
            if twice := [corruption for corruption in added if corruption in found]:
                raise ConfigError(f"--corrupt: {twice[0]} is named twice.")
            found += added
    return found


def strengths(spec: InputSpec, name: str) -> Sequence[int]:
    """Those that a fault of a kind has."""
    return STRENGTHS[: len(CORRUPTIONS[spec.kind][name][1])]


def _scale(values: Tensor) -> float:
    return min(values.shape[-2:]) / _REFERENCE


def _reach(values: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the largest that was measured in each channel, (C, 1, 1)."""
    known = values[:, valid[0]]
    if not known.shape[1]:
        return torch.tensor(0.0), torch.tensor(1.0)
    return known.amin(1)[:, None, None], known.amax(1)[:, None, None]
