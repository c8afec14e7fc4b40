"""Segmentation scores from one confusion matrix per prediction, summed over the whole set.

The mean IoU of the literature is the mean over classes of the IoU of *all* pixels of a set, not a mean over images.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, TypedDict

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix

from polymodal.errors import DataError
from polymodal.metrics.base import PredictionScores
from polymodal.metrics.largest import largest
from polymodal.scores import OF_LABELS


class Figures(TypedDict):
    """The scores of one prediction, all in per cent."""

    pixel_accuracy: float
    mean_accuracy: float
    mean_iou: float
    frequency_weighted_iou: float
    iou: list[float | None]


def figures_of(matrix: Tensor, ignored: int | None = None) -> Figures:
    """Scores of one confusion matrix (Long et al. 2015, section 5).

    With n_ij the pixels of class i predicted as j, t_i = sum_j n_ij and p_j = sum_i n_ij:
    pixel accuracy = sum_i n_ii / sum_i t_i; mean accuracy = mean of n_ii / t_i over the classes with truth;
    IoU_i = n_ii / (t_i + p_i - n_ii); mean IoU = their mean over the classes present in truth or prediction;
    frequency-weighted IoU = sum_i t_i IoU_i / sum_i t_i.

    Args:
        matrix: (classes, classes) pixel counts, rows are the truth, columns the prediction; not all 0.
        ignored: A class that no truth can have. What is predicted as it is wrong, and it has no IoU itself.

    Returns:
        The scores in per cent; a class absent from truth and prediction has the IoU None and counts in no mean.
    """
    counts = matrix.double().cpu()
    hits, truth, predicted = counts.diagonal(), counts.sum(1), counts.sum(0)
    total = truth.sum()
    union = truth + predicted - hits
    present = union > 0
    if ignored is not None and 0 <= ignored < len(present):
        present[ignored] = False
    iou = hits / union.clamp(min=1)
    return Figures(
        pixel_accuracy=100 * (hits.sum() / total).item(),
        mean_accuracy=100 * (hits / truth.clamp(min=1))[truth > 0].mean().item(),
        mean_iou=100 * iou[present].mean().item(),
        frequency_weighted_iou=100 * ((truth * iou).sum() / total).item(),
        iou=[100 * value if seen else None for value, seen in zip(iou.tolist(), present.tolist(), strict=True)],
    )


class SegmentationScores(PredictionScores):
    """One confusion matrix per named prediction, accumulated over a set.

    Args:
        names: The predictions that are scored, for example the modalities and "ensemble".
        num_classes: The number of classes.
        ignore: The target value of pixels that do not count; it may be the number of a class.
    """

    scored = OF_LABELS
    counts: Tensor

    def __init__(self, names: Sequence[str], num_classes: int, ignore: int | None = 255) -> None:
        super().__init__(names)
        self.num_classes = num_classes
        self.ignore = ignore
        counts = torch.zeros(len(names), num_classes, num_classes, dtype=torch.long)
        self.add_state("counts", counts, dist_reduce_fx="sum")

    def update(self, name: str, prediction: Tensor, target: Tensor) -> None:
        """Count a batch.

        Args:
            name: The prediction that is counted, one of `names`.
            prediction: Logits (B, classes, H, W) or labels (B, H, W).
            target: True labels (B, H, W), with the ignored value where there is no truth.

        Raises:
            DataError: The shapes differ, logits hold NaN, or a label is of no class.
        """
        logits = prediction.ndim == 4
        best, labels = largest(prediction, 1) if logits else (prediction, prediction)
        if labels.shape != target.shape:
            raise DataError(
                f"{name}: expected labels of the target's shape {tuple(target.shape)}, got {tuple(labels.shape)}. "
                "Resize the prediction to the target's size before it is scored."
            )
        if logits and best.isnan().any():
            raise DataError(f"{name}: the prediction holds NaN, for which no class can be told.")
        for what, values in (("prediction", labels), ("target", target)):
            # Of no class, they would be counted as pixels of another one.
            outside = (values < 0) | (values >= self.num_classes)
            if self.ignore is not None:
                outside &= target != self.ignore
            if outside.any():
                raise DataError(
                    f"{name}: expected classes from 0 to {self.num_classes - 1}, got a {what} of "
                    f"{int(values[outside][0])}. Count with as many classes as the network has, and mark the target's "
                    f"pixels without truth with the ignored value ({self.ignore})."
                )
        count = partial(
            multiclass_confusion_matrix, num_classes=self.num_classes, ignore_index=self.ignore, validate_args=False
        )
        matrices = torch.stack(list(map(count, labels, target)))
        self.counts[self.names.index(name)] += matrices.sum(0)
        self.note_samples(name, self._ratios(matrices))

    def compute(self) -> dict[str, dict[str, Any]]:
        """The scores of every prediction over all that was counted since `reset`, over all processes.

        Raises:
            DataError: Nothing, or nothing but ignored pixels, was counted; with the prediction.
        """
        found: dict[str, dict[str, Any]] = {}
        for name, counts in zip(self.names, self.counts, strict=True):
            if not counts.any():
                raise DataError(
                    f"no labelled pixel was seen for {name}, so there is nothing to score: every target pixel is "
                    "ignored, or of a sample without this modality. Score other samples, or more of them."
                )
            found[name] = {**figures_of(counts, self.ignore)}
        return found

    def _ratios(self, matrices: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """The scores of `figures_of` that are ratios of sums, in per cent, of each confusion matrix (B, C, C)."""
        hits, truth, predicted = matrices.diagonal(dim1=1, dim2=2), matrices.sum(2), matrices.sum(1)
        union = truth + predicted - hits
        if self.ignore is not None and 0 <= self.ignore < self.num_classes:
            union[:, self.ignore] = 0
        return {
            "mean_iou": (100 * hits, union),
            "pixel_accuracy": (100 * hits.sum(1, keepdim=True), truth.sum(1, keepdim=True)),
            "mean_accuracy": (100 * hits, truth),
        }
