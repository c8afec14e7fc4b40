"""A trained model to the Hugging Face Hub, with a card of what is known of it."""

import os
from collections.abc import Iterator, Sequence
from keyword import iskeyword
from pathlib import Path
from typing import Any

from polymodal import checkpoint
from polymodal.data import InputSpec, TargetSpec
from polymodal.errors import ConfigError
from polymodal.report.load import load_run
from polymodal.report.render import fixed, listed
from polymodal.run_folder import EVERY_SCORES, MODEL_CONFIG, MODEL_WEIGHTS
from polymodal.runs.evaluation import controls_of
from polymodal.runs.opened import Opened
from polymodal.sources import is_address, local

CARD = "README.md"
_MARK = "<!-- Written by polymodal.push_to_hub, which replaces it; without this line it stays as it is. -->"


def push_to_hub(model: str | os.PathLike[str], name: str, *, private: bool = False) -> str:
    """Put a trained model on the Hugging Face Hub: its weights as safetensors, its description, and a card.

    The model is loaded before anything is sent. Who is logged in there (`hf auth login`, or HF_TOKEN) owns it. A card
    that a person wrote stays.

    Args:
        model: A run folder or a model folder.
        name: `user/name`; made if it is not there.
        private: Whether it is seen by its owner alone; one that is there already must be so, too.

    Returns:
        Its address with the revision, for `polymodal.load`, `Predictor`, and the commands that take a model.

    Raises:
        CheckpointError: The model cannot be used.
        ConfigError: The name is none, or the Hub refuses it, or cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    if is_address(model):
        raise ConfigError(f"{model}: is on the Hub already; give a folder of this machine.")
    if name.count("/") != 1:
        raise ConfigError(f"{name}: expected user/name.")
    card = model_card(Path(model), name)
    folder = checkpoint.model_folder(model)
    files: dict[str, Any] = {file: folder / file for file in (MODEL_CONFIG, MODEL_WEIGHTS)}
    api = HfApi(library_name="polymodal")
    try:
        api.create_repo(name, private=private, exist_ok=True)
        if private and not api.model_info(name).private:
            raise ConfigError(
                f"hf://{name}: is there already, and everybody sees it. Give another name, or hide it there."
            )
        if not api.file_exists(name, CARD) or _MARK in Path(api.hf_hub_download(name, CARD)).read_text("utf-8"):
            files[CARD] = card.encode()
        changes = [CommitOperationAdd(file, content) for file, content in files.items()]
        commit = api.create_commit(name, changes, commit_message="A model of polymodal")
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise ConfigError(f"hf://{name}: no model was published: {' '.join(str(error).split())}") from error
    return f"hf://{name}@{commit.oid}"


def model_card(model: Path, name: str) -> str:
    """What is known of a model, as Markdown: what it takes and gives, how it was trained, its scores.

    Args:
        model: A run folder or a model folder.
        name: What it will be called.

    Raises:
        CheckpointError: The model cannot be used.
    """
    opened, folder = Opened(model), local(model)
    config = checkpoint.read_config(folder)
    metadata = config.get("metadata") or {}
    training, controls = metadata.get("training") or {}, controls_of(metadata, folder)
    network = (config.get("network") or {}).get("name", "a network of its author's")
    facts = {
        "network": network,
        "fusion": (config["fuse"].get("fusion") or {}).get("name"),
        "trained on": training.get("data_set"),
        "epochs": training.get("epochs"),
        "seed": training.get("seed"),
        "checkpoint chosen on": training.get("selected_on"),
        "a control, trained with": listed(f"{of} in the place of {one}" for one, of in controls.items()) or None,
    }
    targets = opened.output.targets
    classes = next(iter(targets.values())).classes
    absent = "none may be absent" if opened.network.fusion.needs_all else "each may be absent, at a loss"
    lines = [
        *("---", "library_name: polymodal", f"pipeline_tag: {'image-segmentation' if classes else 'image-to-image'}"),
        *("tags: [multimodal, polymodal]", "---", _MARK, f"# {name.partition('/')[2]}", ""),
        f"Takes {', '.join(opened.specs)}, aligned pixel by pixel; {absent}.",
        *("", "```python", "import polymodal", "", f'predictor = polymodal.Predictor("hf://{name}")'),
        f"predicted = predictor({_given(list(opened.specs))})",
        *("```", "", "| input | kind | unit of its numbers | channels |", "|---|---|---|---:|"),
        *(f"| {one} | {spec.kind} | {_unit(spec)} | {spec.channels} |" for one, spec in opened.specs.items()),
        *("", *(_predicts(target, several=len(targets) > 1) for target in targets.values()), ""),
        *(f"- {fact}: {value}" for fact, value in facts.items() if value is not None),
        *(_scores(folder) if checkpoint.model_folder(folder) != folder and any(folder.glob(EVERY_SCORES)) else ()),
    ]
    return "\n".join(lines) + "\n"


def _given(modalities: Sequence[str]) -> str:
    """One picture of each modality, as Python's arguments, which not every name can be."""
    if all(name.isidentifier() and not iskeyword(name) for name in modalities):
        return ", ".join(f"{name}={name}" for name in modalities)
    return "**{" + ", ".join(f'"{name}": picture_{number}' for number, name in enumerate(modalities, 1)) + "}"


def _predicts(target: TargetSpec, *, several: bool) -> str:
    what = f"Classes: {', '.join(target.classes)}." if target.classes else "Predicts images."
    return f"- {target.name}: {what}" if several else what


def _unit(spec: InputSpec) -> str:
    return f"{spec.scale:g} {spec.unit}" if spec.unit else "–"


def _scores(run: Path) -> Iterator[str]:
    """The tables of what a run was scored on."""
    for split, scores in load_run(run).scores.items():
        known = scores.known
        yield from (
            "",
            f"Scores on {scores.scenes or '?'} scenes of {split}"
            f"{', on which the checkpoint was chosen, too' if scores.selected_here else ''}:",
            "",
        )
        yield f"| prediction | {' | '.join(f'{score.name}, {score.unit}' for score in known)} |"
        yield f"|---|{'---:|' * len(known)}"
        for name, values in scores.predictions.items():
            yield f"| {name} | {' | '.join(fixed(values.get(score.key), score.digits) for score in known)} |"
