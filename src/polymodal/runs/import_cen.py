"""Checkpoints that the authors of CEN and AsymFusion released, as model folders."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from polymodal import models
from polymodal.errors import CheckpointError
from polymodal.files import new_folder
from polymodal.fusion import Exchange, Fusion, make_fusion
from polymodal.multimodal import Multimodal
from polymodal.runs.released import (
    CHANNELS,
    INPUTS,
    place_released,
    read_released,
    released_layer,
    require_two,
    save_released,
)
from polymodal.surgery import fuse

RELEASED_EXCHANGE = Exchange(threshold=2e-2, penalty=6e-4, within="all")
"""Channel exchange as released: at every channel, λ of 2e-4 added once for each of the three predictions."""

# The number of blocks in the third stage tells the depth.
_ENCODERS = {6: "resnet50", 23: "resnet101", 36: "resnet152"}
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
        content = read_released(file)
        tensors = content["segmenter"]
        arguments = _arguments(tensors, file)
        rule = RELEASED_EXCHANGE if fusion == "exchange" else make_fusion(fusion)
        net = load_released(tensors, arguments, rule, file)
        save_released(net, out, {"name": models.REFINENET, "arguments": arguments}, content.get("epoch_start"))
    return (
        f"{len(tensors)} tensors of a RefineNet with {arguments['encoder_name']}, {arguments['classes']} classes, "
        f"fusion {fusion}"
    )


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
        plain = models.create(models.REFINENET, **arguments)
        net = fuse(plain, CHANNELS, fusion, statistics="frozen", inplace=True)
    return place_released(net, tensors, released_names, file, f"RefineNet with {arguments['encoder_name']}")


def released_names(name: str) -> list[str]:
    """Where a tensor of ours comes from: the names of its released tensors, one for each modality if it is private.

    Args:
        name: In the state of a fused RefineNet.
    """
    if name == "ensemble.alpha":
        return ["alpha"]
    layer, _, tensor = name.removeprefix("network.").rpartition(".")
    released = released_layer(layer, _LAYERS, lambda parts: [int(n) + 1 if n.isdigit() else n for n in parts])
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
    require_two(tensors, file)
    return {"encoder_name": _ENCODERS[blocks], "classes": len(head)}
