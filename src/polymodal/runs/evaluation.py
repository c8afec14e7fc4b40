"""A trained model on a split: its scores, and a few scenes to look at."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from polymodal import checkpoint
from polymodal.costs import cost
from polymodal.data import InputSpec, TargetSpec
from polymodal.data.content import MAX_PIXELS
from polymodal.data.track import track
from polymodal.documents import read_json
from polymodal.errors import DataError
from polymodal.multimodal import Multimodal
from polymodal.names import ENSEMBLE
from polymodal.run_folder import (
    ABOVE,
    BELOW,
    EVERY_SCORES,
    INPUT,
    KEYS,
    PREDICTION,
    SCENES,
    images_file,
    scores_file,
)
from polymodal.runs.files import write_arrays, write_json
from polymodal.runs.recorder import exchanged_shares
from polymodal.runs.scored import part
from polymodal.scores import as_plain
from polymodal.speed import accelerate
from polymodal.tasks.base import named_outputs
from polymodal.tasks.images import viewable
from polymodal.tasks.outputs import Output, output_of
from polymodal.tasks.protocol import Protocol, Size

SCORES_ON = "scores on "
"""How a line begins that says how far the scoring is, before the split."""

SHOWN = 8
"""How many validation scenes a run shows."""


def best_device() -> torch.device:
    """Where evaluation and prediction run: a GPU when there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def trained(model: Path) -> Multimodal:
    """The network of a model folder, ready to predict on the best device as fast as is known for it.

    Raises:
        CheckpointError: The folder holds no model.
    """
    return accelerate(checkpoint.load(model).to(best_device()))


def score_split(
    model: Path,
    data: Any,
    split: str,
    folder: Path,
    protocol: Protocol = Protocol(),  # noqa: B008 - frozen
    elsewhere: str = "",
    limit: int | float = 1.0,
    lines: bool = False,
    net: Multimodal | None = None,
) -> dict[str, Any]:
    """Evaluate a model folder on a split and write `scores.<split>.json`, and beside it what every image adds to it.

    Labels are predicted at their own resolution; images are scored at that of the inputs.

    The scores of a protocol other than the default stand in a file of their own, `scores.<split>.<protocol>.json`, and
    so do those on another data set.

    Args:
        model: The model folder.
        data: A data module that was set up with the model's modalities.
        split: "val" or "test".
        folder: The run folder that the scores are written to.
        protocol: How it is tested.
        elsewhere: What the data set is called when it is not the one that the model was trained with, a name that no
            other has.
        limit: How many of the split's first batches are scored, or what share of them; see `part`.
        lines: Whether to print how far it is where no bar can be drawn.
        net: The folder's network, where it is loaded already.

    Returns:
        What was written.

    Raises:
        ConfigError: The limit leaves nothing.
        DataError: A sample cannot be predicted or scored; with its key.
    """
    config = checkpoint.read_config(model)
    output = output_of(data.target, config["metadata"]["training"])
    output.check_protocol(protocol)
    net = net or trained(model)
    counts = output.scores([*net.branches, ENSEMBLE]).to(best_device())
    counts.keep_samples()
    sizes: list[Size] = []

    def score(batch: Scored) -> None:
        sizes.append(batch.size)
        predictions = protocol(
            lambda views: named_outputs(net(views, per_modality=True)), batch.inputs, data.inputs, batch.truth_size
        )
        for name, prediction in predictions.items():
            counts.update(name, prediction, *batch.truth)

    keys = each_batch(score, data, split, output, limit, lines)
    facts = {
        **facts_of(config, net, data, split, protocol, elsewhere),
        "samples": len(keys),
        "scores": as_plain(counts.scored),
        "predictions": counts.compute(),
        "weights": net.weights(),
        "exchanged": exchanged_shares(net.exchange_state(), net.modalities),
        **asdict(cost(net, sizes[0])),
    }
    file = scores_name(split, protocol, elsewhere)
    arrays = {KEYS: np.array(keys)}
    for of, (above, below) in counts.of_samples().items():
        arrays |= {ABOVE + "/".join(of): above.numpy(), BELOW + "/".join(of): below.numpy()}
    write_arrays(folder / images_file(file), arrays)
    write_json(folder / file, facts)
    return facts


@dataclass(frozen=True)
class Scored:
    """A batch to be predicted and scored, on the best device.

    Attributes:
        keys: Of its samples.
        inputs: (B, C_m, H, W) by modality.
        valid: Where something was measured, (B, 1, H, W) by modality, on the CPU.
        truth: What predictions are held against, the target itself first.
    """

    keys: list[str]
    inputs: dict[str, Tensor]
    valid: dict[str, Tensor]
    truth: list[Tensor]

    @property
    def size(self) -> Size:
        """Height and width of the inputs."""
        height, width = next(iter(self.inputs.values())).shape[-2:]
        return height, width

    @property
    def truth_size(self) -> Size:
        """Height and width at which predictions are scored."""
        height, width = self.truth[0].shape[-2:]
        return height, width


