"""Where a model comes from: a path, the package itself by its name, or the Hugging Face Hub by its address.

An address is `hf://user/name`, or `hf://user/name@revision`.
"""

import os
import re
from pathlib import Path

from polymodal.errors import CheckpointError, ConfigError
from polymodal.run_folder import MODEL_CONFIG, MODEL_WEIGHTS

_ZOO = Path(__file__).with_name("zoo")
_ADDRESS = re.compile(r"hf:/{1,2}(?P<name>[^/@]+/[^/@]+)(?:@(?P<revision>.+))?")  # a Path has one slash of two


def is_address(model: str | os.PathLike[str]) -> bool:
    """Whether a model is said to lie on the Hub, and not on this machine."""
    return os.fspath(model).replace("\\", "/").startswith("hf:/")


def packaged() -> list[str]:
    """The names of the models that come with the package."""
    return sorted(config.parent.name for config in _ZOO.glob(f"*/{MODEL_CONFIG}"))


def is_packaged(model: str | os.PathLike[str]) -> bool:
    """Whether a model is one of the package, by its name; what lies at that path on this machine goes before it."""
    return os.fspath(model) in packaged() and not Path(model).exists()


def require_own(model: str | os.PathLike[str], remedy: str) -> None:
    """Refuse a model that cannot be changed from here.

    Args:
        model: As the user named it.
        remedy: A sentence.

    Raises:
        ConfigError: It is on the Hub, or comes with the package.
    """
    for foreign, where in ((is_address, "is on the Hub"), (is_packaged, "comes with the package")):
        if foreign(model):
            raise ConfigError(f"{model}: this model {where} and cannot be changed from here. {remedy}")


def home(model: str | os.PathLike[str]) -> Path:
    """Where what is found out about a model is written: beside it; of one of the package, a folder that is made."""
    if not is_packaged(model):
        return local(model)
    folder = Path("runs/packaged") / model
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def local(model: str | os.PathLike[str]) -> Path:
    """Where a model lies on this machine: the path itself, the package, or the Hub's cache.

    To the cache it is downloaded once. Of the repository, its description and its weights are loaded, and nothing else.
    Without network, or where HF_HUB_OFFLINE is set, what was downloaded before is taken.

    Args:
        model: A path, the name of a model that comes with the package, or an address on the Hub.

    Raises:
        CheckpointError: The address is none, or there is no such model, or the Hub cannot be reached.
    """
    if is_packaged(model):
        return _ZOO / model
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
