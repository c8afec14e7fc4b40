"""Channel exchanging (CEN): a channel with a small scale is replaced by the mean of the other modalities' channel.

Beside it its control, for which channels are drawn by lot.

Source: Wang et al., "Deep Multimodal Fusion by Channel Exchanging", NeurIPS 2020 (arXiv 2011.05005), sec. 3 and eq. 4
    to 6.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal
from zlib import crc32

import torch
from torch import Tensor, nn

from polymodal import functional
from polymodal.errors import FusionError
from polymodal.fusion.base import SiteState
from polymodal.fusion.norms import NormFusion
from polymodal.limits import FROM_0, SHARE, Limit, check, or_none
from polymodal.nn import PrivateNorm, Roster, behind, stand_behind
from polymodal.nn.static import Choice, Mark

_LIMITS = {
    "threshold": Limit(FROM_0.holds, "θ ≥ 0"),
    "penalty": Limit(FROM_0.holds, "λ ≥ 0"),
    "share": or_none(SHARE),
}


class ChannelFusion(NormFusion):
    """Exchanging after private norms and before the activation, however the channels are chosen.

    Attributes:
        within: `"part"` when a modality exchanges in its own part alone, `"all"` when anywhere.
    """

    within: Literal["part", "all"]

    def __post_init__(self) -> None:
        if self.within not in ("part", "all"):
            raise FusionError(f'within: expected "part" or "all", got {self.within!r}.')

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

    Args:
        threshold: θ. A channel is exchanged where |γ| < θ; 0 exchanges nothing.
        penalty: λ, the weight of Σ|γ| over the disjoint parts in the loss. The released code adds the term once for
            each of the M + 1 predictions: its λ of 2e-4 with two modalities is 6e-4 here.
        within: `"part"` exchanges in the modality's own part alone, as the paper says; `"all"` wherever a scale is
            small, as the released code does.
        share: Instead of a threshold, the share in 0..1 of the allowed channels that every modality exchanges at each
            site, those with the smallest |γ|.

    Raises:
        FusionError: When a value is out of its range.
    """

    name: ClassVar[str] = "exchange"

    threshold: float = 2e-2
    penalty: float = 0.0
    within: Literal["part", "all"] = "part"
    share: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check(vars(self), _LIMITS, kind=FusionError)

    @property
    def exchanges(self) -> bool:
        """Whether these settings can exchange anything at all."""
        return self.threshold > 0 if self.share is None else self.share > 0

    def cutoff(self) -> dict[str, float]:
        """The share, which decides whatever the threshold is, or the threshold."""
        return {"threshold": self.threshold} if self.share is None else {"share": self.share}

    def keep(self, scale: Tensor, part: Tensor) -> Tensor:
        """Which channels stay: `(M, C)` from the scales γ and the parts, both `(M, C)`."""
        if self.share is not None:
            return functional.keep_over_share(scale, self.share, self.allowed(part))
        return functional.keep_over_threshold(scale, self.threshold, self.allowed(part))

    def install(self, network: nn.Module, sites: Sequence[str], roster: Roster) -> None:
        """Let the private norms at the sites exchange what they normalised."""
        for name, scale in _scales(network, sites):
            stand_behind(network, name, ScaleExchange(self, roster, scale))

    def loss(self, network: nn.Module, sites: Sequence[str]) -> Tensor:
        """λ Σ_l Σ_m |γ̂_{m,l}|₁ (CEN eq. 4), a scalar."""
        total = super().loss(network, sites)
        if self.penalty == 0:
            return total
        for name, scale in _scales(network, sites):
            total = total + functional.scale_penalty(scale, behind(network, name).part)
        return self.penalty * total

    def scales(self, network: nn.Module, sites: Sequence[str]) -> dict[str, nn.Parameter]:
        """γ `(M, C)` of every site; frozen batch norms keep theirs as constants, which nothing trains."""
        return {name: scale for name, scale in _scales(network, sites) if isinstance(scale, nn.Parameter)}


