"""Exact resumption: every epoch begins from a random state of its own, and every step from that of the step before."""

import random
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from polymodal.processes import gathered, own


class EpochSeeds(Callback):
    """Seeds the global random states at every epoch from the run's seed and the epoch's number.

    Dropout and the like then depend on nothing that happened before the epoch. Within it, a step begins with the random
    state that the step before it left, whatever ran between the two: a validation, or a break. So a run that is resumed
    continues as if it had never stopped. The order of the samples and their augmentation have a generator of their own
    in the data module.

    Args:
        seed: The run's seed.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._left: dict[str, Any] | None = None
        self._device = torch.device("cpu")
        self._in_step = False

    def state_dict(self) -> dict[str, Any]:
        """The random states with which the next step begins, of each process."""
        return {"left": gathered(random_states(self._device) if self._in_step else self._left)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Begin the next step with these random states."""
        left = state_dict["left"]
        self._left = own(left) if isinstance(left, list) else left  # one process's in runs of earlier versions

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Seed Python, numpy and torch before the epoch's first step, and put them back before any other.

        Not when the epoch starts: a data loader draws a number when it is first asked for a sample, which is before
        the start of an epoch that is resumed and after the start of any other.
        """
        del batch
        self._device, self._in_step = pl_module.device, True
        if batch_idx > 0:
            if self._left is not None:
                set_random_states(self._left, self._device)
            return
        # Of several processes each has a stream of its own, or all would drop the same features.
        value = (self.seed + 1_000_003 * (trainer.current_epoch + 1) + 998_244_353 * trainer.global_rank) % 2**32
        random.seed(value)
        np.random.seed(value)
        torch.manual_seed(value)

    def on_train_batch_end(self, *_: Any) -> None:
        """Note the random states."""
        self._left, self._in_step = random_states(self._device), False


def random_states(device: torch.device) -> dict[str, Any]:
    """The global random states of Python, numpy and torch, as tensors and plain values."""
    numpy: Any = np.random.get_state()
    name, keys, *rest = numpy
    states = {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(keys.astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
    }
    return states | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def set_random_states(states: dict[str, Any], device: torch.device) -> None:
    """Put back what `random_states` gave; a device that it did not know keeps its own."""
    random.setstate(states["python"])
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
