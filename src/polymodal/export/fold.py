"""Folding: at inference norms and exchange are constants, so a network of M modalities becomes M plain ones.

Each modality's norms are folded into its convolutions, the exchange is a choice of channels that is made here and not
at every image, and channels that nobody reads are not computed.
"""

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves, tree_unflatten

from polymodal import functional
from polymodal.costs import Cost, cost, count
from polymodal.errors import ExportError
from polymodal.export.capture import Capture, ShiftBack, Shuffle, capture, check_size, image_channels, kept
from polymodal.export.liveness import Liveness, arguments, channels_of, computed_by, needed
from polymodal.fusion.aggregation import Aggregate, Average, Mix
from polymodal.nn import Prediction, PrivateBatchNorm2d, PrivateNorm2d, Roster
from polymodal.surgery import Multimodal, check_inputs


def fold(net: Multimodal, modalities: Sequence[str] | None = None) -> "Folded":
    """The network as it is at inference, without norms, exchange and all that nobody reads.

    For modality m, with the frozen statistics μ, σ² and the scales γ, β of a norm behind a convolution W, b:

        W'_m = γ_m / √(σ²_m + ε) · W,  b'_m = β_m + γ_m (b - μ_m) / √(σ²_m + ε).

    A row of W'_m whose channel is exchanged, and that no other modality is given, is not there at all; nor is what only
    such rows read. Norms that no convolution feeds directly stay as they are, one for each modality, and so do those
    that normalise by each image's own statistics.

    Args:
        net: The network. It is not changed; what is exchanged is decided by its scales as they are now.
        modalities: The modalities that there will be, in the network's order; all of them if not given. An absent one
            exchanges nothing, as in `Multimodal.forward` with `subset`.

    Returns:
        A network for inference alone, on the device and in the dtype of `net`.

    Raises:
        ExportError: When a fusion has no static form, the network has no static graph, a modality is unknown, or the
            fusion needs one that there will not be.
    """
    chosen = list(net.modalities if modalities is None else modalities)
    unknown = [name for name in chosen if name not in net.modalities]
    if unknown or not chosen:
        raise ExportError(
            f"modalities: expected some of {', '.join(net.modalities)}, got {', '.join(unknown) or 'none of them'}."
        )
    present = tuple(m for m, name in enumerate(net.modalities) if name in chosen)
    if len(present) < len(net.modalities):
        _check_some_suffice(net, chosen)
    with torch.no_grad(), net.roster.only(present):
        seen = capture(net, present)
        return Folded(net, seen, _Streams(seen, net.roster).module())


def _check_some_suffice(net: Multimodal, chosen: Sequence[str]) -> None:
    """Refuse some of the modalities where a fusion needs every one."""
    for name, module in net.network.named_modules():
        if isinstance(module, Aggregate) and not isinstance(module, Average):
            raise ExportError(
                f"modalities: the aggregation at '{name}' weighs channels, so it needs every modality of "
                f"{', '.join(net.modalities)}, got {', '.join(chosen)} alone. Fold the network of all of them; only "
                'operation="average" works on some.'
            )


