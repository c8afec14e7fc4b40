"""What `fuse` asks of a network and of its settings before it changes anything: each is checked, or refused by name."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from types import FunctionType
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized

from polymodal.anatomy import Anatomy
from polymodal.anatomy.blocks import is_of_one_sample
from polymodal.anatomy.listed import check_listed
from polymodal.anatomy.norms import can_be_private, kind_of
from polymodal.errors import FusionError
from polymodal.fusion.base import select
from polymodal.multimodal import Multimodal
from polymodal.nn import PrivateNorm

_HOOKS = ("forward", "forward_pre", "backward", "backward_pre")


def checked_names(modalities: Sequence[str] | Mapping[str, int | None]) -> list[str]:
    """The names of the modalities, each once and fit for a module's name."""
    if isinstance(modalities, str):
        raise FusionError(
            f'modalities: expected a list of names, got the single string {modalities!r}; write ["{modalities}"].'
        )
    if not isinstance(modalities, Iterable) or isinstance(modalities, set | frozenset):  # these have no order
        raise FusionError(f"modalities: expected a list of names, or a dict of channels by name, got {modalities!r}.")
    names = list(modalities)
    if not names:
        raise FusionError("modalities: expected at least one name, got none.")
    for name in names:
        if not isinstance(name, str) or not name or "." in name:
            raise FusionError(f"modalities: expected names without a dot, got {name!r}.")
    doubled = next((name for name, count in Counter(names).items() if count > 1), None)
    if doubled is not None:
        raise FusionError(f"modalities: {doubled!r} is named twice; every modality needs a name of its own.")
    return names


def checked_channels(modalities: Sequence[str] | Mapping[str, int | None]) -> dict[str, int | None]:
    """The channels of each modality, whose names are as of `checked_names`; None where they were not said."""
    names = checked_names(modalities)
    if not isinstance(modalities, Mapping):
        return dict.fromkeys(names)
    for name, count in modalities.items():
        if count is not None and (not isinstance(count, int) or isinstance(count, bool) or count < 1):
            raise FusionError(f"modalities: expected a number of channels ≥ 1 for {name!r}, got {count!r}.")
    return dict(modalities)


def check_norms(anatomy: Anatomy) -> None:
    """Refuse a network whose norms cannot be made private.

    A norm without scales and running statistics is shared like a convolution, and so is a layer that is called a norm
    and is none that is known. What is a kind of a known norm with a computation of its own is refused, because it may
    mix the modalities' statistics, or should have been private.
    """
    model = anatomy.network
    if isinstance(model, torch.jit.ScriptModule):
        raise FusionError(
            "A scripted network cannot be taken apart: fuse the Python network, then script or export it."
        )
    for name, module in model.named_modules():
        kind = type(module).__name__
        if isinstance(module, PrivateNorm | Multimodal):
            raise FusionError("The network is multimodal already: fuse the plain network.")
        if any(map(is_lazy, (*module.parameters(recurse=False), *module.buffers(recurse=False)))):
            raise FusionError(
                f"The layer '{name}' ({kind}) gets its shape from the first features that it sees: run the network "
                "once on an image, and fuse it then."
            )
        if reason := _why_not_private(module):
            raise FusionError(f"The norm '{name}' ({kind}) {reason}")
    check_listed(model, anatomy.norms)
    if not anatomy.norms:
        kinds = {name: type(module).__name__ for name, module in model.named_modules()}
        others = [f"'{name}' ({kind})" for name, kind in kinds.items() if "norm" in kind.lower()]
        found = (
            f"its norms are {', '.join(others[:5])}{', ...' if len(others) > 5 else ''}" if others else "it has no norm"
        )
        raise FusionError(
            f"The network has no norm that could be made private: {found}. Choose a network with norms that "
            "have scales or running statistics."
        )


