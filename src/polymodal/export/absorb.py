"""Absorbing: at inference norms and exchange are constants, so a network of M modalities becomes M plain ones.

Each modality's norms are absorbed into its convolutions, the exchange is a choice of channels that is made here and not
at every image, and channels that nobody reads are not computed.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves, tree_unflatten

from polymodal.costs import Cost, cost, count
from polymodal.errors import ExportError
from polymodal.export.capture import Capture, capture, image_channels
from polymodal.export.comparison import compare, remedy
from polymodal.export.inputs import check_axes, check_images
from polymodal.export.streams import Streams
from polymodal.export.trials import Size, Trial, checked_size
from polymodal.given import check_tensors
from polymodal.multimodal import Multimodal
from polymodal.nn import LowRankConv2d, Prediction, PrivateNorm

TOLERANCE = 1e-3
"""Of an absorbed network's predictions against the network's, relative to the largest value: they round differently."""

TOLERANCES = {torch.float16: 0.03, torch.bfloat16: 0.1}
"""Likewise, by type of number."""


def absorb(net: Multimodal, modalities: Sequence[str] | None = None, *, size: Size | None = None) -> "Absorbed":
    """The network as it is at inference, without norms, exchange and all that nobody reads.

    For modality m, with the frozen statistics μ, σ² and the scales γ, β of a norm behind a convolution W, b:

        W'_m = γ_m / √(σ²_m + ε) · W,  b'_m = β_m + γ_m (b - μ_m) / √(σ²_m + ε).

    A row of W'_m whose channel is exchanged, and that no other modality is given, is not there at all; nor is what only
    such rows read. Norms that no convolution feeds directly stay as they are, one for each modality. So do those that
    normalise by each image's own statistics, without γ and β where linear layers alone read them, see `scales`.

    Args:
        net: The network. It is not changed; what is exchanged is decided by its scales as they are now.
        modalities: The modalities that there will be, in the network's order; all of them if not given. An absent one
            exchanges nothing, as in `Multimodal.forward` with `subset`.
        size: Height and width, for a network for images of this size alone.

    Returns:
        A network for inference alone, on the device and in the dtype of `net`.

    Raises:
        ConfigError: `fuse` has not made the network.
        ExportError: When a fusion has no static form, the network has no static graph, a modality is unknown, the
            fusion needs one that there will not be, or the size is none.
    """
    check_axes(net)
    size = checked_size(size)
    chosen = list(net.modalities if modalities is None else modalities)
    unknown = [name for name in chosen if name not in net.modalities]
    if unknown or not chosen:
        raise ExportError(
            f"modalities: expected some of {', '.join(net.modalities)}, got {', '.join(unknown) or 'none of them'}."
        )
    present = tuple(m for m, name in enumerate(net.modalities) if name in chosen)
    if len(present) < len(net.modalities) and net.fusion.needs_all:
        raise ExportError(
            f"modalities: the fusion {net.fusion.name!r} needs every modality of {', '.join(net.modalities)}, got "
            f"{', '.join(chosen)} alone: {net.fusion.needs_all}. Absorb the network of all of them."
        )
    with torch.no_grad(), net.roster.only(present):
        seen = capture(settled(net), size)
        absorbed = Absorbed(net, seen, Streams(seen).module(), size)
        _check(net, absorbed, seen.trials)
        return absorbed


def settled(net: Multimodal) -> Multimodal:
    """A copy in which nothing is compared, sorted or multiplied out, for the modalities that are present.

    At inference scales do not change any more, nor what they choose: its exchange is decided, and private parts of low
    rank are absorbed into convolutions of each modality's own.
    """
    own = copy.deepcopy(net)
    for name, module in list(own.network.named_modules()):
        if isinstance(module, LowRankConv2d):
            layer = module.absorbed()
            layer._forward_pre_hooks.update(module._forward_pre_hooks)
            layer._forward_hooks.update(module._forward_hooks)
            own.network.set_submodule(name, layer)
        elif isinstance(module, PrivateNorm):
            fusion: Any = module.fusion
            if hasattr(fusion, "decided"):
                module.fusion = fusion.decided(None if module.weight is None else module.weight.detach())
    return own


def _check(net: Multimodal, absorbed: "Absorbed", trials: Sequence[Trial]) -> None:
    """Refuse an absorbed network that is another one than the network at some size."""
    own = copy.deepcopy(net).eval()
    like = next(p for p in own.parameters() if p.is_floating_point())

    def alike(images: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: image.to(like) for name, image in images.items()}

    compare(
        lambda images: _named(own(alike(images), subset=True)),
        lambda images: _named(absorbed(alike(images))),
        absorbed.channels,
        trials,
        "The absorbed network",
        TOLERANCES.get(like.dtype, TOLERANCE),
        remedy(absorbed.size),
    )


def _named(prediction: Prediction) -> dict[str, Tensor]:
    """The tensors of a prediction by their names."""
    return {
        f"{name} {i}".removesuffix(" 0"): tensor
        for name, output in prediction.named().items()
        for i, tensor in enumerate(tree_leaves(output))
        if isinstance(tensor, Tensor)
    }


class Absorbed(nn.Module):
    """A multimodal network for inference, its norms and its exchange absorbed by its convolutions, see `absorb`.

    Attributes:
        modalities: The names of its modalities, in order.
        outputs: Those that have a prediction of their own: all, or none where the fusion makes one stream.
        channels: The channels that each modality has.
        step: What height and width must be multiples of.
        size: Height and width where they are fixed; else None.
    """

    weights: Tensor

    def __init__(self, net: Multimodal, seen: Capture, graph: fx.GraphModule, size: Size | None) -> None:
        super().__init__()
        self.modalities = tuple(net.modalities[m] for m in net.roster.present)
        self.outputs = tuple(name for name in self.modalities if name in net.outputs)
        self.channels = {name: image_channels(net, name) for name in self.modalities}
        self.step, self.size = seen.step, size
        self._tiles = {name: net.stem.tiles[name] for name in self.modalities}
        self._form = seen.program.call_spec.out_spec
        self.graph = graph
        alpha = getattr(net.ensemble, "alpha", None)
        weights = torch.empty(0) if alpha is None else net.roster.select(alpha.detach()).softmax(0)
        self.register_buffer("weights", weights)
        self.requires_grad_(False).eval()

    def forward(self, inputs: Mapping[str, Tensor]) -> Prediction:
        """Predict as the network that was absorbed does.

        Args:
            inputs: An image `(B, C_m, H, W)` for every modality, all of the same B, H and W.

        Raises:
            DataError: When a modality is unknown or missing, or an image does not fit.
        """
        check_images(inputs, self.channels, self.step, self.size)
        if not torch.compiler.is_compiling():
            check_tensors(inputs, self.graph)
        given = [(inputs[name], self._tiles[name]) for name in self.modalities]
        images = [image if tiles == 1 else image.repeat(1, tiles, 1, 1) for image, tiles in given]
        streams = [tree_unflatten(list(tensors), self._form) for tensors in self.graph(*images)]
        if not self.outputs:
            return Prediction({}, streams[0], self.weights)
        return Prediction(dict(zip(self.outputs, streams, strict=True)), self._ensemble(streams), self.weights)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Absorbed":
        """Let what the graph makes anew, such as a mask, be made where its weights went."""
        super()._apply(fn, recurse)
        device = next(tensor.device for tensor in (*self.graph.parameters(), *self.graph.buffers(), self.weights))
        for node in self.graph.graph.nodes:
            if "device" in node.kwargs:
                node.update_kwarg("device", device)
        self.graph.recompile()
        return self

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
    """What absorbing saves, in multiply-accumulates and parameters.

    Attributes:
        before: The cost of the network as it was.
        after: The cost of the absorbed one, whose parameters are more: convolutions that absorbed norms are no longer
            shared.
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
            f"multiply-accumulates {before.macs / 1e9:.3f} G to {after.macs / 1e9:.3f} G ({-self.share:z.1%}), "
            f"parameters {before.parameters / 1e6:.2f} M to {after.parameters / 1e6:.2f} M"
        )


def saving(net: Multimodal, absorbed: Absorbed, size: Sequence[int]) -> Saving:
    """What an absorbed network saves against the one it was made of.

    Args:
        net: The network, with all its modalities.
        absorbed: What `absorb` made of it.
        size: Height and width of the images.
    """
    dtype = next(p.dtype for p in net.parameters() if p.is_floating_point())
    images = {name: torch.empty(1, channels, *size, dtype=dtype) for name, channels in absorbed.channels.items()}
    return Saving(cost(net, size), count(absorbed, images))
