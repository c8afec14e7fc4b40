"""Checkpoints that the authors of CEN and AsymFusion released, as model folders.

Both papers' code saves the same tensors: one set of convolutions, and for every norm one set of values a modality.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from polymodal import checkpoint, models
from polymodal.data import InputSpec, TargetSpec, palette
from polymodal.data.prepare.nyu_classes import NYU40, SUN37
from polymodal.data.statistics import IMAGENET_MEAN, IMAGENET_STD
from polymodal.errors import CheckpointError
from polymodal.files import new_folder
from polymodal.fusion import Exchange, Fusion, make_fusion
from polymodal.multimodal import Multimodal
from polymodal.surgery import fuse
from polymodal.weight_files import load_tensors

RELEASED_EXCHANGE = Exchange(threshold=2e-2, penalty=6e-4, within="all")
"""Channel exchange as released: at every channel, λ of 2e-4 added once for each of the three predictions."""

INPUTS = {
    "rgb": InputSpec(kind="image", channels=3, mean=IMAGENET_MEAN, std=IMAGENET_STD),
    "depth": InputSpec(kind="depth", channels=1, scale=1 / 5000, unit="m", invalid=0.0),
}
"""What the released networks are fed: colours by the moments of ImageNet, depth in files of 5000 to the metre as it is.

