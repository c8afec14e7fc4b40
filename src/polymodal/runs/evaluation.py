"""A trained model on a split: its scores, and a few scenes to look at."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from polymodal import checkpoint
from polymodal.costs import cost
from polymodal.data import InputSpec, TargetSpec
from polymodal.data.content import MAX_PIXELS
from polymodal.data.parts import TARGET
from polymodal.documents import read_json
from polymodal.errors import CheckpointError, naming
from polymodal.multimodal import Multimodal
from polymodal.names import ENSEMBLE, one_part
from polymodal.run_folder import (
    ABOVE,
    BELOW,
    EVERY_SCORES,
    INPUT,
    KEYS,
    PREDICTION,
    PRESENT,
    RELIABILITY,
    SCENES,
    TEMPERATURES,
    images_file,
)
from polymodal.runs.files import write_arrays, write_json
from polymodal.runs.recorder import exchanged_shares
from polymodal.runs.tested import Scored, Tested, best_device, size_of_truth
from polymodal.scores import of_target
from polymodal.tasks.base import named_outputs
from polymodal.tasks.images import viewable
from polymodal.tasks.protocol import Size

SHOWN = 8
"""How many validation scenes a run shows."""


SUBSTITUTE = "substitute"
"""What a model's metadata call the modalities that were noise or copies in its training, see `FolderData`."""


def score_split(tested: Tested, folder: Path, limit: int | float = 1.0, lines: bool = False) -> dict[str, Any]:
    """Evaluate a model on a split and write `scores.<split>.json`, and beside it what every image adds to it.

    Labels are predicted at their own resolution; images are scored at that of the inputs.

    The scores of a protocol other than the default stand in a file of their own, `scores.<split>.<protocol>.json`, and
    so do those on another data set.

    Args:
        tested: The model, and the split.
        folder: The run folder that the scores are written to.
        limit: How many of the split's first batches are scored, or what share of them; see `part`.
        lines: Whether to print how far it is where no bar can be drawn.

    Returns:
        What was written.

    Raises:
        ConfigError: The limit leaves nothing.
        DataError: A sample cannot be predicted or scored; with its key.
    """
    counts = tested.scores([*tested.net.branches, ENSEMBLE])
    counts.keep_samples()
    reliability = None if tested.gaps else tested.reliability(counts.names)
    sizes: list[tuple[Sequence[int], Sequence[int]]] = []

    def score(batch: Scored) -> None:
        sizes.append((next(iter(batch.inputs.values())).shape[-2:], size_of_truth(batch.truth)))
        predictions = tested.predict(batch.inputs, batch)
        for name in counts.names:
            counts.update(name, *batch.counted(name, predictions, tested.output))
        if reliability is not None:
            reliability.update(predictions, *batch.truth)

    keys = tested.each_batch(score, limit, lines, gaps=True)
    net = tested.net
    facts = {
        **tested.facts(keys, counts),
        "weights": net.weights(),
        "exchanged": exchanged_shares(net.exchange_state(), net.modalities),
        **asdict(cost(net, sizes[0][0])),
        "truth_size": list(sizes[0][1]),
    }
    if reliability is not None:
        facts[RELIABILITY] = reliability.compute()
    arrays = {KEYS: np.array(keys)}
    for of, (above, below) in counts.of_samples().items():
        arrays |= {ABOVE + "/".join(of): above.numpy(), BELOW + "/".join(of): below.numpy()}
    write_arrays(folder / images_file(tested.file), arrays)
    write_json(folder / tested.file, facts)
    return facts


