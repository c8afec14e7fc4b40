"""Channel exchanging (CEN): a channel with a small scale is replaced by the mean of the other modalities' channel.

Source: Wang et al., "Deep Multimodal Fusion by Channel Exchanging", NeurIPS 2020 (arXiv 2011.05005), sec. 3 and eq. 4
    to 6.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from polymodal import functional
from polymodal.errors import FusionError
from polymodal.fusion.auto import spatial_norms
from polymodal.fusion.base import Fusion, Sites, SiteState, describe_candidates, select
from polymodal.nn.norm import PrivateNorm2d, can_be_private
from polymodal.nn.roster import Roster


@dataclass(frozen=True)
class Exchange(Fusion):
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
        if not self.threshold >= 0:
            raise FusionError(f"threshold: expected θ ≥ 0, got {self.threshold}.")
        if not self.penalty >= 0:
            raise FusionError(f"penalty: expected λ ≥ 0, got {self.penalty}.")
        if self.within not in ("part", "all"):
            raise FusionError(f'within: expected "part" or "all", got {self.within!r}.')
        if self.share is not None and not 0 <= self.share <= 1:
            raise FusionError(f"share: expected a share from 0 to 1, got {self.share}.")

    @property
    def exchanges(self) -> bool:
        """Whether these settings can exchange anything at all."""
        return self.threshold > 0 if self.share is None else self.share > 0

    def keep(self, scale: Tensor, part: Tensor) -> Tensor:
        """Which channels stay: `(M, C)` from the scales γ and the parts, both `(M, C)`."""
        allowed = part if self.within == "part" else None
        if self.share is not None:
            return functional.keep_over_share(scale, self.share, allowed)
        return functional.keep_over_threshold(scale, self.threshold, allowed)

    def find_sites(self, network: nn.Module, sites: Sites) -> tuple[str, ...]:
        """The norms after which channels are exchanged: those chosen among all that have scales.

        `"auto"` means the norm after the spatial convolution of every residual block of the encoder, see
        `spatial_norms`.

        Raises:
            FusionError: When nothing matches; the message lists the candidates.
        """
        candidates = {
            name: module
            for name, module in network.named_modules()
            if can_be_private(module) and module.weight is not None
        }
        chosen = spatial_norms(network) if sites == "auto" else select(candidates, sites)
        chosen = [name for name in chosen if name in candidates]
        if not chosen:
            raise FusionError(
                'sites="auto" found no residual or inverted-residual block in the encoder: say where to exchange.'
                + describe_candidates(candidates)
            )
        return tuple(chosen)

    def install(self, network: nn.Module, sites: Sequence[str], roster: Roster) -> None:
        """Let the private norms at the sites exchange what they normalised."""
        for _, norm in _norms(network, sites):
            norm.fusion = ChannelExchange(self, roster, norm.weight).train(norm.training)

    def loss(self, network: nn.Module, sites: Sequence[str]) -> Tensor:
        """λ Σ_l Σ_m |γ̂_{m,l}|₁ (CEN eq. 4), a scalar."""
        total = super().loss(network, sites)
        if self.penalty == 0:
            return total
        for _, norm in _norms(network, sites):
            total = total + functional.scale_penalty(norm.weight, _part(norm))
        return self.penalty * total

    def scales(self, network: nn.Module, sites: Sequence[str]) -> dict[str, nn.Parameter]:
        """γ `(M, C)` of every site."""
        return {name: norm.weight for name, norm in _norms(network, sites)}

    def state(self, network: nn.Module, sites: Sequence[str]) -> dict[str, SiteState]:
        """What is exchanged now, by site, on the CPU."""
        return {
            name: SiteState(
                scale=(scale := norm.weight.detach().cpu()).abs(),
                keep=self.keep(scale, part := _part(norm).cpu()),
                part=part,
                allowed=part if self.within == "part" else part.new_ones(part.shape),
            )
            for name, norm in _norms(network, sites)
        }


class ChannelExchange(nn.Module):
    """The exchange at one site.

    Args:
        rule: Which channels stay.
        roster: The network's modalities.
        scale: The site's γ, `(M, C)`, for its shape and device.
    """

    part: Tensor

    def __init__(self, rule: Exchange, roster: Roster, scale: Tensor) -> None:
        super().__init__()
        self.rule = rule
        self.roster = roster
        self.register_buffer("part", functional.own_parts(*scale.shape, device=scale.device), persistent=False)

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        """Exchange among the K present modalities.

        Args:
            x: Normalised features, folded, `(B*K, C, H, W)`.
            scale: γ of the present modalities, `(K, C)`.

        Returns:
            A tensor like `x`.
        """
        if not (self.roster.fusing and self.rule.exchanges):
            return x
        keep = self.rule.keep(scale, self.roster.select(self.part))
        return functional.exchange(functional.unfold(x, len(self.roster.present)), keep).flatten(0, 1)

    def extra_repr(self) -> str:
        """The rule, for `print(model)`."""
        return str(self.rule)


def _norms(network: nn.Module, sites: Sequence[str]) -> Iterator[tuple[str, PrivateNorm2d]]:
    for name in sites:
        norm = network.get_submodule(name)
        assert isinstance(norm, PrivateNorm2d)
        yield name, norm


def _part(norm: PrivateNorm2d) -> Tensor:
    assert isinstance(norm.fusion, ChannelExchange)
    return norm.fusion.part