One channel of depth is repeated three times; pixels without measurement are 0 in the files and stay 0.
"""

IGNORE = 255

CHOSEN_ON = "NYUDv2-40-CEN/test"
"""The data set and the split on which the released code keeps the best checkpoint: the one that is reported."""

# The number of blocks in the third stage tells the depth.
_ENCODERS = {6: "resnet50", 23: "resnet101", 36: "resnet152"}
_CLASSES = {len(names): names for names in (NYU40, SUN37)}
_SHOWN = 20

# Our layers beside the released ones; the levels and repetitions count from 0 here and from 1 there.
_LAYERS = (
    (r"decoder\.blocks\.(\d)\.reduce", "p_ims1d2_outl{}_dimred"),
    (r"decoder\.blocks\.(\d)\.adapt\.(\d)\.conv1", "adapt_stage{}_b.0.{}_conv"),
    (r"decoder\.blocks\.(\d)\.adapt\.(\d)\.conv2", "adapt_stage{}_b.0.{}_conv_relu_varout_dimred"),
    (r"decoder\.blocks\.(\d)\.align", "adapt_stage{}_b2_joint_varout_dimred"),
    (r"decoder\.blocks\.(\d)\.pool\.convs\.(\d)", "mflow_conv_g{}_pool.0.{}_outvar_dimred"),
    (r"decoder\.blocks\.(\d)\.refine\.(\d)\.conv1", "mflow_conv_g{}_b.0.{}_conv"),
    (r"decoder\.blocks\.(\d)\.refine\.(\d)\.conv2", "mflow_conv_g{}_b.0.{}_conv_relu_varout_dimred"),
    (r"decoder\.blocks\.(\d)\.output", "mflow_conv_g{}_b3_joint_varout_dimred"),
    (r"head", "clf_conv"),
    (r"encoder\.(.+)", "{}"),
)


def import_cen(file: Path, out: Path, fusion: Literal["exchange", "asymmetric"] = "exchange") -> str:
    """Write a released checkpoint as a model folder that predicts what the released code predicts.

    Nothing in the file is executed, and nothing is written unless every tensor has found its place.

    Args:
        file: A `.pth.tar` that the code of CEN or AsymFusion saved: RefineNet with ResNet-50, 101 or 152 on colour and
            depth.
        out: The model folder, new or empty.
        fusion: How its modalities meet, which the file does not say: "exchange" for CEN, "asymmetric" for AsymFusion.

    Returns:
        What was found, for people to read.

    Raises:
        CheckpointError: The file cannot be read or is no such checkpoint, or the folder holds something.
        OSError: The folder cannot be written.
    """
    with new_folder(out, f"import-cen {file.resolve()} --fusion {fusion}", CheckpointError):
        return _written(file, out, fusion)


def _written(file: Path, out: Path, fusion: Literal["exchange", "asymmetric"]) -> str:
    """What was found, once it is saved."""
    content = read_released(file)
    tensors = content["segmenter"]
    arguments = _arguments(tensors, file)
    net = load_released(tensors, arguments, RELEASED_EXCHANGE if fusion == "exchange" else make_fusion(fusion), file)
    classes = _CLASSES.get(arguments["classes"], tuple(f"class {c}" for c in range(arguments["classes"])))
    target = TargetSpec(kind="label", folder="masks", ignore=IGNORE, classes=classes, colors=palette(len(classes)))
    epoch = content.get("epoch_start")
    facts: dict[str, Any] = {"epochs": epoch + 1} if isinstance(epoch, int) else {}
    if classes == NYU40:
        facts["selected_on"] = CHOSEN_ON
    checkpoint.save(
        net,
        out,
        network={"name": "refinenet", "arguments": arguments},
        metadata={
            "inputs": {name: spec.as_dict() for name, spec in INPUTS.items()},
            "target": target.as_dict(),
            "size": None,
            "training": facts,
        },
    )
    return (
        f"{len(tensors)} tensors of a RefineNet with {arguments['encoder_name']}, {len(classes)} classes, "
        f"fusion {fusion}"
    )


def read_released(file: Path) -> dict[str, Any]:
    """A released checkpoint, `{"segmenter": {name: tensor}, ...}`, without running anything in it.

    The names are those within the network, without the prefix of a wrapper for several devices.

    Raises:
        CheckpointError: The file is missing, damaged, holds more than tensors and numbers, or no such checkpoint.
    """
    scalar = np.float64().__reduce__()[0]  # how the best score was saved; the name of its module has changed since
    numbers: list[Any] = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    with torch.serialization.safe_globals([*numbers, np.dtype, np.dtypes.Float64DType]):
        content = load_tensors(file, "Use a checkpoint that the authors of CEN or AsymFusion released.")
    tensors = content.get("segmenter") if isinstance(content, dict) else None
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        found = f"the keys {', '.join(map(str, content))}" if isinstance(content, dict) else type(content).__name__
        raise CheckpointError(
            f"{file} is no checkpoint of CEN or AsymFusion: expected tensors under the key 'segmenter', got {found}."
        )
    return {**content, "segmenter": {str(name).removeprefix("module."): value for name, value in tensors.items()}}


def load_released(
    tensors: Mapping[str, Tensor], arguments: Mapping[str, Any], fusion: Fusion, file: Path
) -> Multimodal:
    """A RefineNet of colour and depth that holds the tensors of a released checkpoint.

    Args:
        tensors: By their released names.
        arguments: Of the network.
        fusion: How the modalities meet.
        file: For messages.

    Returns:
        The network, of which only the state is made: to be saved, not run.

    Raises:
        CheckpointError: A tensor is missing, left over or of another shape; the message lists them.
    """
    with torch.device("meta"):  # its own values would be made for nothing
        plain = models.create("refinenet", **arguments)
        channels = {name: spec.channels for name, spec in INPUTS.items()}
        net = fuse(plain, channels, fusion, statistics="frozen", inplace=True)
    wanted = net.state_dict()
    sources = {name: released_names(name) for name in wanted}
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
        raise CheckpointError(
            f"{file} is no checkpoint of a RefineNet with {arguments['encoder_name']} on {' and '.join(INPUTS)}: "
            f"{shown}."
        )
    values = {name: torch.stack(found) if len(found) > 1 else found[0] for name, found in state.items()}
    net.load_state_dict(values, assign=True)
    return net


def released_names(name: str) -> list[str]:
    """Where a tensor of ours comes from: the names of its released tensors, one for each modality if it is private.

    Args:
        name: In the state of a fused RefineNet.
    """
    if name == "ensemble.alpha":
        return ["alpha"]
    layer, _, tensor = name.removeprefix("network.").rpartition(".")
    released = layer
    for pattern, theirs in _LAYERS:
        if match := re.fullmatch(pattern, layer):
            released = theirs.format(*(int(n) + 1 if n.isdigit() else n for n in match.groups()))
    if re.search(r"\bbn\d$|downsample\.1$", layer):
        return [f"{released}.bn_{m}.{tensor}" for m in range(len(INPUTS))]
    return [f"{released}.module.{tensor}"]


def _arguments(tensors: Mapping[str, Tensor], file: Path) -> dict[str, Any]:
    """The arguments of the network that the tensors belong to."""
    blocks = len({name.split(".")[1] for name in tensors if name.startswith("layer3.")})
    head, alpha = tensors.get("clf_conv.module.weight"), tensors.get("alpha")
    if blocks not in _ENCODERS or head is None or head.dim() != 4 or alpha is None:
        raise CheckpointError(
            f"{file} is no checkpoint of CEN or AsymFusion: expected a RefineNet with ResNet-50, 101 or 152, a "
            f"classifier clf_conv and the weights alpha; its tensors begin with {', '.join(list(tensors)[:5])}."
        )
    if alpha.shape != (len(INPUTS),):
        raise CheckpointError(
            f"{file}: expected a network of {' and '.join(INPUTS)}, got one whose alpha has the shape "
            f"{tuple(alpha.shape)}."
        )
    return {"encoder_name": _ENCODERS[blocks], "classes": len(head)}
