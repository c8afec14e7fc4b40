"""How a trained network is tested: scales, mirroring, windows and resizing, around any function that predicts.

A prediction function takes inputs by modality, (B, C_m, H, W), and returns logits by name, (B, classes, h, w).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from polymodal.data import InputSpec
from polymodal.errors import ConfigError
from polymodal.tasks.windows import Size, Windows, listed, windows_of

Predict = Callable[[dict[str, Tensor]], dict[str, Tensor]]

_DIVISOR = 32
"""The stride of most encoders: a view keeps as much of it as the inputs have."""

_MODES = {"bilinear": "bilinear", "cubic": "bicubic"}


@dataclass(frozen=True)
class Protocol:
    """A way to test; the default is the whole scene, once, as it is.

    With several views, scores are the mean of their softmax at the labels' own resolution, as the literature's
    "multi-scale and flip". Several windows average logits where they overlap, in every view.

    Args:
        scales: Factors by which the inputs are resized.
        flip: Whether every scale is predicted mirrored left to right, too.
        window: Height and width of the part that the network sees at a time; None for all.
        stride: From one window to the next; None for two thirds of the window.
        resize: How logits reach the labels' resolution: "bilinear", or "cubic" as in the released code of CEN.

    Raises:
        ConfigError: When a value cannot work.
    """

    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    window: Size | None = None
    stride: Size | None = None
    resize: Literal["bilinear", "cubic"] = "bilinear"

    def __post_init__(self) -> None:
        if not self.scales or not all(0 < scale < math.inf for scale in self.scales):
            raise ConfigError(f"--scales: expected factors above 0, got {listed(self.scales) or 'none'}.")
        if len(set(self.scales)) < len(self.scales):
            raise ConfigError(f"--scales: expected different factors, got {listed(self.scales)}.")
        windows_of(self.window, self.stride)
        if self.resize not in _MODES:
            raise ConfigError(f"--resize: expected bilinear or cubic, got {self.resize!r}.")

    def __call__(
        self, predict: Predict, inputs: Mapping[str, Tensor], specs: Mapping[str, InputSpec], size: Sequence[int]
    ) -> dict[str, Tensor]:
        """Scores whose largest is the predicted class.

        Args:
            predict: The network.
            inputs: (B, C_m, H, W) by modality.
            specs: What the inputs' values mean.
            size: Height and width of the labels.

        Returns:
            (B, classes, *size) by name: probabilities, or logits where there is one view only.
        """
        if windows := windows_of(self.window, self.stride):
            predict = in_windows(predict, windows, self.resize)
        views = self._views
        total: dict[str, Tensor] = {}
        for scale, mirrored in views:
            for name, logits in predict(view(inputs, specs, scale, mirrored)).items():
                scores = resized(logits.flip(-1) if mirrored else logits, size, self.resize)
                if self.averages:
                    scores = scores.softmax(1)
                total[name] = total[name] + scores if name in total else scores
        return {name: scores / len(views) for name, scores in total.items()}

    @property
    def averages(self) -> bool:
        """Whether there are several views, so that scores are probabilities and no logits."""
        return len(self._views) > 1

    @property
    def _views(self) -> list[tuple[float, bool]]:
        return [(scale, mirrored) for scale in self.scales for mirrored in ((False, True) if self.flip else (False,))]

    @property
    def name(self) -> str:
        """What is not the default, for names of files: "" or for example "multi-scale-flip"."""
        parts = {
            "multi-scale": self.scales != (1.0,),
            "flip": self.flip,
            "window": self.window is not None,
            self.resize: self.resize != "bilinear",
        }
        return "-".join(part for part, there in parts.items() if there)

    def __str__(self) -> str:
        """For people to read."""
        several = len(self.scales) > 1
        parts = [f"scale{'s' if several else ''} {', '.join(f'{scale:g}' for scale in self.scales)}"]
        if self.flip:
            parts.append("mirrored, too")
        if self.window is not None:
            parts.append(f"windows of {self.window[0]}x{self.window[1]} (height x width)")
        if several or self.flip:
            parts.append("mean of softmax")
        return "; ".join((*parts, f"logits resized {self.resize}"))


def view(
    inputs: Mapping[str, Tensor], specs: Mapping[str, InputSpec], scale: float, mirrored: bool
) -> dict[str, Tensor]:
    """The inputs at another scale, mirrored or not.

    Depth and class numbers take the value of the nearest pixel, as in training. Where the inputs' height or width is
    divisible by 2, 4, 8, 16 or 32, that of the view is, too: networks ask for it.

    Args:
        inputs: Normalised, (B, C_m, H, W) by modality.
        specs: What the values mean.
        scale: Factor for height and width.
        mirrored: Left to right. The first channel of normals, their x, then changes its sign.
    """
    shown = {}
    for name, image in inputs.items():
        size = tuple(_scaled(length, scale) for length in image.shape[-2:])
        if size != image.shape[-2:]:
            if specs[name].kind in ("depth", "label"):
                image = F.interpolate(image, size=size, mode="nearest-exact")
            else:
                image = F.interpolate(image, size=size, mode="bilinear", antialias=True)
        shown[name] = _mirrored(image, specs[name]) if mirrored else image
    return shown


def in_windows(predict: Predict, windows: Windows, resize: str = "bilinear") -> Predict:
    """The same prediction from overlapping parts: the mean of the logits of all windows over a pixel.

    All windows count alike, as in the literature; see `polymodal.tasks.windows.blended` for large images.

    Args:
        predict: Sees one window at a time.
        windows: Which there are.
        resize: How a window's logits reach its size.

    Returns:
        A function whose logits have the size of its inputs.
    """

    def whole(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        height, width = size = next(iter(inputs.values())).shape[-2:]
        sums: dict[str, Tensor] = {}
        seen = torch.zeros(size, device=next(iter(inputs.values())).device)
        rows, columns = windows.starts((height, width))
        for top in rows:
            for left in columns:
                part = (..., slice(top, top + windows.size[0]), slice(left, left + windows.size[1]))
                seen[part] += 1
                for name, logits in predict({name: image[part] for name, image in inputs.items()}).items():
                    if name not in sums:
                        sums[name] = logits.new_zeros(*logits.shape[:2], *size)
                    sums[name][part] += resized(logits, seen[part].shape, resize)
        return {name: logits / seen for name, logits in sums.items()}

    return whole


def resized(logits: Tensor, size: Sequence[int], resize: str) -> Tensor:
    """Logits (B, classes, h, w) at another size, "bilinear" or "cubic", without smoothing where they shrink."""
    if logits.shape[-2:] == tuple(size):
        return logits
    return F.interpolate(logits, size=tuple(size), mode=_MODES[resize])


def _mirrored(image: Tensor, spec: InputSpec) -> Tensor:
    image = image.flip(-1)
    if spec.kind != "normal":
        return image
    # -x, normalised: -(x' σ + μ) = x'' σ + μ. Pixels without a measurement are 0 and stay so.
    x = torch.where((image == 0).all(1), 0.0, -image[:, 0] - 2 * spec.mean[0] / spec.std[0])
    return torch.cat((x[:, None], image[:, 1:]), 1)


def _scaled(length: int, scale: float) -> int:
    if scale == 1:
        return length
    divisor = math.gcd(length, _DIVISOR)
    return max(1, round(length * scale / divisor)) * divisor
