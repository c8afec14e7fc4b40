"""Whether a prediction's confidence can be believed, and whether it finds the prediction's errors, over a whole set."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from polymodal.metrics.certainty import confidence, disagreement, doubt, entropy, log_probabilities
from polymodal.metrics.largest import largest
from polymodal.names import ENSEMBLE

BINS = 15
"""Of the confidence, all of one width, as in Guo et al. 2017."""

_SIGNS = ("confidence", "entropy", "disagreement")
"""What an error may be told by."""

_CELLS = 2048
"""Of each sign, even in its logarithm: what is next to 0 is told apart, too, and neighbours differ by less than 1 %."""
_LEAST = 7
"""Decades below 1 that cells reach; what single precision can hold of 1 - confidence."""


class Reliability(Metric):
    """Counts pixels by confidence, and right and wrong ones by the signs of an error.

    torchmetrics' own calibration error keeps every pixel, and its binned AUROC compares each with each threshold; here
    memory stays the same however large the set is, and a pixel costs the same whatever the bins.

    Args:
        names: The predictions, for example the modalities and "ensemble".
        classes: How many.
        ignore: The target value of pixels that do not count.
        temperatures: By prediction; 1 where none is given.
    """

    full_state_update = False
    bins: Tensor
    cells: Tensor

    def __init__(
        self, names: Sequence[str], classes: int, ignore: int | None, temperatures: Mapping[str, float] | None = None
    ) -> None:
        super().__init__()
        self.names = list(names)
        self.classes, self.ignore = classes, ignore
        self.temperatures = {name: float((temperatures or {}).get(name, 1.0)) for name in names}
        self.add_state("bins", torch.zeros(len(names), BINS, 3, dtype=torch.float64), dist_reduce_fx="sum")
        counts = torch.zeros(len(names), len(_SIGNS), 2, _CELLS, dtype=torch.long)
        self.add_state("cells", counts, dist_reduce_fx="sum")

    def update(self, predictions: Mapping[str, Tensor], target: Tensor) -> None:
        """Count a batch of all predictions.

        Args:
            predictions: Logits `(B, classes, H, W)` by name.
            target: True labels `(B, H, W)`.
        """
        known = torch.ones_like(target, dtype=torch.bool) if self.ignore is None else target != self.ignore
        logarithms = {name: log_probabilities(logits, self.temperatures[name]) for name, logits in predictions.items()}
        modalities = [logarithms[name] for name in self.names if name != ENSEMBLE and name in logarithms]
        apart = disagreement(modalities)[known] if len(modalities) > 1 else None
        for name, values in logarithms.items():
            right = (largest(predictions[name], 1)[1] == target)[known]
            signs = (doubt(values)[known], entropy(values)[known], apart)
            row = self.names.index(name)
            self.bins[row] += _binned(confidence(values)[known], right)
            for sign, counted in zip(signs, self.cells[row], strict=True):
                if sign is not None:
                    cell = _cell(sign) + _CELLS * right
                    counted += torch.bincount(cell, minlength=2 * _CELLS).view(2, _CELLS)

    def compute(self) -> dict[str, dict[str, Any]]:
        """The figures of each prediction, all in per cent but the counts and the temperature.

        Returns:
            By prediction: "temperature"; "ece", the expected calibration error, the mean over pixels of |accuracy -
            confidence| of their bin (Guo et al. 2017, eq. 3); "auroc_<sign>", how often a wrong pixel has more of the
            sign than a right one, None where all are right or all wrong, or where there is no such sign; and "bins",
            pixels, mean confidence and accuracy of each.
        """
        return {
            name: {
                "temperature": self.temperatures[name],
                "ece": _calibration_error(bins),
                **{f"auroc_{sign}": _auroc(*counts) for sign, counts in zip(_SIGNS, cells, strict=True)},
                "bins": [
                    [int(count), *((100 * total / count).item() if count else None for total in totals)]
                    for count, *totals in bins
                ],
            }
            for name, bins, cells in zip(self.names, self.bins.cpu(), self.cells.cpu(), strict=True)
        }


def _binned(sure: Tensor, right: Tensor) -> Tensor:
    """Pixels, and the sums of their confidence and of their being right, by bin: (BINS, 3)."""
    place = ((sure * BINS).ceil().long() - 1).clamp(0, BINS - 1)
    columns = (torch.ones_like(sure), sure, right)
    return torch.stack([torch.bincount(place, column.double(), minlength=BINS) for column in columns], 1)


def _cell(sign: Tensor) -> Tensor:
    height = (sign.clamp(min=10**-_LEAST).log10() / _LEAST + 1) * _CELLS
    return height.long().clamp(0, _CELLS - 1)


def _calibration_error(bins: Tensor) -> float | None:
    count, sure, right = bins.unbind(1)
    total = count.sum()
    return (100 * (right - sure).abs().sum() / total).item() if total else None


def _auroc(wrong: Tensor, right: Tensor) -> float | None:
    """Mann and Whitney's U as a share of its largest value; those of one cell count half."""
    wrong, right = wrong.double(), right.double()
    pairs = wrong.sum() * right.sum()
    below = right.cumsum(0) - right / 2
    return (100 * (wrong * below).sum() / pairs).item() if pairs else None
