"""`polymodal tune`: a search over settings of a recipe by Optuna, each trial a `polymodal fit` of its own.

A search is a folder: trial-N/seed-S are run folders, trial-N/recipe.yaml is what was trained there, study.db is
Optuna's own record, tuning.json says what is searched. Whatever ends a search, starting it again goes on where it was.
"""

import csv
import re
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import yaml

from polymodal.documents import read_json
from polymodal.errors import ConfigError, PolymodalError
from polymodal.files import is_empty, tidy_below, write_file
from polymodal.locks import locked
from polymodal.names import ENSEMBLE
from polymodal.report.render import number
from polymodal.report.tuning import tuning_page
from polymodal.run_folder import METRICS, REPORT, score_column
from polymodal.runs import children
from polymodal.runs.comparison_folder import check_same_data
from polymodal.runs.engine import Processes, SeededRun, check_own
from polymodal.runs.files import write_json
from polymodal.runs.overrides import differences
from polymodal.runs.prepared import Prepared, built
from polymodal.runs.progress import Progress
from polymodal.runs.quiet import quieten
from polymodal.runs.scored import scored_splits
from polymodal.runs.space import Dimension, read_space, with_settings
from polymodal.runs.trainer_settings import SEEDS

RECORD = "tuning.json"
STUDY = "study.db"
BEST_RECIPE = "best.yaml"


class Pruned(Exception):  # noqa: N818 - an outcome, no error
    """A trial is worse at an epoch than half of those before it were there."""


def tune(
    config: Path,
    space_file: Path,
    trials: int,
    out: Path,
    seed: int = 0,
    jobs: int | None = None,
    overrides: Sequence[str] = (),
) -> Path:
    """Search, or go on with that, and write the best recipe and the page after each trial.

    Args:
        config: The recipe.
        space_file: What is searched, see `polymodal.runs.space`.
        trials: How many there are in all, with those of earlier calls.
        out: The folder of it all.
        seed: Of every training and of what is drawn.
        jobs: Trials at a time; with more than one, what is drawn depends on which ends first.
        overrides: Arguments of `polymodal fit` for all trials.

    Returns:
        The best recipe.

    Raises:
        ConfigError: The space or the recipe cannot be used, or the folder belongs to something else; nothing was
            trained.
        PolymodalError: No trial has ended well.
    """
    quieten()
    _optuna()
    if trials < 1 or (jobs is not None and jobs < 1):
        raise ConfigError(f"--trials, --jobs: expected 1 or more, got {trials}, {jobs}.")
    if not 0 <= seed < SEEDS:
        raise ConfigError(f"--seed: expected 0 to {SEEDS - 1}, got {seed}.")
    check_own(overrides, "a search")
    prepared = Prepared(["--config", str(config), *overrides])
    settings = prepared.settings
    space = read_space(space_file, settings)
    prepared.datamodule.setup()
    if "val" not in scored_splits(prepared.datamodule, prepared.trainer):
        raise ConfigError("--trainer.limit_val_batches 0: a search needs the scores of the validation split.")
    if "data.size" in space and any(target.kind != "label" for target in prepared.datamodule.targets.values()):
        raise ConfigError(
            f"--space: {space_file}: data.size: images are scored at the size of the inputs, so that trials of other "
            "sizes do not compare. Leave it out."
        )
    task = prepared.model
    with locked(out):
        tidy_below(out)
        words = ["polymodal", "tune", str(config), "--space", str(space_file), "--out", str(out), "--seed", str(seed)]
        record = {
            "command": shlex.join([*words, "--trials", str(trials), *overrides]),
            "recipe": settings,
            "space": {name: dimension.as_plain() for name, dimension in space.items()},
            "seed": seed,
        }
        _check_folder(out, record)
        if not (out / RECORD).is_file():
            _check_ends(settings, space, space_file)
        write_json(out / RECORD, record)
        study = _study(out, task.chosen_mode)
        search = _Search(study, out, settings, space, seed, score_column(task.chosen_by, ENSEMBLE), task.chosen_by)
        check_same_data(search.begun(), "val", prepared.datamodule, "Begin anew with another --out.")
        failures = search.run(trials, jobs)
        best, count = search.write(), len(search.begun())  # with those of an earlier call that asked for more
    for failure in failures:
        print(failure)
    if best is None:
        raise PolymodalError(f"none of {count} trials has ended well; the last one: {(failures or ['see above'])[-1]}")
    params = ", ".join(f"{name} {value}" for name, value in best.params.items())
    print(f"the best of {count} trials is number {best.number}, {task.chosen_by} {best.value:.4g}: {params}")
    print(f"its recipe: {out / BEST_RECIPE}; the page: {(out / REPORT).resolve()}")
    return out / BEST_RECIPE


