"""Decode once: modalities meet inside the encoder, and one decoder reads one map of all of them at every scale.

Every modality is encoded, with shared convolutions and norms of its own; the decoder runs once, not once for each. That
is most of what exchanging channels costs beyond a network of one modality.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from polymodal.anatomy import Anatomy
from polymodal.anatomy.blocks import encoder_of
from polymodal.errors import FusionError
from polymodal.functional import weighted_mean
from polymodal.fusion.base import Fusion, Plan, Sites
from polymodal.fusion.exchange import Exchange
from polymodal.fusion.stages import OneMap, encoded, layers_after
from polymodal.nn import Exits, Roster, stand_behind


def _said_within(name: str) -> Any:
    """A property or a method of `DecodeOnce`, as that of the fusion inside the encoder."""
    return property(attrgetter(f"within.{name}"))


@dataclass(frozen=True)
class DecodeOnce(Fusion):
    """A fusion inside the encoder; behind it, one stream of the modalities' maps for one decoder and one prediction.

    At each scale that the decoder reads, F = Σ_m w_{m,c} x_m, with weights by scale, modality and channel. In training
    the decoder reads every modality's own maps, too, in the same batch, so that each modality has a prediction and a
    loss of its own. At inference these are computed only when they are asked for (`per_modality` of
    `Multimodal.forward`), and any of the modalities may be absent: the weights of the others then sum to one.

    Args:
        within: How modalities meet inside the encoder; it must keep one stream for every modality.
        weights: `"learned"`, softmax over the modalities, equal at the start; or `"equal"`, the plain mean.

    Raises:
        FusionError: When a setting cannot work.
    """

    name: ClassVar[str] = "decode-once"
    merges: ClassVar[bool] = True
    branches: ClassVar[bool] = True

    within: Fusion = field(default_factory=Exchange)
    weights: Literal["learned", "equal"] = "learned"

    def __post_init__(self) -> None:
        if not isinstance(self.within, Fusion):
            raise FusionError(f"within: expected a fusion, got {self.within!r}.")
        if self.within.merges:
            raise FusionError(
                f"within: {self.within.name!r} makes one stream of the modalities, where each must keep its own up "
                "to the end of the encoder. Use an exchange, an asymmetric fusion, an alignment or none."
            )
        if self.weights not in ("learned", "equal"):
            raise FusionError(f'weights: expected "learned" or "equal", got {self.weights!r}.')

    # The fusion inside the encoder stands at the sites, so it says what is to be known of them.
    needs_private_norms = _said_within("needs_private_norms")
    needs_all = _said_within("needs_all")
    takes_gaps = _said_within("takes_gaps")
    loss = _said_within("loss")
    scales = _said_within("scales")
    state = _said_within("state")
    cutoff = _said_within("cutoff")
    remark = _said_within("remark")

    def find_sites(self, network: nn.Module, sites: Sites) -> tuple[str, ...]:
        """Those of the fusion inside the encoder.

        Raises:
            FusionError: When nothing matches in the encoder, or a site that was named is not in it.
        """
        encoder = encoder_of(network)
        found = self.within.find_sites(network, sites)
        inside = tuple(name for name in found if name.startswith(f"{encoder}."))
        others = [name for name in found if name not in inside]
        if encoder and others and (sites != "auto" or not inside):
            raise FusionError(
                f"sites: '{others[0]}' is not in '{encoder}', and behind it there is one stream. "
                f'Use sites="auto" or names that begin with "{encoder}.".'
            )
        return inside

    def plan(self, anatomy: Anatomy, sites: Sequence[str]) -> Plan:
        """The fusion inside the encoder, and what makes one map of all at each scale that the decoder reads.

        Raises:
            FusionError: When the network has no encoder, or no decoder, or channels have no place that is known.
        """
        seen = encoded(anatomy)
        if not seen.read:
            raise FusionError(
                f"What '{seen.encoder}' returns reaches no output of the network {type(anatomy.network).__name__}, so "
                "there is no decoder to run once. Choose a fusion that keeps one stream a modality."
            )
        odd = [tuple(x.shape) for x in seen.maps.values() if x.dim() != seen.image.dim()]
        if odd and self.weights == "learned":
            raise FusionError(
                f"weights: they are by channel, and '{seen.encoder}' returns features of shape {odd[0]}, of which "
                'it is not known where channels are. Use weights="equal".'
            )
        inside = self.within.plan(anatomy, sites)

        def install(network: nn.Module, roster: Roster) -> None:
            inside.install(network, roster)
            like = next(network.parameters())
            gathers = [
                self.one_map(feature.shape[1], roster).to(like) if index in seen.read else None
                for index, feature in enumerate(seen.features)
            ]
            stand_behind(network, seen.encoder, Exits(gathers))

        return Plan(install, layers_after(anatomy, seen.finished[seen.encoder]))

    def one_map(self, channels: int, roster: Roster) -> nn.Module:
        """What makes one map of all modalities' at a scale of so many channels, `(B*K, C, H, W)` to `(B, C, H, W)`."""
        return Gather(channels, roster, learned=self.weights == "learned")


class Gather(OneMap):
    """The weighted mean of all modalities' maps at one scale.

    Args:
        channels: C.
        learned: Whether the weights are learned.
    """

    per_modality: ClassVar[tuple[str, ...]] = ("logits",)

    def __init__(self, channels: int, roster: Roster, *, learned: bool) -> None:
        super().__init__(roster)
        zeros = torch.zeros(len(roster.names), channels if learned else 1)
        if learned:
            self.logits = nn.Parameter(zeros)  # w = softmax over the modalities
        else:
            self.register_buffer("logits", zeros, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Weigh the K present modalities.

        Args:
            x: `(B*K, C, H, W)`.

        Returns:
            `(B, C, H, W)`; or, where the roster says that the branches go on, `(B*(1+K), C, H, W)` with the map of all
            before the modalities' own.
        """
        merged = self.roster.merged(self._weighed, x)
        if not self.roster.branching:
            return merged
        if self.roster.patterns:
            return torch.cat([merged, x])
        return torch.cat([merged.unsqueeze(1), self.roster.streams(x)], dim=1).flatten(0, 1)

    def _weighed(self, x: Tensor) -> Tensor:
        weights = self.roster.select(self.logits).softmax(0)
        return weighted_mean(self.roster.streams(x), weights)
