"""What the checkpoints have in common that the authors of CEN, AsymFusion and TokenFusion released.

Their code saves the same: one set of shared layers, and for every norm one set of values a modality.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polymodal import checkpoint
from polymodal.data import InputSpec, TargetSpec, palette
from polymodal.data.prepare.nyu_classes import NYU40, SUN37
from polymodal.data.statistics import IMAGENET_MEAN, IMAGENET_STD
from polymodal.errors import CheckpointError
from polymodal.multimodal import Multimodal
from polymodal.weight_files import load_tensors

INPUTS = {
    "rgb": InputSpec(kind="image", channels=3, mean=IMAGENET_MEAN, std=IMAGENET_STD),
    "depth": InputSpec(kind="depth", channels=1, scale=1 / 5000, unit="m", invalid=0.0),
}
"""What the released networks are fed: colours by the moments of ImageNet, depth in files of 5000 to the metre as it is.

One channel of depth is repeated three times; pixels without measurement are 0 in the files and stay 0.
"""

CHANNELS = {name: spec.channels for name, spec in INPUTS.items()}

IGNORE = 255

CHOSEN_ON = "NYUDv2-40-CEN/test"
"""The data set and the split on which the released code keeps the best checkpoint: the one that is reported."""

_CLASSES = {len(names): names for names in (NYU40, SUN37)}
_SHOWN = 20


def read_released(file: Path) -> dict[str, Any]:
    """A released checkpoint, `{"segmenter": {name: tensor}, ...}`, without running anything in it.

    The names are those within the network, without the prefix of a wrapper for several devices.

    Raises:
        CheckpointError: The file is missing, damaged, holds more than tensors and numbers, or no such checkpoint.
    """
    scalar = np.float64().__reduce__()[0]  # how the best score was saved; the name of its module has changed since
    numbers: list[Any] = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    with torch.serialization.safe_globals([*numbers, np.dtype, np.dtypes.Float64DType]):
        content = load_tensors(file, "Use a checkpoint that the authors of CEN, AsymFusion or TokenFusion released.")
    tensors = content.get("segmenter") if isinstance(content, dict) else None
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        found = f"the keys {', '.join(map(str, content))}" if isinstance(content, dict) else type(content).__name__
        raise CheckpointError(
            f"{file} is no released checkpoint: expected tensors under the key 'segmenter', got {found}."
        )
    return {**content, "segmenter": {str(name).removeprefix("module."): value for name, value in tensors.items()}}


def place_released(
    net: Multimodal, tensors: Mapping[str, Tensor], names: Callable[[str], Sequence[str]], file: Path, what: str
) -> Multimodal:
    """Give a network the tensors of a released checkpoint.

    Args:
        net: A network of colour and depth, whose own values are not kept.
        tensors: By their released names.
        names: Where a tensor of ours comes from: the released names, one for each modality if it is private.
        file: For messages.
        what: What the network is, likewise.

    Returns:
        The network.

    Raises:
        CheckpointError: A tensor is missing, left over or of another shape; the message lists them.
    """
    wanted = net.state_dict()
    sources = {name: names(name) for name in wanted}
    expected = {source for found in sources.values() for source in found}
    problems = [
        *(f"missing {name}" for name in sorted(expected - tensors.keys())),
        *(f"left over {name}" for name in sorted(tensors.keys() - expected)),
    ]
    state = {}
    for name, found in sources.items():
        if not all(source in tensors for source in found):
            continue
        # All modalities are normalised in one call here, so that there is one count of the batches seen.
        private = len(found) > 1 and not name.endswith("num_batches_tracked")
        shape = wanted[name].shape[1:] if private else wanted[name].shape
        problems += [
            f"{source} has shape {tuple(tensors[source].shape)}, expected {tuple(shape)}"
            for source in found
            if tensors[source].shape != shape
        ]
        state[name] = [tensors[source] for source in (found if private else found[:1])]
    if problems:
        shown = "; ".join(problems[:_SHOWN]) + (f"; ... ({len(problems)} in all)" if len(problems) > _SHOWN else "")
        raise CheckpointError(f"{file} is no checkpoint of a {what} on {' and '.join(INPUTS)}: {shown}.")
    values = {name: torch.stack(found) if len(found) > 1 else found[0] for name, found in state.items()}
    net.load_state_dict(values, assign=True)
    return net


def released_layer(
    layer: str, layers: Sequence[tuple[str, str]], numbered: Callable[[Sequence[str]], list[Any]]
) -> str:
    """What a layer of ours is called there; as here where no rule fits.

    Args:
        layer: Within the plain network.
        layers: Patterns of ours, each with the form of the released name.
        numbered: Makes the parts that the pattern found those of the released name.
    """
    found = [(match, theirs) for ours, theirs in layers if (match := re.fullmatch(ours, layer))]
    return found[-1][1].format(*numbered(found[-1][0].groups())) if found else layer


def require_two(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Refuse a network of other modalities.

    Raises:
        CheckpointError: The weights of its ensemble are not two.
    """
    if tensors["alpha"].shape != (len(INPUTS),):
        raise CheckpointError(
            f"{file}: expected a network of {' and '.join(INPUTS)}, got one whose alpha has the shape "
            f"{tuple(tensors['alpha'].shape)}."
        )


def save_released(net: Multimodal, out: Path, network: Mapping[str, Any], epoch: Any) -> None:
    """Write a network with what is known of its data.

    Args:
        net: The network.
        out: The model folder.
        network: How the plain network is made, see `polymodal.save`.
        epoch: What the checkpoint says of how long it was trained.

    Raises:
        OSError: The folder cannot be written.
    """
    count = network["arguments"]["classes"]
    classes = _CLASSES.get(count, tuple(f"class {c}" for c in range(count)))
    target = TargetSpec(kind="label", folder="masks", ignore=IGNORE, classes=classes, colors=palette(len(classes)))
    facts: dict[str, Any] = {"epochs": epoch + 1} if isinstance(epoch, int) else {}
    if classes == NYU40:
        facts["selected_on"] = CHOSEN_ON
    metadata = {
        "inputs": {name: spec.as_dict() for name, spec in INPUTS.items()},
        "target": target.as_dict(),
        "size": None,
        "training": facts,
    }
    checkpoint.save(net, out, network=network, metadata=metadata)
