"""A loss that is no number any more, told of the batch that it came of."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from polymodal.errors import PolymodalError


@dataclass(frozen=True)
class LossOfBatch:
    """What a training needs to know to say which batch spoilt it.

    Attributes:
        value: The loss, on the CPU.
        copied: When it is there; None when it is there already.
        epoch: Counted from 1.
        step: Optimisation steps before it.
        samples: The keys of the batch.
    """

    value: Tensor
    copied: torch.cuda.Event | None
    epoch: int
    step: int
    samples: Sequence[str]

    @classmethod
    def of(cls, loss: Tensor, epoch: int, step: int, samples: Sequence[str]) -> "LossOfBatch":
        """The loss of a batch, whose copy from a GPU is not waited for; arguments as of the class."""
        late = loss.is_cuda
        value = loss.detach().sum().to("cpu", non_blocking=late)
        copied = torch.cuda.Event() if late else None
        if copied is not None:
            copied.record()
        return cls(value, copied, epoch, step, samples)

    def check(self, remedy: str) -> None:
        """Refuse a loss that is not finite, once it is there.

        Args:
            remedy: What else a user may try.

        Raises:
            PolymodalError: With the samples of the batch.
        """
        if self.copied is not None:
            self.copied.synchronize()
        if not math.isfinite(self.value):
            raise PolymodalError(
                f"the loss is {self.value.item()} in epoch {self.epoch}, step {self.step}, for the samples "
                f"{', '.join(self.samples)}. Look at these files (polymodal data check){remedy}, or lower "
                "--model.optimiser.lr; the last good checkpoint is kept."
            )
