"""A multimodal network seen as one plain graph: what every modality goes through, and the places where they differ.

The graph is that of a single modality, for any batch and size. Where a module knows of modalities, a private norm or a
fusion, the graph holds a mark; what stands there is kept beside it. Layers of which modalities have copies appear once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch._ops import HigherOrderOperator, OpOverload
from torch.export import ExportedProgram
from torch.fx import Graph, Node

from polymodal.anatomy.norms import Kind
from polymodal.errors import ExportError
from polymodal.export.program import captured
from polymodal.export.trials import Size, Trial
from polymodal.multimodal import Multimodal
from polymodal.nn import PrivateConv, PrivateLayer, PrivateNorm, PrivateRunningNorm, Roster
from polymodal.nn.static import Choice, Joint


@torch.library.custom_op("polymodal::mark", mutates_args=())
def mark(values: Sequence[Tensor], index: int) -> Tensor:
    """Stands in a captured graph where modalities differ or meet; has the shape of the first value."""
    del index
    return values[0].clone()


@mark.register_fake
def _(values: Sequence[Tensor], index: int) -> Tensor:
    del index
    return torch.empty_like(values[0])


_aten = torch.ops.aten
_DROPOUT = {
    *(_aten.dropout.default, _aten.feature_dropout.default, _aten.dropout_.default, _aten.feature_dropout_.default),
    *(_aten.alpha_dropout.default, _aten.alpha_dropout_.default),
}  # fmt: skip
"""What takes features, a probability, and whether to drop anything."""

_VIEWS = {_aten.flatten.using_ints, _aten.unflatten.int, _aten.alias.default}
"""Views that are as good as copies where nothing is changed."""

Place = PrivateRunningNorm | Choice | Joint


@dataclass
class Capture:
    """The plain graph of a multimodal network.

    Attributes:
        program: The graph, of one image `(B, C, H, W)`.
        places: What stands at each mark, by its index.
        private: The values that each present modality has of a parameter or buffer, by its name in the program.
        channels: The channels of each present modality's image as the network takes it.
        step: What height and width must be multiples of.
        trials: The images on which what is made of it must be compared with the network.
    """

    program: ExportedProgram
    places: list[Place]
    private: dict[str, list[Tensor]]
    channels: list[int]
    step: int
    trials: list[Trial]


def capture(net: Multimodal, size: Size | None = None) -> Capture:
    """Capture the network of the present modalities in eval mode.

    Args:
        net: A multimodal network; it is changed, and of no use then.
        size: Height and width, if the graph is to be for these alone.

    Raises:
        ExportError: When a module knows of modalities in a way that has no static form, or the network has no static
            graph.
    """
    names = [net.modalities[m] for m in net.roster.present]
    channels = [image_channels(net, name) * net.stem.tiles[name] for name in names]
    like = next(p for p in net.network.parameters() if p.is_floating_point())
    plain = _Plain(net.network.eval(), net.roster)
    found = captured(plain.network, lambda trial: (like.new_zeros(trial[0], channels[0], *trial[1]),), size)
    private = {
        name: plain.private[id(tensor)]
        for name, tensor in plain.network.state_dict(keep_vars=True).items()
        if id(tensor) in plain.private
    }
    return Capture(_functional(found.program), plain.places, private, channels, found.step, found.trials)


def _functional(program: ExportedProgram) -> ExportedProgram:
    """The same program without operations that change a tensor, or return the one that they were given.

    Where a new tensor is changed that nothing else reads, the operation that makes another one stands for it. For all
    else the program is traced once more, which takes as long as the capture itself.
    """
    _without_dropout(program.graph)
    nodes = [node for node in program.graph.nodes if node.op == "call_function"]
    for node in nodes:
        if not _is_functional(node.target) and (making := _making(node)) is not None:
            node.target = making
    if not all(_is_functional(node.target) or node.target in _VIEWS for node in nodes):
        program = program.run_decompositions({})
    for node in program.graph.nodes:
        if node.target is torch.ops.aten.view.default:  # what comes to stand before it may lie in memory in another way
            node.target = torch.ops.aten.reshape.default
    return program


def _without_dropout(graph: Graph) -> None:
    """Leave out what drops nothing, as all dropout in eval mode: it returns what it was given."""
    for node in list(graph.nodes):
        if node.target in _DROPOUT and node.args[2:] == (False,):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)


def _is_functional(target: Any) -> bool:
    """Whether an operation makes a new tensor of its arguments; what is no operation of PyTorch's reads a number."""
    if not isinstance(target, OpOverload):
        return not isinstance(target, HigherOrderOperator)
    aliases = any(argument.alias_info is not None for argument in target._schema.arguments)
    return not aliases and "dropout" not in target.name()  # the one whose schema does not say so


def _making(node: Node) -> OpOverload | None:
    """What makes a tensor of the same values as this change of a new one that nothing else reads; None elsewhere."""
    changed = node.args[0] if node.args else None
    if not isinstance(changed, Node) or changed.op != "call_function" or len(changed.users) > 1:
        return None
    if not isinstance(changed.target, OpOverload) or not _is_functional(changed.target):
        return None
    target: Any = node.target
    library, _, name = target.name().partition("::")  # such as aten::relu_
    name, _, overload = name.partition(".")
    found = getattr(getattr(torch.ops, library), name.removesuffix("_"), None) if name.endswith("_") else None
    return getattr(found, overload or "default", None)


