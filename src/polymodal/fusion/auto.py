"""Where channels are exchanged by default: after the spatial convolution inside the encoder's blocks."""

import re

from torch import nn

from polymodal.nn.norm import is_batch_norm_2d

_BLOCK = re.compile(r"(?<!dense)block|bottle|residual|basic|mbconv|unit", re.IGNORECASE)
_SHORTCUT = re.compile(r"downsample|shortcut|skip|^proj$|identity")
_GATE = re.compile(r"^(SE|Squeeze|EffectiveSE|Eca|Ceca)")
_NOT_ENCODER = re.compile(r"decoder|head|classifier|(^|_)neck|fpn|aux|stem")


def spatial_norms(network: nn.Module) -> list[str]:
    """The norms between a spatial convolution and another convolution of the same block, in the encoder.

    In a bottleneck this is the norm after the 3x3 convolution (`bn2` of a ResNet-50), in an inverted residual block
    the one after the depthwise convolution, in a basic block the one between the two convolutions. Stems, shortcuts,
    gates, decoders and heads hold none. Blocks are recognised by their class name, since a tree of modules does not
    show its additions.

    Args:
        network: A plain network. When it has a child `encoder` or `backbone`, only that is looked at.

    Returns:
        Dotted names in the network's order; empty when no block is recognised.
    """
    prefix = next((name for name, _ in network.named_children() if name in ("encoder", "backbone")), "")
    modules = {
        name: module
        for name, module in network.named_modules()
        if (name == prefix or name.startswith(f"{prefix}.") or not prefix)
        and not any(_NOT_ENCODER.search(part) for part in name.removeprefix(prefix).split("."))
    }
    blocks = [name for name, module in modules.items() if name and _BLOCK.search(type(module).__name__)]
    # A stage that is called a block holds blocks of its own: only the innermost count.
    innermost = [name for name in blocks if not any(other.startswith(f"{name}.") for other in blocks)]
    return [site for name in innermost for site in _between_convolutions(name, modules[name])]


def _between_convolutions(prefix: str, block: nn.Module) -> list[str]:
    """Names of the block's norms that directly follow a spatial convolution and are followed by another one."""
    sites: list[str] = []
    pending: list[str] = []
    spatial = False
    for name, module in _main_path(prefix, block):
        if isinstance(module, nn.Conv2d):
            sites += pending
            pending = []
            spatial = max(module.kernel_size) > 1
        elif spatial and is_batch_norm_2d(module):
            pending.append(name)
    return sites


def _main_path(prefix: str, block: nn.Module) -> list[tuple[str, nn.Module]]:
    """The block's modules in order, without its shortcut and its gates."""
    path: list[tuple[str, nn.Module]] = []
    for name, child in block.named_children():
        if _SHORTCUT.search(name) or _GATE.search(type(child).__name__):
            continue
        path.append((f"{prefix}.{name}", child))
        path += _main_path(f"{prefix}.{name}", child)
    return path
