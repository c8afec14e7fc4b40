"""Methods of a comparison at equal cost: each is scaled until it has the parameters or the MACs of the reference.

Parameters are matched by width: all channels of the network times one factor. Multiply-accumulates are matched by the
size of the images, with the training's crops in proportion; where predictions are scored at the size of the inputs, as
images are, that would change what is scored, and they are matched by width, too.
"""

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from polymodal import models
from polymodal.costs import cost
from polymodal.errors import ConfigError, PolymodalError
from polymodal.models.widths import widths
from polymodal.report.render import count
from polymodal.runs.methods import Method
from polymodal.tasks.base import Task
from polymodal.tasks.outputs import Labels

What = Literal["parameters", "macs"]

WITHIN = 0.02
"""How far a method may be from the budget, as a share of it."""

LEAST, MOST = 0.25, 4.0
"""Factors that are tried."""

Build = Callable[[str], tuple[Task, Any]]
"""The task of a method, with its network, and its data module."""


def matched(
    what: What, reference: str, names: Sequence[str], known: Mapping[str, Method], build: Build
) -> dict[str, Method]:
    """Methods with what else they change to cost what the reference does; what is that already stays as it is.

    Methods that cannot be built are left as they are, for whoever builds them next to say so.

    Args:
        what: What is to be equal.
        reference: The method with the budget.
        names: The methods to scale.
        known: All methods.
        build: Makes a method's network.

    Raises:
        ConfigError: No width or size brings a method within 2 % of the budget, or the reference cannot be built.
    """
    try:
        budget = getattr(cost(*_measured(*build(reference))), what)
    except PolymodalError as error:
        raise ConfigError(f"--match {what}: the method {reference!r} sets the budget, but {error}") from error
    found = {}
    for name in names:
        try:
            task, data = build(name)
        except PolymodalError:
            continue
        net, size = _measured(task, data)
        if _close(getattr(cost(net, size), what), budget):
            found[name] = replace(known[name], matched="as it is")
            continue
        by_width = what == "parameters" or not isinstance(task.output, Labels)
        changes, how = (_by_width if by_width else _by_size)(task, data, what, budget, f"--match {what}: {name}")
        found[name] = replace(known[name], overrides={**known[name].overrides, **changes}, matched=how)
    return found


def _measured(task: Task, data: Any) -> tuple[Any, Sequence[int]]:
    """The network as it predicts, and the size that it is scored at."""
    return task.fused.eval(), next(iter(data.val_dataloader().dataset[0]["inputs"].values())).shape[-2:]


def _close(value: int, budget: int) -> bool:
    return abs(value - budget) <= WITHIN * budget


def _by_width(task: Task, data: Any, what: What, budget: int, where: str) -> tuple[dict[str, Any], str]:
    given = widths(task.network, task.arguments)
    if not given:
        raise ConfigError(
            f"{where}: the width of {task.network} is not free, as its encoder comes in sizes of its own. "
            + ("Use --match macs, or leave the method out." if what == "parameters" else "Leave the method out.")
        )
    flat = [width for value in given.values() for width in (value if isinstance(value, list) else [value])]
    _, size = _measured(task, data)

    def arguments(scaled: Sequence[int]) -> dict[str, Any]:
        rest = iter(scaled)
        return {
            key: [next(rest) for _ in value] if isinstance(value, list) else next(rest) for key, value in given.items()
        }

    def costs(scaled: Sequence[int]) -> int:
        plain = models.create(task.network, **{**task.arguments, **arguments(scaled)})
        return int(getattr(cost(task.fuse(plain, data.channels).eval(), size), what))

    factor, scaled = _nearest(flat, costs, budget, f"{where}: no width of {task.network}", "channels")
    return {"model.network_args": {**task.network_args, **arguments(scaled)}}, f"width ×{factor:.2f}"


def _by_size(task: Task, data: Any, what: What, budget: int, where: str) -> tuple[dict[str, Any], str]:
    net, size = _measured(task, data)

    def costs(scaled: Sequence[int]) -> int:
        try:
            return int(getattr(cost(net, scaled), what))
        except RuntimeError as error:
            raise ConfigError(f"{where}: {task.network} cannot take images of {_text(scaled)} ({error}).") from error

    factor, (height, width) = _nearest(size, costs, budget, f"{where}: no size of the images", "pixels")
    changes: dict[str, Any] = {"data.size": [height, width]}
    if data.augment.crop is not None:
        changes["data.augment.crop"] = _times(data.augment.crop, factor)
    if data.augment.min_side > 1:
        changes["data.augment.min_side"] = _times([data.augment.min_side], factor)[0]
    return changes, f"images of {_text((height, width))}"


def _nearest(
    values: Sequence[int], costs: Callable[[Sequence[int]], int], budget: int, nothing: str, unit: str
) -> tuple[float, list[int]]:
    """The factor of some numbers, and the numbers with it, whose cost is nearest to a budget.

    The costs grow with the factor, so of all that differ a few are counted.

    Raises:
        ConfigError: The nearest is not within 2 % of the budget.
    """
    # Where a number is rounded to the next one; a little behind it, to be there whatever the arithmetic.
    steps = {
        (k + 0.5) / value * (1 + 1e-9) for value in values for k in range(int(LEAST * value), int(MOST * value) + 1)
    }
    factors = sorted(step for step in steps if LEAST <= step <= MOST)
    counted: dict[int, int] = {}

    def at(index: int) -> int:
        if index not in counted:
            counted[index] = costs(_times(values, factors[index]))
        return counted[index]

    above = bisect_left(range(len(factors)), budget, key=at)
    near = min((i for i in (above - 1, above) if 0 <= i < len(factors)), key=lambda i: abs(at(i) - budget))
    if not _close(at(near), budget):
        shown = ", ".join(map(str, _times(values, factors[near])))
        raise ConfigError(
            f"{nothing} is within 2 % of {count(budget)}: the nearest has {count(at(near))}, with {shown} {unit}. "
            "Leave the method out, or choose another --reference."
        )
    return factors[near], _times(values, factors[near])


def _times(values: Sequence[int], factor: float) -> list[int]:
    return [max(1, int(value * factor + 0.5)) for value in values]


def _text(size: Sequence[int]) -> str:
    """A height and a width as people say them."""
    return f"{size[1]}x{size[0]}"
