"""A finished run, or a model, on a split of its data set, or of another one of the same kind."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from polymodal import checkpoint
from polymodal.data import FolderData, InputSpec, TargetSpec
from polymodal.data.corruptions import chosen_corruptions
from polymodal.documents import read_bytes, read_json
from polymodal.errors import ConfigError
from polymodal.locks import locked
from polymodal.run_folder import CONFIG, corruptions_file, subsets_file
from polymodal.runs.console import print_table
from polymodal.runs.corrupted import score_corruptions, show_corruptions
from polymodal.runs.evaluation import SUBSTITUTE, controls_of, score_split
from polymodal.runs.opened import read_model_description
from polymodal.runs.subsets import chosen_subsets, score_subsets, show_entire_missing
from polymodal.runs.tested import Tested, scores_name, split_of
from polymodal.scores import of_some, scores_in
from polymodal.sources import home, local
from polymodal.tasks.protocol import Protocol
from polymodal.yaml_documents import MAX_YAML, parse_yaml


def validate(
    run: Path,
    split: str,
    root: str | None = None,
    protocol: Protocol = Protocol(),  # noqa: B008 - frozen
    subsets: str | None = None,
    corrupt: str | None = None,
) -> dict[str, Any]:
    """Score a run's model, print the scores and write them to `scores.<split>.json` in its folder.

    The scores of a protocol other than the default stand in a file of their own, `scores.<split>.<protocol>.json`, and
    so do those on another data set than the run's, `scores.<split>.<name>-<identity>.json`. The run's own is the one
    whose split has the same keys, files and meaning, wherever it lies and whatever it is called.

    Args:
        run: The run folder; or, when `root` is given, a model folder, as `import-cen` writes it, or a model on the Hub,
            `hf://user/name`, whose scores then stand beside it in the Hub's cache, or the name of one that comes with
            the package, whose scores then stand in `runs/packaged/NAME`.
        split: "val" or "test".
        root: The data set; that of the run when not given.
        protocol: How it is tested.
        subsets: Sets of modalities to score the ensemble of instead, as `chosen_subsets` takes them; those scores
            stand in a file of their own, `scores.<split>.subsets.json`.
        corrupt: Faults of sensors to score the model under instead, as `chosen_corruptions` takes them; those scores
            stand in `scores.<split>.corruptions.json`.

    Returns:
        What was written.

    Raises:
        ConfigError: The folder is no run of a folder data set, or the data set has other classes or modalities of
            another kind than the model.
        PolymodalError: The model or the data set cannot be used.
    """
    if subsets is not None and corrupt is not None:
        raise ConfigError("--subsets and --corrupt: expected one of them; their scores stand in files of their own.")
    asked, run = run, local(run)
    model, settings = model_and_data(run, root)
    run = home(asked)
    with locked(run):
        data, elsewhere = scenes_of(run, model, settings, split, root, protocol)
        faults = [] if corrupt is None else chosen_corruptions(corrupt, data.inputs)
        chosen = [] if subsets is None else chosen_subsets(subsets, list(data.inputs))
        tested = Tested(model, data, split, protocol, elsewhere)
        file = tested.file
        if corrupt is not None:
            scores, file = score_corruptions(tested, run, faults), corruptions_file(file)
        elif subsets is not None:
            scores, file = score_subsets(tested, run, chosen), subsets_file(file)
        else:
            scores = score_split(tested, run)
    if corrupt is None:
        _show(scores, protocol)
    else:
        show_corruptions(scores)
    if subsets is not None:
        show_entire_missing(scores["entire_missing"], scores_in(scores)[0])
    if subsets is not None and settings and not elsewhere and not protocol.name:
        print(f"polymodal report {run} shows them on the run's page")
    if elsewhere:
        print(f"not the scenes that {run} was scored on; its own scores stay, these are in {run / file}")
    return scores


def model_and_data(run: Path, root: str | None) -> tuple[Path, dict[str, Any]]:
    """The model folder of a run, and the settings of its data; a model folder has none, and another data set as root.

    Raises:
        PolymodalError: There is no model, or the folder is no run of a folder data set.
    """
    model = checkpoint.model_folder(run)
    settings = {} if root is not None and model == run else data_settings(run)
    checkpoint.read_config(model)  # where there is no model, a lock would make a folder
    return model, settings


def scenes_of(
    run: Path, model: Path, settings: Mapping[str, Any], split: str, root: str | None, protocol: Protocol
) -> tuple[FolderData, str]:
    """The data set to score a model on, and what it is called if it is not the run's own.

    Args:
        run: The run folder, or the model folder.
        model: The model folder.
        settings: Of the data, as the run has them; see `data_settings`.
        split: "val" or "test".
        root: Another data set than the run's.
        protocol: How the model is tested.

    Raises:
        ConfigError: It has other classes, or modalities of another kind, than the model.
        DataError: It cannot be read.
    """
    metadata: Any = checkpoint.read_config(model).get("metadata")
    inputs, targets, size = read_model_description(metadata, model)
    keys = ("eval_batch_size", "workers", "val_split", "test_split", "target")
    several = {"target": list(targets)} if len(targets) > 1 else {}
    kept = several | {key: settings[key] for key in keys if key in settings}
    kept[SUBSTITUTE] = controls_of(metadata, model) or settings.get(SUBSTITUTE)  # in models of earlier versions
    data = FolderData(root or settings["root"], modalities=list(inputs), size=size, **kept)
    data.setup()
    for here, target in zip(data.targets.values(), targets.values(), strict=True):
        _check_target(here, target, f"{data.root}: {here.name}" if several else data.root, run)
    data.inputs = {name: _as_trained(data.inputs[name], spec, f"{data.root}: {name}") for name, spec in inputs.items()}
    own = split_of(data, split)
    identity = data.identity(own)
    known = metadata["training"].get("identities", {}).get(own) or _scored(run / scores_name(split, protocol), own)
    name = data.description.name
    stranger = identity != known if known else bool(settings) and not _may_be_own(data.root, name, settings, metadata)
    return data, f"{name}-{identity[:8]}" if stranger else ""


def _check_target(here: TargetSpec, trained: TargetSpec, where: str, run: Path) -> None:
    """Refuse a target that is another one than the model's.

    Raises:
        ConfigError: With what differs.
    """
    if here.classes != trained.classes:
        raise ConfigError(
            f"{where} has the classes {', '.join(here.classes)}; the model of {run} predicts "
            f"{', '.join(trained.classes)}."
        )
    image, wanted = ((spec.kind, spec.channels, spec.range) for spec in (here, trained))
    if image != wanted:
        raise ConfigError(
            f"{where}: its target is {_described(*image)}; the model of {run} predicts {_described(*wanted)}."
        )


def _may_be_own(root: str, name: str, settings: Mapping[str, Any], metadata: Mapping[str, Any]) -> bool:
    """Whether a data set is where a run of an earlier version had its own, or may have been moved from there."""
    own = Path(settings["root"])
    if Path(root).resolve() == own.resolve():
        return True
    return not own.exists() and name == metadata["training"].get("data_set", name)


def _scored(file: Path, split: str) -> str | None:
    """What the scores of a split in a file were counted on; None where there are none, or of an earlier version."""
    try:
        scores = read_json(file, ConfigError)
        identity: str | None = scores.get("identity") if scores.get("scored_on", "").endswith(f"/{split}") else None
    except FileNotFoundError:
        return None
    except (ValueError, AttributeError) as error:
        raise ConfigError(f"{file} is no file of scores ({error}). Remove it.") from error
    return identity


def _as_trained(here: InputSpec, trained: InputSpec, where: str) -> InputSpec:
    """A modality as the files at hand store it, normalised as in the model's training."""
    for what in ("kind", "channels", "unit", "classes"):
        found, wanted = getattr(here, what), getattr(trained, what)
        if found != wanted and (what != "unit" or (found and wanted)):
            raise ConfigError(f"{where}: its {what} is {found!r}, and the model was trained with {wanted!r}.")
    if here.seen and trained.seen and here.seen.apart(trained.seen):
        raise ConfigError(
            f"{where}: its values are {here.seen}, far from the {trained.seen} that the model was trained with. State "
            "their scale and unit in dataset.yaml, so that both are in one unit."
        )
    return replace(here, mean=trained.mean, std=trained.std)


