"""Where tokens are mixed in the blocks of a transformer: what goes into attention, and where all of it comes out."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from polymodal.anatomy.blocks import is_mixer, is_of_one_sample, transformer_blocks
from polymodal.anatomy.dry_run import Call, DryRun
from polymodal.anatomy.norms import can_be_private, kind_of
from polymodal.errors import FusionError


@dataclass(frozen=True)
class Mixing:
    """The attention of one block, or what stands for it, by the dotted names of the layers around it.

    Attributes:
        block: The block.
        reads: The layer whose first argument is the tokens before attention: the norm in front of it, else the block.
        place: The layer that returns what attention made of every token, in the layout of the tokens before, and before
            it is added to them: the attention itself, or one behind it where the attention sees windows.
        channels: C.
        axis: Where the channels are, -1 in `(B, ..., C)` or 1 in `(B, C, ...)`.
    """

    block: str
    reads: str
    place: str
    channels: int
    axis: int


@dataclass
class Mixings:
    """All attentions of a network.

    Attributes:
        found: Those at which tokens can be told apart, by their place.
        obstacles: Why they cannot in other blocks, by the block's name, each the rest of a sentence.
    """

    found: dict[str, Mixing] = field(default_factory=dict)
    obstacles: dict[str, str] = field(default_factory=dict)


def mixings(network: nn.Module, run: DryRun) -> Mixings:
    """Find where tokens are mixed.

    Args:
        network: A plain network.
        run: What ran in it.

    Raises:
        FusionError: When it has blocks with an attention and ran on no image that was tried.
    """
    found = Mixings()
    blocks = transformer_blocks(network)
    if blocks and run.problem is not None:
        problem = str(run.problem).partition("\n")[0]
        raise FusionError(
            f"The network {type(network).__name__} ran on no image of {run.image.shape[1]} channels that was tried, so "
            f"it is not known where its tokens are: {problem}"
        )
    for block in blocks:
        calls = [call for call in run.calls if block in (call.name, call.parent)]
        mixing = _mixing(block, network.get_submodule(block), calls)
        if isinstance(mixing, Mixing):
            found.found[mixing.place] = mixing
        else:
            found.obstacles[block] = mixing
    return found


def _mixing(name: str, block: nn.Module, calls: list[Call]) -> Mixing | str:
    """Where a block mixes its tokens, or why that cannot be told."""
    own = [call for call in calls if call.name == name]
    order = [call for call in calls if call.name != name]
    layers = [call.layer for call in order]
    mixer = next((i for i, layer in enumerate(layers) if is_mixer(layer, block)), len(order))
    if len(own) != 1 or mixer == len(order) or layers.count(layers[mixer]) != 1:
        return f"the block '{name}' does not run once with one attention"
    before = [call for call in order[:mixer] if _is_norm(block, call.layer)]
    reads, tokens = (before[-1].layer, before[-1].given) if before else ("", own[0].given)
    norm: Any = next(child for child in block.children() if is_of_one_sample(child))
    if tokens is None or tokens[0] != 1:
        return f"the tokens of the block '{name}' lie in windows that its attention alone does not tell from samples"
    kind: Any = kind_of(norm)
    axis = kind.axis_in(torch.empty(tokens, device="meta"))
    channels = norm.num_channels if isinstance(norm, nn.GroupNorm) else norm.weight.shape[0]
    place = next((call.layer for call in _behind(block, order[mixer:], bool(before)) if call.returned == tokens), "")
    if not place or layers.count(place) != 1 or tokens[axis] != channels:
        return (
            f"the attention of the block '{name}' returns its tokens in another layout than it is given them, such as "
            "in windows, and no layer behind it returns them as they were"
        )
    return Mixing(name, f"{name}.{reads}".rstrip("."), f"{name}.{place}", int(channels), axis)


def _behind(block: nn.Module, calls: list[Call], pre_norm: bool) -> Iterator[Call]:
    """The attention and what runs behind it before its result is added to the tokens, without norms."""
    for call in calls:
        norm = _is_norm(block, call.layer)
        if "mlp" in call.layer or (norm and pre_norm):
            return
        if not norm:
            yield call


def _is_norm(block: nn.Module, layer: str) -> bool:
    return can_be_private(block.get_submodule(layer))
