"""How far a run's predictions can be trusted."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from polymodal.report.charts import Bin

_FIGURES = ("temperature", "ece", "auroc_confidence", "auroc_entropy", "auroc_disagreement")


@dataclass(frozen=True)
class Trust:
    """What a file of scores says of one prediction's certainty, in per cent but for the temperature.

    Attributes:
        temperature: At which its confidence was taken.
        ece: The expected calibration error.
        found_by: How often a wrong pixel has less confidence, more entropy and more disagreement than a right one.
        bins: Pixels, confidence and accuracy by confidence.
    """

    temperature: float
    ece: float | None
    found_by: Sequence[float | None]
    bins: Sequence[Bin]

    @classmethod
    def from_plain(cls, plain: Any) -> "Trust":
        """What `polymodal.metrics.Reliability` computed.

        Raises:
            ValueError: Nothing wrote this.
        """
        if not isinstance(plain, dict) or plain.keys() != {*_FIGURES, "bins"} or not isinstance(plain["bins"], list):
            raise ValueError(f"expected {', '.join(_FIGURES)} and bins, got {str(plain)[:60]}")
        temperature, *shares = (plain[key] for key in _FIGURES)
        bins = [Bin(*row) for row in plain["bins"] if isinstance(row, list) and len(row) == 3]
        every = [*shares, *(share for row in bins for share in (row.confidence, row.accuracy))]
        if (
            len(bins) < len(plain["bins"])
            or not all(type(row.pixels) is int and row.pixels >= 0 for row in bins)
            or not all(share is None or (type(share) in (int, float) and 0 <= share <= 100.001) for share in every)
            or not (type(temperature) in (int, float) and 0 < temperature < math.inf)
        ):
            raise ValueError(f"expected counts, and shares in per cent, got {str(plain)[:60]}")
        return cls(temperature, shares[0], shares[1:], bins)
