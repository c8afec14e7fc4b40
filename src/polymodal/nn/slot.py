"""The slot behind a layer, in which an operation of a fusion stands: `fusion`, at whatever layer."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import nn

from polymodal.anatomy.listed import check_listed
from polymodal.nn.ensemble import map_tensors
from polymodal.nn.norm import PrivateNorm


def stand_behind(network: nn.Module, name: str, operation: nn.Module) -> None:
    """Let an operation act on what a layer returns.

    A private norm has a slot of its own, before its activation, and hands over γ, too; any other layer is put into an
    `Attached`, wherever it stands.

    Args:
        network: A network whose norms are private already.
        name: The layer's dotted name.
        operation: Takes what the layer returns; it is put into the layer's mode.

    Raises:
        FusionError: The layer is also kept in a plain list, where an `Attached` would not be found.
    """
    layer = network.get_submodule(name)
    operation.train(layer.training)
    if isinstance(layer, PrivateNorm):
        layer.fusion = operation
    else:
        check_listed(network, [name])
        replace_modules(network, {id(layer): Attached(layer, operation)})


def replace_modules(network: nn.Module, replaced: Mapping[int, nn.Module]) -> nn.Module:
    """Put new modules where old ones stand, under every name that these have, as they run by each.

    Args:
        network: It is changed.
        replaced: The new ones by the ids of the old.

    Returns:
        The network, or what stands in its own place.
    """
    for parent in list(network.modules()):
        for name, child in parent._modules.items():  # named_children() would show a shared module once
            if id(child) in replaced:
                setattr(parent, name, replaced[id(child)])
    return replaced.get(id(network), network)


def behind(network: nn.Module, name: str) -> Any:
    """The operation that stands behind a layer."""
    return network.get_submodule(name).fusion


class Attached(nn.Module):
    """Calls a layer, then a fusion operation on what it returned. Attributes of the layer are found as before.

    Args:
        layer: Any layer.
        fusion: Takes what the layer returns.
    """

    in_place: ClassVar[str] = "layer"

    def __init__(self, layer: nn.Module, fusion: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.fusion = fusion
        # Not train(): parts of the layer may stand in eval mode on purpose.
        self.training = layer.training

    def forward(self, *arguments: Any, **settings: Any) -> Any:
        """What the fusion makes of what the layer returns."""
        return self.fusion(self.layer(*arguments, **settings))

    def __getattr__(self, name: str) -> Any:
        """The layer's own attributes, which the network around it may read, such as an encoder's channels."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "layer":  # not there yet, as in the middle of a copy
                raise
            return getattr(self.layer, name)


class Exits(nn.Module):
    """What stands behind an encoder: an operation for each of the maps that it returns.

    Args:
        ways: For every tensor that it returns, in order, what takes it; None for what goes on as it is.
    """

    def __init__(self, ways: Sequence[nn.Module | None]) -> None:
        super().__init__()
        self.ways = nn.ModuleList(nn.Identity() if way is None else way for way in ways)

    def forward(self, output: Any) -> Any:
        """What the encoder returns, with what the operations make of it."""
        ways = iter(self.ways)
        return map_tensors(lambda x: next(ways)(x), output)
