"""A trained network made for other classes or other modalities."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from polymodal.errors import ConfigError
from polymodal.models import create, head_argument, head_of
from polymodal.multimodal import Multimodal
from polymodal.preconditions import checked_names
from polymodal.surgery import fuse
from polymodal.transfer import checked_like, take_over


def check_classes(classes: Any, network: nn.Module | None) -> None:
    """Refuse classes that no network can have, or that one of your own cannot be given.

    Raises:
        ConfigError: With the remedy.
    """
    if classes is None:
        return
    if type(classes) is not int or classes < 1:
        raise ConfigError(f"classes: expected a number of classes, 1 or more, got {classes!r}.")
    if network is not None:
        raise ConfigError(
            "classes: a network of your own has those that it has. Load the model with the network that it was trained "
            "with, fuse one for the other classes, and give that its values: polymodal.take_over."
        )


def adapted(
    source: Multimodal,
    network: nn.Module,
    spec: Mapping[str, Any] | None,
    classes: int | None,
    modalities: Sequence[str] | Mapping[str, str] | None,
    called: str,
) -> Multimodal:
    """A network like a trained one, for other classes or modalities, that starts from it.

    Args:
        source: The trained network; it is not changed.
        network: The plain network that it was made of; it is not changed.
        spec: How that is made, where it has a name.
        classes: See `polymodal.load`.
        modalities: See `polymodal.load`.
        called: What the source is called in messages.
    """
    if not isinstance(modalities, Mapping | Sequence | None) or isinstance(modalities, str):
        raise ConfigError(
            f"modalities: expected a list of names, or a dict with what each starts like, got {modalities!r}."
        )
    names = source.modalities if modalities is None else checked_names(list(modalities))
    like = modalities if isinstance(modalities, Mapping) else None
    origins = checked_like(names, source.modalities, like, called)
    settings = replace(
        source.settings,
        modalities={name: source.settings.modalities[first] for name, first in origins.items()},
        stems={name: source.settings.stems[first] for name, first in origins.items()},
    )
    anew: dict[str, str] = {}
    if classes is not None and spec is not None:
        name, key = spec["name"], head_argument(spec["name"])
        if spec["arguments"].get(key) != classes:
            network = create(name, **{**spec["arguments"], key: classes})
            anew = dict.fromkeys(head_of(name, spec["arguments"]), f"{classes} {key}")
    net = fuse(network, **vars(settings)).to(next(source.parameters()).dtype)
    take_over(net, source, like=like, anew=anew, called=called)
    return net
