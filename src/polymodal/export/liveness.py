"""Which channels of a captured graph anybody reads, for every modality by itself: told backwards, from the output."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from polymodal.export.capture import Place, mark
from polymodal.nn import PrivateRunningNorm
from polymodal.nn.static import Choice, Joint

_aten = torch.ops.aten

_ONE_MAP = {
    *(_aten.relu, _aten.hardtanh, _aten.relu6, _aten.hardswish, _aten.hardsigmoid, _aten.silu, _aten.sigmoid),
    *(_aten.tanh, _aten.gelu, _aten.leaky_relu, _aten.elu, _aten.mish, _aten.softplus, _aten.selu, _aten.neg),
    *(_aten.clamp, _aten.clamp_min, _aten.clamp_max, _aten.clone, _aten.contiguous, _aten.alias, _aten.detach),
    *(_aten.dropout, _aten.feature_dropout, _aten._to_copy, _aten.to, _aten.max_pool2d, _aten.avg_pool2d),
    *(_aten.adaptive_avg_pool2d, _aten._adaptive_avg_pool2d, _aten.upsample_bilinear2d, _aten.upsample_nearest2d),
    *(_aten.upsample_bicubic2d, _aten.replication_pad2d, _aten.reflection_pad2d),
}  # fmt: skip
"""What makes each channel of the same channel of one feature map."""

_TWO_MAPS = {_aten.add, _aten.sub, _aten.mul, _aten.div, _aten.maximum, _aten.minimum}
"""What makes each channel of the same channel of two feature maps, or of one and a number."""

_CONVOLUTIONS = {_aten.conv2d: False, _aten.conv_transpose2d: True}
"""Whether they are transposed."""


@dataclass(frozen=True)
class Convolution:
    """A convolution whose weights are constants.

    Attributes:
        image: What it reads.
        weight: Its weight.
        bias: Its bias, or None.
        settings: Its other arguments by name.
        transposed: Whether it is a transposed one, whose rows stand in the second dimension of the weight.
    """

    image: fx.Node
    weight: fx.Node
    bias: fx.Node | None
    settings: dict[str, Any]
    transposed: bool

    @property
    def groups(self) -> int:
        """Its number of groups."""
        return self.settings.get("groups", 1)


class Liveness:
    """What is read in a captured graph.

    Args:
        graph: Of one modality.
        places: What stands at its marks.
        constants: The values of each parameter and buffer: one for every modality, or one for all.
        modalities: K, how many are present.

    Attributes:
        streams: For every node, K, or 1 where all modalities have the same value.
        convolutions: Those with constant weights.
        live: For every feature map `(B, C, H, W)`, boolean `(streams, C)`.
    """

    def __init__(
        self, graph: fx.Graph, places: Sequence[Place], constants: Mapping[fx.Node, Sequence[Tensor]], modalities: int
    ) -> None:
        self._places, self._constants, self._modalities = places, constants, modalities
        self.streams: dict[fx.Node, int] = {}
        for node in graph.nodes:
            self.streams[node] = self._count(node)
        self.convolutions = {node: found for node in graph.nodes if (found := self._convolution(node)) is not None}
        self.live = {
            node: torch.zeros(self.streams[node], channels, dtype=torch.bool)
            for node in graph.nodes
            if node not in constants and (channels := channels_of(node)) is not None
        }
        for node in reversed(graph.nodes):
            self._demand(node)

    def reads_one_map(self, node: fx.Node) -> bool:
        """Whether every channel of a node is made of the same channel of the one feature map that it reads."""
        kind, (image, *others) = packet(node), node.args or (None,)
        if not isinstance(image, fx.Node) or image not in self.live or channels_of(node) != channels_of(image):
            return False
        if any(isinstance(other, fx.Node) and isinstance(other.meta["val"], Tensor) for other in others):
            return False
        if kind in (_aten.pad, _aten.constant_pad_nd):
            return len(others[0]) <= 4  # type: ignore[arg-type]
        if kind is _aten.mean:
            return len(others) == 2 and set(others[0]) <= {2, 3, -1, -2} and bool(others[1])  # type: ignore[arg-type]
        if kind is _aten.slice:
            return others[0] in (2, 3, -1, -2)
        return kind in _ONE_MAP or kind in _TWO_MAPS

    def reads_two_maps(self, node: fx.Node) -> bool:
        """Whether every channel of a node is made of the same channel of the two feature maps that it reads."""
        return packet(node) in _TWO_MAPS and all(
            isinstance(map_, fx.Node) and map_ in self.live and channels_of(map_) == channels_of(node)
            for map_ in node.args[:2]
        )

    def concatenates(self, node: fx.Node) -> bool:
        """Whether a node lays feature maps side by side, channel after channel."""
        return (
            packet(node) is _aten.cat
            and len(node.args) == 2
            and node.args[1] in (1, -3)
            and all(map_ in self.live for map_ in node.args[0])  # type: ignore[union-attr]
        )

    def _count(self, node: fx.Node) -> int:
        if node in self._constants:
            return len(self._constants[node])
        if node.op == "placeholder":
            return self._modalities
        place = place_at(node, self._places)
        if isinstance(place, Joint):
            return 1 if place.merges else self._modalities
        if isinstance(place, Choice) or (isinstance(place, PrivateRunningNorm) and place.roster is not None):
            return self._modalities
        tensors = isinstance(node.meta.get("val"), Tensor | tuple | list)
        return max((self.streams[read] for read in node.all_input_nodes), default=1) if tensors else 1

    def _convolution(self, node: fx.Node) -> Convolution | None:
        if packet(node) not in _CONVOLUTIONS:
            return None
        settings = named_arguments(node)
        image, weight, bias = (settings.pop(name, None) for name in ("input", "weight", "bias"))
        constant = weight in self._constants and (bias is None or bias in self._constants)
        found = Convolution(image, weight, bias, settings, _CONVOLUTIONS[packet(node)])
        return found if constant and channels_of(image) and not (found.transposed and found.groups > 1) else None

    def _demand(self, node: fx.Node) -> None:
        """Note which channels a node reads of others, now that it is known which of its own are read."""
        live = self.live.get(node)
        place = place_at(node, self._places)
        if live is not None and isinstance(place, PrivateRunningNorm | Choice):
            self._read(arguments(node)[0][0], needed(live, place.keep) if isinstance(place, Choice) else live)
        elif node in self.convolutions:
            assert live is not None
            self._read(self.convolutions[node].image, read_by(live, self.convolutions[node]))
        elif live is not None and self.concatenates(node):
            start = 0
            for map_ in arguments(node)[0]:
                end = start + (channels_of(map_) or 0)
                self._read(map_, live[:, start:end])
                start = end
        else:
            alike = self.reads_one_map(node) or self.reads_two_maps(node)
            for map_ in node.all_input_nodes:
                if map_ in self.live:
                    self._read(map_, live if alike and live is not None else torch.ones_like(self.live[map_]))

    def _read(self, node: fx.Node, channels: Tensor) -> None:
        """Note that channels `(streams, C)` of a feature map are read."""
        live = self.live[node]
        live |= channels if len(channels) == len(live) or len(channels) == 1 else channels.any(0, keepdim=True)


def needed(live: Tensor, keep: Tensor) -> Tensor:
    """The channels `(K, C)` that an exchange reads: those that are kept, and those that others are given.

    Args:
        live: Which of the exchanged channels are read, boolean `(K, C)`.
        keep: Which of them are a modality's own, boolean `(K, C)`.
    """
    given = live & ~keep
    by_others = torch.stack([given[[k for k in range(len(keep)) if k != m]].any(0) for m in range(len(keep))])
    return (live & keep) | by_others


def computed_by(live: Tensor, convolution: Convolution) -> Tensor:
    """The rows of a convolution to compute, boolean like `live`: those that are read, and the rest of their groups."""
    groups = convolution.groups
    if groups == 1:
        return live
    return live.unflatten(1, (groups, -1)).any(2).repeat_interleave(live.shape[1] // groups, 1)


def read_by(live: Tensor, convolution: Convolution) -> Tensor:
    """The channels `(streams, C_in)` that a convolution reads for its rows that are read."""
    channels = channels_of(convolution.image)
    assert channels is not None
    return live.unflatten(1, (convolution.groups, -1)).any(2).repeat_interleave(channels // convolution.groups, 1)


def channels_of(node: Any) -> int | None:
    """The channels of a feature map; None for anything that is no floating-point map `(B, C, H, W)`."""
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    if not isinstance(value, Tensor) or value.dim() != 4 or not value.is_floating_point():
        return None
    return value.shape[1] if isinstance(value.shape[1], int) else None


def arguments(node: fx.Node) -> list[Any]:
    """A node's arguments by position."""
    return list(node.args)


def place_at(node: fx.Node, places: Sequence[Place]) -> Place | None:
    """What stands at a mark of `capture`; None for any other node."""
    return places[arguments(node)[1]] if node.target is mark._opoverload else None


def packet(node: fx.Node) -> Any:
    """The operation of a node, whatever its overload; None for what calls none of PyTorch's."""
    return getattr(node.target, "overloadpacket", None) if node.op == "call_function" else None


def argument_names(node: fx.Node) -> list[str]:
    """What the operation of a node calls its arguments."""
    target: Any = node.target
    return [argument.name for argument in target._schema.arguments]


def named_arguments(node: fx.Node) -> dict[str, Any]:
    """A node's arguments by their names, as far as it has them."""
    return dict(zip(argument_names(node), node.args, strict=False)) | node.kwargs
