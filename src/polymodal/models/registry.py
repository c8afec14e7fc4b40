"""Networks by name: what a recipe or a saved model may ask for.

A name imports and runs nothing but the constructors listed here, so a model folder from a stranger is safe to open.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from polymodal.errors import ConfigError, PolymodalError
from polymodal.models.arguments import check_arguments, short
from polymodal.models.refinenet import RefineNet
from polymodal.models.translation import TranslationUNet
from polymodal.models.unet import RoomsUNet

ROOMS = "rooms-unet"
REFINENET = "refinenet"
SEGFORMER = "segformer"
TRANSLATION = "translation-unet"
SMP = (
    "DeepLabV3", "DeepLabV3Plus", "FPN", "Linknet", "MAnet", "PAN", "PSPNet", "Segformer", "UPerNet", "Unet",
    "UnetPlusPlus",
)  # fmt: skip
TORCHVISION = (
    "deeplabv3_mobilenet_v3_large", "deeplabv3_resnet50", "deeplabv3_resnet101", "fcn_resnet50", "fcn_resnet101",
    "lraspp_mobilenet_v3_large",
)  # fmt: skip


def names() -> list[str]:
    """The names that `create` knows."""
    return [
        *(ROOMS, REFINENET, SEGFORMER, TRANSLATION),
        *(f"smp/{name}" for name in SMP),
        *(f"torchvision/{name}" for name in TORCHVISION),
    ]


def create(name: str, /, **arguments: Any) -> nn.Module:
    """A plain network of one modality, freshly initialised; nothing is downloaded.

    Args:
        name: "rooms-unet", "refinenet", "segformer", "translation-unet", "smp/<architecture>" or
            "torchvision/<segmentation function>".
        arguments: What its constructor takes to say what it looks like, in plain values: `classes` for every network
            that segments; `encoder_name`, `in_channels`, ... for refinenet, segformer and smp; for translation-unet see
            `TranslationUNet`.

    Returns:
        A network from (B, in_channels, H, W), any H and W, to logits (B, classes, H, W); torchvision's return them
        under the key "out" of a dict, refinenet's and segformer's are a quarter as high and wide. translation-unet
        returns an image from -1 to 1 of its input's size.

    Raises:
        ConfigError: Unknown name, or an argument that the network does not take.
    """
    return _build(name, arguments, download=False)


def create_pretrained(name: str, /, **arguments: Any) -> nn.Module:
    """As `create`, with the ImageNet weights that the library downloads for the encoder.

    Raises:
        ConfigError: As `create`, and for "rooms-unet" and "translation-unet", for which there are none.
        OSError: The weights cannot be downloaded.
    """
    return _build(name, arguments, download=True)


def _build(name: str, arguments: dict[str, Any], *, download: bool) -> nn.Module:
    if name not in names():
        raise ConfigError(f"there is no network {name!r}; there are: {', '.join(names())}")
    check_arguments(name, arguments)
    if download and name in (ROOMS, TRANSLATION):
        raise ConfigError(f"there are no ImageNet weights for {name}; leave `weights` empty, or give a file")
    library, _, constructor = name.rpartition("/")
    weights = "imagenet" if download else None
    builders: dict[str, Callable[..., nn.Module]] = {
        ROOMS: RoomsUNet,
        TRANSLATION: TranslationUNet,
        REFINENET: partial(RefineNet, encoder_weights=weights),
        SEGFORMER: partial(_segformer, weights),
        "smp": partial(_smp, weights, constructor),
        "torchvision": partial(_torchvision, weights, constructor),
    }
    given = ", ".join(f"{key}={short(value)}" for key, value in arguments.items())
    try:
        network = builders[library or name](**arguments)
    except (PolymodalError, OSError, ImportError):
        raise
    except Exception as error:  # whatever a constructor of somebody else's raises
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"{name} cannot be built with {given}: {reason}") from error
    if empty := [path for path, tensor in network.named_parameters() if tensor.numel() == 0]:
        raise ConfigError(f"{name} cannot be built with {given}: its layer {empty[0]} would have no channels")
    return network


def _segformer(weights: str | None, /, encoder_name: str = "mit_b2", **arguments: Any) -> nn.Module:
    """SegFormer as TokenFusion has it; the encoders of smp have norms of another ε in attention and patches."""
    if not encoder_name.startswith("mit_"):
        raise ConfigError(
            f"{SEGFORMER}: encoder_name: expected mit_b0 to mit_b5, got {encoder_name!r}. Take smp/Segformer."
        )
    network = _smp(weights, "Segformer", encoder_name=encoder_name, upsampling=1, **arguments)
    for module in network.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-6
    return network


def _smp(weights: str | None, architecture: str, /, **arguments: Any) -> nn.Module:
    return _any_size(architecture)(encoder_weights=weights, **arguments)


@cache
def _any_size(architecture: str) -> type[nn.Module]:
    import segmentation_models_pytorch as smp

    return type(architecture, (_AnySize, getattr(smp, architecture)), {"_architecture": architecture})


def _empty(architecture: str) -> nn.Module:
    constructor = _any_size(architecture)
    return constructor.__new__(constructor)


def _torchvision(weights: str | None, function: str, /, classes: int, **arguments: Any) -> nn.Module:
    from torchvision.models import segmentation

    backbone = "DEFAULT" if weights else None
    return getattr(segmentation, function)(num_classes=classes, weights=None, weights_backbone=backbone, **arguments)


class _AnySize(nn.Module):
    """Mixed into a network of smp, lets it take any image size.

    The image is padded at its right and bottom by its border pixels to what the encoder's stride divides, and the
    logits, which may be coarser, are cropped back: nothing is resized, and an image that fits passes unchanged.
    """

    encoder: Any
    _architecture: str

    def forward(self, x: Tensor) -> Any:
        height, width = x.shape[-2:]
        stride = self.encoder.output_stride
        padded = F.pad(x, (0, -width % stride, 0, -height % stride), mode="replicate")
        output = super().forward(padded)
        if isinstance(output, Tensor):
            return _cropped(output, padded, height, width)
        logits, *labels = output  # with aux_params, labels of the whole image come beside the logits
        return _cropped(logits, padded, height, width), *labels

    def __reduce__(self) -> tuple[Any, ...]:
        # The class is made when it is asked for, so pickle could not find it by its name.
        return _empty, (self._architecture,), self.__dict__


def _cropped(logits: Tensor, padded: Tensor, height: int, width: int) -> Tensor:
    """The part of logits that shows the image without its padding, in their own resolution."""
    (high, wide), (rows, columns) = padded.shape[-2:], logits.shape[-2:]
    if (rows, columns) == (high, wide):
        return logits[..., :height, :width]
    return logits[..., : -(-height * rows // high), : -(-width * columns // wide)]
