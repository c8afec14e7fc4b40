"""A model is a folder of `model.safetensors` and `config.json`, never a pickle."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from polymodal.adaptation import adapted, check_classes
from polymodal.budget import budget
from polymodal.documents import DocumentError, parse_json, read_json
from polymodal.errors import CheckpointError, ConfigError, PolymodalError
from polymodal.files import publish, workplace, write_file
from polymodal.model_weights import misfits, read_values, values_of, write_values
from polymodal.models import create
from polymodal.multimodal import Multimodal
from polymodal.run_folder import MODEL
from polymodal.run_folder import MODEL_CONFIG as _CONFIG
from polymodal.run_folder import MODEL_WEIGHTS as _WEIGHTS
from polymodal.settings import FuseSettings
from polymodal.sources import local, packaged, require_own
from polymodal.surgery import fuse
from polymodal.weight_files import safetensors_of

_FORMAT = 1
_KEYS = ("format", "network", "fuse", "metadata", "weights", "half")
_FUSE = [field.name for field in fields(FuseSettings)]


def save(
    net: Multimodal,
    folder: str | os.PathLike[str],
    *,
    network: Mapping[str, Any] | None = None,
    metadata: Mapping[str, Any] | None = None,
    half: bool = False,
) -> Path:
    """Write a multimodal network to a folder.

    Both files are complete before either takes the place of an earlier one, so a full disk leaves the folder as it was.
    The configuration says what the weights add up to: `load` refuses those of another call.

    Args:
        net: The network.
        folder: Where to; made when it is not there.
        network: How `polymodal.models.create` makes the plain network: `{"name": ..., "arguments": {...}}`; it is made
            to see that the weights fit. Without it, `load` must be given the plain network.
        metadata: Anything else in types that JSON knows, such as how inputs were normalised and what the classes are
            called.
        half: Whether weights of 32 bits are stored in 16 (fp16), which makes the file half as large; `load` then gives
            them in 32 bits again, rounded.

    Returns:
        The folder.

    Raises:
        ConfigError: When `net` is none, `network` makes another network, or JSON knows no such type, or a weight is
            beyond what 16 bits hold, or the folder is that of a run, of which `load` reads the model within; nothing is
            written.
        OSError: When the folder cannot be written.
    """
    if not isinstance(net, Multimodal):
        raise ConfigError(
            f"net: expected what `fuse` returned, got a {type(net).__name__}, of which `load` could make nothing. Give "
            "the network itself; of what torch.compile made, net._orig_mod, of DistributedDataParallel, net.module."
        )
    folder = Path(folder)
    if (folder / MODEL).is_dir():
        raise ConfigError(
            f"{folder} is a run folder, of which `load` reads {folder / MODEL}: name that one, or another folder."
        )
    config: dict[str, Any] = {
        "format": _FORMAT,
        "network": network,
        "fuse": net.settings.as_config(),
        "metadata": dict(metadata or {}),
        **({"half": True} if half else {}),
    }
    plain = _parsed(_json(config))
    if network is not None:
        _check_network(net, plain["network"])
    tensors = values_of(net, half=half)
    existed = folder.exists()
    try:
        with workplace(folder / _WEIGHTS) as place:
            config["weights"] = write_values(tensors, place / _WEIGHTS)
            (place / _CONFIG).write_text(_json(config), encoding="utf-8")
            publish(place, _WEIGHTS, _CONFIG)
    except BaseException:
        if not existed:
            with suppress(OSError):
                folder.rmdir()
        raise
    return folder


def load(
    folder: str | os.PathLike[str],
    *,
    network: nn.Module | None = None,
    classes: int | None = None,
    modalities: Sequence[str] | Mapping[str, str] | None = None,
) -> Multimodal:
    """Read a multimodal network from a folder that `save` wrote. Nothing in the folder is executed.

    For fine-tuning it can be made for other classes or modalities; `taken_over` of the network then says what it has of
    the saved one, and what starts anew. An image may have another size whenever the plain network allows it.

    Args:
        folder: Where from: a model folder, the run folder that holds one, the name of a model that comes with the
            package, such as "nyudv2-39", or a model on the Hugging Face Hub, `hf://user/name` or
            `hf://user/name@revision`.
        network: The plain network, when the folder does not say how to make it or it is your own. It is not changed.
        classes: How many classes it is to predict; the last layers then start anew, from PyTorch's random numbers.
        modalities: Those that it is to have, in order; or each with the one of the saved model whose norms, channels
            and whatever else is a modality's own it starts from, such as
            `{"rgb": "rgb", "depth": "depth", "thermal": "depth"}`.

    Returns:
        The network, in eval mode and the precision that it was saved in (float32, where its weights are only stored
        in 16 bits); on the CPU, or where `network` is.

    Raises:
        CheckpointError: When the folder is no model, is corrupted, its tensors do not fit the network, or it has no
            such modality.
        ConfigError: When `classes` is no number above 0, or given with a network of your own.
        FusionError: When the modalities cannot be those of this fusion.
    """
    folder = model_folder(folder)
    check_classes(classes, network)
    config = read_config(folder)
    try:
        settings = FuseSettings.from_config(config["fuse"])
    except PolymodalError as error:
        raise CheckpointError(f"{folder / _CONFIG}: {error}") from error
    if network is None:
        network = _create(folder, config.get("network"), settings)
    try:
        net = fuse(network, **vars(settings))
    except (PolymodalError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{folder / _CONFIG} does not fit the network {type(network).__name__}: {error}"
        ) from error
    read_values(net, folder / _WEIGHTS, config.get("weights"), half=config.get("half", False))
    if classes is not None or modalities is not None:
        net = adapted(net, network, config.get("network"), classes, modalities, str(folder))
    return net.eval()


def annotate(folder: str | os.PathLike[str], **metadata: Any) -> None:
    """Write something into the metadata of a saved model, in the place of what it had under the same keys.

    Args:
        folder: A model folder, or the run folder that holds one.
        **metadata: In types that JSON knows.

    Raises:
        CheckpointError: The folder is no model.
        ConfigError: JSON knows no such type, or the model is not on this machine; nothing is written.
        OSError: The folder cannot be written.
    """
    require_own(folder, "Give a folder of this machine.")
    config = read_config(folder)
    config["metadata"] = {**(config.get("metadata") or {}), **metadata}
    text = _json(config)
    _parsed(text)
    write_file(model_folder(folder) / _CONFIG, text.encode())


def model_folder(folder: str | os.PathLike[str]) -> Path:
    """The model folder itself, or the one within a run folder; of an address on the Hub, where it was downloaded to."""
    folder = local(folder)
    within = folder / MODEL
    return within if within.is_dir() else folder


def read_config(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The configuration of a saved model: `{"format", "network", "fuse", "metadata"}`.

    Raises:
        CheckpointError: When the folder holds no configuration that can be read.
    """
    path = model_folder(folder) / _CONFIG
    if not path.is_file():
        remedy = f"in it, or the name of a model that comes with the package: {', '.join(packaged())}"
        if os.fspath(folder) in packaged():
            remedy = "in it. It hides the model of that name that comes with the package: rename it, or work elsewhere"
        raise CheckpointError(
            f"{folder} is no model folder: it has no {_CONFIG}. Expected {_CONFIG} and {_WEIGHTS} {remedy}."
        )
    try:
        config = read_json(path, CheckpointError)
    except (DocumentError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}.") from error
    if not isinstance(config, dict) or not isinstance(config.get("fuse"), dict):
        raise CheckpointError(f"{path} is no model configuration: expected an object with the key 'fuse'.")
    if config.get("format") != _FORMAT:
        raise CheckpointError(
            f"{path}: expected format {_FORMAT}, got {config.get('format')!r}. Use the version that wrote it."
        )
    for key in ("network", "metadata"):
        if not isinstance(config.get(key), dict | None):
            raise CheckpointError(f"{path}: {key}: expected keys and values, got {str(config[key])[:60]}.")
    if not isinstance(config.get("half", False), bool):
        raise CheckpointError(f"{path}: half: expected true or false, got {str(config['half'])[:60]}.")
    unknown = [key for key in config if key not in _KEYS]
    unknown += [f"fuse.{key}" for key in config["fuse"] if key not in _FUSE]
    unknown += [f"network.{key}" for key in config.get("network") or () if key not in ("name", "arguments")]
    if unknown:
        raise CheckpointError(
            f"{path}: {unknown[0][:60]}: unknown. Restore the file, or use the version that wrote it."
        )
    return config