class Folded(nn.Module):
    """A multimodal network folded for inference, see `fold`.

    Attributes:
        modalities: The names of its modalities, in order.
        outputs: Those that have a prediction of their own: all, or none where the fusion makes one stream.
        channels: The channels that each modality has.
        step: What height and width must be multiples of.
    """

    weights: Tensor

    def __init__(self, net: Multimodal, seen: Capture, graph: fx.GraphModule) -> None:
        super().__init__()
        self.modalities = tuple(net.modalities[m] for m in net.roster.present)
        self.outputs = tuple(name for name in self.modalities if name in net.outputs)
        self.channels = {name: image_channels(net, name) for name in self.modalities}
        self.step = seen.step
        self._tiles = {name: net.stem.tiles[name] for name in self.modalities}
        self._form = seen.program.call_spec.out_spec
        self.graph = graph
        alpha = getattr(net.ensemble, "alpha", None)
        weights = torch.empty(0) if alpha is None else net.roster.select(alpha.detach()).softmax(0)
        self.register_buffer("weights", weights)
        self.requires_grad_(False).eval()

    def forward(self, inputs: Mapping[str, Tensor]) -> Prediction:
        """Predict as the network that was folded does.

        Args:
            inputs: An image `(B, C_m, H, W)` for every modality, all of the same B, H and W.

        Raises:
            DataError: When a modality is unknown or missing, or an image does not fit.
        """
        check_inputs(inputs, self.channels)
        check_size(next(iter(inputs.values())).shape[-2:], self.step)
        images = [_tiled(inputs[name], self._tiles[name]) for name in self.modalities]
        streams = [tree_unflatten(list(tensors), self._form) for tensors in self.graph(*images)]
        if not self.outputs:
            return Prediction({}, streams[0], self.weights)
        return Prediction(dict(zip(self.outputs, streams, strict=True)), self._ensemble(streams), self.weights)

    def _ensemble(self, streams: Sequence[Any]) -> Any:
        """The weighted sum of the predictions, in the form that each of them has (CEN eq. 4)."""
        flat: list[list[Tensor]] = [tree_leaves(stream) for stream in streams]
        sums: list[Tensor | None] = []
        for predictions in zip(*flat, strict=True):
            if predictions[0] is None:  # an auxiliary head that is switched off
                sums.append(None)
                continue
            weights = self.weights.to(predictions[0].dtype)
            total = weights[0] * predictions[0]
            for weight, prediction in zip(weights[1:], predictions[1:], strict=True):
                total = total + weight * prediction
            sums.append(total)
        return tree_unflatten(sums, self._form)


@dataclass(frozen=True)
class Saving:
    """What folding saves.

    Attributes:
        before: The cost of the network as it was.
        after: The cost of the folded one, whose parameters are more: convolutions that norms were folded into are no
            longer shared.
    """

    before: Cost
    after: Cost

    @property
    def share(self) -> float:
        """The share in 0..1 of the multiply-accumulates that is saved."""
        return 1 - self.after.macs / self.before.macs

    def __str__(self) -> str:
        before, after = self.before, self.after
        return (
            f"multiply-accumulates {before.macs / 1e9:.3f} G to {after.macs / 1e9:.3f} G ({-self.share:+.1%}), "
            f"parameters {before.parameters / 1e6:.2f} M to {after.parameters / 1e6:.2f} M"
        )


def saving(net: Multimodal, folded: Folded, size: Sequence[int]) -> Saving:
    """What a folded network saves against the one it was made of.

    Args:
        net: The network, with all its modalities.
        folded: What `fold` made of it.
        size: Height and width of the images.
    """
    dtype = next(p.dtype for p in net.parameters() if p.is_floating_point())
    images = {name: torch.empty(1, channels, *size, dtype=dtype) for name, channels in folded.channels.items()}
    return Saving(cost(net, size), count(folded, images))


Channels = dict[int, tuple[fx.Node, int]]
"""Of channels, by their number, the tensor and the row in it that hold them: so that a choice of channels costs nothing
until a layer reads them together."""


