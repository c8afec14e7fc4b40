"""What is typed behind an option, as Python values."""

from collections.abc import Callable, Sequence
from typing import Any

from polymodal.errors import ConfigError


def names(text: str | None) -> list[str]:
    """The words between commas behind an option; none without it."""
    return [word.strip() for word in (text or "").split(",") if word.strip()]


def numbers(text: str | None, convert: Callable[[str], Any], option: str) -> tuple[Any, ...]:
    """The numbers between commas behind an option; none without it."""
    try:
        return () if text is None else tuple(convert(word) for word in text.split(","))
    except ValueError as error:
        raise ConfigError(f"{option}: expected numbers between commas, got {text!r}.") from error


def number(text: str, option: str) -> float:
    """The one number behind an option."""
    try:
        return float(text)
    except ValueError as error:
        raise ConfigError(f"{option}: expected one number, got {text!r}.") from error


def values(words: Sequence[str], option: str) -> dict[str, Any]:
    """The words KEY=VALUE behind an option, the values as in YAML."""
    from polymodal.yaml_documents import parse_yaml

    try:
        return {name: parse_yaml(text) for name, text in pairs(words, option, "KEY=VALUE").items()}
    except ValueError as error:
        raise ConfigError(f"{option}: expected values as in YAML, got {' '.join(words)}.") from error


def pairs(words: Sequence[str], option: str, form: str) -> dict[str, str]:
    """The words NAME=VALUE behind an option."""
    found: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not (name and equals and value):
            raise ConfigError(f"{option}: expected {form}, got {word!r}.")
        if name in found:
            raise ConfigError(f"{option}: {name!r} is named twice.")
        found[name] = value
    return found