def _study(out: Path, mode: str) -> Any:
    """Optuna's record of the search, made or opened.

    Raises:
        ConfigError: Optuna is not installed, or its record is damaged.
    """
    optuna = _optuna()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        return optuna.create_study(
            study_name="tune",
            storage=f"sqlite:///{(out / STUDY).resolve()}",
            direction={"min": "minimize", "max": "maximize"}[mode],
            pruner=optuna.pruners.MedianPruner(),
            load_if_exists=True,
        )
    except Exception as error:  # whatever a database raises
        raise ConfigError(
            f"{out / STUDY} is damaged ({' '.join(str(error).split())[:200]}). Begin anew with --out."
        ) from error


def _optuna() -> Any:
    try:
        import optuna
        import plotly  # noqa: F401 - what its plots are drawn by
    except ModuleNotFoundError as error:
        raise ConfigError(f"a search needs the package {error.name}: pip install 'polymodal[tune]'.") from error
    return optuna


def _check_folder(out: Path, record: Mapping[str, Any]) -> None:
    file = out / RECORD
    if not file.is_file():
        if not is_empty(out):
            raise ConfigError(f"{out} holds something that no search made; choose another folder with --out.")
        return
    try:
        begun = read_json(file, ConfigError)
        found = [line for key in ("recipe", "space", "seed") for line in differences(begun[key], record[key], key)]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{file} is damaged ({error!r}); choose another folder with --out.") from error
    if found:
        raise ConfigError(
            f"{out} belongs to another search: {'; '.join(found[:3])}{' ...' if found[3:] else ''}. Give what it was "
            f"begun with ({begun.get('command')}), or choose another folder with --out."
        )


def _check_ends(settings: Mapping[str, Any], space: Mapping[str, Dimension], file: Path) -> None:
    """Build the network with each setting at each of its ends, so that what cannot work is refused now.

    Raises:
        ConfigError: With the setting and its value.
    """
    data: dict[str, Any] = {}
    for name, dimension in space.items():
        for value in dimension.ends:
            try:
                built(with_settings(settings, {name: value}), data)
            except PolymodalError as error:
                raise ConfigError(f"--space: {file}: {name}: {value!r} cannot be used: {error}") from error


