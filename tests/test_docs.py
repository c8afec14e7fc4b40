"""The documentation says what works: its code parses, its commands and options exist."""

import argparse
import ast
import re
import shlex
from itertools import pairwise

import pytest

from docs_tools import PAGES, ROOT, blocks, commands, own
from polymodal.cli.parser import make_parser
from polymodal.errors import ConfigError
from polymodal.yaml_documents import parse_yaml

LANGUAGES = {"python", "bash", "yaml"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_have_a_language_and_parse(page):
    """If this breaks, a reader copies what is no code."""
    for block in blocks(page):
        assert block.language in LANGUAGES, block.where
        if block.language == "python":
            ast.parse(block.code, block.where)
        elif block.language == "yaml":
            assert parse_yaml(block.code), block.where
        else:
            assert list(commands(block)), block.where


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_belongs_to_an_item_is_indented_by_four(page):
    """GitHub takes less, the site does not: it would end the list there, and show what follows as one paragraph."""
    lines = page.read_text(encoding="utf-8").splitlines()
    for number, (before, line) in enumerate(pairwise(lines), 2):
        assert before.strip() or not re.match(r" {1,3}\S", line), f"{page.name}:{number}"


def test_commands_are_those_of_the_command_line():
    """If this breaks, a reader types an option that is refused, or a file that is not there."""
    parser = make_parser()
    for page in PAGES:
        for block in blocks(page, "bash"):
            for words in commands(block):
                mine = own(words)
                if mine is None:
                    assert_other(words, block.where)
                # The settings of fit are those of a recipe, and --list-methods does its work while it is parsed.
                elif mine[0] != "fit" and "--list-methods" not in mine:
                    parsed, left = parsed_as(parser, without_import(mine), block.where)
                    assert not left or parsed.takes_settings, (block.where, left)


def parsed_as(parser, words, where):
    """The words parsed, and those that are left for a recipe."""
    try:
        return parser.parse_known_args(words)
    except ConfigError as error:
        raise AssertionError(f"{where}: {error}") from error


def without_import(words):
    """What the parser is given: the modules are imported before."""
    at = words.index("--import") if "--import" in words else len(words)
    return words[:at] + words[at + 2 :]


def assert_other(words, where):
    """Of other programs: the tools and targets of this repository exist, with these options, and the extras."""
    if words[0] == "python":
        tool = (ROOT / words[1]).read_text(encoding="utf-8")
        bench = choices_of(make_parser())["bench"]._option_string_actions
        for option in (word for word in words if word.startswith("--")):
            handed_on = 'main(["bench"' in tool and option in bench
            assert handed_on or f'"{option}"' in tool, f"{where}: {words[1]} has no {option}"
    elif words[0] == "make":
        targets = (ROOT / "Makefile").read_text(encoding="utf-8")
        assert re.search(rf"^{words[1]}:", targets, re.MULTILINE), where
    elif words[0] == "pip" and (extra := re.fullmatch(r"polymodal\[(\w+)\]", words[2])):
        project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
        assert re.search(rf"^{extra[1]} = \[", project, re.MULTILINE), where


def test_options_in_sentences_exist():
    """If this breaks, a sentence promises an option that a command does not have."""
    parser = make_parser()
    for page in PAGES:
        text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        for span in re.findall(r"`polymodal ([a-z][^`]+)`", text):
            words = shlex.split(span)
            below = parser
            while words and words[0] in choices_of(below):
                below = choices_of(below)[words.pop(0)]
            assert below is not parser, f"{page.name}: polymodal {span}"
            if "config" not in below.format_usage():
                known = {option for action in below._actions for option in action.option_strings} | {"--import"}
                assert {word for word in words if word.startswith("--")} <= known, f"{page.name}: polymodal {span}"


def choices_of(parser):
    """The commands below one, by name."""
    return next((a.choices for a in parser._actions if isinstance(a, argparse._SubParsersAction)), {})
