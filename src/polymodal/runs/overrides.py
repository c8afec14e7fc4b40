"""A recipe with some of its settings changed, as a method of a comparison does, and where two recipes differ."""

import copy
import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polymodal.documents import read_bytes
from polymodal.errors import ConfigError
from polymodal.fusion import Exchange
from polymodal.yaml_documents import MAX_YAML, parse_yaml

_FROM = "from epoch"
"""How a line begins that says what a training went on with."""


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


def differing(there: Any, here: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """Where two nests of settings differ: dotted paths, each with both values.

    Args:
        there: Of an earlier version perhaps: settings that it does not say had what is the default now.
        here: Of this version.
        path: Where they stand.
    """
    if isinstance(there, dict) and isinstance(here, dict):
        if "class_path" in here and isinstance(there.get("init_args"), dict):
            since = {name: value for name, value in _defaults(here["class_path"]).items() if name in here["init_args"]}
            there = there | {"init_args": since | there["init_args"]}
        keys = dict.fromkeys([*there, *here])
        # `init_args` is how a file says it, not how anybody gives it.
        return [
            difference
            for key in keys
            for difference in differing(
                there.get(key), here.get(key), path if key == "init_args" else f"{path}.{key}".lstrip(".")
            )
        ]
    return [] if there == here else [(path, there, here)]


def _defaults(class_path: str) -> dict[str, Any]:
    """What a class, which a recipe has made, and those that it passes settings on to are made with if nobody says."""
    module, _, name = class_path.rpartition(".")
    made = getattr(sys.modules.get(module), name, object)
    makers = [vars(base)["__init__"] for base in reversed(made.__mro__) if "__init__" in vars(base)]
    signatures = map(inspect.signature, makers)
    parameters = [one for signature in signatures for one in signature.parameters.values()]
    return {one.name: one.default for one in parameters if one.default is not one.empty}


def differences(there: Any, here: Any, path: str = "") -> list[str]:
    """Where two nests of settings differ, in words."""
    return [f"{name} is {one} there and {other} here" for name, one, other in differing(there, here, path)]


def gone_on(text: str, config: Path, epoch: int) -> tuple[str, str]:
    """The settings that a training goes on by, with a comment for each time that they were changed in it.

    Args:
        text: The settings, as YAML below a first line of comment.
        config: The settings of its run until now, with such comments.
        epoch: The next one.

    Returns:
        The text with the comments, and the last one where something is changed now; else "".

    Raises:
        ConfigError: The file cannot be read.
    """
    try:
        earlier = read_bytes(config, MAX_YAML, ConfigError).decode()
        found = differing(parse_yaml(earlier), parse_yaml(text))
    except ValueError as error:
        raise ConfigError(f"{config} is damaged ({error}). Restore it.") from error
    own = ("trainer.default_root_dir", "ckpt_path")
    said = "; ".join(f"{name} {new} instead of {old}" for name, old, new in found if name not in own)
    changed = f"{_FROM} {epoch} on: {said}" if said else ""
    comments = [line for line in earlier.splitlines() if line.startswith(f"# {_FROM}")]
    comments += [f"# {changed}"] if changed else []
    first, _, rest = text.partition("\n")
    return "\n".join([first, *comments, rest]), changed
