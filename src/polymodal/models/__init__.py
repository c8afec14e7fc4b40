"""Ready single-modality networks, by name."""

from polymodal.models.refinenet import RefineNet
from polymodal.models.registry import create, create_pretrained, names
from polymodal.models.unet import RoomsUNet
from polymodal.models.weights import load_encoder_weights

__all__ = ["RefineNet", "RoomsUNet", "create", "create_pretrained", "load_encoder_weights", "names"]
