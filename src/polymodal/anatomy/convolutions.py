"""How many axes the images of a network have: those of its convolutions."""

from torch import nn

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d


def convolution_of(network: nn.Module) -> type[Convolution]:
    """The kind of convolution that sees a network's images: that of the most axes which the network holds.

    Those of fewer axes are parts of gates, such as one over the channels of a map. A network without convolutions is
    taken to see images.
    """
    held = {kind for module in network.modules() for kind in _KINDS if isinstance(module, kind)}
    return next((kind for kind in _KINDS if kind in held), nn.Conv2d)


_KINDS: tuple[type[Convolution], ...] = (nn.Conv3d, nn.Conv2d, nn.Conv1d)
