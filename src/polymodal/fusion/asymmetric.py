"""Asymmetric fusion (AsymFusion): channel shuffle and pixel shift around the last spatial convolution of each stage.

Source: Wang et al., "Learning Deep Multimodal Feature Representation with Asymmetric Multi-layer Fusion", ACM
    Multimedia 2020 (arXiv 2108.05009), and its released code.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from polymodal import functional
from polymodal.anatomy import Anatomy
from polymodal.anatomy.blocks import SpatialConvolution
from polymodal.anatomy.convolutions import convolution_of
from polymodal.errors import FusionError
from polymodal.fusion.base import Fusion, Plan, Sites, describe_candidates, select
from polymodal.nn.roster import Roster
from polymodal.nn.static import Joint, Mark


@dataclass(frozen=True)
class Asymmetric(Fusion):
    """Shuffle channels and add shifted pixels across modalities, without any parameter (AsymFusion).

    With a the features before a block's spatial convolution and b those before its next convolution (so after norm and
    activation, and a gate where there is one), at every site

        a_m ← shuffle(a)_m, then the spatial convolution; b_m ← b_m + shift(a)_m, then b_m ← reversed shuffle(b)_m,

    see `channel_shuffle` and `pixel_shift`, also for more than two modalities: the shuffle moves about a fifth of the
    channels, the shift is of all the others. The modalities that are present stand in a circle, so that an absent one
    is passed over.

    Args:
        shuffle: Whether channels are shuffled.
        shift: Whether shifted pixels are added.

    Raises:
        FusionError: When neither is wanted.
    """

    name: ClassVar[str] = "asymmetric"
    takes_gaps: ClassVar[bool] = True  # a modality alone meets nobody

    shuffle: bool = True
    shift: bool = True

    def __post_init__(self) -> None:
        if not (self.shuffle or self.shift):
            raise FusionError("shuffle, shift: expected at least one of them, got neither. For no fusion, use None.")

    def find_sites(self, network: nn.Module, sites: Sites) -> tuple[str, ...]:
        """The norms of the spatial convolutions around which the modalities meet.

        A block can carry the fusion when the features before its spatial convolution have the size and the channels of
        those before its next one. `"auto"` means the last such block of each stage; a pattern or a
        predicate chooses among all such blocks, by the names of their norms.

        Raises:
            FusionError: When no block can carry it, or a norm that was named cannot; the message says why.
        """
        anatomy = Anatomy(network)
        if convolution_of(network) is not nn.Conv2d:
            raise FusionError(
                "An asymmetric fusion moves pixels up, down, to the left and to the right, and the network "
                f"{type(network).__name__} takes no images but signals or volumes. Use an exchange."
            )
        found = {spatial.norm: spatial for spatial in anatomy.spatial_convolutions}
        if not found:
            raise FusionError(
                "An asymmetric fusion acts between two convolutions of a residual block, and the encoder of this "
                f"{type(network).__name__} has no block, told by the name of its class, with a spatial convolution and "
                "a norm before another convolution. Choose another backbone or another fusion."
            )
        obstacles = _obstacles(network, list(found.values()))
        norms = {name: network.get_submodule(name) for name in found}
        chosen = list(found) if sites == "auto" else select(norms, sites)
        named = [sites] if isinstance(sites, str) else [] if callable(sites) else list(sites)
        able = [name for name in chosen if name not in obstacles]
        refused = [name for name in chosen if name in obstacles and (name in named or not able)]
        if refused:
            raise FusionError(
                f"sites: '{refused[-1]}' cannot carry an asymmetric fusion: {obstacles[refused[-1]]}."
                + describe_candidates({name: norm for name, norm in norms.items() if name not in obstacles})
            )
        return _last_of_each_stage(anatomy, [found[name] for name in able]) if sites == "auto" else tuple(able)

    def plan(self, anatomy: Anatomy, sites: Sequence[str]) -> Plan:
        """Let the blocks of the sites meet before their spatial convolution and before the next one.

        By hooks, so that the tree of modules and its state stay those of the network without fusion.
        """
        blocks = [spatial for spatial in anatomy.spatial_convolutions if spatial.norm in sites]

        def install(network: nn.Module, roster: Roster) -> None:
            for block in blocks:
                meeting = Meeting(self, roster)
                network.get_submodule(block.conv).register_forward_pre_hook(meeting.before_spatial)
                network.get_submodule(block.following).register_forward_pre_hook(meeting.before_following)
                network.get_submodule(block.block).register_forward_hook(meeting.forget, always_call=True)

        return Plan(install)


class Meeting:
    """The fusion in one block, as hooks of its layers.

    Args:
        rule: What is done.
        roster: The network's modalities.
    """

    def __init__(self, rule: Asymmetric, roster: Roster) -> None:
        self.rule = rule
        self.roster = roster
        self.shifted: Tensor | None = None

    def before_spatial(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor | None:
        """Keep the shifted features `(B*K, C, H, W)` of the K present modalities for later, and shuffle them."""
        if not self.roster.meeting:
            return None
        if self.rule.shift:
            self.shifted = self._streams(functional.pixel_shift, inputs[0])
        return self._streams(functional.channel_shuffle, inputs[0]) if self.rule.shuffle else None

    def before_following(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor | None:
        """Add what was kept to the features `(B*K, C, H, W)`, and shuffle them back."""
        if not self.roster.meeting:
            return None
        x = inputs[0]
        if self.shifted is not None:
            x = x + self.shifted
        return self._streams(partial(functional.channel_shuffle, reverse=True), x) if self.rule.shuffle else x

    def _streams(self, operation: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """What an operation on streams `(B, K, C, H, W)` makes of folded features."""
        return self.roster.each(lambda part: operation(self.roster.streams(part)).flatten(0, 1), x)

    def forget(self, *_: Any) -> None:
        """Hold no features once the block is done, even if an error ended it."""
        self.shifted = None

    def static(self, mark: Mark) -> "_StaticMeeting":
        """The same hooks in the graph of one modality."""
        return _StaticMeeting(self, mark)


class _StaticMeeting:
    """The hooks of `Meeting` for one modality, with marks for what all do together."""

    def __init__(self, meeting: Meeting, mark: Mark) -> None:
        self.acts, rule = meeting.roster.meeting, meeting.rule
        self.shuffle = mark(Joint(_Shuffle())) if rule.shuffle else None
        self.shift_back = mark(Joint(_ShiftBack(rule)))
        self.seen: Tensor | None = None

    def before_spatial(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor | None:
        """See `Meeting`."""
        self.seen = inputs[0]
        return self.shuffle(inputs[0]) if self.acts and self.shuffle is not None else None

    def before_following(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor | None:
        """See `Meeting`."""
        return self.shift_back(inputs[0], self.seen) if self.acts else None

    def forget(self, *_: Any) -> None:
        """See `Meeting`."""
        self.seen = None


class _Shuffle(nn.Module):
    """Channel shuffle of a list of streams."""

    def forward(self, streams: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """A map `(B, C, H, W)` of each stream to one for each."""
        return functional.channel_shuffle(torch.stack(tuple(streams), 1)).unbind(1)


class _ShiftBack(nn.Module):
    """What is done before the next convolution, to a list of streams."""

    def __init__(self, rule: Asymmetric) -> None:
        super().__init__()
        self.rule = rule

    def forward(self, streams: Sequence[Tensor], before: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Add the shifted pixels of the features before, and shuffle back, each where it is wanted."""
        x = torch.stack(tuple(streams), 1)
        if self.rule.shift:
            x = x + functional.pixel_shift(torch.stack(tuple(before), 1))
        return (functional.channel_shuffle(x, reverse=True) if self.rule.shuffle else x).unbind(1)


