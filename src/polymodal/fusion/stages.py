"""Where fusions act that look at whole stages of an encoder: its early, middle, late or all stages, or named ones."""

from torch import nn

from polymodal.anatomy import Anatomy
from polymodal.errors import FusionError
from polymodal.fusion.base import Sites, select


def last_blocks(network: nn.Module, sites: Sites) -> tuple[str, ...]:
    """The blocks whose outputs are the chosen stages' features.

    Args:
        network: A plain network.
        sites: `"early"`, `"middle"` or `"late"` for the stage that ends the first, second or last third of the
            encoder; `"all"` or `"auto"` for all of them; or patterns of, or a predicate on, the names of stages.

    Returns:
        Dotted names in the network's order.

    Raises:
        FusionError: When the encoder has no stages, or none of that name; the message lists them.
    """
    last = {stage: blocks[-1] for stage, blocks in Anatomy(network).stages.items()}
    if not last:
        raise FusionError(
            f"The network {type(network).__name__} has no stages of residual or inverted-residual blocks in which the "
            "modalities could meet. Choose an encoder that has, such as a ResNet, or another fusion."
        )
    names = list(last)
    end = len(names) - 1
    thirds = {"early": [names[end // 3]], "middle": [names[2 * end // 3]], "late": [names[end]]}
    named = thirds | {"all": names, "auto": names}
    if isinstance(sites, str) and sites in named:
        return tuple(last[stage] for stage in named[sites])
    # A saved model names the blocks themselves.
    candidates = {name: network.get_submodule(block) for stage, block in last.items() for name in (stage, block)}
    chosen = select(candidates, sites)
    return tuple(block for stage, block in last.items() if stage in chosen or block in chosen)
