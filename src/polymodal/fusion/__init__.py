"""Fusion methods: one family a file, all behind `Fusion`."""

from collections.abc import Mapping
from typing import Any

from polymodal.errors import FusionError
from polymodal.fusion.aggregation import Aggregation
from polymodal.fusion.alignment import Alignment
from polymodal.fusion.asymmetric import Asymmetric
from polymodal.fusion.base import Fusion, NoFusion, Sites, SiteState
from polymodal.fusion.exchange import Exchange, RandomExchange

FUSIONS: dict[str, type[Fusion]] = {
    fusion.name: fusion for fusion in (NoFusion, Exchange, RandomExchange, Asymmetric, Aggregation, Alignment)
}
"""Every fusion by its name in configurations."""


def make_fusion(name: str, settings: Mapping[str, Any] | None = None) -> Fusion:
    """A fusion from its name and settings.

    Raises:
        FusionError: When the name or a setting is unknown, or a value is out of its range.
    """
    if name not in FUSIONS:
        raise FusionError(f"fusion: unknown name {name!r}; known are {', '.join(FUSIONS)}.")
    try:
        return FUSIONS[name](**(settings or {}))
    except TypeError as error:
        raise FusionError(f"fusion {name!r}: {error}.") from error


__all__ = [
    "FUSIONS",
    "Aggregation",
    "Alignment",
    "Asymmetric",
    "Exchange",
    "Fusion",
    "NoFusion",
    "RandomExchange",
    "SiteState",
    "Sites",
    "make_fusion",
]
