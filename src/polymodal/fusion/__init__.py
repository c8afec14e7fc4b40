"""Fusion methods: one family a file, all behind `Fusion`."""

from collections.abc import Mapping
from typing import Any

from polymodal.errors import FusionError
from polymodal.fusion.aggregation import Aggregation
from polymodal.fusion.alignment import Alignment
from polymodal.fusion.asymmetric import Asymmetric
from polymodal.fusion.base import Fusion, NoFusion, Plan, Sites, SiteState, known_fusions
from polymodal.fusion.base import class_path as path_of
from polymodal.fusion.decode_once import DecodeOnce
from polymodal.fusion.difference import Difference
from polymodal.fusion.exchange import Exchange, RandomExchange
from polymodal.fusion.norms import NormFusion
from polymodal.fusion.tokens import TokenExchange

FUSIONS: dict[str, type[Fusion]] = {fusion.name: fusion for fusion in known_fusions()}
"""This package's own by their names in configurations; there is no other class yet."""


def make_fusion(name: str, settings: Mapping[str, Any] | None = None, *, class_path: str | None = None) -> Fusion:
    """A fusion from its name and settings. Nothing is imported.

    Args:
        name: That of its class.
        settings: Of the fusion.
        class_path: The module and the class, where it is a user's own.

    Raises:
        FusionError: When the name or a setting is unknown, or a value is out of its range.
    """
    found = _by_name(name) if class_path is None else _by_path(class_path)
    given = {key: _inner(value) for key, value in (settings or {}).items()}
    try:
        return found(**given)
    except TypeError as error:
        raise FusionError(f"fusion {name!r}: {error}.") from error


def _inner(setting: Any) -> Any:
    """A setting, or the fusion that it describes as `Fusion.as_config` does."""
    if not (isinstance(setting, Mapping) and isinstance(setting.get("name"), str)):
        return setting
    others = {key: value for key, value in setting.items() if key not in ("name", "class_path")}
    return make_fusion(setting["name"], others, class_path=setting.get("class_path"))


def _by_name(name: str) -> type[Fusion]:
    found = [known for known in known_fusions() if known.name == name]
    if len(found) > 1:
        raise FusionError(
            f"fusion: {name!r} is the name of {', '.join(map(path_of, found))}: give the fusion itself, not its name."
        )
    if not found:
        names = ", ".join(dict.fromkeys(known.name for known in known_fusions()))
        raise FusionError(f"fusion: unknown name {name!r}; known are {names}.")
    return found[0]


def _by_path(class_path: str) -> type[Fusion]:
    found = next((known for known in known_fusions() if path_of(known) == class_path), None)
    if found is not None:
        return found
    module, _, name = str(class_path).rpartition(".")
    if module.partition(".")[0] == "__main__" or "<locals>" in str(class_path):
        raise FusionError(
            f"the fusion {name} was defined inside a script, {class_path}, which nothing else can import: define it "
            "here, too, or train with the class in a module of its own."
        )
    raise FusionError(
        f"the fusion {class_path} is not known, as loading imports nothing. If you trust it, import {module} before "
        f"loading, or on the command line add --import {module}."
    )


__all__ = [
    "FUSIONS",
    "Aggregation",
    "Alignment",
    "Asymmetric",
    "DecodeOnce",
    "Difference",
    "Exchange",
    "Fusion",
    "NoFusion",
    "NormFusion",
    "Plan",
    "RandomExchange",
    "SiteState",
    "Sites",
    "TokenExchange",
    "make_fusion",
]
