"""Training and evaluation, one module for each kind of problem."""

from polymodal.tasks.optim import Optimiser
from polymodal.tasks.segmentation import Segmentation

__all__ = ["Optimiser", "Segmentation"]
