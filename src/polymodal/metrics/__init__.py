"""Scores of predictions, each computed once over a whole set."""

from polymodal.metrics.segmentation import SegmentationScores

__all__ = ["SegmentationScores"]
