"""Aggregation: the modalities' features become one map, which goes on alone (the classic early to late fusion).

Sources: concatenation and average are those that CEN compares with (NeurIPS 2020, sec. 4); the attention is the SSMA
    block of Valada et al., "Self-Supervised Model Adaptation for Multimodal Semantic Segmentation", IJCV 2020, sec. 4.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from polymodal.anatomy import Anatomy, DryRun
from polymodal.errors import FusionError
from polymodal.fusion.base import Plan
from polymodal.fusion.stages import OneMap, StageFusion, encoded, layers_after, layout_at
from polymodal.nn import Exits, Roster, stand_behind
from polymodal.nn.static import Mark, joint

Operation = Literal["concat", "average", "attention"]


@dataclass(frozen=True)
class Aggregation(StageFusion):
    """From a stage of the encoder on there is one stream, and one prediction.

    The sites are stages (`"early"`, `"middle"`, `"late"`, `"all"` or names). After the last of them the fused map goes
    on alone; at the ones before, it is added to every modality's stream. Maps that the encoder returns from before the
    last site, for skip connections, are fused where they leave it, each by an operation of its own; of a stage that is
    a site, whose streams hold the fused map already, the streams' mean is taken.

    The usual baselines have an encoder for every modality up to there: `fuse(..., convolutions="private")`.

    Args:
        operation: `"concat"`, a 1×1 convolution of all channels side by side that starts as their average;
            `"average"`, without parameters; `"attention"`, the SSMA block.
    """

    name: ClassVar[str] = "aggregation"
    merges: ClassVar[bool] = True

    operation: Operation = "concat"

    def __post_init__(self) -> None:
        if self.operation not in ("concat", "average", "attention"):
            raise FusionError(f'operation: expected "concat", "average" or "attention", got {self.operation!r}.')

    @property
    def needs_all(self) -> str:
        """An average works on some of the modalities; the other operations weigh channels of every one."""
        if self.operation == "average":
            return ""
        return f'operation={self.operation!r} weighs channels of every modality, only "average" works on some'

    @property
    def takes_gaps(self) -> bool:
        """An average is one of those that are there."""
        return self.operation == "average"

    def plan(self, anatomy: Anatomy, sites: Sequence[str]) -> Plan:
        """Operations behind the sites, and behind the encoder for the other maps that it returns; then one stream.

        Raises:
            FusionError: When the network has no encoder, its maps cannot be told apart, or they are no maps.
        """
        seen = encoded(anatomy)
        layouts = {site: layout_at(anatomy, site) for site in sites}
        if self.operation != "average":
            layouts |= {f"{seen.encoder}, map {index}": (x.shape, 1) for index, x in seen.maps.items()}
            self._check_maps(layouts)
        end = max(seen.finished[site] for site in sites)  # the moment from which there is one stream
        exits = _exits(seen, sites, end, self.operation)

        def install(network: nn.Module, roster: Roster) -> None:
            like = next(network.parameters())

            def make(operation: str, channels: int) -> OneMap:
                return _OPERATIONS[operation](channels, roster).to(like)

            ways = [None if operation is None else make(operation, channels) for operation, channels in exits]
            for site in sites:
                aggregate = make(self.operation, seen.outputs[site].shape[1])
                stand_behind(network, site, aggregate if seen.finished[site] == end else Mix(aggregate, roster))
            stand_behind(network, seen.encoder, Exits(ways))

        return Plan(install, layers_after(anatomy, end))

    def _check_maps(self, layouts: Mapping[str, tuple[Sequence[int] | None, int]]) -> None:
        """Refuse features of which the convolutions of an operation would take something else for channels."""
        for name, (shape, axis) in layouts.items():
            if shape is not None and (len(shape) != 4 or axis != 1):
                raise FusionError(
                    f"operation: {self.operation!r} takes maps (batch, channels, height, width), and '{name}' returns "
                    f"features of shape {tuple(shape)}{', channels last' if axis != 1 else ''}. Use "
                    'operation="average", or other sites.'
                )


class Average(OneMap):
    """The mean over the modalities that are present."""

    def forward(self, x: Tensor) -> Tensor:
        """`(B*K, C, H, W)` to `(B, C, H, W)`."""
        return self.roster.merged(lambda part: self.roster.streams(part).mean(1), x)


class Concat(OneMap):
    """A 1×1 convolution of all modalities' channels side by side, which starts as their average.

    So a pretrained network goes on from features like those that it knows.
    """

    def __init__(self, channels: int, roster: Roster) -> None:
        super().__init__(roster)
        modalities = len(roster.names)
        self.conv = nn.Conv2d(modalities * channels, channels, 1)
        with torch.no_grad():
            self.conv.weight.copy_(torch.eye(channels).repeat(1, modalities)[..., None, None] / modalities)
            nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """`(B*M, C, H, W)` to `(B, C, H, W)`."""
        return self.conv(self.roster.streams(x).flatten(1, 2))


class Attention(OneMap):
    """The SSMA block: a bottleneck of 3×3 convolutions weighs every channel at every place, then a 3×3 convolution.

    Valada et al., IJCV 2020, sec. 4.1 and fig. 5, for M modalities; the bottleneck has M*C / 16 channels, at least 4.
    """

    def __init__(self, channels: int, roster: Roster) -> None:
        super().__init__(roster)
        width = len(roster.names) * channels
        inner = max(4, width // 16)
        self.squeeze = nn.Conv2d(width, inner, 3, padding=1)
        self.excite = nn.Conv2d(inner, width, 3, padding=1)
        self.fuse = nn.Conv2d(width, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """`(B*M, C, H, W)` to `(B, C, H, W)`."""
        wide = self.roster.streams(x).flatten(1, 2)
        weights = self.excite(self.squeeze(wide).relu()).sigmoid()
        return self.norm(self.fuse(wide * weights))


_OPERATIONS: dict[str, Callable[[int, Roster], OneMap]] = {
    "concat": Concat,
    "average": lambda _, roster: Average(roster),
    "attention": Attention,
}
"""What makes one map of all modalities', by the channels of the map and the roster."""


