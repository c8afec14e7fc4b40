"""What is wrong with a setting, in one line, where jsonargparse tells how it came to think so.

jsonargparse tries every type that a setting may have and reports every attempt, nested as the types are. Of these
attempts the first one and what it stumbled over are of use.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from inspect import signature
from os import PathLike
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace, get_loader, set_loader
from lightning.pytorch.cli import LightningArgumentParser

from polymodal.documents import DocumentError
from polymodal.errors import ConfigError
from polymodal.near import meant, nearest
from polymodal.yaml_documents import parse_yaml

_MODE = "recipe"
"""How values are read, which jsonargparse knows by a name."""

MAX_SETTINGS = 600
"""Values of a recipe, or of one word of a command line: jsonargparse copies a list for each of its items."""

_UNKNOWN = re.compile(
    r"(?:Option '(?P<option>[^']+)' is not accepted"
    r"|(?:Group '(?P<group>[^']+)'|Subcommand '[^']+') does not accept option '(?P<member>[^']+)'"
    r"|unrecognized arguments: (?P<word>\S+))"
)
_NO_CLASS = re.compile(r"Expected a dot import path string: (?P<path>\S+)|has no attribute '(?P<name>\w+)'")
_CLASS = re.compile(r"Problem with given class_path '([\w.]+)':")
_KEY = re.compile(r'Parser key "([^"]+)":')
_ATTEMPT = (
    "Parser key", "Does not validate", "Subtypes:", "Errors:", "Given value", "Problem with given", "Subclass types",
    "Not a valid subclass", "a class path", "a dict with", "Expected a path but",
)  # fmt: skip
"""How the lines begin that tell what was tried."""
_TYPE = re.compile(r"Expected an? (<class|typing\.|collections\.|list\[|tuple\[|dict\[)")


def _value(text: str) -> Any:
    """A value on the command line, or in a file that a recipe names: of a key that is there twice none counts."""
    try:
        value = get_loader("yaml")(text)
    except RecursionError:
        value = []
    if isinstance(value, dict | list):  # anything else is a text, whatever it would be as YAML
        try:
            parse_yaml(text, MAX_SETTINGS)
        except DocumentError as error:
            raise ConfigError(f"{text[:60]!r}: {error.problem}.") from error
    return value


set_loader(_MODE, _value, (yaml.YAMLError,))


class RecipeParser(LightningArgumentParser):
    """Raises what cannot be parsed, and takes a setting's whole name alone, at every depth."""

    def __init__(self, **settings: Any) -> None:
        own: dict[str, Any] = {"exit_on_error": False, "allow_abbrev": False, "parser_mode": _MODE}
        super().__init__(**own | settings)

    def parse_string(self, content: str, path: str | PathLike[str] = "", **settings: Any) -> Namespace:
        """Read a recipe within the bounds of documents; of a key that is there twice jsonargparse takes the last."""
        where = f"--config: {path}" if path else "--config"
        try:
            values = parse_yaml(content, MAX_SETTINGS)
        except DocumentError as error:
            raise ConfigError(f"{error.at(where)}.") from error
        if not isinstance(values, dict):
            got = "nothing" if values is None else f"{content.strip()[:60]!r}"
            raise ConfigError(f"{where}: expected settings, those of model, data and trainer among them, got {got}.")
        return super().parse_string(content, path, **settings)


def recipes_first(words: Sequence[str]) -> list[str]:
    """The words of a command line with its recipes in front of all settings, which override them wherever they stand.

    Of a recipe and a setting, jsonargparse takes what comes last.
    """
    recipes: list[str] = []
    settings: list[str] = []
    rest = iter(words)
    for word in rest:
        if word in ("--config", "-c"):
            recipes += [word, *([file] if (file := next(rest, None)) is not None else [])]
        else:
            joined = word.startswith("--config=") or (word.startswith("-c") and not word.startswith("--"))
            (recipes if joined else settings).append(word)
    return [*recipes, *settings]


def check_groups(settings: Mapping[str, Any]) -> None:
    """Refuse null for settings that come in a group, of which each has a default.

    Args:
        settings: Each a class and what it is made with, by name.

    Raises:
        ConfigError: With the group's name and its first setting.
    """
    for owner, made in settings.items():
        for name, parameter in signature(resolve_name(made.class_path)).parameters.items():
            if is_dataclass(parameter.annotation) and made.init_args.get(name, made) is None:
                first = fields(parameter.annotation)[0].name
                raise ConfigError(
                    f"--{owner}.{name}: expected settings, such as --{owner}.{name}.{first}, got null. Leave it out "
                    "for the defaults."
                )


