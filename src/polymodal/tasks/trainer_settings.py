"""What a user may set of Lightning's trainer: ranges that it does not check itself, and what a run cannot obey."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch import Callback
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder, ModelCheckpoint, Timer

from polymodal.errors import ConfigError

OWN_CHECKPOINTS = ("best", "last")
"""The checkpoints of every run, in its folder `checkpoints`."""


class Range(NamedTuple):
    """The values that a setting may have, beside null."""

    holds: Callable[[Any], bool]
    expected: str


def _from(least: int, remark: str = "") -> Range:
    return Range(lambda value: value >= least, f"{least} or more{remark}")


def _is_part(value: Any) -> bool:
    """A number of batches, or a share of them."""
    return value >= 0 if isinstance(value, int) else 0 <= value <= 1


_LENGTH = Range(lambda value: value == -1 or value >= 1, "1 or more, or -1 for no limit of this kind")
_PART = Range(_is_part, "a number of batches, or a share of them in 0.0 to 1.0")
_SOME = Range(
    lambda value: _is_part(value) and value > 0, "1 batch or more, or a share of them above 0.0 and up to 1.0"
)

RANGES: dict[str, Range] = {
    "accumulate_grad_batches": _from(1),
    "check_val_every_n_epoch": _from(1, "; validations are left out by --trainer.limit_val_batches 0"),
    "gradient_clip_val": Range(
        lambda value: 0 < value < math.inf, "a number above 0; leave it out to train without clipping"
    ),
    "limit_test_batches": _PART,
    "limit_train_batches": _SOME,
    "limit_val_batches": _PART,
    "log_every_n_steps": _from(0),
    "max_epochs": _LENGTH,
    "max_steps": _LENGTH,
    "min_epochs": _from(0),
    "min_steps": _from(0),
    "num_nodes": _from(1),
    "num_sanity_val_steps": _from(-1),
    "overfit_batches": _PART,
    "reload_dataloaders_every_n_epochs": _from(0),
    # A duration, which may stand here as well, is read by Lightning.
    "val_check_interval": Range(lambda value: not isinstance(value, int | float) or _SOME.holds(value), _SOME.expected),
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
    for name, (holds, expected) in RANGES.items():
        if settings[name] is not None and not holds(settings[name]):
            raise ConfigError(f"--trainer.{name}: expected {expected}, got {settings[name]}.")
    for what in ("epochs", "steps"):
        least, most = settings[f"min_{what}"], settings[f"max_{what}"]
        if least is not None and most is not None and 0 <= most < least:
            raise ConfigError(f"--trainer.min_{what} {least} is more than --trainer.max_{what} {most}.")


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
        if isinstance(callback, Timer) and settings["max_time"] is not None:
            raise ConfigError("--trainer.callbacks: Timer and --trainer.max_time both say when to stop; give one.")
        if isinstance(callback, ModelCheckpoint) and _collides(callback, folder):
            raise ConfigError(
                f"--trainer.callbacks: {name} would write over best.ckpt or last.ckpt, which every run keeps in "
                f"{folder / 'checkpoints'}; give it a dirpath of its own."
            )


def _collides(callback: ModelCheckpoint, folder: Path) -> bool:
    own = folder / "checkpoints"
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
