"""The small network of the rooms: a ResNet-like encoder and a U-Net decoder, 0.37 million parameters."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut (He et al. 2016, figure 2).

    Args:
        inputs: Channels in.
        outputs: Channels out.
        stride: Stride of the first convolution.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.act2 = nn.ReLU(inplace=True)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, H / stride, W / stride), sizes rounded up."""
        out = self.act1(self.bn1(self.conv1(x)))
        return self.act2(self.bn2(self.conv2(out)) + self.downsample(x))


class Encoder(nn.Module):
    """A stem at half size, then stages of two blocks, each at half the size of what comes before.

    Args:
        inputs: Channels of the image.
        stem: Channels after the stem.
        widths: Channels of the stages.
    """

    def __init__(self, inputs: int, stem: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, stem, 5, 2, 2, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.act1 = nn.ReLU(inplace=True)
        self.stages = nn.ModuleList()
        before = stem
        for width in widths:
            self.stages.append(nn.Sequential(BasicBlock(before, width, stride=2), BasicBlock(width, width)))
            before = width

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, inputs, H, W) to the stages' feature maps at 1/4, 1/8, ... of the size, finest first."""
        x = self.act1(self.bn1(self.conv1(x)))
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


class Decoder(nn.Module):
    """From the coarsest feature map up: resize, concatenate the skip, convolve.

    Args:
        channels: Channels of the encoder's feature maps, finest first.
        width: Channels of the decoder's own maps.
    """

    def __init__(self, channels: tuple[int, ...], width: int) -> None:
        super().__init__()
        *skips, before = channels
        self.blocks = nn.ModuleList()
        for skip in reversed(skips):
            conv = nn.Conv2d(before + skip, width, 3, 1, 1, bias=False)
            self.blocks.append(nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True)))
            before = width

    def forward(self, features: list[Tensor]) -> Tensor:
        """The encoder's feature maps to one map (B, width, H / 4, W / 4)."""
        *skips, x = features
        for block, skip in zip(self.blocks, reversed(skips), strict=True):
            x = enlarge(x, skip.shape[-2:])
            x = block(torch.cat([x, skip], dim=1))
        return x


class RoomsUNet(nn.Module):
    """A U-Net small enough to train on a CPU; any image size works.

    Args:
        classes: Number of classes.
        in_channels: Channels of the image.
        stem: Channels after the stem.
        widths: Channels of the encoder's stages.
        decoder: Channels of the decoder's maps.
    """

    def __init__(
        self,
        classes: int,
        in_channels: int = 3,
        stem: int = 16,
        widths: tuple[int, ...] = (32, 64, 64),
        decoder: int = 32,
    ) -> None:
        super().__init__()
        if not widths or (len(widths) == 1 and decoder != widths[0]):
            raise ValueError(
                f"widths: expected two stages or more, or one as wide as the decoder ({decoder}), got {list(widths)}"
            )
        self.encoder = Encoder(in_channels, stem, tuple(widths))
        self.decoder = Decoder(tuple(widths), decoder)
        self.head = nn.Conv2d(decoder, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to logits (B, classes, H, W)."""
        logits = self.head(self.decoder(self.encoder(x)))
        return enlarge(logits, x.shape[-2:])


def enlarge(x: Tensor, size: Sequence[int]) -> Tensor:
    """Interpolate maps bilinearly, (B, C, h, w) to (B, C, H, W).

    Where a CPU is to take gradients back, each map is multiplied by one matrix for its rows and one for its columns:
    for maps as small as these that takes half the time, most of which is the backward pass.
    """
    if x.device.type != "cpu" or not x.requires_grad or torch.compiler.is_compiling():
        return F.interpolate(x, size=tuple(size), mode="bilinear")
    exact = x.to(torch.promote_types(x.dtype, torch.float32))
    rows, columns = (
        F.interpolate(torch.eye(before, dtype=exact.dtype)[None], size=after, mode="linear")[0]
        for before, after in zip(x.shape[-2:], size, strict=True)
    )
    with torch.autocast("cpu", enabled=False):
        return (rows.mT @ (exact @ columns)).to(x.dtype)