class _Streams:
    """Writes the graph of all modalities, from that of one.

    Args:
        seen: The graph of one modality.
        roster: The modalities and which of them are present.
    """

    def __init__(self, seen: Capture, roster: Roster) -> None:
        self.roster = roster
        self.places = seen.places
        self.form = seen.program.graph
        self.image_channels = seen.channels
        self.constants = _constants(seen)
        keep = {
            index: choice
            for index, place in enumerate(seen.places)
            if isinstance(place, PrivateNorm2d) and (choice := kept(place, roster)) is not None
        }
        self.liveness = Liveness(self.form, seen.places, self.constants, len(roster.present), keep)
        self.folded = {node: norm for node in self.liveness.convolutions if (norm := self._foldable(node)) is not None}
        self.root = nn.Module()
        self.device = next(iter(seen.program.state_dict.values())).device
        self.graph = fx.Graph()
        self.widths: dict[fx.Node, int] = {}
        self.values: dict[fx.Node, list[Any]] = {}
        self._made: dict[Any, Any] = {}
        self._stored: dict[int, tuple[Tensor, fx.Node]] = {}

    def _foldable(self, node: fx.Node) -> PrivateNorm2d | None:
        """The norm that can be folded into a convolution: its only reader, with running statistics."""
        place = self.liveness.place(next(iter(node.users))) if len(node.users) == 1 else None
        return place if isinstance(place, PrivateNorm2d) and place.running_mean is not None else None

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
        live, place = self.liveness, self.liveness.place(node)
        if node in self.constants:
            return list(self.constants[node])
        if node.op == "placeholder":
            return [self._image(m, channels) for m, channels in enumerate(self.image_channels)]
        if node.op == "output":
            return [self._output(node)]
        if isinstance(place, PrivateNorm2d):
            return self._norm(node, place)
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
        """The streams of a convolution, which are as many as those of a norm folded into it."""
        own = self.liveness.streams[node]
        return max(own, *(self.liveness.streams[user] for user in node.users)) if node in self.folded else own

    def _image(self, m: int, channels: int) -> Channels:
        return self._whole(self.graph.placeholder(f"image_{m}"), range(channels))

    def _output(self, node: fx.Node) -> fx.Node:
        outputs = arguments(node)[0]
        streams = max(self.liveness.streams[output] for output in outputs if isinstance(output, fx.Node))
        return self.graph.output(
            tuple(
                tuple(self._node(self._of(output, m)) if isinstance(output, fx.Node) else output for output in outputs)
                for m in range(streams)
            )
        )

    def _norm(self, node: fx.Node, norm: PrivateNorm2d) -> list[Channels]:
        """Normalise, where that is not in the convolution already, and exchange."""
        image = arguments(node)[0][0]
        live, keep = self.liveness.live[node], self.liveness.keep(node)
        if image in self.folded:
            normalised = [self._of(image, m) for m in range(len(live))]
        else:
            read = live if keep is None else needed(live, keep)
            normalised = [self._normalised(image, norm, m, _numbers(rows)) for m, rows in enumerate(read)]
        if keep is None:
            return normalised
        return [self._exchanged(normalised, m, live[m], keep[m]) for m in range(len(live))]

    def _normalised(self, image: fx.Node, norm: PrivateNorm2d, m: int, rows: list[int]) -> Channels:
        if not rows:
            return {}
        tensors = (norm.running_mean, norm.running_var, norm.weight, norm.bias)
        own = [None if t is None else self._attribute(_row(norm, t, m)[rows]) for t in tensors]
        function = F.batch_norm if isinstance(norm, PrivateBatchNorm2d) else F.instance_norm
        from_input = norm.running_mean is None
        out = self.graph.call_function(
            function, (self._node(self._of(image, m), rows), *own, from_input, 0.0, norm.eps)
        )
        return self._whole(out, rows)

    def _exchanged(self, normalised: Sequence[Channels], m: int, live: Tensor, keep: Tensor) -> Channels:
        """A modality's channels after the exchange (CEN eq. 6): another tensor's rows, or their mean."""
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

    def _meeting(self, node: fx.Node, place: Aggregate | Mix | Shuffle | ShiftBack) -> list[Any]:
        """A fusion that reads all streams together."""
        count = len(self.roster.present)
        sets = [[self._node(self._of(value, m)) for m in range(count)] for value in arguments(node)[0]]
        channels = range(channels_of(node) or 0)
        if isinstance(place, Aggregate | Mix):
            name = f"meeting_{node.args[1]}"
            self.root.add_module(name, _Together(place))
            out = self.graph.call_module(name, tuple(sets[0]))
            if isinstance(place, Aggregate):
                return [self._whole(out, channels)]
        elif isinstance(place, Shuffle):
            out = self.graph.call_function(shuffle, (sets[0],))
        else:
            out = self.graph.call_function(shift_back, (*sets, place.shift, place.shuffle))
        return [self._whole(self.graph.call_function(operator.getitem, (out, m)), channels) for m in range(count)]

    def _convolution(self, node: fx.Node, m: int) -> Channels:
        """A convolution, with the norm behind it, of the rows that are read."""
        found, norm = self.liveness.convolutions[node], self.folded.get(node)
        live = self.liveness.live[node]
        computed = computed_by(live[m if len(live) > 1 else 0][None], found)[0]
        rows = _numbers(computed)
        if not rows:
            return {}
        settings = dict(found.settings)
        if found.groups == 1:
            image, columns = self._in_any_order(self._of(found.image, m))
        else:
            groups = computed.view(found.groups, -1).any(1)
            width = (channels_of(found.image) or 0) // found.groups
            read = _numbers(groups.repeat_interleave(width))
            image, columns = self._node(self._of(found.image, m), read), None
            settings["groups"] = int(groups.sum())
        weight = _pick(self.constants[found.weight], m)
        bias = None if found.bias is None else _pick(self.constants[found.bias], m)
        row = None if norm is None else m if norm.roster is not None else 0
        key = (node, id(weight), row, tuple(rows), None if columns is None else tuple(columns))
        if key not in self._made:
            self._made[key] = self._weights(weight, bias, norm, m, rows, columns, found.transposed)
        out = self.graph.call_function(node.target, (image, *self._made[key]), settings)  # type: ignore[arg-type]
        return self._whole(out, rows)

    def _weights(
        self,
        weight: Tensor,
        bias: Tensor | None,
        norm: PrivateNorm2d | None,
        m: int,
        rows: list[int],
        columns: list[int] | None,
        transposed: bool,
    ) -> tuple[fx.Node, fx.Node | None]:
        """Weight and bias of a convolution, the norm in them, of the rows and columns that there are."""
        by_row = weight.transpose(0, 1) if transposed else weight
        if norm is not None:
            scale, shift = _affine(norm, m)
            by_row = (by_row.double() * scale.view(-1, 1, 1, 1)).to(weight.dtype)
            bias = (shift if bias is None else shift + bias.double() * scale).to(weight.dtype)
        if len(rows) < len(by_row):
            by_row, bias = by_row[rows], None if bias is None else bias[rows]
        if columns is not None:
            by_row = by_row[:, columns]
        stored = by_row.transpose(0, 1) if transposed else by_row
        return self._attribute(stored), None if bias is None else self._attribute(bias)

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
        return self._chosen(self._side_by_side(tensors), [starts[tensor] + row for tensor, row in held])

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

    def _chosen(self, tensor: fx.Node, rows: list[int]) -> fx.Node:
        index = self._attribute(torch.tensor(rows))
        node = self.graph.call_function(torch.index_select, (tensor, 1, index))
        self.widths[node] = len(rows)
        return node

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


