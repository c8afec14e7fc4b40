"""A small bottleneck ResNet for segmentation that knows nothing of modalities: what a user hands to `fuse`."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CLASSES = 4


class Bottleneck(nn.Module):
    def __init__(self, channels: int, width: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or channels != out:
            self.downsample = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.relu(self.bn3(self.conv3(x)) + shortcut)


class PlainSegmenter(nn.Module):
    """Stem, two stages of two bottlenecks, a decoder with a norm of its own; logits `(B, 4, H, W)`.

    The widths (7, 10) are not multiples of every M, so the channel parts come out unequal.
    """

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 8, 3, 2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 1, padding=1)
        self.layer1 = nn.Sequential(Bottleneck(8, 7, 12, 1), Bottleneck(12, 7, 12, 1))
        self.layer2 = nn.Sequential(Bottleneck(12, 10, 16, 2), Bottleneck(16, 10, 16, 1))
        self.decoder = nn.Sequential(nn.Conv2d(16, 9, 3, padding=1), nn.BatchNorm2d(9), nn.ReLU())
        self.classifier = nn.Conv2d(9, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[-2:]
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.classifier(self.decoder(self.layer2(self.layer1(x))))
        return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


SITES = ("layer1.0.bn2", "layer1.1.bn2", "layer2.0.bn2", "layer2.1.bn2")


def plain_segmenter(seed: int) -> PlainSegmenter:
    """The network in float64 with every norm's scale, shift and statistics drawn at random."""
    torch.manual_seed(seed)
    return PlainSegmenter().double()
