"""The folder of a comparison: what belongs together there, and its tables.

METHOD/seed-S are run folders, METHOD/recipe.yaml is what was trained there, comparison.json says what was asked for.
"""

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from polymodal.data import FolderData
from polymodal.documents import read_json
from polymodal.errors import ConfigError
from polymodal.files import is_empty, write_file
from polymodal.report.comparison import Comparison, Row
from polymodal.report.comparison_page import to_csv, to_html, to_markdown
from polymodal.report.render import counted
from polymodal.run_folder import ENVIRONMENT, REPORT
from polymodal.runs.differences import differences_of
from polymodal.runs.engine import SeededRun
from polymodal.runs.files import write_json
from polymodal.runs.methods import Method
from polymodal.runs.overrides import differences
from polymodal.runs.tested import split_of

RECORD = "comparison.json"


def record_of(
    out: Path,
    command: Sequence[str],
    settings: Mapping[str, Any],
    added: Mapping[str, Method],
    seeds: Sequence[int],
    equal: str = "",
) -> dict[str, Any]:
    """What comparison.json says, with methods and seeds added and without differences; nothing is written.

    Args:
        out: The folder.
        command: How it is asked for, without methods and seeds.
        settings: Of the recipe.
        added: The methods, by name.
        seeds: Theirs.
        equal: What else than the length of the training is equal for all; empty for nothing.

    Raises:
        ConfigError: The folder belongs to another recipe, or to something that is no comparison.
    """
    file = out / RECORD
    record: dict[str, Any] = {"command": "", "recipe": dict(settings), "equal": equal, "methods": {}}
    if file.is_file():
        try:
            record = read_json(file, ConfigError)
            record.pop("differences", None)
            different = differences(record["recipe"], settings)
            earlier = {name: method["overrides"] for name, method in record["methods"].items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"{file} is damaged ({error!r}); choose another folder with --out.") from error
        remedy = f"Give what it was begun with ({record.get('command')}), or choose another folder with --out."
        if different:
            more = " ..." if different[3:] else ""
            raise ConfigError(f"{out} belongs to another recipe: {'; '.join(different[:3])}{more}. {remedy}")
        if (begun := record.setdefault("equal", "")) != equal:
            cost = begun or "the cost that each method has"
            raise ConfigError(f"{out} compares at {cost}, not at {equal or 'that'}. {remedy}")
        changed = [name for name, method in added.items() if earlier.get(name) not in (None, _plain(method.overrides))]
        if changed:
            raise ConfigError(
                f"{out}: {', '.join(changed)} meant something else in the version of polymodal that began it; choose "
                "another folder with --out."
            )
    elif not is_empty(out):
        raise ConfigError(f"{out} holds something that no comparison made; choose another folder with --out.")
    for name, method in added.items():
        given = record["methods"].get(name, {"seeds": []})["seeds"]
        record["methods"][name] = {
            "title": method.title,
            "overrides": _plain(method.overrides),
            "matched": method.matched,
            "seeds": sorted({*given, *seeds}),
        }
    all_seeds = sorted({seed for method in record["methods"].values() for seed in method["seeds"]})
    chosen = ("--methods", ",".join(record["methods"]), "--seeds", ",".join(map(str, all_seeds)))
    record["command"] = shlex.join([*command, *chosen])
    return record


def _plain(overrides: Mapping[str, Any]) -> Any:
    """A method's overrides in JSON's types, as they come back from the file."""
    return json.loads(json.dumps(dict(overrides), default=vars))


def check_same_data(runs: Iterable[tuple[SeededRun, Mapping[str, Any]]], split: str, data: Any, remedy: str) -> None:
    """Refuse runs that were trained or scored on other samples than there are now, beside which new ones would stand.

    Args:
        runs: Each with what it changes in the recipe, by dotted setting; what has no scores yet is left out.
        split: The one whose scores are compared, "val" or "test".
        data: The recipe's data module, set up; of another kind than a folder's nothing is known.
        remedy: What to do, a sentence.

    Raises:
        ConfigError: With the first such run.
    """
    if not isinstance(data, FolderData):
        return
    own = split_of(data, split)
    identity = cache(data.identity)
    for run, changes in runs:
        scores = _json(run.scores(split)) or {}
        names = changes.get("data.modalities") or list(data.inputs)
        replaced = changes.get("data.substitute", data.substitute)
        read = tuple(name for name in names if name not in replaced)
        # Runs of earlier versions do not say what they were trained on.
        trained_on = (scores.get("identities") or {}).get("train")
        for done, name, known in (("trained", "train", trained_on), ("scored", own, scores.get("identity"))):
            if known is not None and known != identity(name, read):
                raise ConfigError(
                    f"{run.folder} was {done} on other samples than {data.root} has now in {name!r}: files, or what "
                    f"is said of them, have changed since. {remedy}"
                )


