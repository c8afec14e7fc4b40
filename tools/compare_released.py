"""Run a released network beside ours: random weights in its own checkpoint format, imported, compared.

    git clone https://github.com/yikaiw/CEN
    python tools/compare_released.py CEN/semantic_segmentation --encoder 101 --dtype float64

Compares the predictions of both modalities and the ensemble, and the gradients of the training loss by every parameter,
in evaluation and in training with frozen statistics. Exit status 1 when a figure is beyond the tolerance. See
docs/released-checkpoints.md.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polymodal import Multimodal, checkpoint
from polymodal.runs.import_cen import import_cen, released_names
from released import released_network

TOLERANCE = {"float32": 1e-4, "float64": 1e-9}
CLASSES, IGNORE, THRESHOLD, PENALTY = 40, 255, 2e-2, 2e-4


def main() -> int:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("code", type=Path, help="the folder with models/model.py of CEN or AsymFusion")
    parser.add_argument("--encoder", type=int, choices=(50, 101, 152), default=50, help="depth of the ResNet")
    parser.add_argument("--fusion", choices=("exchange", "asymmetric"), default="exchange")
    parser.add_argument("--dtype", choices=tuple(TOLERANCE), default="float32")
    parser.add_argument("--size", type=int, nargs=2, default=(96, 128), help="height and width of the images")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parsed = parser.parse_args()
    torch.manual_seed(parsed.seed)
    dtype = getattr(torch, parsed.dtype)
    nn.Dropout.forward = _dropped  # type: ignore[method-assign]

    threshold = THRESHOLD if parsed.fusion == "exchange" else None
    theirs = released_network(parsed.code, parsed.encoder, CLASSES, threshold).to(dtype)
    exchanged = randomise(theirs)
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch, "model-best.pth.tar")
        state = {f"module.{name}": value for name, value in theirs.state_dict().items()}
        torch.save({"segmenter": state, "epoch_start": 0, "best_val": np.float64(51.1)}, file)
        print(import_cen(file, Path(scratch, "model"), parsed.fusion))
        ours = checkpoint.load(Path(scratch, "model"))

    images = [torch.randn(parsed.batch, 3, *parsed.size, dtype=dtype)]
    images.append(torch.rand(parsed.batch, 1, *parsed.size, dtype=dtype) * 3)
    target = torch.randint(CLASSES, (parsed.batch, *parsed.size))
    target[:, :4] = IGNORE
    found = [compare(theirs, ours, images, target, training) for training in (False, True)]
    if parsed.fusion == "exchange":
        print(f"{exchanged:.0%} of the scales behind the 3x3 convolutions are below {THRESHOLD}")
    for mode, figures in zip(("evaluation", "training"), found, strict=True):
        print(f"{mode}: " + ", ".join(f"{name} {value:.1e}" for name, value in figures.items()))
    worst = max(value for figures in found for value in figures.values())
    print(f"largest relative difference {worst:.1e}, tolerance {TOLERANCE[parsed.dtype]:.0e}")
    return int(not worst <= TOLERANCE[parsed.dtype])


def randomise(network: nn.Module) -> float:
    """Draw every norm, half of the scales behind the 3×3 convolutions near the threshold, and the ensemble's weights.

    Returns:
        The share of these scales that are below the threshold.
    """
    near = []
    with torch.no_grad():
        for name, module in network.named_modules():
            if isinstance(module, nn.BatchNorm2d):
                sign = torch.where(torch.rand_like(module.weight) < 0.5, -1.0, 1.0).to(module.weight)
                scale = torch.empty_like(module.weight).uniform_(0.5, 1.5)
                if ".bn2." in name:
                    small = torch.rand_like(scale) < 0.5
                    scale = torch.where(small, torch.empty_like(scale).uniform_(0, 2 * THRESHOLD), scale)
                    near.append(scale)
                module.weight.copy_(sign * scale)
                module.bias.normal_(0, 0.3)
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 2.0)
        network.get_parameter("alpha").normal_()
    return float((torch.cat(near) < THRESHOLD).float().mean())


def compare(
    theirs: nn.Module, ours: Multimodal, images: list[Tensor], target: Tensor, training: bool
) -> dict[str, float]:
    """The largest relative difference of each prediction, and over all gradients; infinite where a class differs."""
    theirs.train(training)
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    ours.train(training)
    theirs.zero_grad()
    ours.zero_grad()

    tiled = [images[0], images[1].expand(-1, 3, -1, -1).contiguous()]
    outputs, _ = theirs(tiled)
    penalty = sum(
        scale.chunk(2)[m].abs().sum()
        for m in range(2)
        for name, scale in theirs.named_parameters()
        if name.endswith(f"bn2.bn_{m}.weight")
    )
    with_penalty = ours.fusion.name == "exchange"
    _loss(outputs, target, len(outputs) * PENALTY * penalty if with_penalty else 0).backward()

    prediction = ours(dict(zip(("rgb", "depth"), images, strict=True)))
    named = {**prediction.per_modality, "ensemble": prediction.ensemble}
    _loss(list(named.values()), target, ours.fusion_loss()).backward()

    figures = {
        name: _difference(own, their, classes=True) for (name, own), their in zip(named.items(), outputs, strict=True)
    }
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    figures["gradients"] = max(
        _difference(parameter.grad, _stacked([gradients[source] for source in released_names(name)]))
        for name, parameter in ours.named_parameters()
    )
    return figures


def _loss(outputs: list[Tensor], target: Tensor, penalty: Any) -> Tensor:
    logits = [F.interpolate(output, size=target.shape[-2:], mode="bilinear") for output in outputs]
    return torch.stack([F.cross_entropy(x, target, ignore_index=IGNORE) for x in logits]).sum() + penalty


def _stacked(tensors: list[Tensor]) -> Tensor:
    return torch.stack(tensors) if len(tensors) > 1 else tensors[0]


def _difference(own: Tensor | None, their: Tensor | None, *, classes: bool = False) -> float:
    assert own is not None, "a parameter of ours has no gradient"
    assert their is not None, "a released parameter has no gradient"
    if own.shape != their.shape or (classes and not torch.equal(own.argmax(1), their.argmax(1))):
        return float("inf")
    own, their = own.detach(), their.detach()
    return float((own - their).abs().max() / their.abs().max())


def _dropped(module: nn.Dropout, x: Tensor) -> Tensor:
    """Dropout by one mask for all samples of a shape, so that both networks drop the same values."""
    if not module.training:
        return x
    generator = torch.Generator().manual_seed(x[0].numel())
    mask = torch.rand(x.shape[1:], generator=generator) >= module.p
    return x * mask / (1 - module.p)


if __name__ == "__main__":
    sys.exit(main())
