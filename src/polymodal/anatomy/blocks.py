"""The encoder as fusions see it: its stages, their blocks, and in each block the spatial convolution.

The encoder of a plain network is its child `encoder` or `backbone`; without such a child, the network itself.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from polymodal.anatomy.convolutions import Convolution, convolution_of
from polymodal.anatomy.norms import can_be_private, kind_of

ENCODERS = ("encoder", "backbone")
"""What networks call their encoder."""

_BLOCK = re.compile(r"(?<!dense)block|bottle|residual|basic|mbconv|unit", re.IGNORECASE)
_BESIDE = re.compile(r"downsample|shortcut|skip|^proj$|identity|^_?se_")
_GATE = re.compile(r"^(SE|Squeeze|EffectiveSE|Eca|Ceca)")
_MIXES = re.compile(r"attn|attention|mixer|mlp_tokens", re.IGNORECASE)
_NOT_ENCODER = re.compile(r"decoder|head|classifier|(^|_)neck|fpn|aux|stem")


@dataclass(frozen=True)
class SpatialConvolution:
    """A spatial convolution inside a block, by the dotted names of the layers around it.

    Attributes:
        block: The block.
        conv: The convolution.
        norm: The norm that follows it.
        following: The next convolution of the block.
    """

    block: str
    conv: str
    norm: str
    following: str


def encoder_of(network: nn.Module) -> str:
    """The name of a network's encoder; empty when it has none."""
    return next((name for name, _ in network.named_children() if name in ENCODERS), "")


def stages(network: nn.Module) -> dict[str, tuple[str, ...]]:
    """The encoder's stages in order, and the blocks of each.

    A stage is what holds blocks together: `layer1` of a ResNet, `blocks.3` of a timm EfficientNet, `layers.0.blocks` of
    a Swin. Where a single parent holds all blocks in a row (`features` of torchvision's MobileNetV2), a stage begins
    with every block that strides, since that is what divides the others; no module is such a stage, so it is called by
    its first and last block, `features.4-6`, and its features are what the last one returns.

    Returns:
        Dotted names of blocks by the dotted name of their stage; empty when no block is recognised.
    """
    modules = _encoder(network)
    by_parent: dict[str, list[str]] = {}
    for block in _whole_blocks(modules):
        by_parent.setdefault(block.rpartition(".")[0], []).append(block)
    if len(by_parent) != 1:
        return {parent: tuple(blocks) for parent, blocks in by_parent.items()}
    [(parent, blocks)] = by_parent.items()
    parts: list[list[str]] = []
    for block in blocks:
        layers = modules[block].modules()
        if not parts or any(isinstance(layer, Convolution) and max(layer.stride) > 1 for layer in layers):
            parts.append([])
        parts[-1].append(block)
    return {_range(part): tuple(part) for part in parts} if len(parts) > 1 else {parent: tuple(blocks)}


def sites(network: nn.Module) -> list[str]:
    """Where channels are exchanged by default: in every block of the encoder, behind the layers that mix places.

    In blocks of convolutions these are the `spatial_norms`; in blocks of a transformer the norms of the block itself,
    which stand before its attention and before its MLP, or behind them where the network normalises afterwards. Where
    there are no such, they are the norms of whatever blocks there are.

    Returns:
        Dotted names in the network's order; empty when no block is recognised.
    """
    encoder = _encoder(network)
    chosen = {*spatial_norms(network), *_own_norms(encoder, transformer_blocks(network))}
    chosen = chosen or {*_own_norms(encoder, _innermost_blocks(encoder))}
    return [name for name, _ in network.named_modules() if name in chosen]


def transformer_blocks(network: nn.Module) -> list[str]:
    """The blocks of the encoder that hold an attention, or the like, and layer norms beside it, in order."""
    encoder = _encoder(network)
    return [name for name in _innermost_blocks(encoder) if _mixes(encoder[name])]


def channel_axis(network: nn.Module, name: str, shape: Sequence[int] | None) -> int:
    """Where the channels of what a block returns are: 1, or -1 in transformers that have them last.

    Args:
        network: A plain network.
        name: The block's dotted name.
        shape: Of what it returns; None where it is not known: then channels are where the block's norms have those
            of tokens.
    """
    block = network.get_submodule(name)
    kind = next((kind_of(child) for child in block.children() if is_of_one_sample(child)), None)
    if kind is None or not _mixes(block):
        return 1
    return kind.axis if shape is None or not (kind.maps_first and len(shape) == 4) else 1


def is_mixer(name: str, block: nn.Module) -> bool:
    """Whether a layer that a block holds is an attention, or mixes tokens in another way, by its name or class."""
    return bool(_MIXES.search(f"{name} {type(block.get_submodule(name)).__name__}"))