def each_batch(
    score: Callable[[Scored], None],
    data: Any,
    split: str,
    output: Output,
    limit: int | float = 1.0,
    lines: bool = False,
) -> list[str]:
    """Score the batches of a split one after the other, without gradients.

    Args:
        score: What is done with each.
        data: As for `score_split`, and so are the other arguments.
        split: "val" or "test".
        output: What is predicted.
        limit: How many.
        lines: Whether to print how far it is.

    Returns:
        The keys of the samples that were scored, in order.

    Raises:
        ConfigError: The limit leaves nothing.
        DataError: As `score` raises it, with the keys of its batch.
    """
    data.setup("test" if split == "test" else "validate")
    loader = _loader(data, split)
    batches = part(len(loader), limit, split)
    keys: list[str] = []
    with torch.inference_mode():
        for batch in track(islice(loader, batches), f"{SCORES_ON}{split}, batches", batches, lines):
            inputs = {name: image.to(best_device()) for name, image in batch["inputs"].items()}
            truth = output.truth(batch, next(iter(inputs.values())).shape[-2:])
            with _naming(batch["key"]):
                score(Scored(batch["key"], inputs, batch["valid"], [tensor.to(best_device()) for tensor in truth]))
            keys += batch["key"]
    return keys


def _loader(data: Any, split: str) -> Any:
    return data.test_dataloader() if split == "test" else data.val_dataloader()


def facts_of(
    config: Mapping[str, Any], net: Multimodal, data: Any, split: str, protocol: Protocol, elsewhere: str
) -> dict[str, Any]:
    """What a file of scores says of the model, the scenes and the way to test, whatever is scored."""
    own = split_of(data, split)
    return {
        "split": split,
        "model": config.get("weights"),
        "scored_on": f"{elsewhere}/{own}" if elsewhere else name_of_split(data, own),
        "identity": data.identity(own),
        "protocol": protocol.as_dict(),
        "split_samples": len(_loader(data, split).dataset),
        "modalities": list(net.modalities),
        "classes": list(data.target.classes),
        **config["metadata"]["training"],
        "network": config["network"]["name"],
        "fusion": net.fusion.name,
    }


def scores_name(split: str, protocol: Protocol, elsewhere: str = "") -> str:
    """The file of scores in a run folder."""
    return scores_file(split, re.sub(r"[^\w-]+", "-", elsewhere), protocol.name)


def split_of(data: Any, split: str) -> str:
    """What the data set calls the split "val" or "test"."""
    name: str = data.test_split if split == "test" else data.val_split
    return name


def name_of_split(data: Any, split: str) -> str:
    """The data set and the split, which tell whether a checkpoint was chosen on the scenes that it is scored on."""
    return f"{data.description.name}/{split}"


def write_scenes(model: Path, data: Any, folder: Path, net: Multimodal | None = None) -> None:
    """Write samples.npz: some validation scenes with every prediction, all at the size of the first scene's inputs.

    Raises:
        DataError: A scene cannot be predicted; with its key.
    """
    net = net or trained(model)
    dataset = data.val_dataloader().dataset
    chosen = np.linspace(0, len(dataset) - 1, min(SHOWN, len(dataset))).round().astype(int)
    scenes = [dataset[int(index)] for index in chosen]
    size = next(iter(scenes[0]["inputs"].values())).shape[-2:]
    output = output_of(data.target, checkpoint.read_config(model)["metadata"]["training"])
    columns: dict[str, list[np.ndarray]] = {}
    for scene in scenes:
        for name, image in scene["inputs"].items():
            picture = viewable(image, data.inputs[name])
            resized = F.interpolate(picture[None].float(), size=size, mode="nearest")[0].byte()
            columns.setdefault(INPUT + name, []).append(resized.permute(1, 2, 0).numpy())
        for name, shown in output.shown_truth(scene, size).items():
            columns.setdefault(name, []).append(shown)
        with torch.inference_mode(), _naming([scene["key"]]):
            prediction = net(
                {name: image[None].to(best_device()) for name, image in scene["inputs"].items()}, per_modality=True
            )
        for name, logits in named_outputs(prediction, size).items():
            columns.setdefault(PREDICTION + name, []).append(output.shown(logits))
    write_arrays(
        folder / SCENES,
        {name: np.stack(images) for name, images in columns.items()}
        | {"keys": np.array([scene["key"] for scene in scenes])}
        | output.legend(),
    )


@contextmanager
def _naming(keys: Sequence[str]) -> Iterator[None]:
    """Say of which samples an error speaks."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{', '.join(keys)}: {error}") from error


def describe(data: Any) -> dict[str, Any]:
    """What a saved model must know of its data: inputs, target and the size that inputs are resized to."""
    return {
        "inputs": {name: spec.as_dict() for name, spec in data.inputs.items()},
        "target": data.target.as_dict(),
        "size": None if data.size is None else list(data.size),
    }


def described(metadata: Mapping[str, Any]) -> tuple[dict[str, InputSpec], TargetSpec, tuple[int, int] | None]:
    """The inverse of `describe`: inputs, target and size."""
    inputs = {name: InputSpec.from_dict(values) for name, values in metadata["inputs"].items()}
    return inputs, TargetSpec.from_dict(metadata["target"]), _size(metadata["size"])


def _size(value: Any) -> tuple[int, int] | None:
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
    """Write a model folder that predicts and evaluates without the code and the data set that trained it."""
    checkpoint.save(
        net,
        folder,
        network={"name": network, "arguments": dict(arguments)},
        metadata={**describe(data), "training": facts},
    )
