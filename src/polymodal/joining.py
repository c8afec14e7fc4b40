"""Finished networks of one modality each become one network of all of them."""

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from polymodal import checkpoint
from polymodal.errors import CheckpointError, FusionError
from polymodal.fusion import Fusion
from polymodal.multimodal import Multimodal
from polymodal.near import meant
from polymodal.surgery import fuse
from polymodal.taken_over import TakenOver
from polymodal.transfer import Part, copy_parts, is_added, may_be_left, misfit, own_tensors, parts_of, refuse, text_of

Finished = nn.Module | str | os.PathLike[str]
"""A plain network, or the folder of a model or a run of one modality."""


def join(
    networks: Mapping[str, Finished],
    fusion: Fusion | str | None = "exchange",
    *,
    shared_from: str | None = None,
    channels: Mapping[str, int | None] | None = None,
    **settings: Any,
) -> Multimodal:
    """Fuse finished networks of one modality each into one: what is shared from one of them, or their mean.

    What is a modality's own, such as its norms, is that of its network; what a fusion learns starts anew. Networks that
    were trained from different starts have filters in different orders, and their mean is seldom a good one: train on.

    Args:
        networks: By modality, in order: plain networks of one architecture, or folders of runs or models of one
            modality, whatever it is called there. None is changed.
        fusion: See `fuse`.
        shared_from: The modality whose network gives what is shared; None for the mean of all.
        channels: Of each modality, see `fuse`; those that the folders say, or those of the network, if not given.
        **settings: As `fuse` takes them.

    Returns:
        The network, in the mode of the first plain one, in eval mode from folders. `taken_over` says what it has of
        them.

    Raises:
        CheckpointError: The networks are of different architectures, with the name of each tensor or layer that does
            not fit; or a folder holds no such model.
        FusionError: As `fuse`; or `shared_from` is none of the modalities.

    Example:
        >>> def finished():
        ...     return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 1))
        >>> net = join({"rgb": finished(), "depth": finished()}, sites="1", shared_from="rgb")
        >>> net.taken_over.source
        'a network of each modality, what is shared from that of rgb'
    """
    if not networks:
        raise FusionError("networks: expected the finished network of each modality, got none.")
    if shared_from is not None and shared_from not in networks:
        raise FusionError(
            f"shared_from: expected one of {', '.join(networks)}, or None for the mean, got {shared_from!r}"
            f"{meant(str(shared_from), networks)}"
        )
    said: dict[str, int | None] = {}
    plain = {m: _plain(network, m, said) for m, network in networks.items()}
    first = plain[shared_from or next(iter(plain))]
    net = fuse(first, channels or {m: said.get(m) for m in plain}, fusion, **settings)
    if tuple(net.modalities) != tuple(plain):
        raise FusionError(f"channels: expected those of {', '.join(plain)}, got {', '.join(net.modalities)}.")
    given = {m: dict(_tensors(network)) for m, network in plain.items()}
    own = parts_of(net)
    values: dict[Part, Tensor] = {}
    problems: list[str] = []
    for part, tensor in own.items():
        if is_added(part[0]):
            continue
        owner = part[1] or shared_from
        sources = {m: given[m].get(part[0]) for m in ([owner] if owner else given)}
        wrong = {m: value for m, value in sources.items() if value is None or value.shape != tensor.shape}
        problems += [f"{misfit(text_of(part), tensor, value)} in the network of {m}" for m, value in wrong.items()]
        values[part] = _mean([value for value in sources.values() if value is not None]) if not wrong else tensor
    needed = {name for name, _ in own}
    problems += [
        f"{misfit(name, None, value)} in the network of {m}"
        for m, tensors in given.items()
        for name, value in tensors.items()
        if name not in needed and not may_be_left(name)
    ]
    refuse(problems or _otherwise(plain), "networks: they are of different architectures")
    copy_parts(values, own)
    shared = f"that of {shared_from}" if shared_from else "their mean"
    net.taken_over = TakenOver(
        f"a network of each modality, what is shared from {shared}",
        {m: m for m in plain},
        tuple(map(text_of, values)),
        {text_of(part): "added by the fusion, or its ensemble" for part in own if part not in values},
        {},
    )
    return net


def _plain(given: Finished, modality: str, channels: dict[str, int | None]) -> nn.Module:
    """A plain network, made from a folder if need be, whose modality's channels are then noted."""
    if isinstance(given, Multimodal):
        raise FusionError(
            f"networks: {modality}: expected a plain network, or the folder of a run of one modality, got a fused one."
        )
    if isinstance(given, nn.Module):
        return given
    from polymodal.models import create

    net = checkpoint.load(given)
    spec = checkpoint.read_config(given).get("network")
    if len(net.modalities) != 1 or net.settings.low_rank[0] or spec is None:
        raise CheckpointError(
            f"{given}: expected a model of one modality and a network of polymodal.models, without private parts of "
            f"low rank; it has {', '.join(net.modalities)}. Give the plain network itself."
        )
    [channels[modality]] = net.channels.values()
    with torch.random.fork_rng(devices=[]):  # first weights are drawn, and thrown away
        plain = create(spec["name"], **spec["arguments"]).eval()
    own: dict[Part, Tensor] = {(name, None): tensor for name, tensor in _tensors(plain)}
    trained = {part: tensor for part, tensor in parts_of(net).items() if not is_added(part[0])}
    copy_parts({(name, None): tensor for (name, _), tensor in trained.items()}, own)
    return plain


def _otherwise(plain: Mapping[str, nn.Module]) -> list[str]:
    """The layers that compute otherwise than those of the first network, with tensors of the same shapes."""
    layers = {m: {name: _computation(layer) for name, layer in network.named_modules()} for m, network in plain.items()}
    (first, expected), *others = layers.items()
    return [
        f"'{name}' is {found.get(name) or 'nothing'} in the network of {m} and {expected.get(name) or 'nothing'} in "
        f"that of {first}"
        for m, found in others
        for name in {**expected, **found}
        if found.get(name, "") != expected.get(name, "")
    ]


def _computation(module: nn.Module) -> str:
    """What a layer computes in eval mode, for people; empty where it passes everything on."""
    kind = type(module).__name__
    return "" if kind == "Identity" or "Drop" in kind else f"{kind}({module.extra_repr()})"


def _tensors(network: nn.Module) -> list[tuple[str, Tensor]]:
    """The state of a plain network."""
    return [
        (f"{path}.{key}" if path else key, tensor)
        for path, module in network.named_modules(remove_duplicate=False)
        for key, tensor in own_tensors(module)
    ]


def _mean(values: list[Tensor]) -> Tensor:
    """The mean; of counts, the first."""
    if len(values) == 1 or not values[0].is_floating_point():
        return values[0]
    return torch.stack([value.to(values[0]) for value in values]).mean(0)
