"""Which samples each process of a training takes, in which order: a function of seed and epoch alone.

Both samplers are PyTorch's kind for several processes, which a trainer leaves as they are.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch.utils.data import DistributedSampler

from polymodal.processes import Place


class Draw(NamedTuple):
    """A sample of a training.

    Attributes:
        number: Its place in the data set.
        seed: Of all that is drawn for it.
        epoch: Counted from 0.
    """

    number: int
    seed: int
    epoch: int = 0


class SeededSampler(DistributedSampler[Draw]):
    """Shuffles anew every epoch and gives each sample its own augmentation seed.

    Nothing else draws from these numbers, so training sees the same samples whatever the number of loader workers, and
    a run that is resumed at any step sees what it would have seen without the break. The samples of a step are the same
    for any number of processes that share it.

    Args:
        length: Number of samples.
        seed: The run's seed.
        epoch: Of the first iteration; later ones count up from there, or from `set_epoch`.
        done: How many samples of that epoch were trained on before. They come last, where the trainer, which counts
            them, never asks for them: an epoch is of one length for everyone who shares it out.
        step: How many samples all processes together take a step; those that fill none at the epoch's end are left out.
        place: Whose part this is.
    """

    def __init__(
        self,
        length: int,
        seed: int,
        epoch: int = 0,
        done: int = 0,
        step: int = 1,
        place: Place = Place(),  # noqa: B008 - frozen
    ) -> None:
        super().__init__(range(length), place.processes, place.rank, seed=seed)  # type: ignore[arg-type]
        self.length = length
        self.taken = length - length % step
        self.epoch = epoch
        self._resumed = {epoch: done}

    def __len__(self) -> int:
        return self.taken // self.num_replicas

    def __iter__(self) -> Iterator[Draw]:
        # Neighbouring seeds give unrelated streams only after mixing: one generator draws a seed for every epoch.
        epochs = torch.Generator().manual_seed(self.seed)
        epoch_seed = int(torch.randint(2**62, (self.epoch + 1,), generator=epochs)[-1])
        done, epoch = self._resumed.get(self.epoch, 0), self.epoch
        self.epoch += 1
        generator = torch.Generator().manual_seed(epoch_seed)
        order = torch.randperm(self.length, generator=generator).tolist()
        seeds = torch.randint(2**62, (self.length,), generator=generator).tolist()
        samples = [Draw(index, seed, epoch) for index, seed in zip(order, seeds, strict=True)][: self.taken]
        yield from (samples[done:] + samples[:done])[self.rank :: self.num_replicas]


class TurnSampler(DistributedSampler[int]):
    """Deals the batches of an evaluation to the processes in turn, each batch as one process would have it.

    Processes wait for each other at every batch, so all of them get the same number: who comes off short gets the first
    sample again as a last batch that is not `own`, and must not be counted.

    Args:
        length: Number of samples.
        batch_size: Of the loader that this is for.
        place: Whose part this is.
        most: How many batches are dealt; None for all.

    Attributes:
        own: How many batches, the first ones, are to be counted.
    """

    def __init__(self, length: int, batch_size: int, place: Place, most: int | None = None) -> None:
        super().__init__(range(length), place.processes, place.rank, shuffle=False)  # type: ignore[arg-type]
        batches = [range(start, min(start + batch_size, length)) for start in range(0, length, batch_size)][:most]
        own = batches[place.rank :: place.processes]
        self.own = len(own)
        self._order = [index for batch in own for index in batch]
        if self.own < -(-len(batches) // place.processes):
            self._order.append(0)

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[int]:
        return iter(self._order)
