"""The parser of the command line: each group of commands adds its own, with what it calls."""

import argparse

import polymodal
from polymodal.cli import bench, data, models, training

DESCRIPTION = "Several aligned images of one scene in, one dense map out: any batch-norm CNN made multimodal."


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands; what it parses has the function to call as `run`."""
    parser = argparse.ArgumentParser("polymodal", description=DESCRIPTION)
    parser.add_argument("--traceback", action="store_true", help="show where in the code an error came from")
    parser.add_argument(
        "--import",
        action="append",
        metavar="MODULE",
        help="import a module of your own first, such as the one that holds a model's fusion; may be given repeatedly",
    )
    parser.add_argument("--version", action="version", version=f"polymodal {polymodal.__version__}")
    parser.set_defaults(takes_settings=False)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for group in (training, models, bench, data):
        group.add(commands)
    return parser
