"""Run TokenFusion's released network for segmentation beside ours: the same random weights, the same images.

    git clone https://github.com/yikaiw/TokenFusion
    python tools/compare_tokenfusion.py TokenFusion --encoder mit_b2

Compares in double precision the predictions of both modalities and the ensemble, and the gradients of the training loss
by every parameter, in evaluation and in training. Exit status 1 when a figure is beyond the tolerance. Nothing of that
code is here; the names of its layers are from reading it.
"""

import argparse
import importlib
import re
import sys
import types
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import polymodal
from polymodal import Multimodal, fuse, models
from polymodal.errors import ConfigError
from polymodal.fusion import TokenExchange
from polymodal.runs.import_tokenfusion import import_tokenfusion, released_names
from released import importable

TOLERANCE = 1e-9
CLASSES, THRESHOLD, PENALTY = 40, 2e-2, 1e-4
SEGMENTATION = "semantic_segmentation"


def main() -> int:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("code", type=Path, help=f"the folder of the released code, with {SEGMENTATION}")
    parser.add_argument("--encoder", choices=tuple(f"mit_b{n}" for n in range(6)), default="mit_b0")
    parser.add_argument("--size", type=int, nargs=2, default=(64, 96), help="height and width of the images")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parsed = parser.parse_args()
    torch.manual_seed(parsed.seed)
    theirs = released_network(parsed.code, parsed.encoder)
    ours = our_network(theirs, parsed.encoder)
    images = [torch.randn(parsed.batch, 3, *parsed.size, dtype=torch.float64) for _ in range(2)]
    found = [compare(theirs, ours, images, training) for training in (False, True)]
    for mode, figures in zip(("evaluation", "training"), found, strict=True):
        print(f"{mode}: " + ", ".join(f"{name} {value:.1e}" for name, value in figures.items()))
    worst = max(value for figures in found for name, value in figures.items() if name != "exchanged")
    print(f"largest relative difference {worst:.1e}, tolerance {TOLERANCE:.0e}")
    return int(not worst <= TOLERANCE)


def released_network(code: Path, encoder: str) -> nn.Module:
    """The released network with random weights, in double precision, its chance switched off.

    Args:
        code: The folder that it was cloned to. The code in it is run.
        encoder: Its name, from mit_b0 to mit_b5.

    Raises:
        ConfigError: The folder does not hold that code, or the code breaks.
    """
    cnn = types.ModuleType("mmcv.cnn")
    cnn.ConvModule = _ConvModule  # type: ignore[attr-defined]
    folder = code / SEGMENTATION
    with importable(folder, {"mmcv": types.ModuleType("mmcv"), "mmcv.cnn": cnn}), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it imports timm's layers from where they were
        try:
            net = importlib.import_module("models.segformer").WeTr(encoder, CLASSES, pretrained=False).double()
        except Exception as error:
            raise ConfigError(
                f"{folder} cannot be used: {type(error).__name__}: {error}; expected the released code (git clone "
                "https://github.com/yikaiw/TokenFusion)."
            ) from error
    _draw(net)
    assert isinstance(net, nn.Module)
    return net


def our_network(theirs: nn.Module, encoder: str) -> Multimodal:
    """The released checkpoint, imported."""
    with TemporaryDirectory() as folder:
        file = Path(folder, "model.pth.tar")
        torch.save({"segmenter": theirs.state_dict()}, file)
        print(import_tokenfusion(file, Path(folder, "model")))
        net = polymodal.load(Path(folder, "model"))
    penalised = fuse(
        models.create(models.SEGFORMER, classes=CLASSES, encoder_name=encoder),
        list(net.modalities),
        TokenExchange(THRESHOLD, PENALTY),
    ).double()
    penalised.load_state_dict(net.state_dict())
    return penalised


def compare(theirs: nn.Module, ours: Multimodal, images: list[Tensor], training: bool) -> dict[str, float]:
    """The largest relative difference of each prediction, and over all gradients; and the share of exchanged tokens."""
    for net in (theirs, ours):
        net.train(training)
        net.zero_grad()
        _without_chance(net)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Implicit dimension choice")
        outputs, scores = theirs(images)
    batch = len(images[0])
    target = torch.randint(CLASSES, outputs[0].shape[-2:], generator=torch.Generator().manual_seed(0))
    target = target.expand(batch, -1, -1)
    penalty = PENALTY / batch * sum(score.abs().sum() for pair in scores for score in pair)
    _loss(outputs, target, penalty if training else 0).backward()

    prediction = ours(dict(zip(ours.modalities, images, strict=True)))
    named = {**prediction.per_modality, "ensemble": prediction.ensemble}
    _loss(list(named.values()), target, ours.fusion_loss()).backward()

    figures = {name: _difference(own, their) for (name, own), their in zip(named.items(), outputs, strict=True)}
    gradients = dict(theirs.named_parameters())
    figures["gradients"] = max(
        _difference(*_gradients(name, parameter, gradients)) for name, parameter in ours.named_parameters()
    )
    all_scores = torch.cat([score.flatten() for pair in scores for score in pair])
    figures["exchanged"] = float((all_scores < THRESHOLD).double().mean())
    return figures


def _loss(outputs: list[Tensor], target: Tensor, penalty: Any) -> Tensor:
    return torch.stack([F.cross_entropy(output, target) for output in outputs]).sum() + penalty


def _gradients(name: str, parameter: Tensor, theirs: dict[str, nn.Parameter]) -> tuple[Tensor, Tensor]:
    """Ours and theirs, of the same shape; where one released tensor serves both modalities, ours are summed."""
    names = released_names(name)
    found: list[Any] = [theirs[key].grad for key in names]
    own: Any = parameter.grad
    if len(names) == 1:
        return own, found[0]
    return (own.sum(0), found[0]) if len(set(names)) == 1 else (own, torch.stack(found))


def _difference(own: Tensor, their: Tensor) -> float:
    if own.shape != their.shape:
        return float("inf")
    # A bias in front of a norm has a gradient of zero but for rounding.
    return float((own - their).detach().abs().max() / their.detach().abs().max().clamp(min=1e-6))


def _draw(net: nn.Module) -> None:
    """Draw every norm, the ensemble's weights, and scorers of which many scores are on both sides of the threshold."""
    with torch.no_grad():
        for name, module in net.named_modules():
            if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.3)
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 2.0)
            if isinstance(module, nn.Linear):
                module.weight.normal_(0, module.in_features**-0.5)
                module.bias.normal_(0, 0.1)
            if re.search(r"score_nets\.\d\.7$", name):
                module.weight.mul_(30)
                module.bias.copy_(torch.tensor([-1.5, 1.5]))
        net.get_parameter("alpha").normal_()


def _without_chance(net: nn.Module) -> None:
    for module in net.modules():
        if isinstance(module, nn.Dropout | nn.Dropout2d) or type(module).__name__ == "DropPath":
            module.eval()


class _ConvModule(nn.Module):
    """What the released decoder uses of mmcv: a convolution, its batch norm, and a rectifier."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, norm_cfg: Any) -> None:
        super().__init__()
        del norm_cfg
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn(self.conv(x)).relu()
        return out


if __name__ == "__main__":
    sys.exit(main())
