"""Where a training stands when a checkpoint is written, and how a trainer is put back there, to the step."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lightning.pytorch import Trainer

POSITION = "position"
"""Under which key a checkpoint has it."""


@dataclass(frozen=True)
class Position:
    """A moment of a training.

    Attributes:
        epochs: How many are over.
        batches: How many of the next epoch are over.
        of: How many an epoch has.
        validation_due: Whether a validation belongs between this moment and the next step.
        unfinished: Why a training cannot go on from here as if it had not stopped; empty where it can.
    """

    epochs: int
    batches: int
    of: int
    validation_due: bool = False
    unfinished: str = ""

    @classmethod
    def of_trainer(cls, trainer: Trainer, validated: int, settled: bool) -> "Position":
        """Where a trainer stands.

        Args:
            trainer: In a training.
            validated: After how many batches, of all epochs together, the last validation was over.
            settled: Whether everything that the end of an epoch brings is done, but for the writing.
        """
        epochs: Any = trainer.fit_loop.epoch_progress.current
        batches: Any = trainer.fit_loop.epoch_loop.batch_progress.current
        of, reason = int(min(trainer.num_training_batches, 2**62)), ""
        if epochs.started == epochs.processed:
            if batches.ready and not trainer.is_last_batch:
                reason = "after the training had ended within an epoch"
            elif epochs.completed != epochs.processed and not settled:
                reason = "before the end of an epoch was complete"
            return cls(epochs.processed, 0, of, unfinished=reason)
        asked = _validates(trainer, batches.ready)
        due = asked and validated != batches_done(trainer)
        if batches.ready != batches.processed:
            reason = "in the middle of a step"
        elif trainer.validating and not asked:
            reason = "in the validation that follows the end of a training"
        elif trainer.is_last_batch and not due:
            reason = "between the last step of an epoch and its end"
        elif trainer.world_size > 1 and accumulates(trainer):
            reason = "while several devices had gradients of their own"
        return cls(epochs.processed, batches.ready, of, due, reason)

    @classmethod
    def of_checkpoint(cls, checkpoint: Mapping[str, Any]) -> "Position":
        """Where the training stood that a checkpoint is of."""
        if POSITION in checkpoint:
            return cls(**checkpoint[POSITION])
        loops = checkpoint["loops"]["fit_loop"]
        epochs, batches = loops["epoch_progress"]["current"], loops["epoch_loop.batch_progress"]
        whole = epochs["ready"] == epochs["processed"] and batches["is_last_batch"]
        reason = "" if whole else "within an epoch by an earlier version of polymodal"
        return cls(epochs["processed"], 0, batches["current"]["ready"], unfinished=reason)


def batches_done(trainer: Trainer) -> int:
    """How many batches were trained on, in all epochs together."""
    return trainer.fit_loop.total_batch_idx + 1


def accumulates(trainer: Trainer) -> bool:
    """Whether the gradients of the last batch wait for those of the next ones."""
    done = trainer.fit_loop.epoch_loop.batch_progress.current.ready
    return done % trainer.accumulate_grad_batches != 0 and not trainer.is_last_batch


def _validates(trainer: Trainer, batches: int) -> bool:
    """Whether the recipe asks for a validation after so many batches of this epoch.

    One that the end of the training causes does not count, nor one by the clock, which no second run repeats.
    """
    every, interval = trainer.check_val_every_n_epoch, trainer.val_check_batch
    if not trainer.enable_validation or (every is not None and (trainer.current_epoch + 1) % every != 0):
        return False
    if interval is None or interval == float("inf"):
        return interval is not None and trainer.is_last_batch
    return (batches_done(trainer) if every is None else batches) % interval == 0


def put_back(loops: dict[str, Any], position: Position) -> None:
    """Rewrite the progress that a trainer reads from a checkpoint, so that it goes on where the training stood.

    Lightning itself knows the state after a step and the state after a validation within an epoch. It takes an epoch's
    end for a further epoch where `max_steps` is set, and leaves out a validation that was still due.

    Args:
        loops: `checkpoint["loops"]["fit_loop"]`.
        position: Where the training stood.
    """
    if position.batches == 0:
        for progress in loops["epoch_progress"].values():
            progress.update(dict.fromkeys(("ready", "started", "completed"), progress["processed"]))
    elif position.validation_due:
        trained, validated = loops["epoch_loop.batch_progress"], loops["epoch_loop.val_loop.batch_progress"]
        for progress in (trained["total"], trained["current"]):
            progress["completed"] = progress["processed"]
        # A validation that has begun with its first batch: Lightning makes it again from its start.
        validated["total"].update(ready=1, started=1, processed=0, completed=0)
        validated["current"].update(ready=0, started=0, processed=0, completed=0)
        validated["is_last_batch"] = False
