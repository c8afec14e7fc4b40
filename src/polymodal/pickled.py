"""Files that `torch.save` wrote: read without running anything in them."""

import pickle
from pathlib import Path
from typing import Any

import torch

from polymodal.errors import CheckpointError


def load_tensors(file: Path, remedy: str) -> Any:
    """What a file holds, on the CPU, as long as that is tensors and plain values.

    Args:
        file: Written by `torch.save`.
        remedy: A sentence for a file that is missing or refused: what to use instead.

    Raises:
        CheckpointError: The file is missing, damaged, or holds anything that could run code.
    """
    try:
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