def write_scenes(tested: Tested, folder: Path) -> None:
    """Write samples.npz: some scenes of a split with every prediction, all at the size of the first scene's inputs.

    Raises:
        DataError: A scene cannot be predicted; with its key.
    """
    dataset, net, output = tested.dataset, tested.net, tested.output
    chosen = np.linspace(0, len(dataset) - 1, min(SHOWN, len(dataset))).round().astype(int)
    scenes = [dataset[int(index)] for index in chosen]
    size = next(iter(scenes[0]["inputs"].values())).shape[-2:]
    columns: dict[str, list[np.ndarray]] = {}
    for scene in scenes:
        for name, image in scene["inputs"].items():
            seen = viewable(image, tested.inputs[name])
            resized = F.interpolate(seen[None].float(), size=size, mode="nearest")[0].byte()
            columns.setdefault(INPUT + name, []).append(resized.permute(1, 2, 0).numpy())
        for target, part in output.parts.items():
            for name, shown in part.shown_truth(scene, size).items():
                columns.setdefault(of_target(target, name), []).append(shown)
        with torch.inference_mode(), naming(scene["key"]):
            there = scene.get("present") or dict.fromkeys(scene["inputs"], True)
            for name, has in scene.get("present", {}).items():
                columns.setdefault(PRESENT + name, []).append(np.array(has))
            images = {name: image[None].to(best_device()) for name, image in scene["inputs"].items() if there[name]}
            prediction = net(images, subset=True, per_modality=True)
        apart = {name: output.split(logits) for name, logits in named_outputs(prediction, size).items()}
        for target, part in output.parts.items():
            pictures = {name: part.shown(own[target]) for name, own in apart.items()}
            for name in (*net.branches, ENSEMBLE):  # black where there is no modality to predict from
                picture = pictures.get(name, np.zeros_like(pictures[ENSEMBLE]))
                columns.setdefault(of_target(target, PREDICTION + name), []).append(picture)
    write_arrays(
        folder / SCENES,
        {name: np.stack(images) for name, images in columns.items()}
        | {"keys": np.array([scene["key"] for scene in scenes])}
        | {
            of_target(target, key): said for target, part in output.parts.items() for key, said in part.legend().items()
        },
    )


def describe(data: Any) -> dict[str, Any]:
    """What a saved model must know of its data: inputs, targets, the size that inputs are resized to, and controls.

    A target that is the only one needs no name.
    """
    targets = {name: target.as_dict() for name, target in data.targets.items()}
    controls = getattr(data, SUBSTITUTE, None)  # which only folders have
    return {
        "inputs": {name: spec.as_dict() for name, spec in data.inputs.items()},
        **({"targets": targets} if len(targets) > 1 else {"target": next(iter(targets.values()))}),
        "size": None if data.size is None else list(data.size),
        **({SUBSTITUTE: dict(controls)} if controls else {}),
    }


def described(metadata: Mapping[str, Any]) -> tuple[dict[str, InputSpec], dict[str, TargetSpec], Size | None]:
    """The inverse of `describe`: inputs, targets and size; the only target is called `TARGET`."""
    inputs = {name: InputSpec.from_dict(values) for name, values in metadata["inputs"].items()}
    plain = metadata["targets"] if "targets" in metadata else {TARGET: metadata["target"]}
    targets = {name: replace(TargetSpec.from_dict(values), name=one_part(name)) for name, values in plain.items()}
    return inputs, targets, _size(metadata["size"])


def controls_of(metadata: Mapping[str, Any], source: Path) -> dict[str, str]:
    """What stood in the place of modalities in a model's training; none where it does not say.

    Args:
        metadata: What the model says of itself.
        source: Where that stands.

    Raises:
        CheckpointError: It is damaged.
    """
    found = metadata.get(SUBSTITUTE) or {}
    if not isinstance(found, Mapping) or not all(isinstance(one, str) for one in found.values()):
        raise CheckpointError(f"{source}: {SUBSTITUTE}: expected a text for each modality, got {str(found)[:60]}.")
    return dict(found)


def _size(value: Any) -> Size | None:
    if value is None:
        return None
    height, width = value
    if not (type(height) is type(width) is int and min(height, width) > 0 and height * width <= MAX_PIXELS):
        raise ValueError(f"size: expected a height and a width in pixels, got {value}")
    return height, width


def remove_scores_of_others(folder: Path) -> None:
    """Remove the scores of a run's earlier model, which is no more, and say so; a page would refuse them."""
    own = checkpoint.read_config(folder).get("weights")
    for file in sorted(folder.glob(EVERY_SCORES)):
        if read_json(file).get("model", own) != own:
            file.unlink()
            (folder / images_file(file.name)).unlink(missing_ok=True)
            print(f"{file.name} had the scores of the model before this training and was removed")


def save_model(
    net: Multimodal, network: str, arguments: Mapping[str, Any], data: Any, facts: Any, folder: Path
) -> None:
    """Write a model folder that predicts and evaluates without the code and the data set that trained it.

    Temperatures belong to the weights that they were fitted to: of a calibrated model before it is said that it was.
    """
    calibrated = False
    with suppress(CheckpointError):  # there was none
        calibrated = bool((checkpoint.read_config(folder).get("metadata") or {}).get(TEMPERATURES))
    checkpoint.save(
        net,
        folder,
        network={"name": network, "arguments": dict(arguments)},
        metadata={**describe(data), "training": facts},
    )
    if calibrated:
        print(f"{folder} was calibrated before this training and is not any more; polymodal calibrate does it again")
