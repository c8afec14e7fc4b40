"""What is measured: one network, its modalities, its images, and scales of which a stated share is exchanged."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polymodal import models
from polymodal.anatomy import ghost
from polymodal.anatomy.norms import is_batch_norm
from polymodal.bench.machine import check_device
from polymodal.costs import cost
from polymodal.errors import ConfigError
from polymodal.export import Absorbed, absorb
from polymodal.functional import keep_over_share, own_parts
from polymodal.fusion import DecodeOnce, Exchange
from polymodal.limits import SHARE, at_least, check
from polymodal.multimodal import Multimodal
from polymodal.nn.norm import PrivateNorm
from polymodal.runs.import_cen import RELEASED_EXCHANGE
from polymodal.runs.recorder import exchanged_shares
from polymodal.runs.released import IGNORE
from polymodal.surgery import fuse

_LIMITS = {
    "classes": at_least(2),
    "modalities": at_least(1),
    "size": at_least(1),
    "batch": at_least(1),
    "share": SHARE,
}

_SMALL = 128
"""Height and width that the norms' statistics are taken at: enough for that, and soon done."""


@dataclass(frozen=True)
class Case:
    """The settings of a measurement.

    Args:
        network: Name of the plain network, see `polymodal.models.create`.
        arguments: Its arguments, without `classes`.
        classes: Number of classes.
        modalities: M.
        size: Height and width of the images.
        batch: Samples of each modality.
        device: "cpu", "cuda" or "cuda:N".
        share: Share in 0..1 of the penalised channels that is exchanged.
        statistics: What norms normalise by in training, "frozen" as in the papers or "batch".

    Raises:
        ConfigError: A value is out of its range.
    """

    network: str = "refinenet"
    arguments: Mapping[str, Any] = field(default_factory=dict)
    classes: int = 40
    modalities: int = 2
    size: tuple[int, int] = (480, 640)
    batch: int = 1
    device: str = "cpu"
    share: float = 0.3
    statistics: Literal["frozen", "batch"] = "frozen"

    def __post_init__(self) -> None:
        check(vars(self) | {"size": min(self.size)}, _LIMITS, "--")
        if "classes" in self.arguments:
            raise ConfigError("--network-args: `classes` is an option of its own; use --classes.")
        check_device(self.device)

    @property
    def channels(self) -> dict[str, int]:
        """The channels of each modality: the first has those of the network, as colours do; all others one."""
        names = ["rgb", "depth", *(f"modality{m}" for m in range(3, self.modalities + 1))][: self.modalities]
        return {name: 1 if m else self.arguments.get("in_channels", 3) for m, name in enumerate(names)}

    def facts(self) -> dict[str, Any]:
        """The settings, for people to read."""
        height, width = self.size
        return {
            "network": self.network,
            "arguments": dict(self.arguments),
            "images": f"{self.batch} of {height}×{width} for each modality",
            "classes": self.classes,
            "modalities": self.modalities,
            "statistics": self.statistics,
        }

    def plain(self) -> nn.Module:
        """A plain network, freshly initialised, the same at every call."""
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(0)
            return models.create(self.network, **self.arguments, classes=self.classes)


