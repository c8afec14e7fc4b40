"""Models on the Hugging Face Hub, by their address: `hf://user/name`, or `hf://user/name@revision`."""

import os
import re
from pathlib import Path

from polymodal.errors import CheckpointError
from polymodal.run_folder import MODEL_CONFIG, MODEL_WEIGHTS

_ADDRESS = re.compile(r"hf:/{1,2}(?P<name>[^/@]+/[^/@]+)(?:@(?P<revision>.+))?")  # a Path has one slash of two


def is_address(model: str | os.PathLike[str]) -> bool:
    """Whether a model is said to lie on the Hub, and not on this machine."""
    return os.fspath(model).replace("\\", "/").startswith("hf:/")


def local(model: str | os.PathLike[str]) -> Path:
    """Where a model lies on this machine: the path itself, or the Hub's cache, which it is downloaded to once.

    Of the repository, its description and its weights are loaded, and nothing else. Without network, or where
    HF_HUB_OFFLINE is set, what was downloaded before is taken.

    Args:
        model: A path, or an address on the Hub.

    Raises:
        CheckpointError: The address is none, or there is no such model, or the Hub cannot be reached.
    """
    if not is_address(model):
        return Path(model)
    address = os.fspath(model).replace("\\", "/")
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise CheckpointError(f"{address}: expected hf://user/name, or hf://user/name@revision.")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    name, revision = match["name"], match["revision"]
    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=[MODEL_CONFIG, MODEL_WEIGHTS]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"hf://{name}{f'@{revision}' if revision else ''}: cannot be loaded: {reason} Look at the name and the "
            "revision, at the network, and for a private model at `hf auth login`."
        ) from error
    missing = [file for file in (MODEL_CONFIG, MODEL_WEIGHTS) if not (folder / file).is_file()]
    if missing:
        raise CheckpointError(f"hf://{name}: is no model of polymodal: it has no {' and no '.join(missing)}.")
    return folder
