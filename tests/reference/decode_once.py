"""Decode once, written with lists of tensors: an encoder of several scales, weights by channel, one decoder."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reference.lists import ListBottleneck, Norms, Rule, Shared
from reference.plain import CLASSES, Bottleneck


class Decoder(nn.Module):
    """Reads two scales; it knows nothing of modalities."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(16, 12, 3, padding=1)
        self.bn = nn.BatchNorm2d(12)
        self.classifier = nn.Conv2d(24, CLASSES, 1)

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        coarse = F.interpolate(torch.relu(self.bn(self.conv(coarse))), size=fine.shape[-2:], mode="nearest")
        return F.interpolate(self.classifier(torch.cat([fine, coarse], dim=1)), scale_factor=2.0, mode="bilinear")


class PlainEncoder(nn.Module):
    """Stem and two bottlenecks; it returns the image, which nobody reads, and the map of each bottleneck."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, 2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = nn.Sequential(Bottleneck(8, 7, 12, 1))
        self.layer2 = nn.Sequential(Bottleneck(12, 10, 16, 2))

    def forward(self, x: Tensor) -> list[Tensor]:
        fine = self.layer1(self.relu(self.bn1(self.conv1(x))))
        return [x, fine, self.layer2(fine)]


class TwoScales(nn.Module):
    """The plain network, `(B, 3, H, W)` to `(B, 4, H, W)`."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = PlainEncoder()
        self.decoder = Decoder()

    def forward(self, x: Tensor) -> Tensor:
        _, fine, coarse = self.encoder(x)
        return self.decoder(fine, coarse)


class ListEncoder(nn.Module):
    """`PlainEncoder` for M modalities."""

    def __init__(self, modalities: int, rule: Rule) -> None:
        super().__init__()
        self.conv1 = Shared(nn.Conv2d(3, 8, 3, 2, padding=1, bias=False))
        self.bn1 = Norms(modalities, 8)
        self.relu = Shared(nn.ReLU())
        self.layer1 = nn.Sequential(ListBottleneck(modalities, 8, 7, 12, 1, rule))
        self.layer2 = nn.Sequential(ListBottleneck(modalities, 12, 10, 16, 2, rule))

    def forward(self, xs: list[Tensor]) -> list[list[Tensor]]:
        fine = self.layer1(self.relu(self.bn1(self.conv1(xs))))
        return [fine, self.layer2(fine)]


class ListDecodeOnce(nn.Module):
    """`TwoScales` for M modalities: one prediction, and one from every modality's own maps."""

    def __init__(self, modalities: int, rule: Rule) -> None:
        super().__init__()
        self.encoder = ListEncoder(modalities, rule)
        self.weights = nn.ParameterList(nn.Parameter(torch.zeros(modalities, channels)) for channels in (12, 16))
        self.decoder = Decoder()

    def forward(self, images: list[Tensor], *, branches: bool) -> tuple[Tensor, list[Tensor]]:
        scales = self.encoder(images)
        rows = []  # of the decoder's batch, sample by sample: all modalities together, then each alone
        for maps, logits in zip(scales, self.weights, strict=True):
            shares = [row.exp() / logits.exp().sum(0) for row in logits]
            merged = sum(share[:, None, None] * x for share, x in zip(shares, maps, strict=True))
            streams = [merged, *maps] if branches else [merged]
            rows.append(torch.stack([stream[b] for b in range(len(merged)) for stream in streams]))
        predicted = self.decoder(*rows)
        count = 1 + len(images) if branches else 1
        main, *own = (predicted[i::count] for i in range(count))
        return main, own