class _Together(nn.Module):
    """An aggregation, from one tensor of each stream.

    Args:
        aggregate: What takes and returns folded tensors, or one tensor for all.
    """

    def __init__(self, aggregate: Aggregate | Mix) -> None:
        super().__init__()
        self.aggregate = aggregate

    def forward(self, *streams: Tensor) -> Any:
        """Tensors `(B, C, H, W)` of all streams to one, or to one for each."""
        out: Tensor = self.aggregate(functional.fold(streams))
        return functional.unfold(out, len(streams)).unbind(1) if isinstance(self.aggregate, Mix) else out


def _tiled(image: Tensor, tiles: int) -> Tensor:
    """The channels of an image `(B, C, H, W)` so many times, `(B, tiles * C, H, W)`; no copy for once."""
    return image if tiles == 1 else image.repeat(1, tiles, 1, 1)


def shuffle(streams: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """`functional.channel_shuffle` of one tensor `(B, C, H, W)` for each stream."""
    return functional.channel_shuffle(torch.stack(tuple(streams), 1)).unbind(1)


def shift_back(streams: Sequence[Tensor], before: Sequence[Tensor], shift: bool, back: bool) -> tuple[Tensor, ...]:
    """Add the shifted pixels of the features before, and shuffle back, each where it is wanted (`Asymmetric`)."""
    x = torch.stack(tuple(streams), 1)
    if shift:
        x = x + functional.pixel_shift(torch.stack(tuple(before), 1))
    return (functional.channel_shuffle(x, reverse=True) if back else x).unbind(1)


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


def _affine(norm: PrivateNorm2d, m: int) -> tuple[Tensor, Tensor]:
    """What a norm multiplies a modality's channels with, and adds, in float64."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    mean, var = _row(norm, norm.running_mean, m).double(), _row(norm, norm.running_var, m).double()
    scale = torch.rsqrt(var + norm.eps)
    if norm.weight is not None:
        scale = scale * _row(norm, norm.weight, m).double()
    shift = -mean * scale
    return scale, shift if norm.bias is None else shift + _row(norm, norm.bias, m).double()


def _row(norm: PrivateNorm2d, per_modality: Tensor, m: int) -> Tensor:
    """The m-th present modality's row of a tensor `(M, C)`, or the one that all share."""
    return per_modality[0 if norm.roster is None else norm.roster.present[m]].detach()


def _pick(values: Sequence[Any], m: int) -> Any:
    """What a stream has: its own, or what all share."""
    return values[m if len(values) > 1 else 0]


def _numbers(chosen: Tensor) -> list[int]:
    """The channels that are True."""
    return chosen.nonzero()[:, 0].tolist()
