"""A recipe with some of its settings changed, as a method of a comparison does."""

import copy
from collections.abc import Iterable, Mapping
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
        *path, last = setting.split(".")
        place = _place(changed, path, name)
        if last not in place:
            raise ConfigError(f"method {name!r} needs the setting {setting}, which the recipe's model or data lacks.")
        place[last] = value(place[last]) if isinstance(value, Around) else copy.deepcopy(value)
    if "data.modalities" in overrides:
        for *path, last in (("model", "stems"), ("data", "substitute")):
            place = _place(changed, path, name)
            if isinstance(place.get(last), dict):  # what is said by name, of those that are left
                place[last] = {key: value for key, value in place[last].items() if key in overrides["data.modalities"]}
    return changed


def _place(recipe: dict[str, Any], path: Iterable[str], name: str) -> dict[str, Any]:
    """The settings that a dotted path leads to, those of a class being its `init_args`."""
    place: Any = recipe
    for key in path:
        place = place.get(key)
        given = place.get("class_path") if isinstance(place, dict) else None
        if key == "fusion" and str(given).rpartition(".")[2] != Exchange.__name__:
            raise ConfigError(
                f"method {name!r} varies the recipe's exchange and takes λ and θ from it, but its model.fusion is "
                f"{given or 'null'}. Use a recipe with {Exchange.__name__}, or leave the method out of --methods."
            )
        place = place["init_args"] if given else place
    return place
