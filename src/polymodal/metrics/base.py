"""What every metric of this package is: a torchmetrics `Metric` over named predictions that says what it computes."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

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
