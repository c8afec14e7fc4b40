"""`polymodal compare`: methods × seeds of one recipe, each a `polymodal fit` of its own, and the table of them all.

A comparison is a folder: METHOD/seed-S are run folders, METHOD/recipe.yaml is what was trained there, comparison.json
says what belongs together. Whatever ends a comparison, starting it again goes on where it was.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from rich.text import Text

from polymodal.errors import ConfigError, PolymodalError
from polymodal.files import tidy_below, write_file
from polymodal.locks import locked
from polymodal.near import meant
from polymodal.report.comparison import Cell, Comparison, Row, apart, table
from polymodal.report.differences import explanation
from polymodal.run_folder import REPORT
from polymodal.runs import children
from polymodal.runs.cluster import Cluster, join
from polymodal.runs.comparison_folder import RECORD, check_same_data, comparison_of, record_of, write_tables
from polymodal.runs.console import print_table
from polymodal.runs.engine import Processes, SeededRun, check_own
from polymodal.runs.files import write_json
from polymodal.runs.match import What, matched
from polymodal.runs.methods import Method, choose, imports, methods
from polymodal.runs.overrides import applied
from polymodal.runs.prepared import Prepared, built
from polymodal.runs.progress import Progress
from polymodal.runs.quiet import quieten
from polymodal.runs.scored import scored_splits
from polymodal.runs.trainer_settings import SEEDS


def compare(
    config: Path,
    words: Sequence[str],
    seeds: Sequence[int],
    out: Path,
    jobs: int | None = None,
    split: str = "val",
    overrides: Sequence[str] = (),
    reference: str | None = None,
    match: What | None = None,
    ray: str | None = None,
) -> Comparison:
    """Train and score every method with every seed, or go on with that, and write the table after each run.

    The runs go seed by seed. Those that failed are named at the end, when all others are done, and tried again by the
    next call.

    Args:
        config: The recipe.
        words: Methods or groups of methods, see `polymodal.runs.methods`. Of a group, what the recipe's network cannot
            carry is left out, which is said; a method that is named itself must work.
        seeds: One run of each method for each.
        out: The folder of it all: a new or empty one, or that of the same recipe, to which methods and seeds are added.
        jobs: Runs at a time; None for one on every GPU, or one where there is none.
        split: The split whose scores are compared, "val" or "test".
        overrides: Arguments of `polymodal fit` for all runs.
        reference: The method that the others are held against, one of the table; None for the one that is the recipe
            as it stands, and where none is, for the first of the table.
        match: What every method is scaled to have as much of as the reference, see `polymodal.runs.match`; None to
            leave the methods as they are.
        ray: The cluster that trains, see `polymodal.runs.cluster`; None for processes of this machine.

    Returns:
        The comparison.

    Raises:
        ConfigError: A method, a seed or a setting cannot be used, or the folder belongs to something else; nothing was
            trained.
        PolymodalError: A run failed; all others are done.
    """
    quieten()
    _check(seeds, jobs, overrides)
    if ray is not None:
        join(ray)
        out = out.resolve()
    prepared = Prepared(["--config", str(config), *overrides])
    prepared.datamodule.setup()
    splits = scored_splits(prepared.datamodule, prepared.trainer)
    if split not in splits:
        raise ConfigError(f"--split: expected one that is scored ({', '.join(splits) or 'none is'}), got {split!r}.")
    settings, modalities = prepared.settings, list(prepared.datamodule.inputs)
    known = methods(modalities)
    chosen = choose(words, known)
    if reference is not None and reference not in known:
        raise ConfigError(f"--reference: there is no method {reference!r}{meant(reference, known)}")
    data: dict[str, Any] = {}
    equal = ""
    if match:
        reference = reference or _reference(chosen, known, settings)
        equal = f"{match} of {reference}, within 2 %"
        known |= matched(
            match, reference, chosen, known, lambda name: built(applied(settings, name, known[name].overrides), data)
        )
    recipes = {name: applied(settings, name, known[name].overrides) for name in chosen}
    with locked(out):
        tidy_below(out)
        command = ["polymodal", "compare", *imports(known), "--config", str(config), "--out", str(out)]
        command += ("--split", split, *overrides)
        command += () if reference is None else ("--reference", reference)
        command += () if match is None else ("--match", match)
        record = record_of(out, command, settings, {name: known[name] for name in chosen}, seeds, equal)
        if strangers := [name for name in record["methods"] if name not in known]:
            raise ConfigError(
                f"{out} has runs of {', '.join(strangers)}, no method that is known here, which the table would lose. "
                "Import the module of its fusion as before, --import MODULE, or choose another folder with --out."
            )
        if reference is not None and reference not in record["methods"]:
            raise ConfigError(f"--reference: {reference} is no method of this table; name it in --methods, too.")
        changed = ((run, record["methods"][run.method]["overrides"]) for run in _runs(record, out))
        remedy = "Remove it to have the run made again, or choose another --out."
        check_same_data(changed, split, prepared.datamodule, remedy)
        asked = [SeededRun(name, seed, out / name / f"seed-{seed}") for seed in seeds for name in chosen]
        pending = [run for run in asked if not run.finished(splits)]
        untried = {name: recipes[name] for name in chosen if any(run.method == name for run in pending)}
        for name in _check_networks(untried, named=(*words, reference), of=len(recipes), data=data):
            del recipes[name], record["methods"][name]
        asked, pending = ([run for run in runs if run.method in recipes] for runs in (asked, pending))
        write_json(out / RECORD, record)
        for name, recipe in recipes.items():
            text = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)
            write_file(out / name / "recipe.yaml", text.encode())

        runs = _runs(record, out)
        failures: dict[SeededRun, str] = {}
        held_against = reference or _reference([name for name in known if name in record["methods"]], known, settings)

        def results() -> Comparison:
            return comparison_of(record, modalities, known, runs, split, failures, held_against)

        write_tables(out, record, results())
        for _ in _train(asked, pending, Processes if ray is None else Cluster, jobs, settings, split, failures):
            write_tables(out, record, results())
    comparison = results()
    _show(comparison)
    print(f"the page: {(out / REPORT).resolve()}")
    if failures:
        raise PolymodalError(
            f"{len(failures)} of {len(asked)} runs failed; the same command tries them again.\n"
            + "\n".join(failures.values())
        )
    return comparison


def _check(seeds: Sequence[int], jobs: int | None, overrides: Sequence[str]) -> None:
    if not seeds or len(set(seeds)) < len(seeds) or not 0 <= min(seeds) <= max(seeds) < SEEDS:
        raise ConfigError(
            f"--seeds: expected different numbers from 0 on, up to {SEEDS - 1}, such as 0,1,2, got "
            f"{','.join(map(str, seeds)) or 'none'}."
        )
    if jobs is not None and jobs < 1:
        raise ConfigError(f"--jobs: expected 1 or more, got {jobs}.")
    check_own(overrides, "a comparison")


def _runs(record: Mapping[str, Any], out: Path) -> list[SeededRun]:
    """Those that were asked for, now and before."""
    return [
        SeededRun(name, seed, out / name / f"seed-{seed}")
        for name, about in record["methods"].items()
        for seed in about["seeds"]
    ]


def _reference(names: Sequence[str], known: Mapping[str, Method], settings: Mapping[str, Any]) -> str:
    """The method that is the recipe as it stands; where none of them is, the first one."""
    return next((name for name in names if applied(settings, name, known[name].overrides) == settings), names[0])


def _check_networks(
    recipes: Mapping[str, Mapping[str, Any]], named: Sequence[str | None], of: int, data: dict[str, Any]
) -> list[str]:
    """Build every method's network once, so that what cannot work is refused before anything trains.

    Args:
        recipes: By method.
        named: The methods that were named themselves, not by their group.
        of: How many methods there are in all, with those whose runs are finished.
        data: See `built`.

    Returns:
        Those that are left out because they cannot be used; each is printed with the reason.

    Raises:
        ConfigError: One that was named cannot be used, or none can.
    """
    left_out: dict[str, str] = {}
    for name, recipe in recipes.items():
        try:
            built(recipe, data)
        except PolymodalError as error:
            left_out[name] = f"the method {name!r} cannot be used with this recipe: {error}"
            if name in named or len(left_out) == of:
                raise ConfigError(left_out[name]) from error
    for reason in left_out.values():
        print(f"left out: {reason}")
    return list(left_out)


def _train(
    asked: Sequence[SeededRun],
    pending: Sequence[SeededRun],
    engine_of: type[Processes] | type[Cluster],
    jobs: int | None,
    settings: Mapping[str, Any],
    split: str,
    failures: dict[SeededRun, str],
) -> Iterator[SeededRun]:
    """Train what is pending and yield every run when it has ended; `failures` receives those that failed."""
    if not pending:
        print(f"all {len(asked)} runs are finished already")
        return
    engine = engine_of(settings["trainer"], jobs, len(pending))
    with Progress(asked, pending, engine.together) as progress:

        def train(run: SeededRun, started: list[children.Child]) -> None:
            begun = time.monotonic()
            progress.begin(run)
            try:
                engine.train(run, started, lambda line: progress.epoch(run, line))
                if not run.scores(split).is_file():
                    raise PolymodalError(f"the training {str(run)!r} ended without scores")
            except PolymodalError as error:
                failures[run] = str(error)
            finally:
                progress.end(run, time.monotonic() - begun, failed=run in failures)

        yield from children.side_by_side({run: partial(train, run) for run in pending}, engine.together)


def _show(comparison: Comparison) -> None:
    headings, lines = table(comparison)
    legend = ", * the best" if any(cell.best for cells in lines for cell in cells) else ""  # none, of one seed
    _print(
        f"{comparison.score.name} in {comparison.score.unit} on {comparison.split}{legend}",
        headings,
        zip(comparison.rows, lines, strict=True),
    )
    assert comparison.differences is not None
    for score, rows in apart(comparison)[:1]:
        _print(
            f"{score.name} less that of {comparison.differences.reference}, with intervals of 95 %, * ahead",
            comparison.predictions,
            rows,
        )
    print(explanation(comparison.differences))


def _print(title: str, headings: Sequence[str], rows: Iterable[tuple[Row, Sequence[Cell]]]) -> None:
    print_table(
        title,
        ["method", *headings],
        (
            [row.name, *(Text(f"{cell.text} *", "bold") if cell.best else cell.text for cell in cells)]
            for row, cells in rows
        ),
        width=180,
    )
