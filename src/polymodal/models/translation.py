"""The papers' networks for image-to-image translation: a U-Net generator and a discriminator of patches.

Sources: Isola et al., "Image-to-Image Translation with Conditional Adversarial Networks", CVPR 2017 (arXiv 1611.07004),
    appendix 6.1; with the norms of CEN (arXiv 2011.05005), instance norms with scales.
    Odena et al., "Deconvolution and Checkerboard Artifacts", Distill 2016: enlarging before a convolution.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import gcd

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polymodal.errors import ConfigError, DataError

DEEPEST, SHALLOWEST = 8, 3
"""Down blocks: the papers' number, for 256 × 256, and the fewest that leave one to exchange at."""

WIDEST = 8
"""Channels double from block to block up to so many times the first one's."""

SLOPE = 0.2
"""Of the leaky ReLU for negative values."""

DEEP_ENOUGH = 5
"""Up to so many blocks there is no dropout: it belongs to the innermost blocks of deep generators."""


class DownBlock(nn.Module):
    """Activation, convolution that halves the size, norm.

    Args:
        inputs: Channels in.
        outputs: Channels out.
        activate: Whether the input is activated; that of the first block is the image.
        normalise: Whether there is a norm.
    """

    def __init__(self, inputs: int, outputs: int, *, activate: bool, normalise: bool) -> None:
        super().__init__()
        self.activate = activate
        self.conv = nn.Conv2d(inputs, outputs, 4, 2, 1)
        self.norm = _norm(outputs) if normalise else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, H / 2, W / 2)."""
        return self.norm(self.conv(F.leaky_relu(x, SLOPE) if self.activate else x))


class UpBlock(nn.Module):
    """Activation, convolution that doubles the size, norm, dropout.

    Args:
        inputs: Channels in.
        outputs: Channels out.
        upsampling: How the size is doubled, see `TranslationUNet`.
        normalise: Whether there is a norm.
        dropout: Whether half of the values are dropped in training.
    """

    def __init__(self, inputs: int, outputs: int, *, upsampling: str, normalise: bool, dropout: bool) -> None:
        super().__init__()
        self.conv = (
            nn.ConvTranspose2d(inputs, outputs, 4, 2, 1)
            if upsampling == "transposed"
            else nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(inputs, outputs, 3, 1, 1))
        )
        self.norm = _norm(outputs) if normalise else nn.Identity()
        self.drop = nn.Dropout(0.5 if dropout else 0.0)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, 2 H, 2 W)."""
        return self.drop(self.norm(self.conv(F.relu(x))))


class Encoder(nn.Module):
    """Down blocks. The first sees the image and the last may return a single pixel, so these two have no norm.

    Args:
        inputs: Channels of the image.
        widths: Channels of the blocks.
    """

    def __init__(self, inputs: int, widths: Sequence[int]) -> None:
        super().__init__()
        last = len(widths) - 1
        self.blocks = nn.ModuleList(
            DownBlock(before, width, activate=index > 0, normalise=0 < index < last)
            for index, (before, width) in enumerate(pairwise([inputs, *widths]))
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, inputs, H, W) to the blocks' feature maps at 1/2, 1/4, ... of the size, finest first."""
        features = []
        for block in self.blocks:
            x = block(x)
            features.append(x)
        return features


class Decoder(nn.Module):
    """Up blocks, each but the first of which also sees the encoder's map of its size.

    Args:
        widths: Channels of the encoder's blocks.
        outputs: Channels of the image.
        upsampling: Of the blocks, see `TranslationUNet`.
    """

    def __init__(self, widths: Sequence[int], outputs: int, upsampling: str) -> None:
        super().__init__()
        depth = len(widths)
        dropped = min(3, max(0, depth - DEEP_ENOUGH))
        self.blocks = nn.ModuleList(
            UpBlock(
                (1 if index == 0 else 2) * before,
                after,
                upsampling=upsampling,
                normalise=index < depth - 1,
                dropout=index < dropped,
            )
            for index, (before, after) in enumerate(pairwise([*reversed(widths), outputs]))
        )

    def forward(self, features: list[Tensor]) -> Tensor:
        """The encoder's feature maps to (B, outputs, H, W)."""
        *skips, x = features
        x = self.blocks[0](x)
        for block, skip in zip(self.blocks[1:], reversed(skips), strict=True):
            x = block(torch.cat([x, skip], dim=1))
        return x


