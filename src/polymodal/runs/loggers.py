"""Where scores go beside the run folder: TensorBoard's events, and the loggers that a recipe names."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from polymodal.errors import ConfigError
from polymodal.run_folder import METRICS


class Events(TensorBoardLogger):
    """TensorBoard's events alone; config.yaml says the settings."""

    def save(self) -> None:
        """Write the events, and no hparams.yaml beside them."""
        self.experiment.flush()


def loggers_of(given: Any, folder: Path) -> list[Logger]:
    """The loggers of a run: its own events and the recipe's.

    Args:
        given: The setting `trainer.logger`: one or several, beside the run's own; null or true for those alone; false
            for none.
        folder: The run folder.

    Raises:
        ConfigError: One would write over the run's own metrics.csv.
    """
    if given is False:
        return []
    named = [] if given is None or given is True else [given] if isinstance(given, Logger) else list(given)
    for logger in named:
        if isinstance(logger, CSVLogger) and Path(logger.log_dir).resolve() == folder.resolve():
            raise ConfigError(
                f"--trainer.logger: CSVLogger would write over {folder / METRICS}, which every run has; give it "
                "another save_dir, or leave its name and version as they are."
            )
    return [Events(folder, name="", version=""), *named]


def log_recipe(loggers: Iterable[Logger], recipe: Mapping[str, Any]) -> None:
    """Give the recipe's loggers all of its settings."""
    for logger in _named(loggers):
        logger.log_hyperparams(dict(recipe))
        logger.save()


def log_scores(loggers: Iterable[Logger], scores: Sequence[Mapping[str, Any]], step: int) -> None:
    """Give the recipe's loggers the scores of the finished model, as `final/<split>/<score>/<prediction>`.

    Args:
        loggers: The run's.
        scores: What `score_split` returned, of each split.
        step: That of the end of the training.
    """
    values = {
        f"final/{scored['split']}/{score}/{prediction}": float(value)
        for scored in scores
        for prediction, figures in scored["predictions"].items()
        for score, value in figures.items()
        if isinstance(value, int | float)
    }
    for logger in _named(loggers):
        if values:
            logger.log_metrics(values, step)
        logger.save()
        logger.finalize("success")


def _named(loggers: Iterable[Logger]) -> list[Logger]:
    """Those that the recipe names; the run's own files say everything already."""
    return [logger for logger in loggers if not isinstance(logger, Events)]
