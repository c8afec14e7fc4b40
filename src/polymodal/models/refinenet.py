"""RefineNet, the network of the CEN and AsymFusion papers, and its light-weight form.

Sources: Lin et al., "RefineNet: Multi-Path Refinement Networks for High-Resolution Semantic Segmentation", CVPR 2017
    (arXiv 1611.06612); Nekrasov et al., "Light-Weight RefineNet for Real-Time Semantic Segmentation", BMVC 2018
    (arXiv 1810.03272).
"""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F


class ResidualUnit(nn.Module):
    """A residual convolution unit: two convolutions, a rectifier before each (Lin et al. 2017, figure 3b).

    Args:
        width: Channels in and out.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = _conv(width, width, 3, bias=True)
        self.conv2 = _conv(width, width, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H, W) to the same shape."""
        # What is added is the rectified input, as in the released networks, whose rectifier works in place.
        x = F.relu(x)
        return x + self.conv2(F.relu(self.conv1(x)))


class ChainedPooling(nn.Module):
    """Chained residual pooling: context from ever larger windows, each added (Lin et al. 2017, figure 3d).

    Args:
        width: Channels in and out.
        kernel: Size of the convolutions.
        stages: How often is pooled.
    """

    def __init__(self, width: int, kernel: int, stages: int = 4) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(5, stride=1, padding=2)
        self.convs = nn.ModuleList(_conv(width, width, kernel) for _ in range(stages))

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H, W) to the same shape."""
        pooled = x
        for conv in self.convs:
            pooled = conv(self.pool(pooled))
            x = x + pooled
        return x


class RefineBlock(nn.Module):
    """Refines the prediction of the coarser level by the features of one level (Lin et al. 2017, figure 3a).

    Args:
        inputs: Channels of the level's features.
        width: Channels inside.
        outputs: Channels for the next finer level; None at the finest, which hands on `width`.
        fuses: Whether there is a coarser level.
        light: 1×1 convolutions, no residual units (Nekrasov et al. 2018, section 3).
    """

    def __init__(self, inputs: int, width: int, outputs: int | None, *, fuses: bool, light: bool) -> None:
        super().__init__()
        kernel = 1 if light else 3
        self.reduce = _conv(inputs, width, kernel)
        self.adapt = nn.Sequential(*(ResidualUnit(width) for _ in range(0 if light else 2)))
        self.align = _conv(width, width, kernel) if fuses else nn.Identity()
        self.pool = ChainedPooling(width, kernel)
        self.refine = nn.Sequential(*(ResidualUnit(width) for _ in range(0 if light else 3)))
        self.output = nn.Identity() if outputs is None else _conv(width, outputs, kernel)

    def forward(self, x: Tensor, coarser: Tensor | None) -> Tensor:
        """Features (B, inputs, H, W) and the coarser level's output (B, width, h, w) to (B, outputs, H, W)."""
        x = self.align(self.adapt(self.reduce(x)))
        if coarser is not None:
            x = x + F.interpolate(coarser, size=x.shape[-2:], mode="bilinear", align_corners=True)
        return self.output(self.refine(self.pool(F.relu(x))))


class Decoder(nn.Module):
    """Four levels of refinement, from the coarsest feature map to the finest.

    Args:
        channels: Channels of the encoder's feature maps, finest first.
        width: Channels of the levels; the coarsest has twice as many.
        light: See `RefineBlock`.
    """

    def __init__(self, channels: Sequence[int], width: int, light: bool) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)
        self.blocks = nn.ModuleList()
        for level, inputs in enumerate(reversed(channels)):
            outputs = None if level == len(channels) - 1 else width
            inner = width if level else 2 * width
            self.blocks.append(RefineBlock(inputs, inner, outputs, fuses=level > 0, light=light))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """The encoder's feature maps, finest first, to one map of the finest's size (B, width, H, W)."""
        x = None
        for level, (block, feature) in enumerate(zip(self.blocks, reversed(features), strict=True)):
            x = block(self.dropout(feature) if level < 2 else feature, x)
        assert x is not None
        return x


class RefineNet(nn.Module):
    """RefineNet with the full decoder, as in the released code of CEN and AsymFusion, or the light-weight one.

    Args:
        classes: Number of classes.
        encoder_name: An encoder of segmentation-models-pytorch with feature maps at 1/4 to 1/32 of the size: the
            papers' "resnet50", "resnet101", "resnet152", or any other.
        in_channels: Channels of the image.
        light: 1×1 convolutions and no residual units in the decoder: a twentieth of its parameters.
        encoder_weights: "imagenet" to download weights of the encoder.
    """

    def __init__(
        self,
        classes: int,
        encoder_name: str = "resnet101",
        in_channels: int = 3,
        light: bool = False,
        encoder_weights: str | None = None,
    ) -> None:
        from segmentation_models_pytorch.encoders import get_encoder

        super().__init__()
        if not isinstance(light, bool):
            raise TypeError(f"light: expected true or false, got {light!r}")
        self.encoder = get_encoder(encoder_name, in_channels=in_channels, depth=5, weights=encoder_weights)
        self.decoder = Decoder(self.encoder.out_channels[-4:], 256, light)
        self.dropout = nn.Identity() if light else nn.Dropout(0.5)
        self.head = _conv(256, classes, 3, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W), any H and W, to logits at a quarter of the size, (B, classes, H / 4, W / 4)."""
        return self.head(self.dropout(self.decoder(self.encoder(x)[-4:])))


def _conv(inputs: int, outputs: int, kernel: int, *, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=bias)