def comparison_of(
    record: Mapping[str, Any],
    modalities: Sequence[str],
    known: Mapping[str, Method],
    runs: Sequence[SeededRun],
    split: str,
    failures: Mapping[SeededRun, str],
    reference: str,
) -> Comparison:
    """What there is of a comparison.

    Args:
        record: As `record_of` returns it.
        modalities: Of the recipe.
        known: All methods by name, in the order of the table.
        runs: Those that were asked for, now and before.
        split: The one whose scores are compared.
        failures: Why runs have failed.
        reference: The method that the others are held against.

    Raises:
        ConfigError: A file is damaged.
    """
    rows = []
    scored: list[dict[str, Any]] = []
    for method in known:
        own = [run for run in runs if run.method == method]
        if not own:
            continue
        scores = {run.seed: _json(run.scores(split)) for run in own}
        pages = {run.seed: f"{method}/{run.folder.name}/{REPORT}" for run in own if scores[run.seed]}
        failed = frozenset(run.seed for run in own if run in failures)
        matched = record["methods"][method].get("matched", "")
        rows.append(Row(method, known[method].title, known[method].about, scores, failed, pages, matched))
        scored += [found for found in scores.values() if found]
    root = record["recipe"]["data"]["init_args"].get("root")
    machines = [machine for run in runs if (machine := _json(run.folder / ENVIRONMENT))]
    facts = {
        "command": record["command"],
        "data": f"{root or '–'}, {', '.join(modalities)}",
        f"scenes of {split}": _listed(counted(scores.get("samples"), scores.get("split_samples")) for scores in scored),
        "checkpoint": _listed(_chosen(scores) for scores in scored),
        **({"equal": record["equal"]} if record.get("equal") else {}),
        "epochs": _listed(scores.get("epochs") for scores in scored),
        "seeds": ", ".join(map(str, dict.fromkeys(run.seed for run in runs))),
        "machine": _listed(machine.get("device") for machine in machines),
        "versions": _listed(
            ", ".join(
                f"{package} {machine[package]}"
                for package in ("polymodal", "torch", "lightning", "python")
                if package in machine
            )
            for machine in machines
        ),
    }
    recipe = yaml.safe_dump(record["recipe"], sort_keys=False, allow_unicode=True)
    name = next((scores["data_set"] for scores in scored if scores.get("data_set")), root or "a data set")
    comparison = Comparison(name, split, modalities, rows, facts, recipe)
    files = {row.name: {run.seed: run.scores(split) for run in runs if run.method == row.name} for row in rows}
    return replace(comparison, differences=differences_of(comparison, reference, files))


def _json(file: Path) -> dict[str, Any] | None:
    """What a run of the comparison wrote; None where it wrote nothing.

    Raises:
        ConfigError: It is damaged, or no mapping.
    """
    if not file.exists():
        return None
    try:
        content = read_json(file, ConfigError)
    except ValueError as error:
        raise ConfigError(f"{file} is damaged ({error}). Remove it to have the run made again.") from error
    if not isinstance(content, dict):
        raise ConfigError(
            f"{file}: expected keys and values, got {str(content)[:60]}. Remove it to have the run made again."
        )
    return content


def _chosen(scores: Mapping[str, Any]) -> str:
    """By what a run's checkpoint was chosen, and whether that makes its scores look better than they are."""
    selected_on = scores.get("selected_on")
    if selected_on is None:
        return "the last"
    flattered = ", where it is also scored: this flatters the figures a little"
    return f"the best on {selected_on}{flattered if selected_on == scores.get('scored_on') else ''}"


def _listed(values: Iterable[object]) -> str:
    """The different values, in order; a table with more than one says so by it."""
    return "; ".join(dict.fromkeys(str(value) for value in values if value is not None)) or "–"


def write_tables(out: Path, record: Mapping[str, Any], comparison: Comparison) -> None:
    """Write the table as Markdown, CSV and a page, and into comparison.json how the methods differ."""
    assert comparison.differences is not None
    write_json(out / RECORD, {**record, "differences": comparison.differences.as_plain()})
    for name, text in (
        ("table.md", to_markdown(comparison)),
        ("table.csv", to_csv(comparison)),
        (REPORT, to_html(comparison)),
    ):
        write_file(out / name, text.encode())
