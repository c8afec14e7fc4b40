"""A plain network as `fuse` sees it: every question is answered once, when it is first asked."""

from collections.abc import Mapping
from functools import cached_property

from torch import nn

from polymodal.anatomy import blocks
from polymodal.anatomy.blocks import SpatialConvolution
from polymodal.anatomy.dry_run import DryRun, dry_run
from polymodal.anatomy.entrance import Entrance, entrance
from polymodal.anatomy.mixing import Mixings, mixings
from polymodal.anatomy.norms import can_be_private, has_scales
from polymodal.anatomy.rows import misplaced


class Anatomy:
    """What a plain network is made of. It is not changed, and must not be changed while it is asked.

    Args:
        network: The network.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    @cached_property
    def norms(self) -> dict[str, nn.Module]:
        """The norms of which every modality can have its own, by dotted name."""
        return {name: module for name, module in self.network.named_modules() if can_be_private(module)}

    @cached_property
    def scaled_norms(self) -> dict[str, nn.Module]:
        """Those that have a scale for each channel: all after which channels can be exchanged."""
        return {name: norm for name, norm in self.norms.items() if has_scales(norm)}

    @cached_property
    def norms_of_channels(self) -> dict[str, nn.Module]:
        """Those whose features have channels in an axis of their own, which a scale over several axes does not tell."""
        return {name: norm for name, norm in self.norms.items() if norm.weight is None or has_scales(norm)}

    @cached_property
    def layers(self) -> dict[str, nn.Module]:
        """The layers with parameters that are no such norms: what independent networks have copies of."""
        return {
            name: module
            for name, module in self.network.named_modules()
            if any(p is not None for p in module._parameters.values()) and not can_be_private(module)
        }

    @cached_property
    def stages(self) -> dict[str, tuple[str, ...]]:
        """The encoder's stages in order, and the blocks of each, see `blocks.stages`."""
        return blocks.stages(self.network)

    @cached_property
    def stage_of(self) -> dict[str, str]:
        """The stage that each of the encoder's blocks is in."""
        return {block: stage for stage, held in self.stages.items() for block in held}

    @cached_property
    def spatial_convolutions(self) -> list[SpatialConvolution]:
        """The spatial convolutions inside the encoder's blocks, see `blocks.spatial_convolutions`."""
        return blocks.spatial_convolutions(self.network)

    @cached_property
    def sites(self) -> list[str]:
        """Where channels are exchanged by default, see `blocks.sites`: after which of the `scaled_norms`."""
        return [name for name in blocks.sites(self.network) if name in self.scaled_norms]

    @cached_property
    def entrance(self) -> Entrance:
        """Where images enter.

        Raises:
            FusionError: When the network has no convolution.
        """
        return entrance(self.network)

    @cached_property
    def run(self) -> DryRun:
        """What runs when, and what the encoder returns."""
        return dry_run(self.network, self.entrance)

    @cached_property
    def mixings(self) -> Mixings:
        """Where the encoder's blocks mix tokens, see `mixing.mixings`.

        Raises:
            FusionError: When the network runs on no image that was tried.
        """
        return mixings(self.network, self.run)

    def misplaced(self, layers: Mapping[str, nn.Module]) -> tuple[str, tuple[int, ...]] | None:
        """A layer whose input has other rows than samples in their order, and its shape; see `rows.misplaced`."""
        return misplaced(self.network, self.entrance, layers)
