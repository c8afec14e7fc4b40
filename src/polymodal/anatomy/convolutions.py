"""How many axes the images of a network have: those of its convolutions."""

from torch import nn

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d


def convolution_of(network: nn.Module) -> type[Convolution]:
    """The kind of convolution that sees a network's images: that of which it holds most.

    Others are parts of gates and attentions, such as one over the channels of a map. A network without convolutions is
    taken to see images.
    """
    modules = list(network.modules())
    return max(_KINDS, key=lambda kind: sum(isinstance(module, kind) for module in modules))


_KINDS: tuple[type[Convolution], ...] = (nn.Conv2d, nn.Conv3d, nn.Conv1d)
