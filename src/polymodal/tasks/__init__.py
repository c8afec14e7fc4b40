"""What is learned, one module for each kind of problem."""

from polymodal.tasks.optim import Optimiser
from polymodal.tasks.segmentation import Segmentation
from polymodal.tasks.translation import Translation

__all__ = ["Optimiser", "Segmentation", "Translation"]