def _last_of_each_stage(anatomy: Anatomy, able: Sequence[SpatialConvolution]) -> tuple[str, ...]:
    """Of each stage, the norm of the last of these spatial convolutions."""
    last = {}
    for spatial in able:
        stage = next(stage for block, stage in anatomy.stage_of.items() if f"{spatial.block}.".startswith(f"{block}."))
        last[stage] = spatial.norm
    return tuple(last.values())


def _obstacles(network: nn.Module, spatials: Sequence[SpatialConvolution]) -> dict[str, str]:
    """Why spatial convolutions cannot carry the fusion, by their norm's name, each the rest of a sentence.

    Every block runs once by itself on a tiny map. This tells more than its settings do: convolutions may pad as they
    see fit, a pooling may stand between them, and layers that follow each other in the tree may be branches.
    """
    obstacles: dict[str, str] = {}
    for name, group in groupby(spatials, key=lambda spatial: spatial.block):
        with torch.inference_mode(False), torch.enable_grad():
            calls = _Calls(name, copy.deepcopy(network.get_submodule(name)).eval())
            obstacles |= {spatial.norm: reason for spatial in group if (reason := calls.obstacle(spatial))}
    return obstacles


class _Calls:
    """What the convolutions of a block took and returned when it ran by itself.

    Args:
        name: The block's dotted name.
        block: A copy of the block, in eval mode.
    """

    def __init__(self, name: str, block: nn.Module) -> None:
        self.calls: dict[str, list[tuple[Tensor, Tensor]]] = {}
        self.failure = ""
        convolutions = {f"{name}.{n}": module for n, module in block.named_modules() if isinstance(module, nn.Conv2d)}
        for conv, module in convolutions.items():
            calls = self.calls.setdefault(conv, [])
            module.register_forward_hook(lambda _, inputs, output, calls=calls: calls.append((inputs[0], output)))
        first = next(iter(convolutions.values()))
        features = first.weight.new_zeros(1, first.in_channels, 8, 8).requires_grad_()
        try:
            block(features.clone())  # a block may change its input in place, which a leaf forbids
        except Exception as error:  # whatever a network of somebody else's raises
            self.failure = f"its block '{name}' does not run by itself ({error})"

    def obstacle(self, spatial: SpatialConvolution) -> str | None:
        """Why a spatial convolution of the block cannot carry the fusion; None when it can."""
        if self.failure:
            return self.failure
        if any(len(self.calls[name]) != 1 for name in (spatial.conv, spatial.following)):
            return f"'{spatial.conv}' and '{spatial.following}' do not run once each"
        [(before, made)], [(after, _)] = self.calls[spatial.conv], self.calls[spatial.following]
        if torch.autograd.grad(after.sum(), made, allow_unused=True, retain_graph=True)[0] is None:
            return f"'{spatial.following}' is given nothing of what '{spatial.conv}' returns"
        if before.shape != after.shape:
            return (
                f"'{spatial.conv}' is given {_size(before)} and '{spatial.following}' {_size(after)}, where both must "
                "be alike"
            )
        return None


def _size(x: Tensor) -> str:
    return f"{x.shape[1]} channels of {' × '.join(map(str, x.shape[2:]))} pixels"
