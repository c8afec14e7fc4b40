"""The arguments by which a network is made wider or narrower as a whole."""

from collections.abc import Mapping
from inspect import signature
from typing import Any

from polymodal.models.registry import ROOMS, TRANSLATION
from polymodal.models.translation import TranslationUNet
from polymodal.models.unet import RoomsUNet

_WIDTHS = {ROOMS: (RoomsUNet, ("stem", "widths", "decoder")), TRANSLATION: (TranslationUNet, ("filters",))}
"""Encoders of timm, smp and torchvision come in sizes of their own; of these networks alone every width is free."""


def widths(name: str, arguments: Mapping[str, Any]) -> dict[str, int | list[int]]:
    """The channels that a network is made with, by the arguments that say them; none where its width is not free.

    Args:
        name: See `create`.
        arguments: Those that are given; of the others the defaults count.
    """
    if name not in _WIDTHS:
        return {}
    constructor, names = _WIDTHS[name]
    defaults = signature(constructor).parameters
    given = {key: arguments.get(key, defaults[key].default) for key in names}
    return {key: value if isinstance(value, int) else list(value) for key, value in given.items()}
