"""The weights of a multimodal network as a file: its values, whether they fit, and what the file adds up to."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from polymodal.errors import CheckpointError, ConfigError
from polymodal.multimodal import Multimodal
from polymodal.nn import PrivateNorm
from polymodal.run_folder import MODEL_CONFIG
from polymodal.transfer import require_values
from polymodal.weight_files import read_tensors


def values_of(net: Multimodal, *, half: bool) -> dict[str, Tensor]:
    """The values of a network by name, each in memory of its own on the CPU.

    Args:
        net: The network.
        half: Whether to store those of 32 bits in 16.

    Raises:
        ConfigError: Some are NaN or infinite, or beyond what 16 bits hold.
    """
    if spoilt := _not_finite(net.state_dict()):
        raise ConfigError(f"net: {spoilt} holds values that are NaN or infinite, so nothing was saved. Train it anew.")
    # Tied weights and views share memory, which the format refuses: every key gets memory of its own.
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in net.state_dict().items()}
    if half:
        tensors = {key: value.half() if value.dtype == torch.float32 else value for key, value in tensors.items()}
        if beyond := _not_finite(tensors):
            raise ConfigError(f"net: {beyond} has values that 16 bits do not hold (fp16). Save it without half=True.")
    return tensors


def write_values(tensors: dict[str, Tensor], path: Path) -> str:
    """Write a file, and give what it adds up to.

    Raises:
        OSError: It cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(tensors, path, metadata={"format": "pt"})
    except SafetensorError as error:  # how the library reports a full disk
        raise OSError(str(error)) from error
    return _digest(path)


def read_values(net: Multimodal, path: Path, digest: str | None, *, half: bool) -> None:
    """Give a network the values of a file.

    Args:
        net: The network.
        path: The file.
        digest: What the file must add up to; None in models of earlier versions.
        half: Whether values of 32 bits are stored in 16.

    Raises:
        CheckpointError: The file is missing, damaged or of another call, or its values are spoilt or do not fit.
    """
    tensors = _private(read_tensors(path), net)
    if half:
        tensors = {key: value.float() if value.dtype == torch.float16 else value for key, value in tensors.items()}
    if problems := misfits(tensors, net):
        raise CheckpointError(f"{path} belongs to another network: {problems}.")
    if spoilt := _not_finite(tensors):
        raise CheckpointError(
            f"{path}: {spoilt} holds values that are NaN or infinite. Restore the file, or train anew."
        )
    if digest is not None and _digest(path) != digest:
        raise CheckpointError(
            f"{path} is not what {MODEL_CONFIG} beside it was written with: saving was interrupted between the two, or "
            "one was replaced or damaged. Save the model again, or take both files from one source."
        )
    own = net.state_dict(keep_vars=True)
    require_values(own.items())
    for key, value in own.items():
        value.data = value.data.to(tensors[key].dtype)  # each as it was saved, which may be in several precisions
    net.load_state_dict(tensors)


def misfits(tensors: Mapping[str, Tensor], net: Multimodal) -> str:
    """Which tensors are not those of a network; empty if they all are."""
    expected = net.state_dict()
    problems = [
        *(f"missing {key}" for key in expected.keys() - tensors.keys()),
        *(f"unexpected {key}" for key in tensors.keys() - expected.keys()),
        *(
            f"{key} has shape {tuple(tensors[key].shape)}, expected {tuple(expected[key].shape)}"
            for key in expected.keys() & tensors.keys()
            if tensors[key].shape != expected[key].shape
        ),
    ]
    return "; ".join(sorted(problems)[:6]) + (f"; ... ({len(problems)} in all)" if len(problems) > 6 else "")


def _private(tensors: Mapping[str, Tensor], net: Multimodal) -> dict[str, Tensor]:
    """The tensors, with those of norms that earlier versions shared, such as layer norms, for every modality."""
    own = {
        f"{name}.{key}": value.shape
        for name, norm in net.named_modules()
        if isinstance(norm, PrivateNorm) and norm.kind.per_sample
        for key, value in norm.named_parameters(recurse=False)
    }
    return {
        key: value.expand(own[key]).clone() if key in own and own[key][1:] == value.shape else value
        for key, value in tensors.items()
    }


def _not_finite(tensors: Mapping[str, Tensor]) -> str:
    """The first tensor that no training would keep; empty if there is none."""
    return next((key for key, value in tensors.items() if not value.isfinite().all()), "")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
