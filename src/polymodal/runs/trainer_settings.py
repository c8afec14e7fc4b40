"""What a user may set of Lightning's trainer: ranges that it does not check itself, and what a run cannot obey."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback
from lightning.pytorch.callbacks import BatchSizeFinder, EarlyStopping, LearningRateFinder, ModelCheckpoint, Timer

from polymodal.errors import ConfigError
from polymodal.limits import Limit, at_least, check
from polymodal.names import ENSEMBLE
from polymodal.near import meant
from polymodal.run_folder import CHECKPOINTS, TRAIN_LOSS, VAL_LOSS, score_column, scored_in
from polymodal.tasks.base import Task

OWN_CHECKPOINTS = ("best", "last")
"""The checkpoints of every run, in its folder `checkpoints`."""


def _is_part(value: Any) -> bool:
    """A number of batches, or a share of them."""
    return value >= 0 if isinstance(value, int) else 0 <= value <= 1


def _is_time(value: Any) -> bool:
    """A duration as Lightning reads it, above 0."""
    if isinstance(value, str):
        days, hours, minutes, seconds = map(int, value.split(":"))
        value = {"days": days, "hours": hours, "minutes": minutes, "seconds": seconds}
    return (timedelta(**value) if isinstance(value, Mapping) else value) > timedelta()


_LENGTH = Limit(lambda value: value == -1 or value >= 1, "1 or more, or -1 for no limit of this kind")
_PART = Limit(_is_part, "a number of batches, or a share of them in 0.0 to 1.0")
_SOME = Limit(
    lambda value: _is_part(value) and value > 0, "1 batch or more, or a share of them above 0.0 and up to 1.0"
)

LIMITS: dict[str, Limit] = {
    "accumulate_grad_batches": at_least(1),
    "check_val_every_n_epoch": at_least(1, "; validations are left out by --trainer.limit_val_batches 0"),
    "gradient_clip_val": Limit(
        lambda value: 0 < value < math.inf, "a number above 0; leave it out to train without clipping"
    ),
    "limit_test_batches": _PART,
    "limit_train_batches": _SOME,
    "limit_val_batches": _PART,
    "log_every_n_steps": at_least(0),
    "max_epochs": _LENGTH,
    "max_steps": _LENGTH,
    "max_time": Limit(
        _is_time, "a duration above 0, DD:HH:MM:SS, such as 00:12:00:00 for half a day, or null for no limit"
    ),
    "min_epochs": at_least(0),
    "min_steps": at_least(0),
    "num_nodes": at_least(1),
    "num_sanity_val_steps": at_least(-1),
    "overfit_batches": _PART,
    "reload_dataloaders_every_n_epochs": at_least(0),
    # A duration, which may stand here as well, is read by Lightning.
    "val_check_interval": Limit(lambda value: not isinstance(value, int | float) or _SOME.holds(value), _SOME.expected),
}

REFUSED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "barebones": (bool, "a run is recorded, and a bare trainer records nothing; leave it out"),
    "default_root_dir": (lambda value: not value, "a run is a folder; give one"),
    "enable_checkpointing": (
        lambda value: value is False,
        "a run is scored by its best epoch and continued from its last, so both are kept; leave it out",
    ),
    "fast_dev_run": (
        bool,
        "it would leave no model. For a trial: --trainer.max_steps 1 --trainer.limit_val_batches 1 "
        "--trainer.limit_test_batches 1",
    ),
    "inference_mode": (
        lambda value: value is False,
        "a finished model is scored, and predicts, in inference mode; leave it out",
    ),
    "limit_predict_batches": (
        lambda value: value is not None,
        "a training predicts nothing beside its scores; leave it out",
    ),
    "model_registry": (lambda value: value is not None, "a run stays in its folder; leave it out"),
}
"""Settings of which some values cannot be obeyed: whether one is such a value, and why."""

_COMMON = ("auto", "false", "null", "true")

SEEDS = 2**32


def listed(value: Any) -> list[Any]:
    """A setting that is one thing, several or null, as a list of its own."""
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]


def check_seed(seed: Any) -> None:
    """Refuse what numpy's random states cannot begin from.

    Raises:
        ConfigError: It is false, or a number out of range.
    """
    if seed is False:
        raise ConfigError("seed_everything is false; a run has a seed: give a number, or true to have one drawn")
    if seed is not True and not 0 <= seed < SEEDS:
        raise ConfigError(f"--seed_everything: expected 0 to {SEEDS - 1}, or true to have one drawn, got {seed}.")


def check_trainer(settings: Mapping[str, Any]) -> None:
    """Refuse what would not be obeyed, before anything is made of it.

    Args:
        settings: Lightning's trainer's, by name.

    Raises:
        ConfigError: A value is out of its range, cannot be obeyed, or contradicts another one.
    """
    for name, (is_refused, why) in REFUSED.items():
        if is_refused(settings[name]):
            raise ConfigError(f"--trainer.{name} {_text(settings[name])}: {why}.")
    given = {name: limit for name, limit in LIMITS.items() if settings[name] is not None}
    check(settings, given, "--trainer.")
    if settings["gradient_clip_algorithm"] in ("norm", "value") and settings["gradient_clip_val"] is None:
        raise ConfigError("--trainer.gradient_clip_algorithm: nothing is clipped without --trainer.gradient_clip_val.")
    for what in ("epochs", "steps"):
        least, most = settings[f"min_{what}"], settings[f"max_{what}"]
        if least is not None and most is not None and 0 <= most < least:
            raise ConfigError(f"--trainer.min_{what} {least} is more than --trainer.max_{what} {most}.")


def check_logged(callbacks: Sequence[Callback], task: Task) -> None:
    """Refuse a task or callbacks that go by what nothing logs, and callbacks that watch the wrong way.

    Lightning would tell the one after the first epoch, and the other never: its `mode` is "min" where nothing is said,
    and a score would stop a training because it grows.

    Args:
        callbacks: The user's.
        task: What logs, with its network.

    Raises:
        ConfigError: With what may have been meant.
    """
    check_chosen(task)
    logged, right_modes = task.logged(), _right_modes(task)
    for callback in callbacks:
        where = f"--trainer.callbacks: {type(callback).__name__}"
        monitor, mode = (getattr(callback, name, None) for name in ("monitor", "mode"))
        if isinstance(monitor, str) and monitor not in logged:
            shown = meant(monitor, logged)
            raise ConfigError(f"{where}: nothing logs {monitor!r}{shown} Logged are {', '.join(logged)}.")
        right = right_modes.get(str(monitor))
        if right and mode in ("min", "max") and mode != right:
            raise ConfigError(
                f"{where}: {'more' if right == 'max' else 'less'} of {monitor} is better, and its mode is {mode!r}, "
                f"which takes the worst for the best. Give it the mode {right}."
            )


def _right_modes(task: Task) -> dict[str, str]:
    """Whether the "max" or the "min" is best, of losses and scores by the names that they are logged under."""
    scores = {
        score_column(score.key, name): "max" if score.higher_is_better else "min"
        for name in task.scores.names
        for score in task.scores.scored
    }
    return {**dict.fromkeys((TRAIN_LOSS, VAL_LOSS), "min"), **scores}


def check_chosen(task: Task) -> None:
    """Refuse a task that chooses its best checkpoint by a score that it has not, such as one of another target's name.

    Raises:
        ConfigError: With what it may choose by.
    """
    logged = task.logged()
    if score_column(task.chosen_by, ENSEMBLE) not in logged:
        known = [score for column in logged if (score := scored_in(column))]
        raise ConfigError(
            f"{type(task).__name__}: chosen_by: there is no score {task.chosen_by!r}{meant(task.chosen_by, known)} "
            f"There are {', '.join(dict.fromkeys(known))}."
        )


def check_callbacks(callbacks: Sequence[Callback], settings: Mapping[str, Any], folder: Path) -> None:
    """Refuse callbacks that contradict the run they are added to.

    Args:
        callbacks: The user's.
        settings: Lightning's trainer's, by name.
        folder: The run folder.

    Raises:
        ConfigError: One would change a setting that config.yaml says, overwrite the run's own checkpoints, or be
            ignored.
    """
    for callback in callbacks:
        name = type(callback).__name__
        if isinstance(callback, BatchSizeFinder | LearningRateFinder):
            raise ConfigError(
                f"--trainer.callbacks: {name} would train with a value that config.yaml does not say, so the run could "
                "not be made again. Find it apart, and set it."
            )
        if isinstance(callback, EarlyStopping) and callback.patience < 0:
            raise ConfigError(f"--trainer.callbacks.patience: expected 0 or more, got {callback.patience}.")
        if isinstance(callback, Timer) and settings["max_time"] is not None:
            raise ConfigError("--trainer.callbacks: Timer and --trainer.max_time both say when to stop; give one.")
        if isinstance(callback, ModelCheckpoint) and _collides(callback, folder):
            raise ConfigError(
                f"--trainer.callbacks: {name} would write over best.ckpt or last.ckpt, which every run keeps in "
                f"{folder / CHECKPOINTS}; give it a dirpath of its own."
            )


def _collides(callback: ModelCheckpoint, folder: Path) -> bool:
    own = folder / CHECKPOINTS
    elsewhere = callback.dirpath is not None and Path(callback.dirpath).resolve() != own.resolve()
    return not elsewhere and bool(callback.filename in OWN_CHECKPOINTS or callback.save_last)


def blamed(settings: Mapping[str, Any], message: str) -> str:
    """The settings that a message of Lightning's speaks of, by their names or else by their values, as a prefix."""
    words = set(re.findall(r"[\w-]+", message))
    texts = {name: _text(value) for name, value in settings.items()}
    telling = {name for name, text in texts.items() if text in words and text.isalpha() and text not in _COMMON}
    named = [name for name in texts if name in words] or [name for name in texts if name in telling]
    return f"{', '.join(f'--trainer.{name} {texts[name]}' for name in named)}: " if named else ""


def _text(value: Any) -> str:
    """As it is written on the command line."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