def refusal(message: str, parser: ArgumentParser, recipes: Path) -> str:
    """Why a command line or a recipe cannot be parsed, in one line.

    Args:
        message: What jsonargparse says.
        parser: Of all settings; it knows their names.
        recipes: The folder of those that come with the package.
    """
    message = _first_attempt(message)
    keys = _KEY.findall(message)
    where = f"--{'.'.join(keys)}: " if keys else ""
    if unknown := _UNKNOWN.search(message):
        if (word := unknown["word"]) and not word.startswith("-") and "." not in word:
            return f"{word!r}: expected settings as --NAME VALUE."
        owner = ([None, *_CLASS.findall(message[: unknown.start()])])[-1]
        name = unknown["option"] or ".".join(filter(None, (unknown["group"], unknown["member"]))) or unknown["word"]
        return _unknown(name, keys, owner, parser)
    if missing := re.match(r"the following arguments are required: (.*)", message):
        return f"expected --config RECIPE.yaml, or the settings {missing[1].replace('fit.', '')}."
    if absent := _NO_CLASS.search(message):
        name = (absent["path"] or absent["name"]).rpartition(".")[2]
        return f"{where}there is no class {absent['path'] or name}{_instead(name, _classes_for(message))}"
    said = essence(message)
    if file := re.search(r"(?:File does not exist|Path is not a file): '(.*)'", message):
        named = [own for own in sorted(recipes.rglob("*.yaml")) if own.stem == Path(file[1]).stem]
        return f"--config: there is no file {file[1]}. The package has {named[0] if named else f'those in {recipes}'}."
    if not said:
        return f"{where}{_expected(message)}"
    made = "".join(f"{path.rpartition('.')[2]}: " for path in _CLASS.findall(message)[-1:])
    return f"{where}{made}{said.rstrip('.')}."


def essence(message: str) -> str:
    """What is said beside which types were tried; "" where that is all."""
    lines = [line.strip().removeprefix("- ") for line in message.splitlines()]
    return " ".join(line for line in lines if line and not line.startswith(_ATTEMPT) and not _TYPE.match(line))


def _first_attempt(message: str) -> str:
    """The message without the attempts at other classes, once one was tried."""
    kept: list[str] = []
    tried: set[int] = set()
    left_out: int | None = None
    for line in message.splitlines():
        depth = len(line) - len(line.lstrip())
        if left_out is not None and depth > left_out:
            continue
        left_out = None
        if line.lstrip().startswith("- Problem with"):
            if depth in tried:
                left_out = depth
                continue
            tried.add(depth)
        kept.append(line)
    return "\n".join(kept)


def _unknown(name: str, keys: Sequence[str], owner: str | None, parser: ArgumentParser) -> str:
    """That a setting is not there, and the nearest one that is.

    Args:
        name: As it was given, below `keys`, perhaps as `--name=value`.
        keys: Where it stands.
        owner: The class that was given it; None for the settings of all.
        parser: Of all settings.
    """
    name = name.lstrip("-").partition("=")[0]
    prefix = "".join(f"{key}." for key in keys)
    known = _names(parser if owner is None else _parser_of(owner))
    found = f"--{prefix}{name}: there is no such setting"
    if owner is not None:
        return found + _instead(name, known, f"--{prefix}", owner.rpartition(".")[2])
    head, dot, rest = name.partition(".")
    near = nearest(name, known)
    if not near and (other := nearest(head, {known_name.partition(".")[0] for known_name in known})) not in (
        None,
        head,
    ):
        near = f"{other}{dot}{rest}"
    advice = f"did you mean --{near}?" if near else "all of them: polymodal fit --config RECIPE.yaml --print_config."
    return f"{found}; {advice}"


def _instead(name: str, known: Sequence[str], prefix: str = "", owner: str = "") -> str:
    """The nearest of the names that could be meant, or all of them."""
    if nearest(name, known):
        return meant(name, known, prefix + "{}")
    return f"; {owner or 'there'} {'has' if owner else 'are'} {', '.join(known)}." if known else "."


def _names(parser: ArgumentParser) -> list[str]:
    options = [option for action in parser._actions for option in action.option_strings]
    return [option.removeprefix("--") for option in options if option.startswith("--") and option[-1] != "+"]


def _parser_of(path: str) -> ArgumentParser:
    """Of the settings of a class alone."""
    parser = ArgumentParser(exit_on_error=False, add_help=False)
    parser.add_class_arguments(resolve_name(path), fail_untyped=False)
    return parser


def _classes_for(message: str) -> list[str]:
    """The names of all classes that the innermost setting could be of; none where the message does not say."""
    types = message.rpartition("Subtypes:")[2].partition("\n")[0] if "Subtypes:" in message else ""
    paths = dict.fromkeys(re.findall(r"(?:lightning|polymodal)(?:\.\w+)+", types))
    kinds = {kind: base for base in map(resolve_name, paths) for kind in _below(base)}
    # What every run has from this package anyway is no choice.
    return sorted(
        kind.__name__
        for kind, base in kinds.items()
        if not kind.__name__.startswith("_")
        and not (base.__module__.startswith("lightning") and kind.__module__.startswith("polymodal.runs"))
    )


def _below(base: type) -> Iterator[type]:
    kind: type
    for kind in base.__subclasses__():
        yield kind
        yield from _below(kind)


def _expected(message: str) -> str:
    """Which types or values the innermost setting could have, and what was given."""
    inner = message.rpartition('Parser key "')[2]
    types = re.search(r"Subtypes: \[(.*)\]\n", inner) or re.search(r"Expected an? (.*?)(?:\. Got value|\n|$)", inner)
    given = re.search(r"(?:Given|Got) value: (.*)", inner)
    names = re.sub(r"typing\.Literal\[(.*?)\]", r"\1", types[1] if types else "another value")
    names = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", names).replace("NoneType", "null").replace("typing.", "")
    return f"expected {' or'.join(names.rsplit(',', 1))}, got {given[1] if given else 'nothing'}."