def _why_not_private(module: nn.Module) -> str:
    """Why a norm can neither be made private nor be shared, the rest of a sentence; empty for any other layer."""
    if can_be_private(module):
        if any(getattr(module, f"_{when}_hooks") for when in _HOOKS):
            return "carries hooks, which would be lost with it: remove them before fusing."
        if is_parametrized(module):
            return "computes its parameters, which would be lost with it: remove the parametrizations before fusing."
    elif isinstance(module, _NormBase) and (module.track_running_stats or "BatchNorm" in type(module).__name__):
        return (
            "normalises in a way of its own, which cannot be made private. Replace it by one of torch.nn, timm.layers "
            "or torchvision.ops."
        )
    elif isinstance(module, nn.LayerNorm | nn.GroupNorm | nn.RMSNorm) and kind_of(module) is None:
        return (
            "normalises in a way of its own, over axes that are not known, and cannot be made private. Replace it by "
            "one of torch.nn or timm.layers."
        )
    elif "running_var" in dict(module.named_buffers(recurse=False)):
        return (
            "keeps running statistics but is no norm that can be made private. Replace it by a batch norm; for fixed "
            'statistics, fuse with statistics="frozen".'
        )
    return ""


def check_copies(model: nn.Module) -> None:
    """Refuse a network of which a copy would still run the network itself.

    A function put in the place of `forward` holds on to what it was made with, and is not copied.
    """
    for name, module in model.named_modules():
        if isinstance(vars(module).get("forward"), FunctionType):
            raise FusionError(
                f"The forward of '{name}' ({type(module).__name__}) was replaced by a function, which in a copy would "
                "go on running the network that was copied. Use inplace=True, or a module of your own around it."
            )


def check_rows(anatomy: Anatomy, layers: Mapping[str, nn.Module]) -> None:
    """Refuse a network in which a private layer is not given one sample, and so one modality, after the other."""
    if (found := anatomy.misplaced(layers)) is not None:
        name, shape = found
        what = "norm" if name in anatomy.norms else "layer"
        raise FusionError(
            f"The {what} '{name}' ({type(layers[name]).__name__}) is given features of shape {shape} in whose first "
            "axis the samples are not one after the other, or are mixed with each other, so each modality "
            "cannot have its own. Keep the batch in front and its samples apart."
        )


def frozen_norms(anatomy: Anatomy, statistics: str | Sequence[str]) -> tuple[str, ...]:
    """The names of the norms whose statistics are frozen, in the network's order."""
    norms = anatomy.norms
    if statistics == "batch":
        return ()
    if statistics == "frozen":
        # All that could keep running statistics; a norm of one sample has none to freeze.
        statistics = [name for name, norm in norms.items() if not is_of_one_sample(norm)] or list(norms)[:1]
    if isinstance(statistics, str) or not isinstance(statistics, Sequence):
        raise FusionError(f'statistics: expected "batch", "frozen" or a list of norm patterns, got {statistics!r}.')
    for pattern in statistics:
        if not any(fnmatchcase(name, pattern) for name in norms):
            raise FusionError(
                f"statistics: {pattern!r} matches no norm; the first ones are {', '.join(list(norms)[:8])}."
            )
    frozen = tuple(name for name in norms if any(fnmatchcase(name, pattern) for pattern in statistics))
    for name in frozen:
        if getattr(norms[name], "running_mean", None) is None:
            raise FusionError(
                f"statistics: '{name}' ({type(norms[name]).__name__}) keeps no running statistics to be frozen. "
                'Use "batch", or patterns of the norms that keep some.'
            )
    return frozen


