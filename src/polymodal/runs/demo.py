"""The same small network on the same scenes twice, with channel exchange and without: what `polymodal demo` shows."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from polymodal.errors import ConfigError
from polymodal.files import is_empty
from polymodal.locks import locked
from polymodal.report import write_report
from polymodal.report.render import count, duration, share
from polymodal.run_folder import REPORT, scores_file
from polymodal.runs import children
from polymodal.runs.console import print_table
from polymodal.runs.files import write_json
from polymodal.runs.precision import demo_precision
from polymodal.runs.trainer_settings import SEEDS
from polymodal.runs.training import recipe
from polymodal.scores import Score, known_scores

RUNS: dict[str, tuple[str, ...]] = {"exchange": (), "none": ("--model.fusion", "null")}
"""What each run changes in the recipe; "none" shares the convolutions and keeps private norms as "exchange" does."""

MADE_BY_DEMO = "demo.json"
"""Marks a folder that a demo may replace."""

PREDICTIONS = ("rgb", "depth", "ensemble")

NOTES = """
Both runs train the same network, with shared convolutions and private norms, from the same seed on the same scenes.
The only difference: "exchange" penalises scales, and replaces the channels whose scale is near zero by the other
modality's.

What this shows: exchange gives the rgb branch what only depth knows, and the other way round, inside one network:
both branches come to where the ensemble is, and the network learns faster. Without it the modalities meet in the
ensemble alone. After this short training the ensemble with exchange is about four points ahead.

What this does not show: that the lead stays. Trained two to four times as long, both ensembles are far better, and the
lead is less than two points. Nor that choosing channels by their scales matters, or that exchange beats other ways to
bring the modalities together: those are not run here. One seed was run, and the scenes are rendered, not photographed.
More seeds, the networks of one modality, and the other methods are in docs/results.md.
"""


def run_demo(out: Path, seed: int, overrides: Sequence[str] = ()) -> dict[str, dict[str, float]]:
    """Train on the embedded rooms with and without exchange; write both runs, the page that compares them, a summary.

    Args:
        out: The folder of it all; an earlier demo in it is replaced.
        seed: Of both trainings.
        overrides: Further arguments of `polymodal fit` for both.

    Returns:
        The summary: mean IoU in per cent on the test scenes by prediction, and the exchanged share, for each run.

    Raises:
        ConfigError: The folder holds something that no demo made.
        PolymodalError: A training failed; with its last lines.
    """
    runs = {name: (*settings, *overrides) for name, settings in RUNS.items()}
    return train_and_show(out, "rooms", seed, runs, NOTES, _show, _figures)


def train_and_show(
    out: Path,
    config: str,
    seed: int,
    runs: Mapping[str, Sequence[str]],
    notes: str,
    show: Callable[[dict[str, Any]], None],
    figures: Callable[[dict[str, Any]], dict[str, Any]],
    order: Sequence[str] = (),
) -> dict[str, dict[str, Any]]:
    """Train by one recipe, print the scores on the test scenes, write a summary and the page that compares the runs.

    Args:
        out: The folder of it all; an earlier demo in it is replaced.
        config: The recipe's name.
        seed: Of all trainings.
        runs: What each changes in the recipe.
        notes: What the page says.
        show: Prints the scores of all runs.
        figures: What the summary has of the scores of a run.
        order: In which they are trained; that of `runs` if not given.

    Returns:
        The summary.
    """
    if not 0 <= seed < SEEDS:  # before an earlier demo is cleared away
        raise ConfigError(f"--seed: expected 0 to {SEEDS - 1}, got {seed}.")
    with room(out, list(runs)):
        common = ("--config", str(recipe(config)), "--seed_everything", str(seed), *demo_precision())
        train_all(
            {
                name: children.fit_command([*common, "--trainer.default_root_dir", str(out / name), *runs[name]])
                for name in order or runs
            }
        )
        scores = {name: json.loads((out / name / scores_file("test")).read_text(encoding="utf-8")) for name in runs}
        show(scores)
        summary = {name: figures(scored) for name, scored in scores.items()}
        write_json(out / "summary.json", summary)
        print(f"the page: {write_report([out / name for name in runs], out / REPORT, notes=notes).resolve()}")
    return summary


@contextmanager
def room(out: Path, runs: Sequence[str]) -> Iterator[None]:
    """A folder that is cleared for a demo's runs, for this process alone.

    Raises:
        ConfigError: It holds something that no demo made.
    """
    if out.exists() and not (out / MADE_BY_DEMO).is_file() and not (out.is_dir() and is_empty(out)):
        raise ConfigError(f"{out} holds something that no demo made; choose another folder with --out.")
    with locked(out):
        for name in runs:
            if (out / name).exists():
                shutil.rmtree(out / name)
        for file in ("summary.json", REPORT):
            (out / file).unlink(missing_ok=True)
        write_json(out / MADE_BY_DEMO, {"runs": list(runs)})
        yield


def train_all(commands: dict[str, list[str]]) -> None:
    """Train by commands, as many side by side as there are cores, and pass their epochs on.

    Raises:
        PolymodalError: A training failed; with its last lines.
    """
    cores = children.cores()
    together = min(cores, len(commands))
    print(f"training {', '.join(commands)}, {together} at a time", flush=True)
    environment = children.environment(max(1, cores // len(commands)))
    width = max(8, *map(len, commands))

    def training(name: str) -> Callable[[list[children.Child]], None]:
        def tell(line: str) -> None:
            print(f"{name:>{width}}  {line}", flush=True)

        return lambda started: children.follow(name, commands[name], environment, started, tell)

    for _ in children.side_by_side({name: training(name) for name in commands}, together):
        pass


def _figures(scored: dict[str, Any]) -> dict[str, float]:
    exchanged = scored["exchanged"].values()
    figures = {name: scored["predictions"][name][_score(scored).key] for name in PREDICTIONS}
    return figures | {"exchanged": sum(exchanged) / len(exchanged) if exchanged else 0.0}


def _score(scored: dict[str, Any]) -> Score:
    return known_scores(scored["predictions"].values())[0]


def _show(scores: dict[str, dict[str, Any]]) -> None:
    score, samples = next((_score(scored), scored["samples"]) for scored in scores.values())
    rows = []
    for name, scored in scores.items():
        figures = _figures(scored)
        rows.append(
            [
                name,
                *(score.text(figures[prediction]) for prediction in PREDICTIONS),
                share(figures["exchanged"]),
                count(scored["parameters"]),
                duration(scored["seconds"]),
            ]
        )
    columns = ["fusion", *PREDICTIONS, "exchanged", "parameters", "time"]
    print_table(f"{score.name} in {score.unit} on {samples} test scenes", columns, rows)
