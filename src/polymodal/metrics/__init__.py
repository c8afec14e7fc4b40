"""Scores of predictions, each computed once over a whole set."""

from polymodal.metrics.base import PredictionScores
from polymodal.metrics.features import feature_extractor
from polymodal.metrics.image import ImageScores
from polymodal.metrics.reliability import Reliability
from polymodal.metrics.segmentation import SegmentationScores

__all__ = ["ImageScores", "PredictionScores", "Reliability", "SegmentationScores", "feature_extractor"]
