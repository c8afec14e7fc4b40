"""The reference of the command line, from its own parser."""

import argparse
import re
from collections.abc import Iterator

from polymodal.cli.parser import make_parser
from repository import fenced

SETTINGS = (
    "The settings of the groups `model` and `data` are the arguments of the classes that the recipe names: those of "
    "[polymodal.tasks](api/polymodal.tasks.md) and [FolderData](api/polymodal.data.md); those of `trainer` are the "
    "arguments of Lightning's `Trainer`. [Recipes](recipes.md) that come with the package say what each value is for."
)


def pages() -> Iterator[tuple[str, str]]:
    """The one page of all commands."""
    parser = make_parser()
    text = f"# Commands\n\n{parser.description}\n\nOptions that every command takes:\n\n{_table(parser)}"
    yield "reference/commands.md", text + "".join(_sections(parser, "##"))


def _sections(parser: argparse.ArgumentParser, heading: str) -> Iterator[str]:
    for action in parser._actions:
        if not isinstance(action, argparse._SubParsersAction):
            continue
        about = {choice.dest: choice.help or "" for choice in action._choices_actions}
        for name, command in action.choices.items():
            yield f"\n{heading} {command.prog}\n\n{_sentence(about.get(name, ''))}\n"
            if command.description:
                yield f"\n{_escaped(command.description)}\n"
            yield f"\n{fenced(command.format_usage().removeprefix('usage: '), 'text')}\n{_table(command)}"
            if name == "fit":
                yield f"\n{SETTINGS}\n"
            yield from _sections(command, heading + "#")


def _table(parser: argparse.ArgumentParser) -> str:
    formatter = parser._get_formatter()
    rows = []
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction | argparse._SubParsersAction):
            continue
        value = formatter._format_args(action, formatter._get_default_metavar_for_optional(action))
        spelt = [f"{option} {value}".strip() for option in action.option_strings] or [value]
        about = _escaped(formatter._expand_help(action)) if action.help else ""
        need = "required" if action.required and action.option_strings else ""
        rows.append(f"| `{', '.join(spelt)}` | {', '.join(filter(None, (about, need)))} |".replace("|RUN`", "\\|RUN`"))
    return "\n".join(["| argument | what it is for |", "|---|---|", *rows, ""]) if rows else ""


def _sentence(text: str) -> str:
    return _escaped(text[:1].upper() + text[1:] + "." * bool(text))


def _escaped(text: str) -> str:
    """Text of a terminal as Markdown, its options as code."""
    words = re.split(r"((?<![\w-])--[a-z][\w.-]*\w)", text)
    return "".join(f"`{word}`" if i % 2 else _plain(word) for i, word in enumerate(words))


def _plain(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*").replace("_", "\\_").replace("[", "\\[").replace("<", "&lt;")