@dataclass
class _Search:
    """One study and the runs of its trials.

    Args:
        study: Optuna's.
        out: The folder of it all.
        settings: Of the recipe.
        space: By dotted setting.
        seed: Of it all.
        column: Of metrics.csv, by which trials are pruned.
        score: The figure of the ensemble that a trial is worth.
    """

    study: Any
    out: Path
    settings: Mapping[str, Any]
    space: Mapping[str, Dimension]
    seed: int
    column: str
    score: str
    _lock: Lock = field(default_factory=Lock, init=False)

    def run(self, trials: int, jobs: int | None) -> list[str]:
        """Train until there are so many trials; what failed, in words."""
        failures: list[str] = []
        states = {trial.number: trial.state.is_finished() for trial in self.study.get_trials(deepcopy=False)}
        runs = [self._run(n) for n in range(trials)]
        pending = {n: run for n, run in enumerate(runs) if not states.get(n, False)}
        if not pending:
            print(f"all {trials} trials are finished already")
            return failures
        engine = Processes(self.settings["trainer"], jobs, len(pending))
        with Progress(runs, list(pending.values()), engine.together) as progress:

            def train(number: int, run: SeededRun, started: list[children.Child]) -> None:
                begun, failed = time.monotonic(), True
                progress.begin(run)
                trial = self._trial(number)
                try:
                    self._prune(trial)  # as it was when the search was killed
                    engine.train(run, started, partial(self._epoch, trial, run, progress))
                    self._tell(trial, value=self._value(run))
                    failed = False
                except Pruned:
                    self._tell(trial, state="PRUNED")
                    failed = False
                except PolymodalError as error:
                    self._tell(trial, state="FAIL")
                    failures.append(str(error))
                finally:
                    progress.end(run, time.monotonic() - begun, failed=failed)

            for _ in children.side_by_side({n: partial(train, n, run) for n, run in pending.items()}, engine.together):
                self.write()
        return failures

    def begun(self) -> list[tuple[SeededRun, dict[str, Any]]]:
        """The trials that there are, each with its settings."""
        return [(self._run(one.number), self._values(one.params)) for one in self.study.get_trials(deepcopy=False)]

    def write(self) -> Any:
        """Write the best recipe and the page; the best trial, None where none has ended well."""
        done = [trial for trial in self.study.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"]
        if not done:
            return None
        best = self.study.best_trial
        recipe = {"seed_everything": self.seed, **with_settings(self.settings, self._values(best.params))}
        said = f"# {self.score} {best.value:.4g} of the ensemble: trial {best.number}, the best of {len(done)}.\n"
        text = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)
        write_file(self.out / BEST_RECIPE, (said + text).encode())
        write_file(self.out / REPORT, tuning_page(self.study, self.score, best.params, text).encode())
        return best

    def _run(self, number: int) -> SeededRun:
        name = f"trial-{number:03}"
        return SeededRun(name, self.seed, self.out / name / f"seed-{self.seed}")

    def _trial(self, number: int) -> Any:
        """Optuna's trial of a number, with its settings drawn and its recipe written.

        What is drawn depends on the seed, the number and the trials that have ended, not on how often the search was
        begun.
        """
        from optuna.samplers import TPESampler
        from optuna.trial import Trial

        with self._lock:
            while len(known := self.study.get_trials(deepcopy=False)) <= number:
                self.study.sampler = TPESampler(seed=(self.seed + len(known)) % SEEDS)
                self._draw(self.study.ask())
            trial = Trial(self.study, known[number]._trial_id)
            recipe = with_settings(self.settings, self._draw(trial))
        text = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)
        write_file(self._run(number).folder.parent / "recipe.yaml", text.encode())
        return trial

    def _draw(self, trial: Any) -> dict[str, Any]:
        """A value for every setting: those that were drawn before, or new ones."""
        for name, dimension in self.space.items():
            if dimension.choices:
                trial.suggest_categorical(name, list(dimension.labelled))
            elif isinstance(dimension.low, int):
                trial.suggest_int(name, dimension.low, dimension.high, log=dimension.log)
            else:
                trial.suggest_float(name, dimension.low, dimension.high, log=dimension.log)
        return self._values(trial.params)

    def _values(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The values of settings from what Optuna calls them."""
        return {
            name: self.space[name].labelled[value] if self.space[name].choices else value
            for name, value in params.items()
        }

    def _epoch(self, trial: Any, run: SeededRun, progress: Progress, line: str) -> None:
        """Tell Optuna the score of an epoch that was validated; end the trial where it asks for it, but not at its end.

        Raises:
            Pruned: It asks for it.
        """
        progress.epoch(run, line)
        told = self.study.get_trials(deepcopy=False)[trial.number].intermediate_values
        with (run.folder / METRICS).open(newline="") as stream:
            for row in csv.DictReader(stream):
                if row.get(self.column) and int(row["epoch"]) not in told:
                    trial.report(float(row[self.column]), int(row["epoch"]))
        if not _is_last(line):
            self._prune(trial)

    def _prune(self, trial: Any) -> None:
        if trial.should_prune():
            raise Pruned

    def _value(self, run: SeededRun) -> float:
        file = run.scores("val")
        if not file.is_file():
            raise PolymodalError(f"the training {str(run)!r} ended without scores")
        value = number(read_json(file, ConfigError)["predictions"][ENSEMBLE].get(self.score))
        if value is None:
            raise PolymodalError(f"the training {str(run)!r} ended without a value of {self.score}, see {file}")
        return value

    def _tell(self, trial: Any, value: float | None = None, state: str | None = None) -> None:
        from optuna.trial import TrialState

        with self._lock:
            self.study.tell(trial, value, state=None if state is None else TrialState[state])


def _is_last(line: str) -> bool:
    said = re.match(r"epoch (\d+)/(-?\d+)", line)  # -1 where steps alone are limited
    return said is None or said[1] == said[2]