def private_modalities(
    stems: str | Mapping[str, str], channels: Mapping[str, int | None], anatomy: Anatomy
) -> frozenset[str]:
    """The modalities that get a first convolution of their own."""
    width = anatomy.entrance.channels
    if not isinstance(stems, str | Mapping):
        raise FusionError(f'stems: expected "repeat", "private" or a dict of them by modality, got {stems!r}.')
    ways = dict.fromkeys(channels, stems) if isinstance(stems, str) else dict.fromkeys(channels, "repeat") | dict(stems)
    for name, way in ways.items():
        if name not in channels:
            raise FusionError(f"stems: unknown modality {name!r}; the modalities are {', '.join(channels)}.")
        if way not in ("repeat", "private"):
            raise FusionError(f'stems: expected "repeat" or "private" for {name!r}, got {way!r}.')
        if way == "repeat" and width % (channels[name] or 1):
            remedy = f'Use stems={{"{name}": "private"}}.'
            if obstacle := _obstacle(anatomy):
                remedy = f"A private stem cannot help, as {obstacle}: give the modality another number of channels."
            raise FusionError(
                f"stems: {name!r} has {channels[name]} channels, which cannot be tiled to the {width} that "
                f"the network takes. {remedy}"
            )
    private = frozenset(name for name, way in ways.items() if way == "private")
    if private and (obstacle := _obstacle(anatomy)):
        raise FusionError(f'stems: {obstacle}, so no modality can have one of its own. Use stems="repeat".')
    return private


def check_layers(anatomy: Anatomy) -> None:
    """Refuse a network that cannot be copied layer by layer."""
    for name, layer in anatomy.layers.items():
        if next(layer.children(), None) is not None:
            raise FusionError(
                f"convolutions: '{name}' ({type(layer).__name__}) holds parameters beside layers of its own, so the "
                'modalities cannot have copies of it layer by layer. Use convolutions="shared".'
            )


def low_rank_sites(
    anatomy: Anatomy, convolutions: Mapping[str, Any], merged: frozenset[str], private_stems: bool
) -> dict[str, Any]:
    """The rank of a private part, and the names of the convolutions that are to have one.

    Args:
        anatomy: The network's.
        convolutions: The `rank`, and `sites` if not all convolutions with one group and so many channels are meant.
        merged: The layers that see one stream.
        private_stems: Whether the first convolution is some modality's own.
    """
    rank = convolutions.get("rank")
    if unknown := [key for key in convolutions if key not in ("rank", "sites")]:
        raise FusionError(f"convolutions: expected a rank, and sites if need be, got {unknown[0]!r}.")
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
        raise FusionError(f"convolutions: rank: expected a whole number of 1 or more, got {rank!r}.")
    own_stem = anatomy.entrance.name if private_stems else ""
    able = {
        name: layer
        for name, layer in anatomy.layers.items()
        if isinstance(layer, nn.Conv2d)
        and layer.groups == 1
        and not _computes_weight(layer)
        and name not in merged
        and name != own_stem
    }
    if not able:
        raise FusionError(
            "convolutions: rank: the network has no convolution of images, with one group and weights that are not "
            'computed, that modalities share. Use convolutions="shared".'
        )
    widths = {name: min(layer.in_channels, layer.out_channels) for name, layer in able.items()}
    sites = convolutions.get("sites", "auto")
    chosen = [name for name in able if widths[name] >= rank] if sites == "auto" else select(able, sites)
    if not chosen:
        raise FusionError(
            f"convolutions: rank {rank} is above the channels of every convolution that modalities share, at most "
            f"{max(widths.values())}. Choose a smaller rank."
        )
    if narrow := [name for name in chosen if widths[name] < rank]:
        raise FusionError(
            f"convolutions: rank {rank} is above the {widths[narrow[0]]} channels of '{narrow[0]}'. Choose a smaller "
            "rank or other sites."
        )
    return {"rank": rank, "sites": chosen}


def _computes_weight(layer: nn.Module) -> bool:
    """Whether a layer's weight is none of its parameters but made of others, by a parametrization or by hooks."""
    return "weight" not in layer._parameters


def _obstacle(anatomy: Anatomy) -> str:
    """Why the first convolution cannot be a modality's own; empty when it can."""
    way_in = anatomy.entrance
    first = f"the network's first convolution '{way_in.name}'"
    if not way_in.direct:
        return f"{first} does not see the image's {way_in.channels} channels but others that are made of them"
    if way_in.conv.groups != 1:
        return f"{first} is grouped"
    if _computes_weight(way_in.conv):
        return f"{first} computes its weights (parametrized)"
    if others := anatomy.run.beside(way_in.name):
        return f"what {first} reads is read by '{others[0]}', too"
    return ""
