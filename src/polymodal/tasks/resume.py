"""Resuming: what an optimiser has learned is the checkpoint's, how fast it goes on learning is the recipe's."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from polymodal.errors import CheckpointError

AS_BEFORE = "Continue with the recipe that it was trained with, the config.yaml of its run."
"""The remedy where a checkpoint does not fit."""


def take_settings(checkpoint: Mapping[str, Any], fresh: Sequence[Optimizer], source: object) -> None:
    """Put the settings of fresh optimisers into a checkpoint, in the place of those that it was written with.

    With the same settings nothing changes, to the bit. A rate keeps its place in its schedule: where the saved one had
    come down to a half, the new one has, too.

    Args:
        checkpoint: Of a training, with `optimizer_states` and `lr_schedulers`.
        fresh: The optimisers that the recipe asks for, each with a schedule that starts.
        source: The checkpoint's file, for the message.

    Raises:
        CheckpointError: Other optimisers, or of other parts; the checkpoint is as it was.
    """
    saved = [state["param_groups"] for state in checkpoint["optimizer_states"]]
    wanted = [optimiser.param_groups for optimiser in fresh]
    if list(map(_form, saved)) != list(map(_form, wanted)):
        raise CheckpointError(
            f"{source}: its optimiser trained {'; '.join(map(_form, saved))}, and this recipe's trains "
            f"{'; '.join(map(_form, wanted))}. {AS_BEFORE}"
        )
    for before, now, schedule in zip(saved, wanted, checkpoint["lr_schedulers"], strict=True):
        factors = [new["initial_lr"] / old["initial_lr"] for old, new in zip(before, now, strict=True)]
        for old, new, factor in zip(before, now, factors, strict=True):
            reached = old["lr"] * factor
            old.update({key: value for key, value in new.items() if key != "params"}, lr=reached)
        schedule["base_lrs"] = [group["initial_lr"] for group in now]
        schedule["_last_lr"] = [rate * factor for rate, factor in zip(schedule["_last_lr"], factors, strict=True)]


def on_schedule(schedules: Sequence[object]) -> bool:
    """Whether resumed rates stand where a training without a break, of the length that is now asked for, has them.

    Args:
        schedules: Those of the trainer; of others than `LambdaLR`, such as an averaging's, nothing is known.
    """
    return all(
        math.isclose(reached, start * factor(schedule.last_epoch), rel_tol=1e-6, abs_tol=1e-15)
        for schedule in schedules
        if isinstance(schedule, LambdaLR)
        for reached, start, factor in zip(schedule.get_last_lr(), schedule.base_lrs, schedule.lr_lambdas, strict=True)
    )


def _form(groups: Sequence[Mapping[str, Any]]) -> str:
    """What kind of optimiser has which parameter groups."""
    kind = "adam or adamw" if "betas" in groups[0] else "sgd"
    return f"by {kind}: " + ", ".join(f"{group['name']} ({len(group['params'])} tensors)" for group in groups)