class Networks:
    """The networks of a case, of equal values, each built when it is first asked for.

    Args:
        case: The settings.
        exports: Folder of exported files, which are written once and read by all who share it.

    Attributes:
        inputs: Images (batch, C_m, H, W) by modality.
        target: Labels (batch, H, W), a few rows of which are ignored.
    """

    def __init__(self, case: Case, exports: Path) -> None:
        self.case = case
        self.exports = exports
        generator = torch.Generator().manual_seed(0)
        self.inputs = {
            name: _scene(case.batch, count, case.size, generator).to(case.device)
            for name, count in case.channels.items()
        }
        target = torch.randint(case.classes, (case.batch, *case.size), generator=generator)
        target[:, :1] = IGNORE
        self.target = target.to(case.device)
        self._static: dict[str, Absorbed] = {}
        self._optimisers: WeakKeyDictionary[nn.Module, torch.optim.Optimizer] = WeakKeyDictionary()

    @cached_property
    def exchange(self) -> Multimodal:
        """All modalities in one network, with exchange.

        Raises:
            ConfigError: When there is no such network.
            FusionError: When channels cannot be exchanged in it.
        """
        plain = self.case.plain()
        _calibrate(plain, self.inputs)
        rule = Exchange(RELEASED_EXCHANGE.threshold, RELEASED_EXCHANGE.penalty)
        net = fuse(plain, self.case.channels, rule, statistics=self.case.statistics, inplace=True)
        _tell_apart(net, rule.threshold, self.case.share)
        return net.to(self.case.device)

    @cached_property
    def without_exchange(self) -> Multimodal:
        """All modalities in one network, without exchange."""
        net = fuse(self.case.plain(), self.case.channels, None, statistics=self.case.statistics, inplace=True)
        net.load_state_dict(self.exchange.state_dict())
        return net.to(self.case.device)

    @cached_property
    def decode_once(self) -> Multimodal:
        """All modalities in one network, with exchange in the encoder and one decoder for all of them.

        Raises:
            FusionError: When the network is no encoder with a decoder.
        """
        fusion = DecodeOnce(within=self.exchange.fusion)
        net = fuse(self.case.plain(), self.case.channels, fusion, statistics=self.case.statistics, inplace=True)
        values, own = self.exchange.state_dict(), net.state_dict()
        for name, value in own.items():
            # The encoder stands behind one more name; norms of the one decoder are the first modality's.
            found = values.get(name, values.get(name.replace(".layer.", ".", 1), value))
            own[name] = found if found.shape == value.shape else found[:1]
        net.load_state_dict(own)
        return net.to(self.case.device)

    def named(self, name: str) -> Multimodal:
        """A network of all modalities: "exchange", "no-exchange" or "decode-once"."""
        if name == "decode-once":
            return self.decode_once
        return self.exchange if name == "exchange" else self.without_exchange

    def static(self, name: str) -> Absorbed:
        """A network of a name as it is at inference, see `polymodal.export.absorb`.

        Raises:
            ExportError: When it has no static form.
        """
        if name not in self._static:
            self._static[name] = absorb(self.named(name).eval())
        return self._static[name]

    @cached_property
    def unimodal(self) -> list[nn.Module]:
        """For each modality a plain network of its own."""
        return [self._of(m) for m in range(self.case.modalities)]

    @cached_property
    def first(self) -> nn.Module:
        """The plain network of the first modality."""
        return self._of(0)

    def optimiser(self, net: nn.Module, build: Callable[[nn.Module], torch.optim.Optimizer]) -> torch.optim.Optimizer:
        """The optimiser of a network, the same for all that train it: its state is as large as the network is."""
        if net not in self._optimisers:
            self._optimisers[net] = build(net)
        return self._optimisers[net]

    def exchanged(self) -> dict[str, float]:
        """For each modality the share in 0..1 of its penalised channels that is exchanged."""
        return exchanged_shares(self.exchange.exchange_state(), self.exchange.modalities)

    def tiled(self) -> dict[str, Tensor]:
        """The images with the channels that a plain network takes."""
        width = max(self.case.channels.values())
        return {
            name: image.repeat(1, width // image.shape[1], 1, 1) if image.shape[1] < width else image
            for name, image in self.inputs.items()
        }

    def _of(self, m: int) -> nn.Module:
        plain = self.case.plain()
        values = self.exchange.network.state_dict()
        own = {
            name: values[name][m] if values[name].dim() > value.dim() else values[name]
            for name, value in plain.state_dict().items()
        }
        plain.load_state_dict(own)
        return plain.to(self.case.device)


def check_statistics(case: Case, tasks: Sequence[str]) -> None:
    """Refuse to train norms on the statistics of a single sample.

    Raises:
        ConfigError: That is what is asked for.
    """
    if case.statistics == "batch" and case.batch == 1 and "training" in tasks:
        raise ConfigError(
            "--statistics batch: in training a norm learns nothing from a single sample; use --batch 2 or more, or "
            "--task inference."
        )


def check_size(case: Case) -> int:
    """Try the case's network on images of its size, without computing anything.

    Returns:
        The multiply-accumulates of one sample with all its modalities.

    Raises:
        ConfigError: There is no such network, or it cannot take the size.
        FusionError: Channels cannot be exchanged in it.
    """
    # Built with values, as some networks compute with numbers of their own while they are built.
    net = fuse(ghost(case.plain()), case.channels, "exchange", inplace=True)
    try:
        return cost(net, case.size).macs
    except (RuntimeError, ValueError) as error:
        height, width = case.size
        raise ConfigError(
            f"--size {height} {width}: {case.network} cannot take images of this size ({error}); choose a larger one, "
            "or multiples of 32."
        ) from error


def _scene(batch: int, channels: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Images that are smooth but for some noise, as pictures are."""
    coarse = torch.randn(batch, channels, 8, 8, generator=generator)
    noise = torch.randn(batch, channels, *size, generator=generator)
    return F.interpolate(coarse, size=size, mode="bilinear") + 0.1 * noise


def _calibrate(plain: nn.Module, inputs: Mapping[str, Tensor]) -> None:
    """Give the batch norms the statistics of these images: with those they start from, deep networks overflow."""
    norms: list[Any] = [module for module in plain.modules() if is_batch_norm(module)]
    momenta = [norm.momentum for norm in norms]
    plain.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    width = max(image.shape[1] for image in inputs.values())
    images = [image[..., :_SMALL, :_SMALL].cpu() for image in inputs.values()]
    with torch.no_grad():
        plain(torch.cat([image.expand(-1, width, -1, -1) for image in (*images, images[0].flip(-1))]))
    plain.train()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def _tell_apart(net: Multimodal, threshold: float, share: float) -> None:
    """Let the modalities' norms differ, and bring the scales of a share of the penalised channels below θ."""
    generator = torch.Generator().manual_seed(0)

    def uniform(like: Tensor, low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(like.shape, generator=generator)

    with torch.no_grad():
        for norm in net.network.modules():
            if isinstance(norm, PrivateNorm) and norm.weight is not None and norm.bias is not None:
                norm.weight.mul_(uniform(norm.weight, 0.8, 1.2))
                norm.bias.add_(uniform(norm.bias, -0.1, 0.1))
        for scale in net.scales().values():
            lots = torch.rand(scale.shape, generator=generator)
            keep = keep_over_share(lots, share, own_parts(*scale.shape))
            scale.copy_(torch.where(keep, scale, uniform(scale, 0.1, 0.9) * threshold))
