"""Weights that a callback averages: it is given the network to copy, and what it made of it is what a run keeps."""

from collections.abc import Callable
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging


class NetworkFirst(Callback):
    """Builds the network before other callbacks are set up: those that average copy it then, even if it is not there.

    It must be the first of a trainer's callbacks.

    Args:
        then: What is called with the model, once it has its network: checks, before anything begins.
    """

    def __init__(self, then: Callable[[Any], None]) -> None:
        self._then = then

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Build, as the trainer would a moment later, and check."""
        del stage
        build_network(trainer, pl_module)
        self._then(pl_module)


def build_network(trainer: Trainer, model: LightningModule) -> None:
    """Build a model's network where and in the precision in which its trainer would."""
    strategy, precision = trainer.strategy, trainer.precision_plugin
    with strategy.tensor_init_context(), strategy.model_sharded_context(), precision.module_init_context():
        model.configure_model()


def holds_average(trainer: Trainer, model: LightningModule) -> bool | None:
    """Whether a model holds, at the end of its training, what `StochasticWeightAveraging` averaged; None without it.

    Its validations saw other weights, mostly, so that the best of them is no choice among averages. The other
    averaging callbacks of Lightning validate the average, and save it in every checkpoint.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, StochasticWeightAveraging):
            average = callback._average_model
            if callback.n_averaged is None or average is None:
                return False
            pairs = zip(average.parameters(), model.parameters(), strict=True)
            return all(mine.equal(own.to(mine.device)) for mine, own in pairs)
    return None