class Mix(nn.Module):
    """Adds the fused map to every modality's stream, at a site after which the streams go on.

    Args:
        aggregate: What fuses them.
        roster: The network's modalities.
    """

    def __init__(self, aggregate: OneMap, roster: Roster) -> None:
        super().__init__()
        self.aggregate = aggregate
        self.roster = roster

    def forward(self, x: Tensor) -> Tensor:
        """`(B*K, C, H, W)` to the same shape."""
        return self.roster.each(self._mixed, x)

    def _mixed(self, x: Tensor) -> Tensor:
        return (self.roster.streams(x) + self.aggregate(x).unsqueeze(1)).flatten(0, 1)

    def static(self, mark: Mark) -> nn.Module:
        """A map for each stream, of all of them."""
        return mark(joint(self))


def _exits(seen: DryRun, sites: Sequence[str], end: int, operation: Operation) -> list[tuple[Operation | None, int]]:
    """What fuses each map that the encoder returns, None where it is fused already, and the channels of the map."""
    exits: list[tuple[Operation | None, int]] = []
    for index, feature in enumerate(seen.features):
        origins = seen.origins(feature)
        if not origins and feature.shape != seen.image.shape:
            raise FusionError(
                f"Map {index} that '{seen.encoder}' returns is not the output of any of its layers, so it is not known "
                "at which stage to fuse it. Choose another encoder, or a fusion that keeps one stream a modality."
            )
        # What a site returns changes at the site, so that this tells when, wherever the tensor was made.
        source = next((name for name in origins if name in sites), origins[0] if origins else None)
        way: Operation | None = operation
        if source is not None and seen.finished[source] >= end:
            way = None
        elif source is None or source in sites or index not in seen.read:
            # The image itself, streams that hold the fused map, or what nobody reads: no parameters of its own.
            way = "average"
        exits.append((way, feature.shape[1]))
    return exits