@dataclass(frozen=True)
class RandomExchange(ChannelFusion):
    """The control of `Exchange`: the same sites and the same exchange, of channels drawn by lot once and for all.

    What exchanging small scales gains beyond this is due to the choice of channels. There is no penalty.

    Args:
        share: The share in 0..1 of the allowed channels that every modality exchanges at each site.
        seed: Of the draw. Each site has a draw of its own, by its name; it is saved with the network.
        within: `"part"` draws from the modality's own part alone, `"all"` from all channels.

    Raises:
        FusionError: When a value is out of its range.
    """

    name: ClassVar[str] = "random"

    share: float
    seed: int = 0
    within: Literal["part", "all"] = "part"

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


class ChannelExchange(nn.Module, ABC):
    """The exchange at one site.

    Args:
        rule: The fusion's settings.
        roster: The network's modalities.
        scale: The site's γ, `(M, C)`, for its shape and device.
    """

    part: Tensor

    def __init__(self, rule: ChannelFusion, roster: Roster, scale: Tensor) -> None:
        super().__init__()
        self.rule = rule
        self.roster = roster
        self.register_buffer("part", functional.own_parts(*scale.shape, device=scale.device), persistent=False)

    @abstractmethod
    def choose(self, scale: Tensor) -> Tensor:
        """Which channels the K present modalities keep, `(K, C)`, from their γ `(K, C)`."""

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        """Exchange among the K present modalities.

        Args:
            x: Normalised features, folded, `(B*K, C, ...)`.
            scale: γ of the present modalities, `(K, C)`.

        Returns:
            A tensor like `x`.
        """
        if not (self.roster.fusing and self.rule.exchanges):
            return x
        return functional.refold(
            functional.exchange(functional.unfold(x, len(self.roster.present)), self.choose(scale))
        )

    def decided(self, scale: Tensor) -> "Decided | None":
        """What it does once the scales γ `(M, C)` do not change any more; None where nothing is exchanged."""
        if not (self.roster.fusing and self.rule.exchanges) or len(self.roster.present) == 1:
            return None
        return Decided(self.choose(self.roster.select(scale)))

    def extra_repr(self) -> str:
        """The rule, for `print(model)`."""
        return str(self.rule)


class Decided(nn.Module):
    """An exchange of which the choice is made: nothing is compared or sorted.

    Args:
        keep: Which channels the K present modalities keep, boolean `(K, C)`.
    """

    keep: Tensor

    def __init__(self, keep: Tensor) -> None:
        super().__init__()
        self.register_buffer("keep", keep)

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        """Exchange folded features `(B*K, C, ...)`, whatever the scales."""
        del scale
        return functional.exchange(functional.unfold(x, len(self.keep)), self.keep).flatten(0, 1)

    def static(self, mark: Mark) -> nn.Module:
        """A choice of channels."""
        return mark(Choice(self.keep.cpu()))


class ScaleExchange(ChannelExchange):
    """The exchange of channels with small scales at one site, see `ChannelExchange`."""

    rule: Exchange

    def choose(self, scale: Tensor) -> Tensor:
        """Those with large scales."""
        return self.rule.keep(scale, self.roster.select(self.part))


class FixedExchange(ChannelExchange):
    """The exchange of drawn channels at one site, see `ChannelExchange`; `keep` `(M, C)` is part of the state.

    Args:
        site: Its name, on which the draw depends.
    """

    keep: Tensor

    def __init__(self, rule: RandomExchange, roster: Roster, scale: Tensor, site: str) -> None:
        super().__init__(rule, roster, scale)
        self.register_buffer("keep", rule.draw(site, self.part))

    def choose(self, scale: Tensor) -> Tensor:
        """Those that were drawn, whatever their scales."""
        del scale
        return self.roster.select(self.keep)


def _scales(network: nn.Module, sites: Sequence[str]) -> Iterator[tuple[str, nn.Parameter]]:
    """γ `(M, C)` of the private norms at the sites."""
    for name in sites:
        norm = network.get_submodule(name)
        assert isinstance(norm, PrivateNorm)
        yield name, norm.weight
