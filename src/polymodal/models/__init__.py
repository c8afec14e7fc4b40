"""Ready single-modality networks, by name."""

from polymodal.models.heads import head_argument, head_of
from polymodal.models.refinenet import RefineNet
from polymodal.models.registry import REFINENET, SEGFORMER, create, create_pretrained, names
from polymodal.models.translation import PatchDiscriminator, TranslationUNet, depth_for
from polymodal.models.unet import RoomsUNet
from polymodal.models.weights import load_encoder_weights

__all__ = [
    "REFINENET",
    "SEGFORMER",
    "PatchDiscriminator",
    "RefineNet",
    "RoomsUNet",
    "TranslationUNet",
    "create",
    "create_pretrained",
    "depth_for",
    "head_argument",
    "head_of",
    "load_encoder_weights",
    "names",
]
