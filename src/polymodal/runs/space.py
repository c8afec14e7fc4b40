"""The space of a search: which settings of a recipe are tried, between which bounds or from which choices."""

import copy
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polymodal.data.values import number
from polymodal.documents import DocumentError, read_bytes
from polymodal.errors import ConfigError
from polymodal.near import meant
from polymodal.runs.overrides import place_of
from polymodal.yaml_documents import MAX_YAML, parse_yaml

SCORED_ON = ("data.root", "data.val_split", "data.target", "trainer.limit_val_batches")
"""Settings by which a trial would be the best for the scenes that it is scored on."""


@dataclass(frozen=True)
class Dimension:
    """What one setting may be: numbers between bounds, or one of some values.

    Attributes:
        low: The least; whole numbers where both bounds are and the recipe's own value is no fraction.
        high: The largest.
        log: Whether their logarithms are drawn evenly.
        choices: The values; empty for numbers between bounds.
    """

    low: float = 0.0
    high: float = 0.0
    log: bool = False
    choices: tuple[Any, ...] = ()

    @property
    def ends(self) -> tuple[Any, ...]:
        """Values that stand for all: if these can be used, the others can."""
        return self.choices or (self.low, self.high)

    @property
    def labelled(self) -> dict[Any, Any]:
        """The choices by what Optuna can keep: texts for lists."""
        return {v if isinstance(v, str | int | float | None) else json.dumps(v, default=str): v for v in self.choices}

    def as_plain(self) -> dict[str, Any]:
        """As the file says it."""
        return (
            {"choices": list(self.choices)} if self.choices else {"low": self.low, "high": self.high, "log": self.log}
        )


def read_space(file: Path, recipe: Mapping[str, Any]) -> dict[str, Dimension]:
    """The space in a file, by dotted setting.

    Args:
        file: YAML: of each setting `{low, high, log}` or `{choices}`.
        recipe: All settings.

    Raises:
        ConfigError: It is no such file, names no setting of the recipe, or bounds and choices make no sense.
    """
    try:
        content = parse_yaml(read_bytes(file, MAX_YAML, ConfigError))
    except DocumentError as error:
        raise ConfigError(f"--space: {error.at(str(file))}.") from error
    if not isinstance(content, dict) or not content:
        raise ConfigError(
            f"--space: {file}: expected settings, such as model.optimiser.lr: {{low: 1.0e-4, high: 1.0e-2, log: true}}"
            f", got {'nothing' if not content else str(content)[:60]}."
        )
    names = _names(recipe)
    space = {}
    for name, given in content.items():
        where = f"--space: {file}: {name}"
        place, last = place_of(dict(recipe), str(name))
        if last not in place:
            raise ConfigError(f"{where}: the recipe has no such setting{meant(str(name), names)}")
        if str(name).startswith(("seed_everything", "trainer.default_root_dir")) or isinstance(place[last], dict):
            raise ConfigError(f"{where}: expected a single setting of model, data or trainer.")
        if name in SCORED_ON:
            raise ConfigError(f"{where}: trials would be scored on other scenes than one another. Leave it out.")
        space[str(name)] = _dimension(given, place[last], where)
    return space


def _dimension(given: Any, own: Any, where: str) -> Dimension:
    keys = set(given) if isinstance(given, dict) else set()
    if keys == {"choices"} and isinstance(given["choices"], list) and given["choices"]:
        dimension = Dimension(choices=tuple(given["choices"]))
        if len(dimension.labelled) < len(dimension.choices):
            raise ConfigError(f"{where}: choices: a value is there twice; true counts as 1, false as 0.")
        return dimension
    if not ({"low", "high"} <= keys <= {"low", "high", "log"} and isinstance(given.get("log", False), bool)):
        raise ConfigError(f"{where}: expected {{low, high}}, {{low, high, log}} or {{choices: [...]}}, got {given}.")
    low, high, log = given["low"], given["high"], given.get("log", False)
    try:
        in_order, each = -math.inf < number(low) < number(high) < math.inf, ""
    except ValueError as error:
        in_order, each = False, f", each {error}"
    if not in_order:
        raise ConfigError(f"{where}: expected two numbers, low below high{each}, got {low} and {high}.")
    if log and low <= 0:
        raise ConfigError(f"{where}: log: expected a low above 0, got {low}.")
    if type(low) is type(high) is int and not isinstance(own, float):
        return Dimension(low, high, log)
    return Dimension(float(low), float(high), log)


def _names(recipe: Mapping[str, Any], prefix: str = "") -> list[str]:
    """All dotted settings."""
    found = []
    for key, value in recipe.items():
        if isinstance(value, dict):
            found += _names(value.get("init_args") or {} if "class_path" in value else value, f"{prefix}{key}.")
        else:
            found.append(prefix + key)
    return found


def with_settings(recipe: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe with values in the place of its own, by dotted setting; all of them are there."""
    changed = copy.deepcopy(dict(recipe))
    for setting, value in values.items():
        place, last = place_of(changed, setting)
        place[last] = copy.deepcopy(value)
    return changed
