"""The command line: says what the floors below can do, and loads them only when they are asked.

Exit status: 0 when all went well, 1 when `data check` found defects, 2 when something has to be mended by the user.
"""

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

DESCRIPTION = "Several aligned images of one scene in, one dense map out: any batch-norm CNN made multimodal."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: The words after `polymodal`; those of the process when not given.

    Returns:
        The exit status.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    with_traceback = "--traceback" in words
    words = [word for word in words if word != "--traceback"]
    try:
        # The parser of `fit` is made of the classes that a recipe names, so the front only passes the words on.
        if words[:1] == ["fit"]:
            return _fit(words[1:])
        parsed = _parser().parse_args(words)
        return int(parsed.run(parsed) or 0)
    except KeyboardInterrupt:
        print("polymodal: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of a pipe has seen enough; without this Python complains while it shuts down.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if with_traceback or not _is_for_the_user(error):
            traceback.print_exc()
        else:
            print(f"polymodal: {_message(error)}", file=sys.stderr)
        return 2


def _is_for_the_user(error: Exception) -> bool:
    from polymodal.errors import PolymodalError

    return isinstance(error, PolymodalError | OSError)


def _message(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return ": ".join(part for part in (str(error.filename or ""), error.strerror) if part)
    return str(error)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("polymodal", description=DESCRIPTION)
    parser.add_argument("--traceback", action="store_true", help="show where in the code an error came from")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    commands.add_parser("fit", help="train by a recipe: --config RECIPE.yaml, then anything to override in it")

    report = commands.add_parser("report", help="write the page of a run, or of several side by side")
    report.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders")
    report.add_argument("--out", type=Path, help="the page; report.html in the first run folder if not given")
    report.set_defaults(run=_report)
    return parser


def _fit(words: list[str]) -> int:
    from polymodal.tasks.training import fit

    fit(words)
    return 0


def _report(parsed: argparse.Namespace) -> None:
    from polymodal.report import write_report

    print(write_report(parsed.runs, parsed.out or parsed.runs[0] / "report.html"))
