"""A multimodal network seen as one plain graph: what every modality goes through, and the places where they differ.

The graph is that of a single modality, for any batch and size. Where a module knows of modalities, a private norm or a
fusion, the graph holds a mark; what stands there is kept beside it. Layers of which modalities have copies appear once.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from polymodal.errors import ExportError
from polymodal.export.program import captured
from polymodal.export.trials import Size, Trial
from polymodal.fusion.aggregation import Aggregate, Mix
from polymodal.fusion.alignment import Watch
from polymodal.fusion.asymmetric import Meeting
from polymodal.fusion.exchange import ChannelExchange
from polymodal.multimodal import Multimodal
from polymodal.nn import Attached, PrivateConv2d, PrivateLayer, PrivateNorm2d, Roster


@torch.library.custom_op("polymodal::mark", mutates_args=())
def mark(values: Sequence[Tensor], index: int) -> Tensor:
    """Stands in a captured graph where modalities differ or meet; has the shape of the first value."""
    del index
    return values[0].clone()


@mark.register_fake
def _(values: Sequence[Tensor], index: int) -> Tensor:
    del index
    return torch.empty_like(values[0])


@dataclass(frozen=True)
class Shuffle:
    """Where an asymmetric fusion shuffles channels, before a spatial convolution."""


@dataclass(frozen=True)
class ShiftBack:
    """Where it adds shifted pixels and shuffles back, before the next convolution.

    Attributes:
        shift: Whether there is something to add.
        shuffle: Whether to shuffle back.
    """

    shift: bool
    shuffle: bool


Place = PrivateNorm2d | Aggregate | Mix | Shuffle | ShiftBack


@dataclass
class Capture:
    """The plain graph of a multimodal network.

    Attributes:
        program: The graph, of one image `(B, C, H, W)`.
        places: What stands at each mark, by its index.
        private: The values that each present modality has of a parameter or buffer, by its name in the program.
        channels: The channels of each present modality's image as the network takes it.
        step: What height and width must be multiples of.
        size: Height and width where they are fixed.
        trials: The images on which what is made of it must be compared with the network.
    """

    program: ExportedProgram
    places: list[Place]
    private: dict[str, list[Tensor]]
    channels: list[int]
    step: int
    size: Size | None
    trials: list[Trial]


def capture(net: Multimodal, present: Sequence[int], size: Size | None = None) -> Capture:
    """Capture the network of the present modalities in eval mode. It is not changed.

    Args:
        net: A multimodal network.
        present: The indices of the modalities.
        size: Height and width, if the graph is to be for these alone.

    Raises:
        ExportError: When a module knows of modalities in a way that has no static form, or the network has no static
            graph.
    """
    roster = Roster(net.modalities)
    roster.present, roster.fusing = tuple(present), net.roster.fusing
    plain = _Plain(copy.deepcopy(net.network).eval(), roster)
    names = [net.modalities[m] for m in present]
    channels = [image_channels(net, name) * net.stem.tiles[name] for name in names]
    like = next(p for p in net.network.parameters() if p.is_floating_point())

    def example(trial: Trial) -> tuple[Tensor]:
        batch, sides = trial
        return (like.new_zeros(batch, channels[0], *sides),)

    found = captured(plain.network, example, ({0: Dim.DYNAMIC},), size)
    private = {
        name: plain.private[id(tensor)]
        for name, tensor in plain.network.state_dict(keep_vars=True).items()
        if id(tensor) in plain.private
    }
    program = found.program.run_decompositions({})
    return Capture(program, plain.places, private, channels, found.step, size, found.trials)


def image_channels(net: Multimodal, name: str) -> int:
    """The channels of a modality's images; those of the network where `fuse` was not told."""
    private = next((m.of(name).in_channels for m in net.network.modules() if isinstance(m, PrivateConv2d)), None)
    return net.channels[name] or private or net.stem.width


class _Plain:
    """A network in which marks and plain layers stand for all modules that know of modalities.

    Args:
        network: A copy, which is changed.
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
        self._meetings: dict[int, _MarkedMeeting] = {}
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
        if isinstance(module, PrivateNorm2d):
            if not (module.fusion is None or isinstance(module.fusion, ChannelExchange)):
                raise _no_static_form(name, module.fusion)
            return nn.Sequential(self._mark(module), module.drop, module.act)
        if isinstance(module, Mix | Aggregate):
            return self._mark(module)
        if isinstance(module, PrivateConv2d):
            return self._stand_in([module.of(self.roster.names[m]) for m in self.roster.present])
        if isinstance(module, PrivateLayer):
            return self._stand_in([module.layers[m] for m in self.roster.present])
        if isinstance(module, Attached) and isinstance(module.fusion, Watch):
            return self._plain(name, module.layer)
        if any(isinstance(value, Roster) for value in vars(module).values()):
            raise _no_static_form(name, module)
        for child_name, child in module._modules.items():
            if child is not None:
                module._modules[child_name] = self._plain(f"{name}.{child_name}".lstrip("."), child)
        return module

    def _mark(self, place: Place) -> "_Mark":
        self.places.append(place)
        return _Mark(len(self.places) - 1)

    def _stand_in(self, layers: Sequence[nn.Module]) -> nn.Module:
        """The first modality's layer, for all of them."""
        for name, tensor in layers[0].state_dict(keep_vars=True).items():
            self.private[id(tensor)] = [layer.state_dict(keep_vars=True)[name] for layer in layers]
        return layers[0]

    def _mark_hooks(self, name: str, module: nn.Module) -> None:
        """Let marks stand for the hooks of an asymmetric fusion."""
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            for key, hook in list(hooks.items()):
                owner = getattr(hook, "__self__", None)
                if isinstance(owner, Meeting):
                    if id(owner) not in self._meetings:
                        self._meetings[id(owner)] = _MarkedMeeting(owner, self)
                    hooks[key] = getattr(self._meetings[id(owner)], hook.__name__)
                elif any(isinstance(value, Roster) for value in getattr(owner, "__dict__", {}).values()):
                    raise _no_static_form(name, owner)


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
        out: Tensor = mark(values, self.index)
        return out


class _MarkedMeeting:
    """The hooks of an asymmetric fusion, as marks.

    Args:
        meeting: What they were.
        plain: Where the marks are counted.
    """

    def __init__(self, meeting: Meeting, plain: _Plain) -> None:
        self.acts = plain.roster.fusing and len(plain.roster.present) > 1
        self.rule = meeting.rule
        self.shuffle = plain._mark(Shuffle())
        self.shift_back = plain._mark(ShiftBack(self.rule.shift, self.rule.shuffle))
        self.seen: Tensor | None = None

    def before_spatial(self, conv: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor | None:
        """See `Meeting`."""
        del conv
        self.seen = inputs[0]
        return self.shuffle(inputs[0]) if self.acts and self.rule.shuffle else None

    def before_following(self, conv: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor | None:
        """See `Meeting`."""
        del conv
        return self.shift_back(inputs[0], self.seen) if self.acts else None

    def forget(self, block: nn.Module, inputs: Any, output: Any) -> None:
        """See `Meeting`."""
        del block, inputs, output
        self.seen = None


def _no_static_form(name: str, owner: Any) -> ExportError:
    return ExportError(
        f"At '{name}' a {type(owner).__name__} makes the modalities meet in a way that has no static form, so the "
        "network cannot be folded. Export it unfolded."
    )
