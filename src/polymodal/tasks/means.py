"""A mean over an epoch, of what every step measured."""

import torch
from torch import Tensor
from torchmetrics import Metric


class Mean(Metric):
    """The mean of a value over samples, without making a GPU's host wait; its state goes on in a resumed training."""

    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, value: Tensor, samples: int) -> None:
        """Take a step's value into account.

        Args:
            value: A scalar, the mean over the step's samples.
            samples: How many there were.
        """
        wide = value.detach() if value.dtype in (torch.float32, torch.float64) else value.detach().float()
        self.total = self.total + wide * samples
        self.count = self.count + samples

    def go_on(self, total: Tensor, count: Tensor) -> None:
        """Take the place of another one, of which these are the sums."""
        self.update(torch.zeros_like(total), 0)  # torchmetrics must know that there is something to compute
        self.total, self.count = total.to(self.device), count.to(self.device)

    def sums(self) -> tuple[Tensor, Tensor]:
        """What `go_on` takes, where another process can read it."""
        return self.total.detach().cpu(), self.count.cpu()

    def compute(self) -> Tensor:
        """The mean so far."""
        return self.total / self.count