class TranslationUNet(nn.Module):
    """The generator: from an image to an image of the same size with values from -1 to 1.

    With 8 blocks and 64 filters it is the papers' network for 256 × 256. The norms of the down blocks 2 to 7, at which
    CEN exchanges channels, are those that the exchange finds by itself.

    Args:
        out_channels: Channels of the image that is predicted.
        in_channels: Channels of the image that is given.
        filters: Channels of the first down block.
        depth: Number of down blocks, and of up blocks. Each halves the image, so height and width must be multiples of
            2 to the power of it, see `depth_for`. The innermost `depth - 5` up blocks, at most 3, have dropout.
        upsampling: How up blocks double the size: `"transposed"`, by a transposed convolution of 4 × 4 as the papers'
            do, which leaves a fine grid in the pictures until it is trained well; or `"nearest"`, by repeating every
            pixel before a convolution of 3 × 3, which cannot (Odena et al. 2016) and makes training a third slower.

    Raises:
        ConfigError: The depth is out of range, or there is no such upsampling.
    """

    def __init__(
        self,
        out_channels: int = 3,
        in_channels: int = 3,
        filters: int = 64,
        depth: int = DEEPEST,
        upsampling: str = "transposed",
    ) -> None:
        super().__init__()
        if not SHALLOWEST <= depth <= DEEPEST:
            raise ConfigError(f"depth: expected {SHALLOWEST} to {DEEPEST} down blocks, got {depth}.")
        if upsampling not in ("transposed", "nearest"):
            raise ConfigError(f'upsampling: expected "transposed" or "nearest", got {upsampling!r}.')
        self.depth = depth
        widths = [filters * min(2**index, WIDEST) for index in range(depth)]
        self.encoder = Encoder(in_channels, widths)
        self.decoder = Decoder(widths, out_channels, upsampling)
        draw_weights(self)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, out_channels, H, W).

        Raises:
            DataError: The size cannot be halved as often as there are blocks.
        """
        height, width = x.shape[-2:]
        step = 2**self.depth
        if height % step or width % step:
            raise DataError(
                f"An image of {width}x{height} (width x height) cannot be halved {self.depth} times, as this generator "
                f"with {self.depth} down blocks does: sides must be multiples of {step}. Resize to "
                f"{_rounded(width, step)}x{_rounded(height, step)}, or use fewer blocks."
            )
        return self.decoder(self.encoder(x)).tanh()


class PatchDiscriminator(nn.Module):
    """Tells real images from predicted ones, patch by patch of 70 × 70 pixels, seeing what they were made from.

    Args:
        in_channels: Channels of the given and the predicted image together.
        filters: Channels of the first layer.
    """

    def __init__(self, in_channels: int, filters: int = 64) -> None:
        super().__init__()
        widths = [filters, 2 * filters, 4 * filters, 8 * filters, 1]
        strides = [2, 2, 2, 1, 1]
        self.convs = nn.ModuleList(
            nn.Conv2d(before, after, 4, stride, 1)
            for (before, after), stride in zip(pairwise([in_channels, *widths]), strides, strict=True)
        )
        # Without running statistics: a discriminator only ever sees training.
        self.norms = nn.ModuleList(nn.InstanceNorm2d(width, affine=True) for width in widths[1:-1])
        draw_weights(self)

    def forward(self, given: Tensor, image: Tensor) -> Tensor:
        """Judge images.

        Args:
            given: (B, C, H, W), what the image was or should be made from.
            image: (B, C', H, W), C + C' = `in_channels`.

        Returns:
            Logits (B, 1, h, w), one for each patch: above 0 for a real one.

        Raises:
            DataError: The image is smaller than 24 pixels, so that no patch is left.
        """
        if min(image.shape[-2:]) < 24:
            height, width = image.shape[-2:]
            raise DataError(
                f"An image of {width}x{height} (width x height) is too small for the discriminator, which halves it "
                "three times and takes two pixels from each side: train with 24x24 or more."
            )
        first, *middle, last = self.convs
        x = first(torch.cat([given, image], dim=1))
        for conv, norm in zip(middle, self.norms, strict=True):
            x = norm(conv(F.leaky_relu(x, SLOPE)))
        return last(F.leaky_relu(x, SLOPE))


def depth_for(height: int, width: int) -> int:
    """The down blocks that an image size allows: how often both sides can be halved, at most 8.

    Args:
        height: Of the image, in pixels.
        width: Of the image, in pixels.

    Raises:
        ConfigError: Fewer than 3.
    """
    common = gcd(height, width)
    halvings = min(DEEPEST, (common & -common).bit_length() - 1)
    if halvings < SHALLOWEST:
        step = 2**DEEP_ENOUGH
        raise ConfigError(
            f"images of {width}x{height} (width x height) can be halved {halvings} time{'' if halvings == 1 else 's'}, "
            f"and a generator needs {SHALLOWEST} or more. Resize (data.size) or crop (data.augment.crop) to sides "
            f"with a larger power of two, such as {_rounded(width, step)}x{_rounded(height, step)}."
        )
    return halvings


def draw_weights(network: nn.Module) -> None:
    """Draw the weights of every convolution from a Gaussian with mean 0 and standard deviation 0.02."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0.0, 0.02)


def _norm(channels: int) -> nn.InstanceNorm2d:
    # The released code keeps running statistics and never uses them: it evaluates in training mode, as Isola et al. do.
    # A network that was trained on each image's own statistics is far worse with the running ones.
    return nn.InstanceNorm2d(channels, affine=True)


def _rounded(side: int, step: int) -> int:
    """The nearest multiple, at least one."""
    return max(1, round(side / step)) * step