def spatial_norms(network: nn.Module) -> list[str]:
    """The norms between a spatial convolution and another convolution of the same block, in the encoder.

    In a bottleneck this is the norm after the 3x3 convolution (`bn2` of a ResNet-50), in an inverted residual block
    the one after the depthwise convolution, in a basic block the one between the two convolutions. Stems, shortcuts,
    gates, decoders, heads and the blocks of transformers hold none. Blocks are recognised by their class name, since a
    tree of modules does not show its additions. Where no block has a norm between two convolutions, as in the papers'
    generator for image translation or in a ConvNeXt, it is the norm after the spatial convolution of every block.

    Returns:
        Dotted names in the network's order; empty when no block is recognised.
    """
    found = _normed_convolutions(network)
    return [spatial.norm for spatial in found if spatial.following] or [spatial.norm for spatial in found]


def spatial_convolutions(network: nn.Module) -> list[SpatialConvolution]:
    """The convolutions that `spatial_norms` follow, with what stands around them, in the network's order."""
    return [spatial for spatial in _normed_convolutions(network) if spatial.following]


def _normed_convolutions(network: nn.Module) -> list[SpatialConvolution]:
    """The spatial convolutions that norms follow, where convolutions alone mix places; no `following` if it is last."""
    modules, kind = _encoder(network), convolution_of(network)
    found: list[SpatialConvolution] = []
    for block in _innermost_blocks(modules):
        path = [] if _mixes(modules[block]) else _main_path(block, modules[block])
        conv = ""
        for i, (name, module) in enumerate(path):
            if isinstance(module, kind):
                conv = name if max(module.kernel_size) > 1 else ""
            elif conv and can_be_private(module):
                following = next((later for later, layer in path[i:] if isinstance(layer, kind)), "")
                found.append(SpatialConvolution(block, conv, name, following))
    return found


def _encoder(network: nn.Module) -> dict[str, nn.Module]:
    """The modules of the encoder by dotted name, without stems, heads and the like."""
    prefix = encoder_of(network)
    return {
        name: module
        for name, module in network.named_modules()
        if (name == prefix or name.startswith(f"{prefix}.") or not prefix)
        and not any(_NOT_ENCODER.search(part) for part in name.removeprefix(prefix).split("."))
    }


def _innermost_blocks(modules: dict[str, nn.Module]) -> list[str]:
    """The blocks that hold no others: a stage may be called a block, too."""
    blocks = [
        name for name, module in modules.items() if name and (_BLOCK.search(type(module).__name__) or _mixes(module))
    ]
    within = {name for name in blocks if _mixes(modules[name])}
    # What a transformer's block is made of may be called a block, too.
    blocks = [name for name in blocks if not any(name.startswith(f"{other}.") for other in within)]
    return [name for name in blocks if not any(other.startswith(f"{name}.") for other in blocks)]


def _own_norms(modules: dict[str, nn.Module], blocks: list[str]) -> list[str]:
    """The norms of one sample that blocks hold themselves, not in some part of theirs."""
    return [
        f"{block}.{name}"
        for block in blocks
        for name, child in modules[block].named_children()
        if is_of_one_sample(child)
    ]


def is_of_one_sample(module: nn.Module) -> bool:
    """Whether a module is a layer, group or RMS norm that can be private."""
    kind = kind_of(module)
    return kind is not None and kind.per_sample and can_be_private(module)


def _mixes(module: nn.Module) -> bool:
    """Whether a module is a block of a transformer: it holds an attention, or the like, and layer norms beside it."""
    children = dict(module.named_children())
    norms = sum(map(is_of_one_sample, children.values()))
    return norms > 1 and any(is_mixer(name, module) for name in children)


def _whole_blocks(modules: dict[str, nn.Module]) -> list[str]:
    """The innermost blocks, or what is called a block around a single one of them, where it adds the shortcut."""
    innermost = _innermost_blocks(modules)
    whole: list[str] = []
    for block in innermost:
        name = block
        while (parent := name.rpartition(".")[0]) and _BLOCK.search(type(modules[parent]).__name__):
            if sum(other.startswith(f"{parent}.") for other in innermost) > 1:
                break
            name = parent
        whole.append(name)
    return whole


def _main_path(prefix: str, block: nn.Module) -> list[tuple[str, nn.Module]]:
    """The block's modules in order, without its shortcut and its gates."""
    path: list[tuple[str, nn.Module]] = []
    for name, child in block.named_children():
        if _BESIDE.search(name) or _GATE.search(type(child).__name__):
            continue
        path.append((f"{prefix}.{name}", child))
        path += _main_path(f"{prefix}.{name}", child)
    return path


def _range(blocks: list[str]) -> str:
    """What a stage is called that is no module: `features.4-6`, or the block itself where it is the only one."""
    return blocks[0] if len(blocks) == 1 else f"{blocks[0]}-{blocks[-1].rpartition('.')[2]}"