def image_channels(net: Multimodal, name: str) -> int:
    """The channels of a modality's images; those of the network where `fuse` was not told."""
    private = next((m.of(name).in_channels for m in net.network.modules() if isinstance(m, PrivateConv)), None)
    return net.channels[name] or private or net.stem.width


class _Plain:
    """A network in which marks and plain layers stand for all modules that know of modalities.

    Args:
        network: It is changed.
        roster: The modalities that are present.

    Attributes:
        network: What became of it.
        places: What stands at each mark.
        private: What the present modalities have of a tensor of the network, by its id.
    """

    def __init__(self, network: nn.Module, roster: Roster) -> None:
        self.roster = roster
        self.places: list[Place] = []
        self.private: dict[int, list[Tensor]] = {}
        self._static_forms: dict[int, Any] = {}
        self._done: dict[int, nn.Module] = {}
        self.network = self._plain("", network)

    def _plain(self, name: str, module: nn.Module) -> nn.Module:
        if id(module) not in self._done:
            plain = self._replaced(name, module)
            self._mark_hooks(name, module)
            if plain is not module:
                plain._forward_pre_hooks.update(module._forward_pre_hooks)
                plain._forward_hooks.update(module._forward_hooks)
            self._done[id(module)] = plain
        return self._done[id(module)]

    def _replaced(self, name: str, module: nn.Module) -> nn.Module:
        if isinstance(module, PrivateNorm):
            norm = self._mark(module) if _of_maps(module) else self._alone(module)
            fusion = [] if module.fusion is None else [self._static(name, module.fusion)]
            if module.kind.axis == -1:
                fusion = [_ChannelsFirst(operation, module.kind) for operation in fusion]
            return nn.Sequential(norm, *fusion, module.drop, module.act)
        if isinstance(module, PrivateConv):
            return self._stand_in([module.of(self.roster.names[m]) for m in self.roster.present])
        if isinstance(module, PrivateLayer):
            return self._stand_in([module.layers[m] for m in self.roster.present])
        if _knows_modalities(module):
            return self._static(name, module)
        for child_name, child in module._modules.items():
            if child is not None:
                module._modules[child_name] = self._plain(f"{name}.{child_name}".lstrip("."), child)
        return module

    def _alone(self, norm: PrivateNorm) -> nn.Module:
        """A norm that nothing can absorb: that of each modality, as a layer of it."""
        if norm.roster is None:
            return norm.alone(0)
        return self._stand_in([norm.alone(m) for m in range(len(self.roster.present))])

    def _mark(self, place: Place) -> "_Mark":
        self.places.append(place)
        return _Mark(len(self.places) - 1)

    def _stand_in(self, layers: Sequence[nn.Module]) -> nn.Module:
        """The first modality's layer, for all of them."""
        for name, tensor in layers[0].state_dict(keep_vars=True).items():
            self.private[id(tensor)] = [layer.state_dict(keep_vars=True)[name] for layer in layers]
        return layers[0]

    def _static(self, name: str, owner: Any) -> Any:
        """What stands for a fusion's module and for the owner of its hooks, which may be the same."""
        if id(owner) in self._static_forms:
            return self._static_forms[id(owner)]
        if not hasattr(owner, "static"):
            raise ExportError(
                f"At '{name}' a {type(owner).__name__} makes the modalities meet in a way that has no static form, so "
                "the network cannot be absorbed. Export it as it is."
            )
        self._static_forms[id(owner)] = owner.static(self._mark)
        return self._static_forms[id(owner)]

    def _mark_hooks(self, name: str, module: nn.Module) -> None:
        """Let marks stand for what hooks of a fusion do."""
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            for key, hook in list(hooks.items()):
                owner = getattr(hook, "__self__", None)
                if owner is not None and _knows_modalities(owner):
                    hooks[key] = getattr(self._static(name, owner), hook.__name__)


class _ChannelsFirst(nn.Module):
    """What stands for a fusion, behind a norm whose channels may be in the last axis.

    Args:
        operation: Takes `(B, C, ...)`.
        kind: That of the norm.
    """

    def __init__(self, operation: nn.Module, kind: Kind) -> None:
        super().__init__()
        self.operation = operation
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        """`(B, ..., C)` to a tensor of the same shape."""
        axis = self.kind.axis_in(x)
        out: Tensor = self.operation(x.movedim(axis, 1))
        return out.movedim(1, axis)


class _Mark(nn.Module):
    """A mark in the graph.

    Args:
        index: Of the place.
    """

    def __init__(self, index: int) -> None:
        super().__init__()
        self.index = index

    def forward(self, *values: Tensor) -> Tensor:
        """A tensor like the first value."""
        return mark(values, self.index)


def _of_maps(norm: PrivateNorm) -> TypeGuard[PrivateRunningNorm]:
    """Whether a norm treats each channel of feature maps `(B, C, H, W)` by itself."""
    return isinstance(norm, PrivateRunningNorm) and norm.axes in ((4,), ())


def _knows_modalities(owner: Any) -> bool:
    return any(isinstance(value, Roster) for value in getattr(owner, "__dict__", {}).values())