def _parsed(text: str) -> Any:
    """As `load` will read it.

    Raises:
        ConfigError: It is beyond the bounds of documents.
    """
    try:
        return parse_json(text)
    except DocumentError as error:
        raise ConfigError(f"network and metadata: {error}, and `load` would refuse it. Keep less in them.") from error


def _json(config: Mapping[str, Any]) -> str:
    try:
        return json.dumps(config, indent=1, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"network and metadata: expected types that JSON knows, and {error}. Give plain numbers, texts, lists and "
            "dicts, such as tensor.tolist()."
        ) from error


def _check_network(net: Multimodal, spec: Any) -> None:
    """Refuse what `load` could not make this network of."""
    if not isinstance(spec, dict) or spec.keys() != {"name", "arguments"}:
        raise ConfigError(f'network: expected {{"name": ..., "arguments": {{...}}}}, got {spec!r}.')
    try:
        with torch.random.fork_rng(devices=[]):  # first weights are drawn, and thrown away
            made = fuse(create(spec["name"], **spec["arguments"]), **vars(net.settings), inplace=True)
    except (PolymodalError, TypeError) as error:
        raise ConfigError(f"network: {spec['name']!r} cannot be made into this network again: {error}") from error
    if problems := misfits(net.state_dict(), made):
        raise ConfigError(f"network: {spec['name']!r} with {spec['arguments']} is another network: {problems}.")


def _create(folder: Path, spec: Mapping[str, Any] | None, settings: FuseSettings) -> nn.Module:
    if spec is None:
        raise CheckpointError(f"{folder} does not say how to make its network: give it, load(folder, network=...).")
    with safetensors_of(folder / _WEIGHTS) as file:
        shapes = [file.get_slice(key).get_shape() for key in file.keys()]  # noqa: SIM118  (no mapping)
    try:
        named = len(settings.modalities)
        if named > len(shapes):
            raise CheckpointError(f"it has {named} modalities, and the weights are {len(shapes)} tensors")
        copies = named if settings.convolutions == "private" else 1
        with budget(sum(map(math.prod, shapes)) // copies, len(shapes)):
            return create(spec["name"], **spec["arguments"])
    except (PolymodalError, KeyError, TypeError, ValueError, RuntimeError, MemoryError) as error:
        raise CheckpointError(
            f"{folder / _CONFIG}: the network cannot be made: {str(error).splitlines()[0] if str(error) else error!r}"
        ) from error
