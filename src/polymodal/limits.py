"""Which values settings may have: said once for each, as what a message expects."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from polymodal.errors import ConfigError, PolymodalError


class Limit(NamedTuple):
    """What a setting may be.

    Attributes:
        holds: Whether a value is allowed; of one of another type it may raise a TypeError.
        expected: What is, for messages.
    """

    holds: Callable[[Any], bool]
    expected: str


def at_least(least: int, remark: str = "") -> Limit:
    """Numbers from one on."""
    return Limit(lambda value: least <= value < math.inf, f"{least} or more{remark}")


def each(limit: Limit, expected: str) -> Limit:
    """Lists of such values, or mappings to them."""
    return Limit(lambda found: all(map(limit.holds, found.values() if isinstance(found, Mapping) else found)), expected)


def or_none(limit: Limit) -> Limit:
    """What a limit allows, or nothing."""
    return Limit(lambda value: value is None or limit.holds(value), f"{limit.expected}, or null")


ABOVE_0 = Limit(lambda value: 0 < value < math.inf, "a finite number above 0")
FROM_0 = Limit(lambda value: 0 <= value < math.inf, "a finite number, 0 or more")
SHARE = Limit(lambda value: 0 <= value <= 1, "a share from 0 to 1")


def check(
    settings: Mapping[str, Any], limits: Mapping[str, Limit], prefix: str = "", kind: type[PolymodalError] = ConfigError
) -> None:
    """Refuse a value that its setting may not have.

    Args:
        settings: Values by name; others than those that are limited may be among them.
        limits: By name.
        prefix: What messages put before a name.
        kind: Of the error.

    Raises:
        PolymodalError: Of that kind, with the setting, what is expected and what came.
    """
    for name, (holds, expected) in limits.items():
        value = settings[name]
        try:
            allowed = holds(value)
        except (TypeError, ValueError):
            allowed = False
        if not allowed:
            raise kind(f"{prefix}{name}: expected {expected}, got {'null' if value is None else value}.")
