"""Where fusions act that look at whole stages of an encoder: its early, middle, late or all stages, or named ones."""

import torch
from torch import nn

from polymodal.anatomy import Anatomy, DryRun, blocks
from polymodal.errors import FusionError
from polymodal.fusion.base import Fusion, Sites, select
from polymodal.nn import Roster
from polymodal.nn.static import Mark, joint


class StageFusion(Fusion):
    """A fusion at whole stages of the encoder."""

    def find_sites(self, network: nn.Module, sites: Sites) -> tuple[str, ...]:
        """The last blocks of the chosen stages.

        Raises:
            FusionError: When the network has no such stages.
        """
        return last_blocks(network, sites)


class OneMap(nn.Module):
    """Makes one map `(B, C, H, W)` of the folded features `(B*K, C, H, W)` of the K present modalities.

    Args:
        roster: The network's modalities.
    """

    def __init__(self, roster: Roster) -> None:
        super().__init__()
        self.roster = roster

    def static(self, mark: Mark) -> nn.Module:
        """One map of all streams."""
        return mark(joint(self, merges=True))


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


def layout_at(anatomy: Anatomy, block: str) -> tuple[torch.Size | None, int]:
    """The shape of what a block returns, None where it is not known, and where the channels in it are: 1 or -1.

    Raises:
        FusionError: When it returns something else than one tensor, or does not run.
    """
    seen = anatomy.run
    shape = seen.shape_of(block)
    if seen.problem is None and shape is None:
        does = "returns something else than one tensor" if block in seen.finished else "does not run with the network"
        raise FusionError(f"sites: '{block}' {does}, so modalities cannot meet behind it. Choose other sites.")
    return shape, blocks.channel_axis(anatomy.network, block, shape)


def encoded(anatomy: Anatomy) -> DryRun:
    """What runs when in a network that has an encoder, behind which modalities can become one stream.

    Raises:
        FusionError: When it has none, or ran on no image that was tried.
    """
    seen, kind = anatomy.run, type(anatomy.network).__name__
    if seen.problem is not None:
        raise FusionError(
            f"The network {kind} ran on no image of {anatomy.entrance.channels} channels that was tried, so what its "
            f"stages return is not known: {seen.problem}"
        )
    if not seen.encoder:
        raise FusionError(
            f"The network {kind} has no child called encoder or backbone, so it is not known which maps its decoder "
            "takes. Give it one, or choose a fusion that keeps one stream a modality."
        )
    return seen


def layers_after(anatomy: Anatomy, moment: int) -> frozenset[str]:
    """The names of the layers that finish after a moment of the dry run, or never run in it."""
    names = (name for name, _ in anatomy.network.named_modules())
    return frozenset(name for name in names if anatomy.run.finished.get(name, moment + 1) > moment)
