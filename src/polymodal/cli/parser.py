"""The parser of the command line: each group of commands adds its own, with what it calls."""

import argparse
import re
from collections.abc import Sequence
from typing import Any, NoReturn

import polymodal
from polymodal.cli import bench, data, models, training
from polymodal.errors import ConfigError
from polymodal.near import meant

DESCRIPTION = "Several aligned images of one scene in, one dense map out: your network made multimodal."


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, and what may have been meant; a screen of usage would hide it."""

    words: Sequence[str] = ()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As of any parser, which would take the last of two values that one option is given, without a word.

        `error` is not told the words otherwise.
        """
        self.words = args or ()
        named = [word.partition("=")[0] for word in self.words]
        for action in self._actions:
            if isinstance(action, argparse._StoreAction) and sum(map(named.count, action.option_strings)) > 1:
                self.error(f"{action.option_strings[0]} is given twice")
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Refuse the command line.

        Raises:
            ConfigError: Always.
        """
        known = [option for action in self._actions for option in action.option_strings]
        typed = [word.partition("=")[0] for word in self.words if word.startswith("--")]
        # What is missing may be there under a misspelt name.
        missing = message.startswith("the following arguments are required")
        if missing and (misspelt := [word for word in typed if word not in known and meant(word, known) != "."]):
            self.refuse(misspelt, ())
        choice = re.fullmatch(r"argument (.+?): invalid choice: '(.*)' \(choose from (.*)\)", message)
        if choice:
            choices = choice[3].replace("'", "")
            message = (
                f"{choice[1]}: there is no {choice[2]!r}{meant(choice[2], choices.split(', '))} There are {choices}"
            )
        raise ConfigError(f"{message.removeprefix('argument ')}. See {self.prog} --help.")

    def refuse(self, left: Sequence[str], words: Sequence[str]) -> NoReturn:
        """Refuse words that no command takes.

        Args:
            left: These words, an unknown option first if there is one.
            words: The whole command line.

        Raises:
            ConfigError: Always.
        """
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                named = next((i for i, word in enumerate(words) if word in action.choices), None)
                if named is not None:
                    below: Parser = action.choices[words[named]]
                    below.refuse(left, words[named + 1 :])
        word = next((word for word in left if word.startswith("-")), left[0]).partition("=")[0]
        known = [option for action in self._actions for option in action.option_strings]
        if word.startswith("-"):
            raise ConfigError(f"there is no option {word}{meant(word, known)} See {self.prog} --help.")
        raise ConfigError(f"{word!r} is one word too many. See {self.prog} --help.")


def make_parser() -> Parser:
    """The parser of all commands; what it parses has the function to call as `run`."""
    parser = Parser("polymodal", description=DESCRIPTION)
    parser.add_argument("--traceback", action="store_true", help="show where in the code an error came from")
    parser.add_argument(
        "--import",
        action="append",
        metavar="MODULE",
        help="import, and so run, a module of your own first, such as the one that holds a model's fusion; may be "
        "given repeatedly",
    )
    parser.add_argument("--version", action="version", version=f"polymodal {polymodal.__version__}")
    parser.set_defaults(takes_settings=False)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for group in (training, models, bench, data):
        group.add(commands)
    return parser
