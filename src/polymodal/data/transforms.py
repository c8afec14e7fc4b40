"""Augmentation: one geometry for all modalities and targets, photometry by the kind of each modality.

The part of the files that a crop shows is cut out before anything else, so only pixels that are used are converted and
resized. All draws come from one torch generator.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad
from torchvision import tv_tensors
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as V

from polymodal.data.inputs import EXACT, InputSpec, check_sizes, normalise, to_values
from polymodal.data.target import Truth, target_scaling
from polymodal.limits import FROM_0, SHARE, Limit, at_least, check, each, or_none

Size = tuple[int, int]

_LIMITS = {
    "scale": Limit(lambda scale: 0 < scale[0] <= scale[1] < math.inf, "two finite factors above 0, the smaller first"),
    "min_side": at_least(1),
    "crop": or_none(each(at_least(1), "a height and a width above 0")),
    "photometric": SHARE,
    "depth_noise": FROM_0,
    "depth_holes": SHARE,
    "depth_hole_size": SHARE,
}

_TARGET = "target/"  # before a target's name among those of modalities, which have no slash


class Augmented(NamedTuple):
    """A training sample.

    Attributes:
        inputs: Normalised, float32 (C_m, h, w), by modality.
        valid: Where something was measured, bool (1, h, w), by modality.
        targets: By name; labels, int64 (h, w), the ignored value where nothing was; or images, float32 (C, h, w), from
            -1 to 1.
        targets_valid: Where there is truth, bool (1, h, w), by the names of images.
    """

    inputs: dict[str, Tensor]
    valid: dict[str, Tensor]
    targets: dict[str, Tensor]
    targets_valid: dict[str, Tensor]


@dataclass(frozen=True)
class Augment:
    """What is changed at random in every training sample.

    Args:
        scale: Range of the factor by which a sample is enlarged before it is cropped. Depth keeps its metric values.
        min_side: The least length of the shorter side of a scaled sample, in pixels: a smaller factor is raised to it.
        crop: Height and width of the result; None keeps those of the unscaled sample. What lies outside of the sample
            counts as not measured in the inputs and as ignored in the target.
        flip: Whether half of the samples are mirrored left to right. In normal maps the first channel, the component
            along the image's x axis, then changes its sign.
        photometric: Strength s of the changes to kind image: brightness, contrast and, for three channels, saturation,
            each by a factor from 1 - s to 1 + s. Maps that say something by their values belong to kind raw; where
            they are declared as images (Taskonomy's reshading, edges and curvatures), set 0.
        depth_noise: Standard deviation of the noise on kind depth, as a share of the depth itself.
        depth_holes: Probability that a rectangle of kind depth counts as not measured.
        depth_hole_size: Largest height and width of that rectangle, as a share of the result's.

    Raises:
        ConfigError: When a value is out of its range.
    """

    scale: tuple[float, float] = (0.5, 2.0)
    min_side: int = 1
    crop: Size | None = None
    flip: bool = True
    photometric: float = 0.2
    depth_noise: float = 0.0
    depth_holes: float = 0.0
    depth_hole_size: float = 0.3

    def __post_init__(self) -> None:
        check(vars(self), _LIMITS, "augment.")

    def __call__(
        self,
        raw: Mapping[str, np.ndarray],
        truths: Mapping[str, Truth],
        specs: Mapping[str, InputSpec],
        files: Mapping[str, str],
        *,
        size: Size | None = None,
        generator: torch.Generator | None = None,
    ) -> "Augmented":
        """A training sample from the files' content.

        Args:
            raw: (C_m, H, W) by modality, all of one size.
            truths: The targets by name, of that size. Geometry is changed with the inputs, values never.
            specs: What the values mean, by modality.
            files: Names for messages, by modality.
            size: Height and width that the sample is resized to first; None for its own.
            generator: Source of every draw; None for torch's own.
        """
        window = self._window(next(iter(truths.values())).size, size, generator)
        labels = {name: truth for name, truth in truths.items() if truth.meaning.kind == "label"}
        images = {name: truth for name, truth in truths.items() if name not in labels}
        values: dict[str, Tensor] = {}
        masks: dict[str, Tensor] = {}
        meanings = {**specs, **{_TARGET + name: target_scaling(truth.meaning) for name, truth in images.items()}}
        for name in specs:
            values[name], masks[name] = to_values(window.cut(raw[name]), specs[name], files[name])
        for name, truth in images.items():
            key = _TARGET + name
            values[key], masks[key] = to_values(window.cut(truth.raw), meanings[key], truth.file)
        masks = {name: mask.float() for name, mask in masks.items()}
        for name, truth in labels.items():
            masks[_TARGET + name] = torch.from_numpy(window.cut(truth.raw).astype(np.int64)).float()
        values, masks = _move(values, masks, meanings, (window.rows.length, window.columns.length), window.flip)
        valid = {name: masks[name].bool() for name in meanings}
        for name, spec in specs.items():
            if spec.kind == "image" and self.photometric:
                values[name] = self._photometric(values[name], generator)
            if spec.kind == "depth":
                self._disturb_depth(values[name], valid[name], generator)
        padded = {name: window.pad(normalise(values[name], valid[name], spec)) for name, spec in meanings.items()}
        known = {name: window.pad(mask) for name, mask in valid.items()}
        targets = {
            name: window.pad(masks[_TARGET + name][0].long(), truth.meaning.ignore)
            if name in labels
            else padded[_TARGET + name].clamp_(-1, 1)
            for name, truth in truths.items()
        }
        return Augmented(
            {name: padded[name] for name in specs},
            {name: known[name] for name in specs},
            targets,
            {name: known[_TARGET + name] for name in images},
        )

    def _window(self, size: Size, resized: Size | None, generator: torch.Generator | None) -> "Window":
        frame = resized or size
        scale = max(_uniform(*self.scale, generator), self.min_side / min(frame))
        rows = _axis(size[0], frame[0] * scale, (self.crop or frame)[0], generator)
        columns = _axis(size[1], frame[1] * scale, (self.crop or frame)[1], generator)
        flip = self.flip and _uniform(0, 1, generator) < 0.5
        return Window(rows, columns, flip)

    def _photometric(self, image: Tensor, generator: torch.Generator | None) -> Tensor:
        brightness, contrast, saturation = (
            _uniform(1 - self.photometric, 1 + self.photometric, generator) for _ in range(3)
        )
        if image.shape[0] == 3:
            image = torch.lerp(image.mean(0, keepdim=True), image, saturation)
        return torch.lerp(image.mean(), image, contrast) * brightness

    def _disturb_depth(self, depth: Tensor, valid: Tensor, generator: torch.Generator | None) -> None:
        """Add noise and a hole, in place."""
        if self.depth_noise:
            depth.mul_(1 + self.depth_noise * torch.randn(depth.shape, generator=generator))
        if self.depth_holes and _uniform(0, 1, generator) < self.depth_holes:
            top, bottom = _interval(depth.shape[1], self.depth_hole_size, generator)
            left, right = _interval(depth.shape[2], self.depth_hole_size, generator)
            valid[:, top:bottom, left:right] = False


@dataclass(frozen=True)
class Axis:
    """One axis of a window.

    Pixels `start` to `stop` of the file fill `length` pixels; `before` and `after` them, pixels are padded.
    """

    start: int
    stop: int
    before: int
    length: int
    after: int


@dataclass(frozen=True)
class Window:
    """The part of a sample that is used, where it goes, and whether it is mirrored."""

    rows: Axis
    columns: Axis
    flip: bool = False

    def cut(self, array: np.ndarray) -> np.ndarray:
        """The used part of (..., H, W), without copying it."""
        return array[..., self.rows.start : self.rows.stop, self.columns.start : self.columns.stop]

    def pad(self, tensor: Tensor, fill: int = 0) -> Tensor:
        """Fill up (..., h, w) to the size of the result."""
        top, bottom, left, right = self.rows.before, self.rows.after, self.columns.before, self.columns.after
        if not top + bottom + left + right:
            return tensor
        return pad(tensor, (left, right, top, bottom), value=fill)


def resize_inputs(
    raw: Mapping[str, np.ndarray], specs: Mapping[str, InputSpec], files: Mapping[str, str], size: Size | None
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Inputs for evaluation and prediction: nothing at random, resized to `size` unless that is None.

    Args:
        raw: (C_m, H_m, W_m) by modality, as `read_array` gives it.
        specs: What the values mean, by modality.
        files: Names for messages, by modality.
        size: Height and width of the result.

    Returns:
        Normalised inputs, float32 (C_m, h, w), and masks of measured pixels, bool (1, h, w), by modality.
    """
    check_sizes({files[name]: raw[name].shape[-2:] for name in specs})
    values, valid = {}, {}
    for name, spec in specs.items():
        values[name], valid[name] = to_values(raw[name], spec, files[name])
    if size is not None:
        values, masks = _move(values, {name: mask.float() for name, mask in valid.items()}, specs, size, flip=False)
        valid = {name: mask.bool() for name, mask in masks.items()}
    return {name: normalise(values[name], valid[name], spec) for name, spec in specs.items()}, valid


def _move(
    values: dict[str, Tensor], masks: dict[str, Tensor], specs: Mapping[str, InputSpec], size: Size, flip: bool
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Resize to `size` and mirror: one call for all that is interpolated, one for all that is not.

    All modalities and masks, labels among them, stay aligned; the first component of normals changes its sign.
    An interpolated pixel is the mean of what was measured, and counts as measured where that is more than half of it.
    """
    smooth = [name for name in values if specs[name].kind not in EXACT]
    exact = [name for name in values if name not in smooth]
    holed = [name for name in smooth if not masks[name].all()]
    whole = [name for name in masks if name not in holed]
    tensors = [*(values[name] for name in exact), *(masks[name] for name in whole)]
    moved = iter(_move_together(tensors, size, flip, InterpolationMode.NEAREST_EXACT))
    new_values, new_masks = dict(zip(exact, moved, strict=False)), dict(zip(whole, moved, strict=True))
    tensors = [*(values[name] for name in smooth), *(masks[name] for name in holed)]
    moved = iter(_move_together(tensors, size, flip, InterpolationMode.BILINEAR))
    new_values |= dict(zip(smooth, moved, strict=False))
    for name, share in zip(holed, moved, strict=True):
        # Holes hold the mean, which is taken out of the pixels beside them.
        mean = torch.tensor(specs[name].mean)[:, None, None]
        new_values[name] = mean + (new_values[name] - mean) / share.clamp(min=0.5)
        new_masks[name] = (share > 0.5).float()
    for name in smooth if flip else ():
        if specs[name].kind == "normal":
            new_values[name][0].neg_()
    return {name: new_values[name] for name in values}, new_masks


def _move_together(tensors: list[Tensor], size: Size, flip: bool, interpolation: InterpolationMode) -> list[Tensor]:
    if not tensors or (tensors[0].shape[-2:] == size and not flip):
        return tensors
    # An Image even for masks: torchvision moves a Mask by its older nearest rule, which is off by half a pixel.
    image = tv_tensors.Image(torch.cat(tensors))
    if image.shape[-2:] != size:
        image = V.resize(image, list(size), interpolation)
    if flip:
        image = V.horizontal_flip(image)
    return list(image.as_subclass(Tensor).split([tensor.shape[0] for tensor in tensors]))


def _axis(pixels: int, scaled: float, length: int, generator: torch.Generator | None) -> Axis:
    """Where a result of `length` pixels lies on an axis of the file that was scaled from `pixels` to `scaled`."""
    full = max(1, round(scaled))
    slack = full - length  # below 0 the sample lies somewhere inside of the result
    offset = _integer(min(0, slack), max(0, slack), generator)
    first, last = max(0, offset), min(full, offset + length)
    start = min(round(first * pixels / full), pixels - 1)
    stop = max(start + 1, round(last * pixels / full))
    return Axis(start, stop, before=first - offset, length=last - first, after=offset + length - last)


def _interval(pixels: int, share: float, generator: torch.Generator | None) -> Size:
    """A random part of an axis, at most `share` of it."""
    length = max(1, round(_uniform(0, share, generator) * pixels))
    start = _integer(0, pixels - length, generator)
    return start, start + length


def _uniform(low: float, high: float, generator: torch.Generator | None) -> float:
    return low + (high - low) * torch.rand((), generator=generator).item()


def _integer(low: int, high: int, generator: torch.Generator | None) -> int:
    return int(torch.randint(low, high + 1, (), generator=generator).item())
