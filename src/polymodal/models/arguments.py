"""The arguments that a network may be made with by name: those known to say what it looks like and nothing else.

A saved model brings its arguments along, from whoever wrote it. The libraries behind the names take others, too, which
open files, ask a model hub or import code, and each of their versions may take more: so these are listed, not those.
"""

import math
from collections.abc import Mapping
from typing import Any

from polymodal.errors import ConfigError

_ENCODER = {"encoder_name", "in_channels", "classes"}
_SMP = {"activation", "aux_params", "encoder_depth", "output_stride", *_ENCODER}
_DECODERS = {
    "DeepLabV3": "encoder_output_stride decoder_channels decoder_atrous_rates decoder_aspp_separable "
    "decoder_aspp_dropout upsampling",
    "DeepLabV3Plus": "encoder_output_stride decoder_channels decoder_atrous_rates decoder_aspp_separable "
    "decoder_aspp_dropout upsampling",
    "FPN": "decoder_pyramid_channels decoder_segmentation_channels decoder_merge_policy decoder_dropout "
    "decoder_interpolation upsampling",
    "Linknet": "decoder_use_norm decoder_use_batchnorm",
    "MAnet": "decoder_use_norm decoder_use_batchnorm decoder_channels decoder_pab_channels decoder_interpolation",
    "PAN": "encoder_output_stride decoder_channels decoder_interpolation upsampling",
    "PSPNet": "psp_out_channels decoder_use_norm psp_use_batchnorm psp_dropout upsampling",
    "Segformer": "decoder_segmentation_channels upsampling",
    "UPerNet": "decoder_channels decoder_use_norm decoder_pyramid_channels decoder_segmentation_channels upsampling",
    "Unet": "decoder_use_norm decoder_use_batchnorm decoder_channels decoder_attention_type decoder_interpolation",
    "UnetPlusPlus": "decoder_use_norm decoder_use_batchnorm decoder_channels decoder_attention_type "
    "decoder_interpolation",
}
_TIMM = {"act_layer", "drop_block_rate", "drop_path_rate", "drop_rate", "img_size", "norm_layer", "window_size"}
"""What the encoders of timm take besides; layers by their names, which timm looks up in a table."""

_OWN = {
    "rooms-unet": {"classes", "in_channels", "stem", "widths", "decoder"},
    "translation-unet": {"out_channels", "in_channels", "filters", "depth", "upsampling"},
    "refinenet": {"light", *_ENCODER},
    "segformer": _ENCODER,
}
_TORCHVISION = {"classes", "aux_loss"}

_LARGEST = 2**16
"""Of the numbers: none of these arguments has a use for a larger one, which would only take memory and time."""


_LONGEST = 64
"""Of the lists: a number for each stage of a network, of which each halves the image."""


def check_arguments(name: str, arguments: Mapping[str, Any]) -> None:
    """Refuse arguments that are not known to be safe, before a library sees them.

    Args:
        name: A network that `create` knows.
        arguments: Its arguments.

    Raises:
        ConfigError: With the argument, and those that the network takes.
    """
    library, _, constructor = name.rpartition("/")
    known = {"smp": _SMP | set(_DECODERS.get(constructor, "").split()), "torchvision": _TORCHVISION}.get(library)
    known = _OWN[name] if known is None else known
    encoder = arguments.get("encoder_name")
    if library == "smp" and isinstance(encoder, str) and encoder.startswith(("tu-", "timm-")):
        known = known | _TIMM
    unknown = [key for key in arguments if key not in known]
    if unknown:
        encoder_first = sorted(known, key=lambda key: (key != "encoder_name", key))
        raise ConfigError(
            f"{name}: unexpected argument {unknown[0]!r}; it takes {', '.join(encoder_first)}. "
            "Weights are chosen by the setting `weights`; any other network can be made in Python and given to fuse."
        )
    for key, value in arguments.items():
        if not _plain(value):
            raise ConfigError(
                f"{name}: {key}: expected plain values (texts, numbers up to {_LARGEST}, dicts and lists of up to "
                f"{_LONGEST} of them), got {short(value)}."
            )
    if "encoder_name" in arguments:
        _check_encoder(name, encoder)


def _check_encoder(name: str, encoder: Any) -> None:
    """Refuse an encoder that no library lists: timm's names may also mean a folder or a model on the hub."""
    import timm
    from segmentation_models_pytorch.encoders import encoders

    of_timm = encoder.partition("-")[2] if isinstance(encoder, str) and encoder.startswith(("tu-", "timm-")) else ""
    # smp calls timm's MobileNetV3 by the name that it has there without the first part.
    listed = any(timm.is_model(form) for form in (of_timm, f"tf_{of_timm}")) and not set(of_timm) & set("/\\:")
    if not isinstance(encoder, str) or not (encoder in encoders or listed):
        raise ConfigError(
            f"{name}: encoder_name: there is no encoder {short(encoder)}. Expected one of "
            "segmentation-models-pytorch, such as resnet50, or tu- and the name of an architecture that timm lists; "
            "its weights can be given as a file by the setting `weights`."
        )


def _plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _plain(within) for key, within in value.items())
    if isinstance(value, list | tuple):
        return len(value) <= _LONGEST and all(_plain(within) for within in value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return math.isfinite(value) and abs(value) <= _LARGEST
    return value is None or isinstance(value, bool | str)


def short(value: Any) -> str:
    """A value for a message."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
