"""Checkpoints that the authors of TokenFusion released, as model folders."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from polymodal import models
from polymodal.errors import CheckpointError
from polymodal.files import new_folder
from polymodal.fusion import TokenExchange
from polymodal.runs.released import CHANNELS, place_released, read_released, released_layer, require_two, save_released
from polymodal.surgery import fuse

RELEASED_TOKENS = TokenExchange(threshold=2e-2, penalty=6e-6)
"""As released for NYUDv2 with MiT-B3: λ of 1e-6 on sums over batches of 6."""

# How many blocks the first and the third stage have, and how wide the first is, tells the encoder.
_ENCODERS = {
    (2, 2, 32): "mit_b0",
    (2, 2, 64): "mit_b1",
    (3, 6, 64): "mit_b2",
    (3, 18, 64): "mit_b3",
    (3, 27, 64): "mit_b4",
    (3, 40, 64): "mit_b5",
}

# Our layers beside the released ones, which count the maps of the decoder from the last one.
_LAYERS = (
    (r"encoder\.block(\d)\.(\d+)\.attn\.fusion\.scorers\.(\d)\.(\d)", "encoder.score_predictor.{}.score_nets.{}.{}"),
    (r"(encoder\.block\d\.\d+)\.attn\.layer\.(q|kv|proj|sr)", "{}.attn.{}.module"),
    (r"(encoder\.block\d\.\d+)\.attn\.layer\.norm", "{}.attn.norm"),
    (r"(encoder\.block\d\.\d+\.mlp\.fc\d)", "{}.module"),
    (r"(encoder\.patch_embed\d\.proj)", "{}.module"),
    (r"decoder\.mlp_stage\.(\d)\.linear", "decoder.linear_c{}.proj"),
    (r"decoder\.fuse_stage\.0", "decoder.linear_fuse.conv"),
    (r"decoder\.fuse_stage\.1", "decoder.linear_fuse.bn"),
    (r"segmentation_head\.0", "decoder.linear_pred"),
)


def import_tokenfusion(file: Path, out: Path) -> str:
    """Write a released checkpoint as a model folder that predicts what the released code predicts.

    Nothing in the file is executed, and nothing is written unless every tensor has found its place.

    Args:
        file: A `.pth.tar` that the code of TokenFusion saved: SegFormer with MiT-B0 to B5 on colour and depth.
        out: The model folder, new or empty.

    Returns:
        What was found, for people to read.

    Raises:
        CheckpointError: The file cannot be read or is no such checkpoint, or the folder holds something.
        OSError: The folder cannot be written.
    """
    with new_folder(out, f"import-tokenfusion {file.resolve()}", CheckpointError):
        content = read_released(file)
        tensors = content["segmenter"]
        arguments = _arguments(tensors, file)
        net = fuse(models.create(models.SEGFORMER, **arguments), CHANNELS, RELEASED_TOKENS, inplace=True)
        place_released(net, tensors, released_names, file, f"SegFormer with {arguments['encoder_name']}")
        save_released(net, out, {"name": models.SEGFORMER, "arguments": arguments}, content.get("epoch_start"))
    return f"{len(tensors)} tensors of a SegFormer with {arguments['encoder_name']}, {arguments['classes']} classes"


def released_names(name: str) -> list[str]:
    """Where a tensor of ours comes from: the names of its released tensors, one for each modality if it is private.

    The released decoder shares its batch norm, which here is a modality's own.

    Args:
        name: In the state of a fused SegFormer.
    """
    if name == "ensemble.alpha":
        return ["alpha"]
    layer, _, tensor = name.removeprefix("network.").rpartition(".")

    def numbered(parts: Sequence[str]) -> list[Any]:
        if "scorers" in layer:
            stage, _, modality, index = parts
            return [int(stage) - 1, modality, index]
        return [4 - int(parts[0])] if "mlp_stage" in layer else list(parts)

    released = released_layer(layer, _LAYERS, numbered)
    if layer.endswith("fuse_stage.1"):
        return [f"{released}.{tensor}"] * 2
    if re.search(r"\.norm\d?$", layer):
        return [f"{released}.ln_{m}.{tensor}" for m in range(2)]
    return [f"{released}.{tensor}"]


def _arguments(tensors: Mapping[str, Tensor], file: Path) -> dict[str, Any]:
    """The arguments of the network that the tensors belong to."""
    blocks = [len({name.split(".")[2] for name in tensors if name.startswith(f"encoder.block{n}.")}) for n in (1, 3)]
    first, head = tensors.get("encoder.patch_embed1.proj.module.weight"), tensors.get("decoder.linear_pred.weight")
    known = first is not None and head is not None and head.dim() == 4 and "alpha" in tensors
    encoder = _ENCODERS.get((blocks[0], blocks[1], len(first))) if known and first is not None else None
    if encoder is None or head is None:
        raise CheckpointError(
            f"{file} is no checkpoint of TokenFusion: expected a SegFormer with MiT-B0 to B5, a classifier "
            f"decoder.linear_pred and the weights alpha; its tensors begin with {', '.join(list(tensors)[:5])}."
        )
    require_two(tensors, file)
    return {"encoder_name": encoder, "classes": len(head)}
