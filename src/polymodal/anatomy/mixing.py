"""Where tokens are mixed in the blocks of a transformer: what goes into attention, and where all of it comes out."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from polymodal.anatomy.blocks import is_mixer, is_of_one_sample, transformer_blocks
from polymodal.anatomy.entrance import Entrance
from polymodal.anatomy.meta import SIZES, ghost
from polymodal.anatomy.norms import can_be_private, kind_of
from polymodal.anatomy.shapes import ByShapes
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


@dataclass(frozen=True)
class _Call:
    """One call of a layer: the shapes of its first tensor and of the first that it returned, None for none."""

    layer: str
    given: torch.Size | None
    returned: torch.Size | None


def mixings(network: nn.Module, way_in: Entrance) -> Mixings:
    """Find where tokens are mixed, by one pass without any arithmetic at the first size that the network takes.

    Args:
        network: A plain network. It is not changed.
        way_in: Where images enter it.

    Raises:
        FusionError: When it has blocks with an attention and runs on no image that was tried.
    """
    found = Mixings()
    blocks = transformer_blocks(network)
    if not blocks:
        return found
    for block, calls in _calls(network, blocks, way_in).items():
        mixing = _mixing(block, network.get_submodule(block), calls)
        if isinstance(mixing, Mixing):
            found.found[mixing.place] = mixing
        else:
            found.obstacles[block] = mixing
    return found


def _calls(network: nn.Module, blocks: list[str], way_in: Entrance) -> dict[str, list[_Call]]:
    """What blocks and the layers that they hold themselves took and returned, in the order in which they finished."""
    problem = ""
    for size in SIZES:
        copied, calls = ghost(network), {block: [] for block in blocks}  # type: ignore[var-annotated]
        for block in blocks:
            module = copied.get_submodule(block)
            for layer, child in (("", module), *module.named_children()):
                child.register_forward_hook(
                    lambda _, given, returned, layer=layer, seen=calls[block]: seen.append(
                        _Call(layer, _shape(given), _shape(returned))
                    )
                )
        try:
            with torch.no_grad(), ByShapes():
                copied(way_in.image(size))
        except Exception as error:  # whatever a network does on such an image
            problem = str(error).partition("\n")[0]
        else:
            return calls
    raise FusionError(
        f"The network {type(network).__name__} ran on no image of {way_in.channels} channels that was tried, so it is "
        f"not known where its tokens are: {problem}"
    )


def _shape(values: Any) -> torch.Size | None:
    """That of the first tensor."""
    return next((value.shape for value in tree_leaves(values) if isinstance(value, Tensor)), None)


def _mixing(name: str, block: nn.Module, calls: list[_Call]) -> Mixing | str:
    """Where a block mixes its tokens, or why that cannot be told."""
    own = [call for call in calls if not call.layer]
    order = [call for call in calls if call.layer]
    layers = [call.layer for call in order]
    mixer = next(i for i, call in enumerate([*order, None]) if call is None or is_mixer(call.layer, block))
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


def _behind(block: nn.Module, calls: list[_Call], pre_norm: bool) -> Iterator[_Call]:
    """The attention and what runs behind it before its result is added to the tokens, without norms."""
    for call in calls:
        norm = _is_norm(block, call.layer)
        if "mlp" in call.layer or (norm and pre_norm):
            return
        if not norm:
            yield call


def _is_norm(block: nn.Module, layer: str) -> bool:
    return can_be_private(block.get_submodule(layer))
