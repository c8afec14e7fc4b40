"""What is trained how fast: parameter groups, optimiser and learning-rate schedule."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from polymodal.anatomy.blocks import ENCODERS
from polymodal.errors import ConfigError
from polymodal.limits import ABOVE_0, FROM_0, Limit, at_least, check, each, or_none
from polymodal.multimodal import Multimodal
from polymodal.nn.ensemble import Ensemble

Schedule = Literal["constant", "cosine", "poly", "step", "onecycle"]

_LIMITS = {
    "lr": ABOVE_0,
    "encoder_factor": ABOVE_0,
    "scales_factor": ABOVE_0,
    "ensemble_factor": ABOVE_0,
    "weight_decay": FROM_0,
    "milestones": each(Limit(lambda t: 0 < t < 1, ""), "fractions of the training, above 0 and below 1"),
    "stages": or_none(each(each(ABOVE_0, ""), "lists of rates, finite numbers above 0")),
    "for_batch": or_none(at_least(1)),
    "betas": each(Limit(lambda beta: 0 <= beta < 1, ""), "numbers from 0 on and below 1"),
}

_UNSTAGED = ("lr", "encoder_factor", "scales_factor", "ensemble_factor", "schedule", "milestones")
"""What `stages` takes the place of."""


@dataclass(frozen=True)
class Optimiser:
    """Settings of the optimiser and its schedule.

    Args:
        name: "adamw"; "adam", whose weight decay is part of the gradient; or "sgd" with momentum 0.9.
        lr: Learning rate of the decoder and of everything that is not named below.
        encoder_factor: What it is multiplied by for the encoder, often less than 1 for a pretrained one.
        scales_factor: What it is multiplied by for the scales γ that the fusion looks at. Scales start near 1 and must
            come below θ within the training.
        ensemble_factor: What it is multiplied by for the ensemble's α. They start equal and no other parameter depends
            on them; more than 1 lets a short training tell modalities of very different worth apart.
        weight_decay: See `decay` for what decays.
        decay: "weights", those of convolutions and linear layers alone; or "all", with scales, shifts, biases and the
            ensemble, as in the papers' code.
        schedule: How the rate falls over the training, step by step; see `rate`.
        milestones: For "step", the fractions of the training at which the rate falls to a tenth.
        stages: The rates of equal parts of the training in turn, as `{"encoder": [...], "decoder": [...]}`, instead of
            `lr`, its factors and the schedule. Scales then have the rate of the part that they are in.
        for_batch: The batch size that the rates are meant for: with another one they are multiplied by its ratio to
            this one (the linear rule, Goyal et al. 2017); None takes them as they are.
        betas: Of adam and adamw, how much of the gradients' running mean and square each step keeps.
    """

    name: Literal["adamw", "adam", "sgd"] = "adamw"
    lr: float = 4e-3
    encoder_factor: float = 1.0
    scales_factor: float = 5.0
    ensemble_factor: float = 1.0
    weight_decay: float = 1e-2
    decay: Literal["weights", "all"] = "weights"
    schedule: Schedule = "cosine"
    milestones: list[float] = field(default_factory=lambda: [0.33, 0.67])
    stages: dict[str, list[float]] | None = None
    for_batch: int | None = None
    betas: tuple[float, float] = (0.9, 0.999)

    def __post_init__(self) -> None:
        check(vars(self), _LIMITS, "optimiser.")
        if self.schedule == "step" and not self.milestones:
            raise ConfigError('optimiser.milestones: expected where the schedule "step" falls, got none.')
        if self.stages is not None:
            counts = {part: len(rates) for part, rates in self.stages.items()}
            if set(counts) != {"encoder", "decoder"} or len(set(counts.values())) > 1 or 0 in counts.values():
                raise ConfigError(
                    f"optimiser.stages: expected encoder and decoder with equally many rates, got {self.stages}."
                )

    def check_used(self, usual: "Optimiser") -> None:
        """Refuse rates that `stages` takes the place of: whoever changes them would train with the same ones.

        Args:
            usual: The optimiser that the task has where nobody says anything.

        Raises:
            ConfigError: With the first such setting.
        """
        for name in _UNSTAGED if self.stages is not None else ():
            if getattr(self, name) != getattr(usual, name):
                raise ConfigError(
                    f"optimiser.{name}: {getattr(self, name)} would change nothing, as optimiser.stages says all "
                    "rates. Change them there, or set stages to null."
                )

    def times(self, factor: float) -> "Optimiser":
        """The same with all rates multiplied."""
        stages = self.stages and {part: [factor * rate for rate in rates] for part, rates in self.stages.items()}
        return replace(self, lr=factor * self.lr, stages=stages)

    def groups(self, net: nn.Module) -> list[dict[str, Any]]:
        """The trainable parameters in named groups: encoder, decoder, those two without decay, scales, and ensemble."""
        scales = {id(parameter) for parameter in net.scales().values()} if isinstance(net, Multimodal) else set()
        groups: dict[str, list[nn.Parameter]] = {}
        seen: set[int] = set()  # a parameter that several layers share is trained once
        for path, module in net.named_modules():
            part = "encoder" if set(ENCODERS) & set(path.split(".")) else "decoder"
            decays = isinstance(module, nn.modules.conv._ConvNd | nn.Linear)
            for name, parameter in module.named_parameters(recurse=False):
                if not parameter.requires_grad or id(parameter) in seen:
                    continue
                seen.add(id(parameter))
                if id(parameter) in scales and self.stages is None:
                    group = "scales"
                elif isinstance(module, Ensemble) and self.stages is None:
                    group = "ensemble"
                elif self.decay == "all" or (decays and name == "weight"):
                    group = part
                else:
                    group = f"{part} without decay"
                groups.setdefault(group, []).append(parameter)
        return [
            {
                "name": name,
                "params": parameters,
                "lr": self._first_rate(name.removesuffix(" without decay")),
                "weight_decay": self.weight_decay if self.decay == "all" or name in ("encoder", "decoder") else 0.0,
            }
            for name, parameters in groups.items()
        ]

    def build(
        self, net: nn.Module, steps: int, batch_size: int | None = None
    ) -> tuple[torch.optim.Optimizer, LambdaLR]:
        """The optimiser of a network and the schedule for a training of so many steps.

        Args:
            net: The network.
            steps: How many steps the training has.
            batch_size: Samples of each step, on all devices together; None for what the rates are meant for.
        """
        groups = self.groups(net)
        for group in groups:
            group["lr"] *= 1 if self.for_batch is None or batch_size is None else batch_size / self.for_batch
        # One pass over all parameters: on a CPU PyTorch takes one for every step of the formula unless it is told.
        fused = True if all(p.device.type == "cpu" for group in groups for p in group["params"]) else None
        optimiser: torch.optim.Optimizer
        if self.name == "adamw":
            optimiser = torch.optim.AdamW(groups, lr=self.lr, betas=self.betas, fused=fused)
        elif self.name == "adam":
            optimiser = torch.optim.Adam(groups, lr=self.lr, betas=self.betas, fused=fused)
        else:
            optimiser = torch.optim.SGD(groups, lr=self.lr, momentum=0.9, fused=fused)

        def by_step(factor: Callable[[float], float]) -> Callable[[int], float]:
            return lambda step: factor(min(1.0, step / max(1, steps)))

        return optimiser, LambdaLR(optimiser, [by_step(self._factor(group["name"])) for group in groups])

    def _first_rate(self, part: str) -> float:
        if self.stages is not None:
            return self.stages[part][0]
        factors = {"encoder": self.encoder_factor, "scales": self.scales_factor, "ensemble": self.ensemble_factor}
        return self.lr * factors.get(part, 1.0)

    def _factor(self, group: str) -> Callable[[float], float]:
        """The factor of a group's first rate as a function of the finished share of the training."""
        if self.stages is None:
            return rate(self.schedule, tuple(self.milestones))
        rates = self.stages[group.removesuffix(" without decay")]
        return lambda t: rates[min(int(t * len(rates)), len(rates) - 1)] / rates[0]


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
