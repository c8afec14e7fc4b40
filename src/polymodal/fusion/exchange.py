"""Channel exchanging (CEN): a channel with a small scale is replaced by the mean of the other modalities' channel.

Beside it what else has been exchanged: every p-th channel or column, whole maps; and the control, by lot.

Source: Wang et al., "Deep Multimodal Fusion by Channel Exchanging", NeurIPS 2020 (arXiv 2011.05005), sec. 3 and eq. 4
    to 6.
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar, Literal
from zlib import crc32

import torch
from torch import Tensor, nn

from polymodal import functional
from polymodal.anatomy import Anatomy
from polymodal.errors import FusionError
from polymodal.fusion import places
from polymodal.fusion.base import LATER, Plan, Sites, SiteState
from polymodal.fusion.exchanging import FixedExchange, PeriodicExchange, ScaleExchange
from polymodal.fusion.norms import NormFusion
from polymodal.limits import FROM_0, SHARE, Limit, check, or_none
from polymodal.nn import PrivateNorm, Roster, behind, stand_behind

Axis = Literal["channel", "column"]

_LIMITS = {
    "threshold": Limit(FROM_0.holds, "θ ≥ 0"),
    "penalty": Limit(FROM_0.holds, "λ ≥ 0"),
    "share": or_none(SHARE),
    "every": or_none(Limit(lambda value: type(value) is int and value >= 1, "a whole number p ≥ 1")),
}


class ChannelFusion(NormFusion):
    """Exchanging after private norms and before the activation, however the channels are chosen.

    Attributes:
        within: `"part"` when a modality exchanges in its own part alone, `"all"` when anywhere.
        others: What of the others stands in, see `functional.exchange`.
    """

    within: Literal["part", "all"]
    others: functional.Others

    def __post_init__(self) -> None:
        if self.within not in ("part", "all"):
            raise FusionError(f'within: expected "part" or "all", got {self.within!r}.')
        if self.others not in ("mean", "max"):
            raise FusionError(f'others: expected "mean" or "max", got {self.others!r}.')

    @property
    @abstractmethod
    def exchanges(self) -> bool:
        """Whether these settings can exchange anything at all."""

    def state(self, network: nn.Module, sites: Sequence[str]) -> dict[str, SiteState]:
        """What is exchanged now, by site, on the CPU."""
        states = {}
        for name, scale in _scales(network, sites):
            exchange = behind(network, name)
            part = exchange.part.cpu()
            states[name] = SiteState(
                scale.detach().cpu().abs(), exchange.choose(scale).cpu(), part, allowed=self.allowed(part)
            )
        return states

    def remark(self, states: Mapping[str, SiteState]) -> str:
        """That nothing is exchanged, or all that may be, though some of it could be."""
        shares = [share for state in states.values() for share in state.share()]
        if not shares or not self.exchanges or not any(state.allowed.any() for state in states.values()):
            return ""
        if max(shares) == 0:
            smallest = min(state.scale.min().item() for state in states.values())
            return (
                f"no channel is exchanged: the smallest scale is {smallest:.3g}, and none came below the threshold, so "
                "the fusion had no effect. Raise model.fusion.penalty, model.optimiser.scales_factor or "
                "model.fusion.threshold, or train longer."
            )
        if min(shares) == 1:
            return (
                "every channel that may be exchanged is exchanged, at every site: the scales select nothing. Lower "
                "model.fusion.penalty, model.optimiser.scales_factor or model.fusion.threshold."
            )
        return ""

    def allowed(self, part: Tensor) -> Tensor:
        """Where exchanging is allowed, `(M, C)`, from the parts `(M, C)`; nowhere with M = 1."""
        if part.shape[0] == 1:
            return torch.zeros_like(part)
        return part if self.within == "part" else torch.ones_like(part)


@dataclass(frozen=True)
class Exchange(ChannelFusion):
    """Exchange channels between modalities after a norm and before the activation (CEN eq. 6).

    The penalty always acts on disjoint parts, modality m on the m-th of M. With M = 1 nothing is exchanged.

    With `every` the scales choose nothing, and an exchange may be of columns, and at other sites, see `find_sites`.
    `Exchange(every=2, within="all", axis=["none", "column", "channel", "channel"])` at `sites="all"` is the exchange of
    ChangerEx (Fang et al., "Changer", TGRS 2023, arXiv 2209.08290; open-cd). `Exchange(every=1, within="all",
    axis=["none", "channel", "none", "channel"])` at `sites="encoder"` exchanges whole layers before a shared decoder
    (Dong et al., "EfficientCD", arXiv 2407.15999, and "Exchange Is All You Need", arXiv 2601.07805).

    Args:
        threshold: θ. A channel is exchanged where |γ| < θ; 0 exchanges nothing.
        penalty: λ, the weight of Σ|γ| over the disjoint parts in the loss. The released code adds the term once for
            each of the M + 1 predictions: its λ of 2e-4 with two modalities is 6e-4 here.
        within: `"part"` exchanges in the modality's own part alone, as the paper says; `"all"` wherever a scale is
            small, as the released code does.
        share: Instead of a threshold, the share in 0..1 of the allowed channels that every modality exchanges at each
            site, those with the smallest |γ|.
        every: Instead of both, p: every p-th channel or column is exchanged, from the first on; 1 exchanges all.
        axis: `"channel"`, or with `every` `"column"`; or one for each stage of the encoder, `"none"` among them, and
            with `sites="encoder"` one for each map that the decoder reads.
        others: What of more than one other modality stands in: their `"mean"`, or their `"max"`.

    Raises:
        FusionError: When a value is out of its range, or settings exclude each other.
    """

    name: ClassVar[str] = "exchange"

    threshold: float = 2e-2
    penalty: float = 0.0
    within: Literal["part", "all"] = "part"
    share: float | None = None
    every: int | None = field(default=None, metadata=LATER)
    axis: Axis | Sequence[Axis | Literal["none"]] = field(default="channel", metadata=LATER)
    others: functional.Others = field(default="mean", metadata=LATER)

    def __post_init__(self) -> None:
        super().__post_init__()
        check(vars(self), _LIMITS, kind=FusionError)
        if isinstance(self.axis, list):
            object.__setattr__(self, "axis", tuple(self.axis))  # a file has a list
        known = ("channel", "column", "none") if isinstance(self.axis, tuple) else ("channel", "column")
        if not self._axes or any(axis not in known for axis in self._axes):
            raise FusionError(
                f"axis: expected channel or column, or a list of these and none for each stage, got {self.axis!r}."
            )
        if self.every is None and self.axis != "channel":
            raise FusionError(
                f"axis: expected every=p with {self.axis!r}, as scales choose channels alone, got no every."
            )
        if self.every is not None and (self.share is not None or self.penalty):
            raise FusionError(
                "every: expected no share and no penalty beside it, as scales choose nothing there, got "
                f"share={self.share} and penalty={self.penalty}."
            )
        if "column" in self._axes and self.within == "part":
            raise FusionError('within: expected "all" where columns are exchanged, which have no parts, got "part".')

    @property
    def exchanges(self) -> bool:
        """Whether these settings can exchange anything at all."""
        if self.every is not None:
            return True
        return self.threshold > 0 if self.share is None else self.share > 0

    def cutoff(self) -> dict[str, float]:
        """The share, which decides whatever the threshold is, or the threshold."""
        if self.every is not None:
            return {}
        return {"threshold": self.threshold} if self.share is None else {"share": self.share}

    def keep(self, scale: Tensor, part: Tensor) -> Tensor:
        """Which channels stay: `(M, C)` from the scales γ and the parts, both `(M, C)`."""
        if self.share is not None:
            return functional.keep_over_share(scale, self.share, self.allowed(part))
        return functional.keep_over_threshold(scale, self.threshold, self.allowed(part))

    def find_sites(self, network: nn.Module, sites: Sites) -> tuple[str, ...]:
        """The norms behind which channels are exchanged; with `every` also ends of stages, or the encoder's maps.

        With `every`, norms need no scales, `"early"`, `"middle"`, `"late"` and `"all"` mean the last blocks of stages,
        and `"encoder"` what the encoder returns, which its own layers do not read then. Where the axis is told by
        stage, those with `"none"` are left out.

        Raises:
            FusionError: When nothing matches, or there are other stages than axes.
        """
        if self.every is None:
            return super().find_sites(network, sites)
        return places.find(network, sites, self.axis)

    def plan(self, anatomy: Anatomy, sites: Sequence[str]) -> Plan:
        """With `every`, the exchange in the layout of what each site returns; else what `install` does."""
        if self.every is None:
            return super().plan(anatomy, sites)
        chosen = places.look(anatomy, sites, self.axis)

        def install(network: nn.Module, roster: Roster) -> None:
            for place in chosen:
                place.install(network, partial(PeriodicExchange, self, roster))

        return Plan(install)

    def install(self, network: nn.Module, sites: Sequence[str], roster: Roster) -> None:
        """Let the private norms at the sites exchange what they normalised."""
        for name, scale in _scales(network, sites):
            stand_behind(network, name, ScaleExchange(self, roster, scale))

    def loss(self, network: nn.Module, sites: Sequence[str]) -> Tensor:
        """λ Σ_l Σ_m |γ̂_{m,l}|₁ (CEN eq. 4), a scalar.

        Raises:
            FusionError: Every scale is frozen where gradients are wanted, so that the penalty presses on nothing.
        """
        total = super().loss(network, sites)
        if self.penalty == 0:
            return total
        for name, scale in _scales(network, sites):
            total = total + functional.scale_penalty(scale, behind(network, name).part)
        if torch.is_grad_enabled() and not total.requires_grad:
            raise FusionError(
                f"penalty: {self.penalty} would change nothing, as the scales of all norms that exchange, such as "
                f"'{sites[0]}', are frozen. Let them be trained (requires_grad), or set the penalty to 0."
            )
        return self.penalty * total

    def scales(self, network: nn.Module, sites: Sequence[str]) -> dict[str, nn.Parameter]:
        """γ `(M, C)` of every site; frozen batch norms keep theirs as constants, which nothing trains."""
        if self.every is not None:
            return {}
        return {name: scale for name, scale in _scales(network, sites) if isinstance(scale, nn.Parameter)}

    def state(self, network: nn.Module, sites: Sequence[str]) -> dict[str, SiteState]:
        """What is exchanged now, by site, on the CPU; empty where scales choose nothing."""
        return {} if self.every is not None else super().state(network, sites)

    @property
    def _axes(self) -> tuple[str, ...]:
        return self.axis if isinstance(self.axis, tuple) else (self.axis,)


@dataclass(frozen=True)
class RandomExchange(ChannelFusion):
    """The control of `Exchange`: the same sites and the same exchange, of channels drawn by lot once and for all.

    What exchanging small scales gains beyond this is due to the choice of channels. There is no penalty.

    Args:
        share: The share in 0..1 of the allowed channels that every modality exchanges at each site.
        seed: Of the draw. Each site has a draw of its own, by its name; it is saved with the network.
        within: `"part"` draws from the modality's own part alone, `"all"` from all channels.
        others: What of more than one other modality stands in: their `"mean"`, or their `"max"`.

    Raises:
        FusionError: When a value is out of its range.
    """

    name: ClassVar[str] = "random"

    share: float
    seed: int = 0
    within: Literal["part", "all"] = "part"
    others: functional.Others = field(default="mean", metadata=LATER)

    def __post_init__(self) -> None:
        super().__post_init__()
        check(vars(self), {"share": SHARE}, kind=FusionError)

    @property
    def exchanges(self) -> bool:
        """Whether these settings can exchange anything at all."""
        return self.share > 0

    def cutoff(self) -> dict[str, float]:
        """The share."""
        return {"share": self.share}

    def draw(self, site: str, part: Tensor) -> Tensor:
        """Which channels stay at a site, `(M, C)`, from the parts `(M, C)`."""
        generator = torch.Generator().manual_seed(crc32(f"{self.seed} {site}".encode()))
        lots = torch.rand(part.shape, generator=generator).to(part.device)
        return functional.keep_over_share(lots, self.share, self.allowed(part))

    def install(self, network: nn.Module, sites: Sequence[str], roster: Roster) -> None:
        """Let the private norms at the sites exchange what they normalised."""
        for name, scale in _scales(network, sites):
            stand_behind(network, name, FixedExchange(self, roster, scale, name))


def _scales(network: nn.Module, sites: Sequence[str]) -> Iterator[tuple[str, nn.Parameter]]:
    """γ `(M, C)` of the private norms at the sites."""
    for name in sites:
        norm = network.get_submodule(name)
        assert isinstance(norm, PrivateNorm)
        yield name, norm.weight
