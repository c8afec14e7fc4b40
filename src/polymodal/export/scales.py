"""Scales of norms with statistics of each sample, absorbed into the layers that read them.

Such a norm stays, as it depends on the image; what it multiplies channels with and adds to them need not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from polymodal.export.capture import Place
from polymodal.export.liveness import argument_names, named_arguments, packet, place_at
from polymodal.nn.static import Choice

Constants = dict[fx.Node, list[Tensor]]
"""The values of each parameter and buffer of a graph: one for every modality, or one for all."""

_aten = torch.ops.aten

_NORMS = {_aten.layer_norm: -1, _aten.rms_norm: -1, _aten.group_norm: 1}
"""Where the channels are: counted from the end, or from the front."""

_READERS = {_aten.linear, _aten.conv1d, _aten.conv2d, _aten.conv3d}

_LAYOUTS = {_aten.permute, _aten.transpose, _aten.movedim, _aten.clone, _aten.contiguous, _aten.alias, _aten.detach,
            _aten.view, _aten.reshape, _aten.flatten, _aten.unflatten, _aten._unsafe_view, _aten.unsqueeze,
            _aten.squeeze, _aten.roll}  # fmt: skip
"""What moves values to other places and changes none."""


@dataclass(frozen=True)
class _Affine:
    """What channels are multiplied with and what is added, `(C,)` for every modality or for all, in float64."""

    scale: list[Tensor]
    shift: list[Tensor] | None

    def chosen(self, keep: Tensor) -> "_Affine":
        """That of channels of which each is a modality's own or the other's, boolean `(2, C)`."""

        def choose(values: list[Tensor]) -> list[Tensor]:
            own = values if len(values) == 2 else values * 2
            return [torch.where(keep[m].to(own[m].device), own[m], own[1 - m]) for m in range(2)]

        return _Affine(choose(self.scale), None if self.shift is None else choose(self.shift))


def absorb_scales(graph: fx.Graph, places: Sequence[Place], constants: Constants) -> None:
    """Move γ and β of layer, RMS and group norms into the linear layers and convolutions that alone read the norm.

    With x the normalised channels, such a layer W, b of them is one of x: W' = W diag(γ), b' = b + W β. Between the
    two, channels may be moved to other places and axes, and exchanged between two modalities. A convolution that pads
    with zeros takes no β; then all stays as it is.

    Args:
        graph: Of one modality; is changed.
        places: What stands at its marks.
        constants: Is added to.
    """
    for node in list(graph.nodes):
        if (affine := _affine(node, constants)) is None:
            continue
        axis = _NORMS[packet(node)] % node.meta["val"].dim()
        if readers := _readers(node, axis, affine, places, constants):
            for reader, own in readers:
                _absorb(graph, reader, own, constants)
            _set(node, weight=None, bias=None)


def _affine(node: fx.Node, constants: Constants) -> _Affine | None:
    """The scales of a norm; None of what is none, has none, or has more than one for each channel."""
    if packet(node) not in _NORMS:
        return None
    named = named_arguments(node)
    scale, shift = (_values(named.get(name), constants) for name in ("weight", "bias"))
    if scale is None or scale[0].dim() != 1 or (named.get("bias") is not None and shift is None):
        return None
    return _Affine([t.double() for t in scale], None if shift is None else [t.double() for t in shift])


def _readers(
    node: fx.Node, axis: int, affine: _Affine, places: Sequence[Place], constants: Constants
) -> list[tuple[fx.Node, _Affine]] | None:
    """All layers that read a norm's output, with what they shall absorb; None where another operation does."""
    found: list[tuple[fx.Node, _Affine]] = []
    for user in node.users:
        if _reads_channels(user, node, axis, affine, constants):
            found.append((user, affine))
            continue
        place = place_at(user, places)
        if isinstance(place, Choice) and len(place.keep) == 2 and axis == 1 and user.args[0] == [node]:
            behind = _readers(user, axis, affine.chosen(place.keep), places, constants)
        elif (moved := _moved(user, node, axis)) is not None:
            behind = _readers(user, moved, affine, places, constants)
        else:
            return None
        if not behind:
            return None
        found += behind
    return found


def _reads_channels(user: fx.Node, node: fx.Node, axis: int, affine: _Affine, constants: Constants) -> bool:
    """Whether a layer takes a map's channels for its own, and can absorb what is multiplied and added."""
    if packet(user) not in _READERS or list(user.all_input_nodes).count(node) != 1 or user.args[0] is not node:
        return False
    named = named_arguments(user)
    bias = named.get("bias")
    if named["weight"] not in constants or (bias is not None and bias not in constants):
        return False
    if packet(user) is _aten.linear:
        return axis == node.meta["val"].dim() - 1
    padding = named.get("padding", 0)
    unpadded = padding == "valid" or not any(padding if isinstance(padding, list | tuple) else [padding])
    return axis == 1 and (affine.shift is None or unpadded)


