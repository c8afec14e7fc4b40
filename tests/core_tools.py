"""What the tests of the core share: a small network, random norms, a modality's own plain network, comparison."""

import copy
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from polymodal import Exchange, Multimodal, checkpoint, fuse
from polymodal.export import absorb
from polymodal.nn import PrivateFrozenNorm

NAMES = ("rgb", "depth", "normal", "thermal")


def randomize_norms(network: nn.Module) -> nn.Module:
    """Draw every batch norm's scale, shift and statistics, so that a norm which is mixed up or skipped shows.

    Works on plain networks (`(C,)`) and fused ones (`(M, C)`); every modality gets values of its own.
    """
    for module in network.modules():
        if isinstance(module, _BatchNorm | PrivateFrozenNorm):
            with torch.no_grad():
                if module.weight is not None:
                    sign = torch.where(torch.rand_like(module.weight) < 0.5, -1.0, 1.0)
                    module.weight.copy_(sign * torch.empty_like(module.weight).uniform_(0.2, 1.2))
                    module.bias.normal_(0, 0.3)
                if module.running_mean is not None:
                    module.running_mean.normal_(0, 0.3)
                    module.running_var.uniform_(0.5, 2.0)
    return network


def plain_of(net: Multimodal, plain: nn.Module, m: int) -> nn.Module:
    """The plain network as modality m sees it: shared weights as they are, of the norms the m-th row."""
    # What stands behind a layer is a layer around it.
    state = {key.replace(".layer.", "."): value for key, value in net.network.state_dict().items()}
    own = copy.deepcopy(plain)
    values = {
        key: state[key][m] if state[key].dim() == value.dim() + 1 else state[key]
        for key, value in own.state_dict().items()
    }
    own.load_state_dict(values)
    return own


def images(names: Any, *shape: int, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """A random image for every modality."""
    return {name: torch.randn(*shape, dtype=dtype) for name in names}


def tensors_of(output: Any) -> list[Tensor]:
    """All tensors in nested lists, tuples and dicts, in order."""
    if isinstance(output, Tensor):
        return [output]
    values = output.values() if isinstance(output, dict) else output
    return [tensor for value in values for tensor in tensors_of(value)]


def difference(a: Tensor, b: Tensor) -> float:
    """The largest difference, relative to the largest value; infinite where shapes differ or a value is not finite."""
    if a.shape != b.shape or not bool(a.isfinite().all() and b.isfinite().all()):
        return math.inf
    a, b = a.detach(), b.detach()
    if b.numel() == 0:
        return 0.0
    size = float(b.abs().max())
    return float((a - b).abs().max()) / (size or 1.0)


def assert_equal(a: Any, b: Any, tolerance: float, what: str = "") -> None:
    """The tensors of two outputs of one form agree to a relative tolerance; 0 asks for the same bits."""
    ours, theirs = tensors_of(a), tensors_of(b)
    assert len(ours) == len(theirs), f"{what}: {len(ours)} tensors against {len(theirs)}"
    for i, (x, y) in enumerate(zip(ours, theirs, strict=True)):
        assert x.dtype == y.dtype, f"{what} [{i}]: {x.dtype} against {y.dtype}"
        assert difference(x, y) <= tolerance, f"{what} [{i}]: differs by {difference(x, y):.2e}"


def assert_same_state(a: nn.Module, b: nn.Module) -> None:
    """Two modules have the same tree of classes and, bit for bit, the same state."""
    assert [(n, type(m)) for n, m in a.named_modules()] == [(n, type(m)) for n, m in b.named_modules()]
    ours, theirs = a.state_dict(), b.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def assert_kept(net: Multimodal, plain: nn.Module, inputs: dict[str, Tensor], folder: Path, tolerance: float) -> None:
    """Saved and loaded a network predicts the same bits, absorbed the same; of all modalities and of the last alone.

    It is absorbed for the size of these images: what takes any is in test_absorb.py, and two times as long.
    """
    checkpoint.save(net, folder)
    again = checkpoint.load(folder, network=plain)
    assert again.settings == net.settings
    assert_equal(again(inputs).ensemble, net(inputs).ensemble, 0.0)
    height, width = next(iter(inputs.values())).shape[-2:]
    absorbed = absorb(net, size=(height, width))
    assert_equal(absorbed(inputs).ensemble, net(inputs).ensemble, tolerance)
    alone = dict(list(inputs.items())[-1:])
    absorbed = absorb(net, list(alone), size=(height, width))
    assert_equal(absorbed(alone).ensemble, net(alone, subset=True).ensemble, tolerance)


def small(channels: int = 3, width: int = 7) -> nn.Module:
    """Two norms, of which the second is the place to exchange: `sites="4"`."""
    layers = [nn.Conv2d(channels, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, width, 3), nn.BatchNorm2d(width)]
    return nn.Sequential(*layers, nn.ReLU(), nn.Conv2d(width, 2, 1)).double()


def fused(m: int, fusion: Exchange | None, seed: int = 0) -> Multimodal:
    """A small network for m modalities in eval mode, its norms and ensemble weights random."""
    torch.manual_seed(seed)
    net = randomize_norms(fuse(small(), NAMES[:m], fusion, sites="4")).eval()
    with torch.no_grad():
        net.ensemble.alpha.normal_()
    return net


def run(net: nn.Module, inputs: dict[str, Tensor], **arguments: bool) -> list[Tensor]:
    """Predictions of every modality, ensemble and weights."""
    with torch.no_grad():
        prediction = net(inputs, **arguments)
    return tensors_of([prediction.per_modality, prediction.ensemble, prediction.weights])


def with_fusion(net: Multimodal, fusion: Exchange | None) -> Multimodal:
    """The same network, made with another fusion."""
    other = fuse(small(), net.modalities, fusion, sites="4").eval()
    other.load_state_dict(net.state_dict())
    return other
