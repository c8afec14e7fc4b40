"""A layer with a fusion operation behind it."""

from typing import Any

from torch import nn


class Attached(nn.Module):
    """Calls a layer, then a fusion operation on what it returned. Attributes of the layer are found as before.

    Args:
        layer: Any layer.
        fusion: Takes what the layer returns.
    """

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
