"""What is trained how fast: parameter groups, optimiser and learning-rate schedule."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from polymodal.errors import ConfigError
from polymodal.surgery import Multimodal

Schedule = Literal["constant", "cosine", "poly", "step", "onecycle"]


@dataclass(frozen=True)
class Optimiser:
    """Settings of the optimiser and its schedule.

    Args:
        name: "adamw", or "sgd" with momentum 0.9.
        lr: Learning rate of the decoder and of everything that is not named below.
        encoder_factor: What it is multiplied by for the encoder, often less than 1 for a pretrained one.
        scales_factor: What it is multiplied by for the scales γ that the fusion looks at. Scales start near 1 and must
            come below θ within the training.
        weight_decay: For the weights of convolutions and linear layers alone, not for scales, shifts, ensemble.
        schedule: How the rate falls over the training, step by step; see `rate`.
        milestones: For "step", the fractions of the training at which the rate falls to a tenth.
    """

    name: Literal["adamw", "sgd"] = "adamw"
    lr: float = 4e-3
    encoder_factor: float = 1.0
    scales_factor: float = 5.0
    weight_decay: float = 1e-2
    schedule: Schedule = "cosine"
    milestones: list[float] = field(default_factory=lambda: [0.33, 0.67])

    def __post_init__(self) -> None:
        for key in ("lr", "encoder_factor", "scales_factor"):
            if not getattr(self, key) > 0:
                raise ConfigError(f"optimiser.{key} is {getattr(self, key)}; it must be above 0")
        if self.weight_decay < 0:
            raise ConfigError(f"optimiser.weight_decay is {self.weight_decay}; it must not be below 0")
        if not all(0 < milestone < 1 for milestone in self.milestones):
            raise ConfigError(
                f"optimiser.milestones are {self.milestones}; they are fractions of the training, between 0 and 1"
            )

    def groups(self, net: Multimodal) -> list[dict[str, Any]]:
        """The network's trainable parameters in named groups: encoder, decoder, scales, and those two without decay."""
        scales = {id(parameter) for parameter in net.scales().values()}
        groups: dict[str, list[nn.Parameter]] = {}
        for path, module in net.named_modules():
            part = "encoder" if {"encoder", "backbone"} & set(path.split(".")) else "decoder"
            decays = isinstance(module, nn.modules.conv._ConvNd | nn.Linear)
            for name, parameter in module.named_parameters(recurse=False):
                if not parameter.requires_grad:
                    continue
                if id(parameter) in scales:
                    group = "scales"
                else:
                    group = part if decays and name == "weight" else f"{part} without decay"
                groups.setdefault(group, []).append(parameter)
        factors = {"encoder": self.encoder_factor, "scales": self.scales_factor}
        return [
            {
                "name": name,
                "params": parameters,
                "lr": self.lr * factors.get(name.removesuffix(" without decay"), 1.0),
                "weight_decay": self.weight_decay if name in ("encoder", "decoder") else 0.0,
            }
            for name, parameters in groups.items()
        ]

    def build(self, net: Multimodal, steps: int) -> tuple[torch.optim.Optimizer, LambdaLR]:
        """The optimiser of a network and the schedule for a training of so many steps."""
        groups = self.groups(net)
        optimiser: torch.optim.Optimizer
        if self.name == "adamw":
            optimiser = torch.optim.AdamW(groups, lr=self.lr)
        else:
            optimiser = torch.optim.SGD(groups, lr=self.lr, momentum=0.9)
        factor = rate(self.schedule, tuple(self.milestones))
        return optimiser, LambdaLR(optimiser, lambda step: factor(min(1.0, step / max(1, steps))))


def rate(schedule: Schedule, milestones: tuple[float, ...] = ()) -> Callable[[float], float]:
    """The factor of the learning rate as a function of the finished share of the training, 0..1.

    Args:
        schedule: "constant"; "cosine" from 1 to 0; "poly", (1 - t)^0.9; "step", a tenth at every milestone; "onecycle",
            a cosine from 0.04 up to 1 in the first 30 % and one down to 0 (Smith 2018, with constant momentum).
        milestones: The shares at which "step" falls.
    """

    def cosine(start: float, end: float, t: float) -> float:
        return end + (start - end) * (1 + math.cos(math.pi * t)) / 2

    warm = 0.3
    curves: dict[str, Callable[[float], float]] = {
        "constant": lambda _: 1.0,
        "cosine": lambda t: cosine(1, 0, t),
        "poly": lambda t: (1 - t) ** 0.9,
        "step": lambda t: 0.1 ** sum(t >= milestone for milestone in milestones),
        "onecycle": lambda t: cosine(0.04, 1, t / warm) if t < warm else cosine(1, 0, (t - warm) / (1 - warm)),
    }
    return curves[schedule]
