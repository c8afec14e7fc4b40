"""Exchange switched on in a trained network, with the compensation of corollary 1's proof or without it."""

import copy
import itertools
from contextlib import nullcontext
from dataclasses import replace

import torch
from torch import nn

from polymodal import Exchange, Multimodal, fuse
from polymodal.nn import PrivateLayer
from theorems.summary import Numbers
from theorems.training import Batch, Rooms, loss_of, train

FOLLOWING = {"1": "3", "4": "6"}
"""Where the toy network exchanges, and the convolution that reads the exchanged channels."""


def toy(classes: int, width: int = 16) -> nn.Sequential:
    """Three convolutions in a chain, as the corollary needs it.

    Nothing but a ReLU lies between a norm and the next convolution, so that a constant channel can move into a bias;
    and images continue at their border instead of ending in zeros, so that a constant channel stays constant.
    """

    def convolution(inputs: int, outputs: int) -> nn.Conv2d:
        return nn.Conv2d(inputs, outputs, 3, padding=1, padding_mode="replicate")

    return nn.Sequential(
        *(convolution(3, width), nn.BatchNorm2d(width), nn.ReLU()),
        *(convolution(width, width), nn.BatchNorm2d(width), nn.ReLU()),
        convolution(width, classes),
    )


@torch.no_grad()
def compensate(net: Multimodal) -> None:
    """Make the toy ready for the exchange: the next layer forgets every exchanged channel and absorbs its β.

    Where γ = 0 a channel is max(β, 0) everywhere behind the ReLU. The same modality's next convolution gets weights 0
    for it, and its bias what the old ones made of that constant (proof of the corollary).
    """
    for site, following in FOLLOWING.items():
        exchanged = ~net.exchange_state()[site].keep
        constant = net.network.get_submodule(site).bias.relu()
        for m, convolution in enumerate(_of_each_modality(net, following)):
            channels = exchanged[m]
            convolution.bias += convolution.weight[:, channels].sum((2, 3)) @ constant[m, channels]
            convolution.weight[:, channels] = 0


def _of_each_modality(net: Multimodal, name: str) -> list[nn.Conv2d]:
    layer = net.network.get_submodule(name)
    private = isinstance(layer, PrivateLayer)
    return list(layer.layers) if private else [layer] * len(net.modalities)


def exact_loss(net: Multimodal, batch: Batch, *, exchange: bool, compensated: bool = False) -> float:
    """L in float64 and training mode: with the exchange or without, with the compensation or without."""
    twin = copy.deepcopy(net).double().train()
    if compensated:
        compensate(twin)
    inputs = {name: image.double() for name, image in batch[0].items()}
    with torch.no_grad(), nullcontext() if exchange else twin.fusion_disabled():
        return loss_of(twin(inputs), batch[1]).item()


def fused_toy(rooms: Rooms, convolutions: str, fusion: Exchange) -> Multimodal:
    """The toy with two modalities, from the generator's state."""
    return fuse(toy(rooms.classes), rooms.channels, fusion, sites=list(FOLLOWING), convolutions=convolutions)


def switch_on(net: Multimodal, batch: Batch, steps: int) -> Numbers:
    """What the exchange does to a network trained without it: at once, and after more training with the scales held."""
    before = exact_loss(net, batch, exchange=False)
    plain, exchanging = copy.deepcopy(net), copy.deepcopy(net)
    compensate(exchanging)
    with plain.fusion_disabled():
        without = list(train(plain, itertools.repeat(batch, steps), steps, rate=1e-3, hold_scales=True))
    return {
        "exchanged share": [state.share() for state in net.exchange_state().values()],
        "before": before,
        "jump": exact_loss(net, batch, exchange=True) - before,
        "jump compensated": exact_loss(net, batch, exchange=True, compensated=True) - before,
        "without": without,
        "with": list(train(exchanging, itertools.repeat(batch, steps), steps, rate=1e-3, hold_scales=True)),
        "after without": exact_loss(plain, batch, exchange=False),
        "after with": exact_loss(exchanging, batch, exchange=True),
    }


def jump_at_threshold(net: Multimodal, batch: Batch, convolutions: str, rooms: Rooms, threshold: float) -> float:
    """How the loss changes, compensated, where scales are drawn from -θ to θ instead of being 0."""
    generator = torch.Generator().manual_seed(0)
    other = fused_toy(rooms, convolutions, replace(net.fusion, threshold=threshold))
    other.load_state_dict(net.state_dict())
    with torch.no_grad():
        for scale in other.scales().values():
            drawn = threshold * (2 * torch.rand(scale.shape, generator=generator) - 1)
            scale.copy_(scale.where(scale != 0, drawn))
    before = exact_loss(other, batch, exchange=False)
    return exact_loss(other, batch, exchange=True, compensated=True) - before
