"""A training that starts from a trained model: of the same network and fusion, for other data perhaps."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from polymodal import checkpoint
from polymodal.data import TargetSpec
from polymodal.data.parts import TARGET
from polymodal.errors import CheckpointError, ConfigError
from polymodal.models import head_of
from polymodal.multimodal import Multimodal
from polymodal.transfer import take_over


def check_start(start_from: str | None, start_like: Mapping[str, str] | None, weights: str | None = None) -> None:
    """Refuse settings of a start that say nothing, or say two things.

    Raises:
        ConfigError: With the settings.
    """
    if start_like and start_from is None:
        raise ConfigError("start_like: there is no model to start from. Give --model.start_from, too, or leave it out.")
    if weights is not None and start_from is not None:
        raise ConfigError(
            f"weights: {weights!r} would be replaced by those of start_from, {start_from!r}. Leave one of them out."
        )


def start(
    net: Multimodal, folder: str, network: str, targets: Mapping[str, TargetSpec], like: Mapping[str, str] | None
) -> None:
    """Give a fused network the values of a trained model; the last layers start anew where a target is another one.

    Args:
        net: The network; it is changed.
        folder: The run or model: its folder, or whatever else `checkpoint.load` takes.
        network: The name of the plain network.
        targets: What it is to predict, by name.
        like: See `take_over`.

    Raises:
        CheckpointError: The folder is no model, or one that does not fit.
        ConfigError: The recipe names another network or fusion than the model has; to name no fusion is to train on
            without.
    """
    where = f"--model.start_from {folder}"
    try:
        config = checkpoint.read_config(folder)
    except CheckpointError as error:
        raise CheckpointError(f"--model.start_from: {error}") from error
    spec = config.get("network")
    if spec is None:
        raise CheckpointError(f"{where}: it does not say how to make its network. Load it in Python, and train there.")
    if spec.get("name") != network:
        raise ConfigError(f"{where}: it is of the network {spec.get('name')!r}, and the recipe's is {network!r}.")
    source = checkpoint.load(folder)
    had, has = (list(_names(of.fusion.as_config())) for of in (source, net))
    if has not in (had, ["none"]):
        raise ConfigError(
            f"{where}: it has the fusion {_called(had)}, and the recipe {_called(has)}. Start from a model of the same "
            "fusion, or train without one."
        )
    metadata = config.get("metadata") or {}
    reason = _why_others(metadata.get("targets") or {TARGET: metadata.get("target")}, targets)
    anew = dict.fromkeys(head_of(network, spec["arguments"]), reason) if reason else {}
    taken = take_over(net, source, like=like, anew=anew, called=folder)
    if has != had:
        net.taken_over = replace(taken, left={**taken.left, f"the fusion {_called(had)}": "the recipe has none"})


def _names(fusion: Mapping[str, Any]) -> Iterator[str]:
    """The name of a fusion, then that of the one within it."""
    yield fusion["name"]
    for value in fusion.values():
        if isinstance(value, Mapping) and "name" in value:
            yield from _names(value)


def _called(names: Sequence[str]) -> str:
    return " within ".join(reversed(names))


def _why_others(saved: Mapping[str, Any], targets: Mapping[str, TargetSpec]) -> str:
    """Why the last layers of a model predict other targets; empty if they do not."""
    if len(saved) == len(targets) == 1:  # whatever it is called
        return _why_other(*saved.values(), *targets.values())
    if list(saved) != list(targets):
        return f"the targets are {', '.join(targets)}, and the model's were {', '.join(saved)}"
    reasons = {name: _why_other(saved[name], target) for name, target in targets.items()}
    return "; ".join(f"{name}: {reason}" for name, reason in reasons.items() if reason)


def _why_other(saved: Any, target: TargetSpec) -> str:
    """Why the last layers of a model predict something else; empty if they do not, or it does not say."""
    said = saved if isinstance(saved, Mapping) else {}
    if "kind" in said and said["kind"] != target.kind:
        return f"the target is {target.kind}, and the model's was {said['kind']}"
    if target.kind == "label":
        before, now = said.get("classes"), list(target.classes)
        if before is None or list(before) == now:
            return ""
        if len(before) == len(now):
            return "the classes have other names or another order"
        return f"{len(now)} classes, and the model had {len(before)}"
    before = said.get("channels", target.channels)
    return "" if before == target.channels else f"{target.channels} channels, and the model had {before}"
