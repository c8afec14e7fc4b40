"""What every metric of this package is: a torchmetrics `Metric` over named predictions that says what it computes."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from polymodal.scores import Score


class PredictionScores(Metric):
    """Scores of named predictions, accumulated over a set and, where there are several, over all processes.

    Args:
        names: The predictions that are scored, for example the modalities and "ensemble".
    """

    full_state_update = False

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = list(names)
        self._samples: dict[tuple[str, str], list[tuple[Tensor, Tensor]]] | None = None

    @property
    @abstractmethod
    def scored(self) -> Sequence[Score]:
        """What `compute` gives of each prediction, the one that counts first."""

    @abstractmethod
    def update(self, name: str, prediction: Any, *truth: Any) -> None:
        """Count a batch of one prediction."""

    @abstractmethod
    def compute(self) -> dict[str, dict[str, Any]]:
        """The figures of each prediction over all that was counted since `reset`, by their keys."""

    def keep_samples(self) -> None:
        """Keep from now on what every sample adds to the scores, for `of_samples`."""
        self._samples = {}

    def note_samples(self, name: str, ratios: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Say in `update` what each sample of a batch adds to those scores that are means of ratios of sums.

        Args:
            name: The prediction.
            ratios: By the key of a score, the sums above and below the line, each (B, K): the score is the mean of the
                K ratios of their totals, of those whose total below is not 0. Scores of sets, such as FID, have none.
        """
        if self._samples is not None:
            for key, (above, below) in ratios.items():
                self._samples.setdefault((key, name), []).append((above.cpu(), below.cpu()))

    def of_samples(self) -> dict[tuple[str, str], tuple[Tensor, Tensor]]:
        """What was noted since `keep_samples`, by score and prediction, each (N, K) in the order of the samples."""
        noted = self._samples or {}
        return {
            key: (torch.cat([a for a, _ in parts]), torch.cat([b for _, b in parts])) for key, parts in noted.items()
        }
