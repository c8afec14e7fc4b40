"""The order of training samples and the seed of each one's augmentation, as a function of seed and epoch alone."""

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler


class SeededSampler(Sampler[tuple[int, int]]):
    """Shuffles anew every epoch and gives each sample its own augmentation seed.

    Nothing else draws from these numbers, so training sees the same samples whatever the number of loader workers, and
    a run that is resumed at any step sees what it would have seen without the break.

    Args:
        length: Number of samples.
        seed: The run's seed.
        epoch: Of the first iteration; later ones count up from there, or from `set_epoch`.
        done: How many samples of that epoch were trained on before. They come last, where the trainer, which counts
            them, never asks for them: an epoch is of one length for everyone who shares it out.
    """

    def __init__(self, length: int, seed: int, epoch: int = 0, done: int = 0) -> None:
        self.length = length
        self.seed = seed
        self.epoch = epoch
        self._resumed = {epoch: done}

    def __len__(self) -> int:
        return self.length

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration; trainers call this."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[int, int]]:
        # Neighbouring seeds give unrelated streams only after mixing: one generator draws a seed for every epoch.
        epochs = torch.Generator().manual_seed(self.seed)
        epoch_seed = int(torch.randint(2**62, (self.epoch + 1,), generator=epochs)[-1])
        done = self._resumed.get(self.epoch, 0)
        self.epoch += 1
        generator = torch.Generator().manual_seed(epoch_seed)
        order = torch.randperm(self.length, generator=generator).tolist()
        seeds = torch.randint(2**62, (self.length,), generator=generator).tolist()
        samples = list(zip(order, seeds, strict=True))
        yield from samples[done:] + samples[:done]
