"""What the parts train on, with which loss and how: rooms of colour and depth, made small, and proximal steps.

The penalty's minima are exact zeros, which AdamW's steps pass by.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polymodal import Exchange, Multimodal, Prediction, fuse
from polymodal.data import Augment, FolderData
from polymodal.models.unet import RoomsUNet
from polymodal.tasks import Optimiser

Batch = tuple[dict[str, Tensor], Tensor]


class Rooms:
    """Training scenes of the embedded set, colour and depth, held in memory.

    Args:
        size: Height and width.
        scenes: How many, drawn once for all seeds.
    """

    def __init__(self, size: tuple[int, int], scenes: int = 600) -> None:
        as_it_is = Augment(scale=(1.0, 1.0), flip=False, photometric=0.0)
        data = FolderData("rooms", ["rgb", "depth"], size=size, augment=as_it_is, batch_size=scenes)
        data.setup("fit")
        torch.manual_seed(0)
        batch = next(iter(data.train_dataloader()))
        self.inputs: dict[str, Tensor] = batch["inputs"]
        self.target: Tensor = batch["targets"]["target"]
        self.channels, self.classes = data.channels, data.num_classes

    @property
    def all(self) -> Batch:
        """All scenes as one batch."""
        return self.inputs, self.target

    def batches(self, epochs: int, seed: int) -> Iterator[Batch]:
        """Batches of 8 scenes, shuffled in every epoch."""
        generator = torch.Generator().manual_seed(seed)
        for _ in range(epochs):
            for index in torch.randperm(len(self.target), generator=generator).split(8):
                yield {name: image[index] for name, image in self.inputs.items()}, self.target[index]


def small_unet(rooms: Rooms, modalities: dict[str, int], fusion: Exchange | None, **settings: Any) -> Multimodal:
    """The network of the rooms at half its width."""
    plain = RoomsUNet(rooms.classes, stem=8, widths=(16, 32, 32), decoder=16)
    return fuse(plain, modalities, fusion, **settings)


def loss_of(prediction: Prediction, target: Tensor) -> Tensor:
    """Σ_m CE(prediction_m) + CE(ensemble): the loss L of the theorem, without the penalty."""
    logits = [*prediction.per_modality.values(), prediction.ensemble]
    return torch.stack([F.cross_entropy(each, target, ignore_index=255) for each in logits]).sum()


def train(
    net: Multimodal,
    batches: Iterable[Batch],
    steps: int,
    *,
    rate: float = 4e-3,
    schedule: Literal["cosine", "constant"] = "cosine",
    hold_scales: bool = False,
) -> Iterator[float]:
    """Minimise L + λ Σ|γ̂|, one step for each batch; yields every step's L.

    AdamW moves all weights but the fusion's scales, which take proximal steps: the only way to exact zeros.

    Args:
        net: The network; λ is that of its fusion.
        batches: One for each step.
        steps: How many there are.
        rate: AdamW's learning rate.
        schedule: How it falls.
        hold_scales: Leave the scales as they are.
    """
    optimiser, scheduler = Optimiser(lr=rate, schedule=schedule).build(net, steps)
    for group in optimiser.param_groups:
        if group["name"] == "scales":
            group["params"].clear()
    parts = {site: state.part for site, state in net.exchange_state().items()}
    for inputs, target in batches:
        loss = loss_of(net(inputs), target)
        net.zero_grad()
        loss.backward()
        optimiser.step()
        scheduler.step()
        for site, scale in () if hold_scales else net.scales().items():
            proximal_step(scale, parts[site], net.fusion.penalty)
        yield loss.item()


@torch.no_grad()
def proximal_step(scale: nn.Parameter, part: Tensor, penalty: float, rate: float = 10.0) -> None:
    """γ ← γ - η ∂L/∂γ, then towards 0 by ηλ and no further, in the penalised part.

    Args:
        scale: γ `(M, C)` with its gradient.
        part: Boolean `(M, C)`.
        penalty: λ.
        rate: η. Gradients of scales are of the size of 1e-3; a scale must come from 1 to 0 in a few hundred steps.
    """
    moved = scale - rate * scale.grad
    shrunk = moved.sign() * (moved.abs() - rate * penalty).clamp(min=0)
    scale.copy_(torch.where(part, shrunk, moved))