def data_settings(run: Path) -> dict[str, Any]:
    """The settings of the data that a run was trained on, from its configuration.

    Raises:
        ConfigError: It is no run folder, or was not trained on a data set folder.
    """
    file = run / CONFIG
    if not file.is_file():
        raise ConfigError(
            f"{run} is no run folder: it has no {CONFIG}. For a model folder, say with --root which data."
        )
    try:
        data = parse_yaml(read_bytes(file, MAX_YAML, ConfigError))["data"]
        name, settings = data["class_path"], data["init_args"]
        known = name.rpartition(".")[2] == FolderData.__name__ and isinstance(settings["root"], str)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{file} does not say which data the run was trained on ({error!r}).") from error
    if not known:
        raise ConfigError(f"{file}: data: expected {FolderData.__name__} with a root, got {name}.")
    return settings


def _described(kind: str, channels: int, span: tuple[float, float] | None) -> str:
    return kind if span is None else f"{kind} of {channels} channel(s) in the range {span[0]:g} to {span[1]:g}"


def _show(scores: dict[str, Any], protocol: Protocol) -> None:
    shown = scores_in(scores)
    unit = f", {shown[0].unit}" if len({score.unit for score in shown}) == 1 else ""
    title = f"{scores['samples']} scenes of {scores['split']}{unit}"
    if shown[0].per_class:
        title += f"\n{protocol}"
    if some := of_some(scores.get("lacking", {})):
        title += f"\n{some}"
    if scores.get("selected_on") == scores["scored_on"]:
        title += "\nthe checkpoint was chosen on the split that is reported"
    print_table(
        title,
        ["prediction", *(score.name for score in shown)],
        (
            [name, *(score.text(figures[score.key]) for score in shown)]
            for name, figures in scores["predictions"].items()
        ),
    )
