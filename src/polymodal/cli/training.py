"""Commands that train: demo, fit, compare, tune."""

import argparse
from pathlib import Path
from typing import Any

from polymodal.cli import typed

TRUST = (
    "A recipe is code: the classes that it names are imported and called, also from the current folder. Read one from "
    "somebody else before you use it."
)


def add(commands: Any) -> None:
    """Add these commands."""
    demo = commands.add_parser("demo", help="train on the embedded rooms with and without exchange, and compare")
    demo.add_argument("--out", type=Path, help="folder of it all (runs/demo, or runs/demo-translation)")
    demo.add_argument("--seed", type=int, default=0, help="of all trainings (%(default)s)")
    demo.add_argument(
        "--task",
        choices=("segmentation", "translation"),
        default="segmentation",
        help="predict classes, or images from images (%(default)s)",
    )
    demo.set_defaults(run=_demo)

    commands.add_parser(
        "fit",
        usage="polymodal fit --config RECIPE.yaml [--SETTING VALUE ...]",
        help="train by a recipe: --config RECIPE.yaml, then anything to override in it",
        description="Train by a recipe into the run folder trainer.default_root_dir. Every setting of the recipe can "
        f"be overridden by its dotted name, such as --data.root DIR or --trainer.max_epochs 2. {TRUST}",
        epilog="All settings with their values: polymodal fit --config RECIPE.yaml --print_config. What they mean: "
        "polymodal fit --model.help polymodal.tasks.Segmentation (or Translation), "
        "--data.help polymodal.data.FolderData; of trainer, Lightning's documentation of its Trainer says it.",
    )

    compare = commands.add_parser(
        "compare",
        usage="polymodal compare --config RECIPE.yaml --methods NAME[,NAME ...] [--SETTING VALUE ...]",
        help="train methods of fusion with the same recipe, seeds and budget, and write one table",
        description="Train every method with every seed by a recipe and write table.md, table.csv and report.html. "
        "Started again, it goes on where it was. Every setting of the recipe can be overridden by its dotted name. "
        f"{TRUST}",
        allow_abbrev=False,
    )
    compare.add_argument("--list-methods", action=ListMethods, nargs=0, help="what can be compared, a line each")
    compare.add_argument("--config", type=Path, required=True, metavar="RECIPE.yaml", help="what all methods share")
    compare.add_argument("--methods", required=True, metavar="NAMES", help="names or groups, see --list-methods")
    compare.add_argument("--seeds", default="0,1,2", metavar="S,S", help="each method runs with each (%(default)s)")
    compare.add_argument("--out", type=Path, default=Path("runs/compare"), help="folder of it all (%(default)s)")
    compare.add_argument("--jobs", type=int, metavar="N", help="runs at a time; one on each GPU if not given")
    compare.add_argument("--split", choices=("val", "test"), default="val", help="which scores (%(default)s)")
    compare.add_argument(
        "--reference",
        metavar="METHOD",
        help="what the others are held against; if not given, the method that is the recipe as it stands, or the first",
    )
    compare.add_argument(
        "--match",
        choices=("parameters", "macs"),
        help="scale every method to have as many as the reference: parameters by its width, multiply-accumulates by "
        "the size of the images; if not given, methods have what they have",
    )
    compare.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="train as tasks of the Ray cluster whose head is HOST:PORT, or of a local one; if not given, as processes "
        "of this machine. pip install 'polymodal[ray]'",
    )
    compare.set_defaults(run=_compare, takes_settings=True)
    _add_tune(commands)


def _add_tune(commands: Any) -> None:
    tune = commands.add_parser(
        "tune",
        usage="polymodal tune RECIPE.yaml --space SPACE.yaml [--SETTING VALUE ...]",
        help="search settings of a recipe by Optuna: the best recipe as a file, and a page",
        description="Train trials of a recipe whose settings lie in a space, a YAML file that says of dotted settings "
        "{low, high}, {low, high, log: true} or {choices: [...]}. Trials that are worse than the median of those "
        f"before them are ended early. Started again, it goes on where it was. pip install 'polymodal[tune]'. {TRUST}",
        allow_abbrev=False,
    )
    tune.add_argument("config", type=Path, metavar="RECIPE.yaml", help="what all trials share")
    tune.add_argument("--space", type=Path, required=True, metavar="SPACE.yaml", help="what is searched")
    tune.add_argument("--trials", type=int, default=20, metavar="N", help="how many in all (%(default)s)")
    tune.add_argument("--seed", type=int, default=0, help="of all trainings, and of what is drawn (%(default)s)")
    tune.add_argument("--out", type=Path, default=Path("runs/tune"), help="folder of it all (%(default)s)")
    tune.add_argument("--jobs", type=int, metavar="N", help="trials at a time; one on each GPU if not given")
    tune.set_defaults(run=_tune, takes_settings=True)


class ListMethods(argparse.Action):
    """Prints the methods and ends, whatever else is missing."""

    def __call__(self, parser: argparse.ArgumentParser, *arguments: Any) -> None:
        """List them."""
        del arguments
        from polymodal.runs.methods import methods

        example = ("rgb", "depth")
        print(
            f"Methods of a recipe with the modalities {' and '.join(example)}, behind each the groups that choose it:"
        )
        for name, method in methods(example).items():
            print(f"{name} ({', '.join((*method.groups, 'all'))}): {method.title}. {method.about}")
        parser.exit()


def _demo(parsed: argparse.Namespace) -> None:
    if parsed.task == "translation":
        from polymodal.runs.demo_translation import run_translation_demo

        run_translation_demo(parsed.out or Path("runs/demo-translation"), parsed.seed)
        return
    from polymodal.runs.demo import run_demo

    run_demo(parsed.out or Path("runs/demo"), parsed.seed)


def _compare(parsed: argparse.Namespace) -> None:
    from polymodal.errors import ConfigError
    from polymodal.runs.compare import compare

    try:
        seeds = [int(word) for word in parsed.seeds.split(",") if word.strip()]
    except ValueError as error:
        raise ConfigError(f"--seeds: expected numbers such as 0,1,2, got {parsed.seeds!r}.") from error
    compare(
        parsed.config,
        typed.names(parsed.methods),
        seeds,
        parsed.out,
        jobs=parsed.jobs,
        split=parsed.split,
        overrides=parsed.settings,
        reference=parsed.reference,
        match=parsed.match,
        ray=parsed.ray,
    )


def _tune(parsed: argparse.Namespace) -> None:
    from polymodal.runs.tune import tune

    tune(
        parsed.config,
        parsed.space,
        parsed.trials,
        parsed.out,
        seed=parsed.seed,
        jobs=parsed.jobs,
        overrides=parsed.settings,
    )
