"""The graph of all modalities, written from that of one: where absorbing decides what is computed and read."""

import functools
import operator
from collections.abc import Iterable, Sequence
from itertools import accumulate, groupby
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from polymodal.export.capture import Capture
from polymodal.export.liveness import Liveness, arguments, channels_of, computed_by, place_at, read_by
from polymodal.export.scales import absorb_scales
from polymodal.export.weights import own_row, weights
from polymodal.nn import PrivateInstanceNorm, PrivateRunningNorm
from polymodal.nn.static import Choice, Joint

Channels = dict[int, tuple[fx.Node, int]]
"""Of channels, by their number, the tensor and the row in it that hold them: so that a choice of channels costs nothing
until a layer reads them together."""


class Streams:
    """Writes the graph of all modalities, from that of one.

    Args:
        seen: The graph of one modality.
    """

    def __init__(self, seen: Capture) -> None:
        self.places = seen.places
        self.form = seen.program.graph
        self.image_channels = seen.channels
        self.constants = _constants(seen)
        absorb_scales(self.form, seen.places, self.constants)
        self.liveness = Liveness(self.form, seen.places, self.constants, len(seen.channels))
        self.absorbed = {
            node: norm for node in self.liveness.convolutions if (norm := self._absorbing(node)) is not None
        }
        self.root = nn.Module()
        self.device = next(iter(seen.program.state_dict.values())).device
        self.graph = fx.Graph()
        self.widths: dict[fx.Node, int] = {}
        self.values: dict[fx.Node, list[Any]] = {}
        self._made: dict[Any, Any] = {}
        self._stored: dict[int, tuple[Tensor, fx.Node]] = {}

    def _absorbing(self, node: fx.Node) -> PrivateRunningNorm | None:
        """The norm that can be absorbed into a convolution: its only reader, with running statistics."""
        place = place_at(next(iter(node.users)), self.places) if len(node.users) == 1 else None
        return place if isinstance(place, PrivateRunningNorm) and not place.from_input else None

    def module(self) -> fx.GraphModule:
        """The graph, from one image of each modality to a list of output tensors for each of them, or for all."""
        for node in self.form.nodes:
            self.values[node] = self._write(node)
        module = fx.GraphModule(self.root, self.graph)
        module.graph.eliminate_dead_code()
        # Made once more, it holds only the tensors that are left.
        return fx.GraphModule(module, module.graph)

    def _write(self, node: fx.Node) -> list[Any]:
        """A node's values, one for each of its streams."""
        live, place = self.liveness, place_at(node, self.places)
        if node in self.constants:
            return list(self.constants[node])
        if node.op == "placeholder":
            return [
                self._whole(self.graph.placeholder(f"image_{m}"), range(channels))
                for m, channels in enumerate(self.image_channels)
            ]
        if node.op == "output":
            return [self._output(node)]
        if isinstance(place, PrivateRunningNorm):
            return self._norm(node, place)
        if isinstance(place, Choice) and node not in live.live:
            return [self._exchanged_whole(node, m, place.keep[m]) for m in range(live.streams[node])]
        if isinstance(place, Choice):
            return [self._exchanged(node, m, place.keep[m]) for m in range(live.streams[node])]
        if place is not None:
            return self._meeting(node, place)
        if node in live.convolutions:
            return [self._convolution(node, m) for m in range(self._streams(node))]
        if live.concatenates(node):
            return [self._concatenation(node, m) for m in range(live.streams[node])]
        if live.reads_one_map(node):
            return [self._on_each_tensor(node, m) for m in range(live.streams[node])]
        if live.reads_two_maps(node):
            return [self._call(node, m, _numbers(live.live[node][m])) for m in range(live.streams[node])]
        return [self._call(node, m) for m in range(live.streams[node])]

    def _streams(self, node: fx.Node) -> int:
        """The streams of a convolution, which are as many as those of a norm absorbed into it."""
        own = self.liveness.streams[node]
        return max(own, *(self.liveness.streams[user] for user in node.users)) if node in self.absorbed else own

    def _output(self, node: fx.Node) -> fx.Node:
        outputs = arguments(node)[0]
        streams = max(self.liveness.streams[output] for output in outputs if isinstance(output, fx.Node))
        return self.graph.output(
            tuple(
                tuple(self._node(self._of(output, m)) if isinstance(output, fx.Node) else output for output in outputs)
                for m in range(streams)
            )
        )

    def _norm(self, node: fx.Node, norm: PrivateRunningNorm) -> list[Channels]:
        """Normalise, where that is not in the convolution already."""
        image, live = arguments(node)[0][0], self.liveness.live[node]
        if image in self.absorbed:
            return [self._of(image, m) for m in range(len(live))]
        return [self._normalised(image, norm, m, _numbers(rows)) for m, rows in enumerate(live)]

    def _normalised(self, image: fx.Node, norm: PrivateRunningNorm, m: int, rows: list[int]) -> Channels:
        if not rows:
            return {}
        statistics = (None, None) if norm.from_input else (norm.running_mean, norm.running_var)
        tensors = (*statistics, norm.weight, norm.bias)
        own = [None if t is None else self._attribute(own_row(norm, t, m)[rows]) for t in tensors]
        function = F.instance_norm if isinstance(norm, PrivateInstanceNorm) else F.batch_norm
        out = self.graph.call_function(
            function, (self._node(self._of(image, m), rows), *own, norm.from_input, 0.0, norm.eps)
        )
        return self._whole(out, rows)

    def _exchanged(self, node: fx.Node, m: int, keep: Tensor) -> Channels:
        """A modality's channels after the exchange (CEN eq. 6): another tensor's rows, or their mean."""
        live, normalised = self.liveness.live[node][m], self.values[arguments(node)[0][0]]
        given = _numbers(live & ~keep)
        own = {channel: normalised[m][channel] for channel in _numbers(live & keep)}
        others = [normalised[(m - step) % len(normalised)] for step in range(1, len(normalised))]
        if not given:
            received = {}
        elif len(others) == 1:
            received = {channel: others[0][channel] for channel in given}
        else:
            total = self._node(others[0], given)
            for other in others[1:]:
                total = self.graph.call_function(operator.add, (total, self._node(other, given)))
            received = self._whole(self.graph.call_function(operator.truediv, (total, len(others))), given)
        return dict(sorted({**own, **received}.items()))

    def _exchanged_whole(self, node: fx.Node, m: int, keep: Tensor) -> fx.Node:
        """Likewise of what is no feature map, such as tokens `(B, C, L)`, whose channels are not told apart."""
        streams = [self._node(self._of(arguments(node)[0][0], k)) for k in range(self.liveness.streams[node])]
        total = functools.reduce(
            lambda a, b: self.graph.call_function(operator.add, (a, b)), streams[m + 1 :] + streams[:m]
        )
        mean = self.graph.call_function(operator.truediv, (total, len(streams) - 1))
        chosen = self._attribute(keep.view(1, -1, *(1,) * (node.meta["val"].dim() - 2)))
        return self.graph.call_function(torch.where, (chosen, streams[m], mean))

    def _meeting(self, node: fx.Node, place: Joint) -> list[Any]:
        """A fusion that reads all streams together."""
        count = len(self.image_channels)
        sets = [[self._node(self._of(value, m)) for m in range(count)] for value in arguments(node)[0]]
        channels = channels_of(node)
        name = f"meeting_{node.args[1]}"
        self.root.add_module(name, place.operation)
        out = self.graph.call_module(name, tuple(sets))
        outs = [out] if place.merges else [self.graph.call_function(operator.getitem, (out, m)) for m in range(count)]
        return outs if channels is None else [self._whole(each, range(channels)) for each in outs]

    def _convolution(self, node: fx.Node, m: int) -> Channels:
        """A convolution, with the norm behind it, of the rows that are read."""
        found, norm = self.liveness.convolutions[node], self.absorbed.get(node)
        live = self.liveness.live[node]
        computed = computed_by(live[m if len(live) > 1 else 0][None], found)[0]
        rows = _numbers(computed)
        if not rows:
            return {}
        settings = dict(found.settings)
        if found.groups == 1:
            image, columns = self._in_any_order(self._of(found.image, m))
        else:
            read = _numbers(read_by(computed[None], found)[0])
            image, columns = self._node(self._of(found.image, m), read), None
            settings["groups"] = len(rows) * found.groups // len(computed)
        weight = _pick(self.constants[found.weight], m)
        bias = None if found.bias is None else _pick(self.constants[found.bias], m)
        row = None if norm is None else m if norm.roster is not None else 0
        key = (node, id(weight), row, tuple(rows), None if columns is None else tuple(columns))
        if key not in self._made:
            tensors = weights(weight, bias, norm, m, rows, columns, found.transposed)
            self._made[key] = tuple(None if tensor is None else self._attribute(tensor) for tensor in tensors)
        out = self.graph.call_function(node.target, (image, *self._made[key]), settings)  # type: ignore[arg-type]
        return self._whole(out, rows)

    def _concatenation(self, node: fx.Node, m: int) -> Channels:
        joined: Channels = {}
        start = 0
        for map_ in arguments(node)[0]:
            joined |= {start + channel: held for channel, held in self._of(map_, m).items()}
            start += channels_of(map_) or 0
        return joined

    def _on_each_tensor(self, node: fx.Node, m: int) -> Channels:
        """What treats every channel alike is done to the tensors that hold them, before any choice of channels."""
        done: Channels = {}
        image = arguments(node)[0]
        for channel, (tensor, row) in self._of(image, m).items():
            key = (node, tensor)
            if key not in self._made:
                others = fx.map_arg((node.args[1:], node.kwargs), lambda read: self._node(self._of(read, m)))
                self._made[key] = self.graph.create_node(node.op, node.target, (tensor, *others[0]), others[1])
                self.widths[self._made[key]] = self.widths[tensor]
            done[channel] = (self._made[key], row)
        return done

    def _call(self, node: fx.Node, m: int, rows: list[int] | None = None) -> Any:
        """Any other operation, of whole feature maps or of the same rows of each."""
        if rows == []:
            return {}
        arguments = fx.map_arg((node.args, node.kwargs), lambda read: self._node(self._of(read, m), rows))
        out = self.graph.create_node(node.op, node.target, *arguments)
        channels = channels_of(node)
        return out if channels is None else self._whole(out, range(channels) if rows is None else rows)

    def _of(self, node: fx.Node, m: int) -> Any:
        """A node's value in a stream."""
        return _pick(self.values[node], m)

    def _node(self, value: Any, rows: Sequence[int] | None = None) -> Any:
        """A value as one node: of a feature map all channels, or some of them by number, in order."""
        if isinstance(value, Tensor):
            return self._attribute(value)
        if not isinstance(value, dict):
            return value
        held = tuple(value.values() if rows is None else (value[row] for row in rows))
        if ("channels", held) not in self._made:
            self._made["channels", held] = self._gathered(held)
        return self._made["channels", held]

    def _gathered(self, held: Sequence[tuple[fx.Node, int]]) -> fx.Node:
        """One tensor of rows of several."""
        runs = [(tensor, [row for _, row in run]) for tensor, run in groupby(held, key=lambda place: place[0])]
        if all(rows == list(range(self.widths[tensor])) for tensor, rows in runs):
            return self._side_by_side([tensor for tensor, _ in runs])
        tensors = list(dict.fromkeys(tensor for tensor, _ in held))
        starts = dict(zip(tensors, accumulate((self.widths[tensor] for tensor in tensors), initial=0), strict=False))
        joined = self._side_by_side(tensors)
        index = self._attribute(torch.tensor([starts[tensor] + row for tensor, row in held]))
        node = self.graph.call_function(torch.index_select, (joined, 1, index))
        self.widths[node] = len(held)
        return node

    def _in_any_order(self, value: Channels) -> tuple[fx.Node, list[int] | None]:
        """One tensor of all channels in the order that copies least, and their numbers; None where that is theirs."""
        by_tensor: dict[fx.Node, list[tuple[int, int]]] = {}
        for channel, (tensor, row) in value.items():
            by_tensor.setdefault(tensor, []).append((channel, row))
        order = [channel for held in by_tensor.values() for channel, _ in held]
        node = self._side_by_side([self._node({c: (tensor, r) for c, r in held}) for tensor, held in by_tensor.items()])
        return node, None if order == list(value) else order

    def _side_by_side(self, tensors: list[fx.Node]) -> fx.Node:
        if len(tensors) == 1:
            return tensors[0]
        key = ("side by side", tuple(tensors))
        if key not in self._made:
            self._made[key] = self.graph.call_function(torch.cat, (tensors, 1))
            self.widths[self._made[key]] = sum(self.widths[tensor] for tensor in tensors)
        return self._made[key]

    def _whole(self, tensor: fx.Node, channels: Iterable[int]) -> Channels:
        """The channels, by their numbers, that the rows of a new tensor hold."""
        held = {channel: (tensor, row) for row, channel in enumerate(channels)}
        self.widths[tensor] = len(held)
        return held

    def _attribute(self, tensor: Tensor) -> fx.Node:
        if id(tensor) not in self._stored:
            name = f"tensor_{len(self._stored)}"
            own = tensor.detach().to(self.device).contiguous()
            if tensor.is_floating_point():
                self.root.register_parameter(name, nn.Parameter(own, requires_grad=False))
            else:
                self.root.register_buffer(name, own)
            # The tensor is kept, so that no other one can have its id.
            self._stored[id(tensor)] = (tensor, self.graph.get_attr(name))
        return self._stored[id(tensor)][1]


def _constants(seen: Capture) -> dict[fx.Node, list[Tensor]]:
    """The values of a graph's parameters and buffers, one for each modality where they differ, or one for all."""
    program = seen.program
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    stored = {**program.state_dict, **program.constants}
    return {
        nodes[spec.arg.name]: seen.private.get(spec.target, [stored[spec.target]])
        for spec in program.graph_signature.input_specs
        if spec.target is not None and isinstance(stored.get(spec.target), Tensor)
    }


def _pick(values: Sequence[Any], m: int) -> Any:
    """What a stream has: its own, or what all share."""
    return values[m if len(values) > 1 else 0]


def _numbers(chosen: Tensor) -> list[int]:
    """The channels that are True."""
    return chosen.nonzero()[:, 0].tolist()
