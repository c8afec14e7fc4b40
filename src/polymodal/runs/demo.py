"""The same small network on the same scenes twice, with channel exchange and without: what `polymodal demo` shows."""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
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
    with room(out, list(RUNS)):
        precision = demo_precision()
        commands = {
            name: children.fit_command(
                [
                    *("--config", str(recipe("rooms"))),
                    *("--seed_everything", str(seed), "--trainer.default_root_dir", str(out / name)),
                    *settings,
                    *precision,
                    *overrides,
                ]
            )
            for name, settings in RUNS.items()
        }
        train_all(commands)

        scores = {name: json.loads((out / name / scores_file("test")).read_text(encoding="utf-8")) for name in RUNS}
        _show(scores)
        summary = {name: _figures(scored) for name, scored in scores.items()}
        write_json(out / "summary.json", summary)
        print(f"the page: {write_report([out / name for name in RUNS], out / REPORT, notes=NOTES).resolve()}")
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
