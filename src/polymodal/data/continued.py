"""What a checkpoint says of the data that it was trained with: a training goes on with the same, in the same order."""

from collections.abc import Mapping
from typing import Any

from polymodal.data.inputs import InputSpec
from polymodal.data.parts import TargetSpec
from polymodal.errors import ConfigError

_OF_TARGET = ("kind", "classes", "scale", "invalid", "range", "channels")
"""What the last layer predicts by, and what of it counts; where files lie, and how classes are shown, may change."""

_SETTINGS = {"inputs": "data.modalities", "targets": "data.target"}


def meaning(inputs: Mapping[str, InputSpec], targets: Mapping[str, TargetSpec]) -> dict[str, dict[str, Any]]:
    """What inputs and targets mean, by name and in their order, in types that a checkpoint can hold."""
    said = {name: target.as_dict() for name, target in targets.items()}
    return {
        "inputs": {name: spec.as_dict() for name, spec in inputs.items()},
        "targets": {name: {key: known[key] for key in _OF_TARGET if key in known} for name, known in said.items()},
    }


def check_same(before: Mapping[str, Any], now: Mapping[str, Mapping[str, Any]], root: str) -> None:
    """Refuse data that mean something else than a checkpoint's, such as after `data stats` or an edit of dataset.yaml.

    Args:
        before: As `meaning` returned it, among other things; a checkpoint of an earlier version says less.
        now: As it returns it.
        root: The data set, for messages.

    Raises:
        ConfigError: With what has changed.
    """
    for part, setting in _SETTINGS.items():
        saved, here = before.get(part, {}), now[part]
        if part == "targets" and len(saved) == len(here) == 1:
            here = dict(zip(saved, here.values(), strict=True))  # the same one, whatever it is called
        for name, was in saved.items():
            found = here.get(name, {})
            changed = [f"{key} {was[key]} (now {found.get(key)})" for key in was if was[key] != found.get(key)]
            if changed:
                raise ConfigError(
                    f"{root}: {name}: the checkpoint was trained with {', '.join(changed)}. Put the data set and its "
                    "statistics back to what they were, or start a new run."
                )
        if list(saved) != list(here) and len(saved) == len(here):
            raise ConfigError(
                f"{root}: the checkpoint was trained with {', '.join(saved)}, in this order, and now they are "
                f"{', '.join(here)}: each would be given what another one has learned. Continue with --{setting} "
                f"[{','.join(saved)}]."
            )