def _moved(user: fx.Node, node: fx.Node, axis: int) -> int | None:
    """Where an operation that only moves values has the channels that it read; None for any other."""
    before, after = node.meta["val"], user.meta.get("val")
    if packet(user) not in _LAYOUTS or not isinstance(after, Tensor):
        return None
    # Axes are told apart by a tensor of the same number of them, whose sides are its axes' numbers.
    if packet(user) in (_aten.permute, _aten.transpose, _aten.movedim):
        target: Any = user.target
        sides: Tensor = torch.empty(*range(before.dim()), device="meta")
        return list(target(sides, *user.args[1:], **user.kwargs).shape).index(axis)
    if packet(user) is _aten.roll:
        named = named_arguments(user)
        rolled = [dim % before.dim() for dim in named.get("dims", ())]
        return axis if rolled and axis not in rolled else None
    return _kept(axis, before.shape, after.shape)


def _absorb(graph: fx.Graph, reader: fx.Node, affine: _Affine, constants: Constants) -> None:
    """Give a layer weights of its own, with scales in them."""
    named = named_arguments(reader)
    weights, bias_node, groups = constants[named["weight"]], named.get("bias"), named.get("groups", 1)
    biases: list[Tensor | None] = [None] if bias_node is None else [*constants[bias_node]]
    shifts: list[Tensor | None] = [*(affine.shift or ())] or [None]
    made: list[tuple[Tensor, Tensor | None]] = []
    for m in range(max(len(weights), len(biases), len(affine.scale), len(shifts))):
        weight, scale = (values[m % len(values)] for values in (weights, affine.scale))
        bias, shift = (values[m % len(values)] for values in (biases, shifts))
        made.append(_scaled(weight, bias, scale, shift, groups))
    own = {"weight": [weight for weight, _ in made]}
    if made[0][1] is not None:
        own["bias"] = [bias for _, bias in made if bias is not None]
    first = next(iter(graph.nodes))
    for name, values in own.items():
        with graph.inserting_before(first):
            node = graph.placeholder(f"{reader.name}_{name}")
        node.meta["val"] = values[0]
        constants[node] = values
        _set(reader, **{name: node})


def _scaled(
    weight: Tensor, bias: Tensor | None, scale: Tensor, shift: Tensor | None, groups: int
) -> tuple[Tensor, Tensor | None]:
    """Weight `(C_out, C_in / groups, ...)` and bias of a layer that absorbs what its input is scaled with."""
    kernel = (1,) * (weight.dim() - 2)

    def by_column(values: Tensor) -> Tensor:
        return values.view(groups, -1).repeat_interleave(len(weight) // groups, 0).view(len(weight), -1, *kernel)

    wide = weight.double()
    if shift is not None:
        added = (wide * by_column(shift)).flatten(1).sum(1)
        bias = (added if bias is None else added + bias.double()).to(weight.dtype)
    return (wide * by_column(scale)).to(weight.dtype), bias


def _values(node: Any, constants: Constants) -> list[Tensor] | None:
    """The values of a constant, or of a part of one."""
    if not isinstance(node, fx.Node):
        return None
    if node in constants:
        return constants[node]
    if packet(node) not in {_aten.select, *_LAYOUTS}:
        return None
    parts = _values(node.args[0], constants)
    target: Any = node.target
    return None if parts is None else [target(part, *node.args[1:], **node.kwargs) for part in parts]


def _kept(axis: int, before: Sequence[Any], after: Sequence[Any]) -> int | None:
    """Which axis of a reshaped tensor an axis is: all sides before it, or behind it, are as before, but for ones."""
    sides, found = _sides(before), _sides(after)
    place = next((i for i, (own, _) in enumerate(sides) if own == axis), None)
    if place is None:
        return None
    names, others = ([side for _, side in each] for each in (sides, found))
    if names[: place + 1] == others[: place + 1]:
        return found[place][0]
    behind = len(names) - place
    return found[-behind][0] if names[-behind:] == others[-behind:] else None


def _sides(shape: Sequence[Any]) -> list[tuple[int, str]]:
    """The sides that are not one, each with its axis; those that are free by their symbols."""
    return [(axis, str(side)) for axis, side in enumerate(shape) if str(side) != "1"]


def _set(node: fx.Node, **values: Any) -> None:
    """Change arguments of a node by their names."""
    names = argument_names(node)
    for name, value in values.items():
        if name not in names:  # an RMS norm has no β
            continue
        place = names.index(name)
        if place < len(node.args):
            node.update_arg(place, value)
        else:
            node.update_kwarg(name, value)
