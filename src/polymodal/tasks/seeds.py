"""Exact resumption: every epoch begins from a random state of its own."""

import random
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer


class EpochSeeds(Callback):
    """Seeds the global random states at every epoch from the run's seed and the epoch's number.

    Dropout and the like then depend on nothing that happened before the epoch, so a run that is resumed continues as if
    it had never stopped. The order of the samples and their augmentation have a generator of their own in the data
    module.

    Args:
        seed: The run's seed.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Seed Python, numpy and torch before the epoch's first step.

        Not when the epoch starts: a data loader draws a number when it is first asked for a sample, which is before
        the start of an epoch that is resumed and after the start of any other.
        """
        del pl_module, batch
        if batch_idx > 0:
            return
        value = (self.seed + 1_000_003 * (trainer.current_epoch + 1)) % 2**32
        random.seed(value)
        np.random.seed(value)
        torch.manual_seed(value)
