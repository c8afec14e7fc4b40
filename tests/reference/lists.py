"""The same network for M modalities, written with lists of tensors.

One convolution serves every modality, every modality has a `BatchNorm2d` of its own, and the exchange of CEN's
equation 6 is spelled out channel by channel. Slow and plain on purpose: each line can be checked against the paper.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reference.plain import SITES, PlainSegmenter


class Shared(nn.Module):
    """One module applied to every modality's tensor in turn."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.shared = module

    def forward(self, xs: list[Tensor]) -> list[Tensor]:
        return [self.shared(x) for x in xs]


class Norms(nn.Module):
    """One `BatchNorm2d` per modality."""

    def __init__(self, modalities: int, channels: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(modalities))

    def forward(self, xs: list[Tensor]) -> list[Tensor]:
        return [norm(x) for norm, x in zip(self.norms, xs, strict=True)]

    def scales(self) -> list[Tensor]:
        return [norm.weight for norm in self.norms]


def own_channels(m: int, modalities: int, channels: int) -> range:
    """The m-th of M contiguous parts of the channels (CEN sec. 3.3, generalised from halves)."""
    return range(m * channels // modalities, (m + 1) * channels // modalities)


def exchange(xs: list[Tensor], given_up: list[list[int]]) -> list[Tensor]:
    """CEN eq. 6: a channel given up becomes the mean of the other modalities' channels of the same index."""
    if len(xs) == 1:
        return xs
    out = [x.clone() for x in xs]
    for m in range(len(xs)):
        others = [x for i, x in enumerate(xs) if i != m]
        for c in given_up[m]:
            out[m][:, c] = sum(x[:, c] for x in others) / len(others)
    return out


class Rule:
    """Which channels each modality gives up, told from the scales of all modalities at one place.

    `share` is the share of a modality's own part with the smallest |γ|, in whole channels; without it a channel goes
    where |γ| < θ, in the own part or, with `within="all"`, anywhere. When only some modalities of a larger network are
    present, `members` are their places in it and `total` its M: an own part is always that of the whole network.
    """

    def __init__(
        self,
        *,
        threshold: float = 0.0,
        within: str = "part",
        share: float | None = None,
        members: list[int] | None = None,
        total: int | None = None,
    ) -> None:
        self.threshold, self.within, self.share = threshold, within, share
        self.members, self.total = members, total

    def __call__(self, scales: list[Tensor]) -> list[list[int]]:
        channels = len(scales[0])
        chosen = []
        for m, scale in zip(self.members or range(len(scales)), scales, strict=True):
            own = own_channels(m, self.total or len(scales), channels)
            if self.share is not None:
                by_size = sorted(own, key=lambda c, scale=scale: abs(float(scale.detach()[c])))
                chosen.append(by_size[: int(self.share * len(own) + 1e-9)])
            else:
                allowed = own if self.within == "part" else range(channels)
                chosen.append([c for c in allowed if abs(float(scale.detach()[c])) < self.threshold])
        return chosen


class ListBottleneck(nn.Module):
    def __init__(self, modalities: int, channels: int, width: int, out: int, stride: int, rule: Rule) -> None:
        super().__init__()
        self.rule = rule
        self.conv1 = Shared(nn.Conv2d(channels, width, 1, bias=False))
        self.bn1 = Norms(modalities, width)
        self.conv2 = Shared(nn.Conv2d(width, width, 3, stride, padding=1, bias=False))
        self.bn2 = Norms(modalities, width)
        self.conv3 = Shared(nn.Conv2d(width, out, 1, bias=False))
        self.bn3 = Norms(modalities, out)
        self.relu = Shared(nn.ReLU())
        self.downsample = None
        if stride != 1 or channels != out:
            conv = nn.Conv2d(channels, out, 1, stride, bias=False)
            self.downsample = nn.Sequential(Shared(conv), Norms(modalities, out))

    def forward(self, xs: list[Tensor]) -> list[Tensor]:
        shortcuts = xs if self.downsample is None else self.downsample(xs)
        xs = self.relu(self.bn1(self.conv1(xs)))
        xs = self.bn2(self.conv2(xs))
        xs = self.relu(exchange(xs, self.rule(self.bn2.scales())))
        xs = self.bn3(self.conv3(xs))
        return self.relu([x + shortcut for x, shortcut in zip(xs, shortcuts, strict=True)])


class ListSegmenter(nn.Module):
    """`PlainSegmenter` for M modalities: a list of images in, a list of logits and their ensemble out."""

    def __init__(self, modalities: int, rule: Rule) -> None:
        super().__init__()
        m = modalities
        self.conv1 = Shared(nn.Conv2d(3, 8, 3, 2, padding=1, bias=False))
        self.bn1 = Norms(m, 8)
        self.relu = Shared(nn.ReLU())
        self.maxpool = Shared(nn.MaxPool2d(3, 1, padding=1))
        self.layer1 = nn.Sequential(ListBottleneck(m, 8, 7, 12, 1, rule), ListBottleneck(m, 12, 7, 12, 1, rule))
        self.layer2 = nn.Sequential(ListBottleneck(m, 12, 10, 16, 2, rule), ListBottleneck(m, 16, 10, 16, 1, rule))
        self.decoder = nn.Sequential(Shared(nn.Conv2d(16, 9, 3, padding=1)), Norms(m, 9), Shared(nn.ReLU()))
        self.classifier = Shared(nn.Conv2d(9, 4, 1))
        self.alpha = nn.Parameter(torch.ones(m))

    def forward(self, images: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        xs = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        xs = self.classifier(self.decoder(self.layer2(self.layer1(xs))))
        size = images[0].shape[-2:]
        xs = [F.interpolate(x, size=size, mode="bilinear", align_corners=False) for x in xs]
        weights = torch.softmax(self.alpha, dim=0)
        return xs, sum(weight * x.detach() for weight, x in zip(weights, xs, strict=True))

    def penalty(self) -> Tensor:
        """CEN eq. 4 without λ: |γ| of every exchange point, of each modality its own part only."""
        total = torch.zeros((), dtype=self.alpha.dtype)
        for site in SITES:
            scales = self.get_submodule(site).scales()
            for m, scale in enumerate(scales):
                for c in own_channels(m, len(scales), len(scale)):
                    total = total + scale[c].abs()
        return total

    def freeze_statistics(self) -> None:
        """Normalise by the running statistics although training, as the released segmentation code does."""
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()


def list_keys(plain: PlainSegmenter, key: str, modalities: int) -> list[str]:
    """The names in a `ListSegmenter` of one `state_dict` entry of the plain network: one, or one per modality."""
    layer, _, kind = key.rpartition(".")
    if isinstance(plain.get_submodule(layer), nn.BatchNorm2d):
        return [f"{layer}.norms.{m}.{kind}" for m in range(modalities)]
    return [f"{layer}.shared.{kind}"]
