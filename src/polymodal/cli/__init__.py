"""The command line: says what the floors below can do, and loads them only when they are asked.

Exit status: 0 when all went well, 1 when `data check` found defects or something broke in polymodal itself, 2 when
something has to be mended by the user, 128 and the number of a signal after one, as 141 when nobody reads the output.
"""

import importlib
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path

from polymodal.allocator import keep_freed_memory
from polymodal.cli.parser import make_parser
from polymodal.errors import ConfigError, PolymodalError

_AS_PYTHON = warnings.formatwarning

HALF = 400
"""Letters of a long message's beginning that are shown, and of its end."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: The words after `polymodal`; those of the process when not given.

    Returns:
        The exit status.
    """
    if arguments is None:
        # Processes that this one starts look for modules in the current folder first, unless they are told not to.
        os.environ["PYTHONSAFEPATH"] = "1"
        warnings.formatwarning = _formatted
        if os.environ.get("LOCAL_RANK", "0") != "0":  # of several processes the first one says why they end
            signal.signal(signal.SIGINT, signal.SIG_DFL)
    words = list(sys.argv[1:] if arguments is None else arguments)
    with_traceback = "--traceback" in words
    words = [word for word in words if word != "--traceback"]
    if words[:1] != ["data"]:  # it runs no network, and large pictures leave holes that nothing fits in
        keep_freed_memory()
    try:
        words = _import_modules(words)
        # The parser of `fit` is made of the classes that a recipe names, so the front only passes the words on.
        if words[:1] == ["fit"] and words[1:] not in (["-h"], ["--help"]):
            from polymodal.runs.training import fit

            fit(words[1:])
            return _told(0)
        parser = make_parser()
        if not words:
            parser.print_help(sys.stderr)
            return 2
        parsed, settings = parser.parse_known_args(words)
        # The tool's own defaults have replaced what was given before it.
        if words[0] == "bench" and parsed.tool and words[1] != parsed.tool:
            parser.error(f"bench {parsed.tool}: expected its options behind it, got {words[1]!r} before it")
        if settings and not parsed.takes_settings:
            parser.refuse(settings, words)
        parsed.settings = settings
        return _told(int(parsed.run(parsed) or 0))
    except KeyboardInterrupt:
        print("polymodal: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of a pipe has seen enough, and the work may not be done. Without this Python complains at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # 128 and SIGPIPE, which some systems lack
    except Exception as error:
        to_mend = _is_for_the_user(error)
        if with_traceback or not to_mend:
            traceback.print_exc()
        else:
            print(f"polymodal: {_message(error)}", file=sys.stderr)
        return 2 if to_mend else 1


def _told(status: int) -> int:
    """The status of a command, once what it has printed was taken: a closed pipe is noticed here at the latest."""
    sys.stdout.flush()
    return status


def _formatted(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """A warning for people; of polymodal's own without the place in the source that gives it."""
    own = Path(filename).is_relative_to(Path(__file__).parents[1])
    return f"polymodal: warning: {message}\n" if own else _AS_PYTHON(message, category, filename, lineno, line)


def _import_modules(words: Sequence[str]) -> list[str]:
    """Import what `--import MODULE` names, from the current folder, too; the words without it."""
    here = str(Path.cwd())
    # --import and recipes name a user's classes, which lie there. At the end, so that they hide nothing.
    by_recipe = words[:1] in (["fit"], ["compare"], ["tune"], ["bench"])
    named = by_recipe or any(word.startswith("--import") for word in words)
    if named and here not in sys.path and "" not in sys.path:
        sys.path.append(here)
    left: list[str] = []
    rest = iter(words)
    for word in rest:
        option, equals, module = word.partition("=")
        if option != "--import":
            left.append(word)
            continue
        module = module if equals else next(rest, "")
        try:
            importlib.import_module(module)
        except (ImportError, ValueError) as error:
            raise ConfigError(
                f"--import {module or 'MODULE'}: {error}. Expected the name of a module, such as my_fusion for "
                "my_fusion.py in this folder."
            ) from error
    return left


def _is_for_the_user(error: Exception) -> bool:
    from pickle import UnpicklingError

    # A checkpoint that would have executed something is refused as an UnpicklingError.
    return isinstance(error, PolymodalError | OSError | UnpicklingError)


def _message(error: Exception) -> str:
    """One line: what it quotes can be long, or hold what a terminal would obey."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = ": ".join(part for part in (str(error.filename or ""), error.strerror) if part)
    text = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
    # Where something is wrong is said first, what to do about it last.
    return text if len(text) <= 2 * HALF else f"{text[:HALF]} ... {text[-HALF:]}"
