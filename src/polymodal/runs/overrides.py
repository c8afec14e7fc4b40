"""A recipe with some of its settings changed, as a method of a comparison does."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from polymodal.errors import ConfigError
from polymodal.fusion import Exchange


@dataclass(frozen=True)
class Around:
    """In an override: the recipe's own fusion goes into another one.

    Attributes:
        fusion: The class of the other, of this package.
    """

    fusion: str

    def __call__(self, within: Any) -> dict[str, Any]:
        """The other fusion, around one."""
        return {"class_path": f"polymodal.fusion.{self.fusion}", "init_args": {"within": within}}


def applied(recipe: Mapping[str, Any], name: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe with a method's settings in the place of its own.

    Args:
        recipe: All settings of `polymodal fit`, as config.yaml of a run has them.
        name: The method's, for errors.
        overrides: By dotted setting.

    Raises:
        ConfigError: The recipe has no such setting, or no exchange that could be varied.
    """
    changed = copy.deepcopy(dict(recipe))
    for setting, value in overrides.items():
        if setting.startswith("model.fusion."):
            _check_exchange(changed, name)
        place, last = place_of(changed, setting)
        if last not in place:
            raise ConfigError(f"method {name!r} needs the setting {setting}, which the recipe's model or data lacks.")
        place[last] = value(place[last]) if isinstance(value, Around) else copy.deepcopy(value)
    if "data.modalities" in overrides:
        for setting in ("model.stems", "data.substitute", "data.dropout.probability"):
            place, last = place_of(changed, setting)
            if isinstance(place.get(last), dict):  # what is said by name, of those that are left
                place[last] = {key: value for key, value in place[last].items() if key in overrides["data.modalities"]}
    return changed


def place_of(recipe: dict[str, Any], setting: str) -> tuple[dict[str, Any], str]:
    """Where a dotted setting stands: the settings around it, those of a class being its `init_args`, and its own name.

    Where there are none, the settings are empty, so that the name is not among them.
    """
    *path, last = setting.split(".")
    place: Any = recipe
    for key in path:
        place = place.get(key)
        if not isinstance(place, dict):
            return {}, last
        place = place.get("init_args", {}) if "class_path" in place else place
    return place, last


def _check_exchange(recipe: dict[str, Any], name: str) -> None:
    place, last = place_of(recipe, "model.fusion")
    given = place[last]["class_path"] if place.get(last) else None
    if str(given).rpartition(".")[2] != Exchange.__name__:
        raise ConfigError(
            f"method {name!r} varies the recipe's exchange and takes λ and θ from it, but its model.fusion is "
            f"{given or 'null'}. Use a recipe with {Exchange.__name__}, or leave the method out of --methods."
        )
