"""A network that starts from a trained one of other classes or other modalities.

The tensors of a fused network are told apart by the layer of the plain network that they belong to and by the modality
that has them, so that networks meet whose modalities differ. A module says so by two attributes: `per_modality` names
its tensors that have a row, and its lists of modules that have an entry, for every modality; `in_place` names the
module within that stands for the layer whose place it took.
"""

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from itertools import chain

import torch
from torch import Tensor, nn

from polymodal.errors import CheckpointError
from polymodal.multimodal import Multimodal, require_fused
from polymodal.near import meant
from polymodal.nn import Attached, PrivateNorm
from polymodal.taken_over import TakenOver

Part = tuple[str, str | None]
"""The name of a tensor in the plain network, and whose it is: a modality's, or None for all of them.

A colon stands before what `fuse` has added to the plain network, such as what a fusion learns.
"""

_MOST = 5
"""Tensors that a message names."""


def take_over(
    net: Multimodal,
    source: Multimodal,
    *,
    like: Mapping[str, str] | None = None,
    anew: Mapping[str, str] | None = None,
    called: str = "the given network",
) -> TakenOver:
    """Give a network the values of a trained one of the same architecture. Nothing is changed unless all fits.

    What the source's modalities share, every modality of the network starts from, also where it has its own. What a
    fusion learns of the modalities together, such as a convolution of all their channels, is taken over where they are
    the same in the same order; which channels it exchanges, it decides by its own settings.

    Args:
        net: The network to be trained; it is changed.
        source: The trained network; it is not changed.
        like: For modalities that the source does not know, or that are to start from another one than their own: the
            modality of the source whose norms, and whatever else is a modality's own, they start from.
        anew: Names of the plain network's tensors that keep the values that they have, such as those of the last layer
            where the classes are others; each with the reason.
        called: What the source is called in messages and in the list.

    Returns:
        What was taken over and what was not. The network keeps it as `taken_over`, too.

    Raises:
        CheckpointError: A tensor is missing, left over or of another shape; the message names each. Or a modality
            starts from none that there is, or there is no tensor of a name in `anew`.
        ConfigError: `fuse` has not made one of the networks.
    """
    for network in (net, source):
        require_fused(network)
    origins = checked_like(net.modalities, source.modalities, like, called)
    anew = anew or {}
    own, given = parts_of(net), parts_of(source)
    known, needed = ({name for name, _ in parts} for parts in (given, own))
    if unknown := next((name for name in anew if name not in known | needed), ""):
        raise CheckpointError(f"anew: there is no tensor {unknown!r} in the network{meant(unknown, needed)}")
    same = tuple(origins.values()) == source.modalities
    plan: dict[Part, Part] = {}
    kept: dict[Part, str] = {}
    problems: list[str] = []
    for part, tensor in own.items():
        name, modality = part
        if reason := anew.get(name) or _why_anew(part, tensor, known, same):
            kept[part] = reason
            continue
        found = next((key for key in ((name, origins.get(modality or "")), (name, None)) if key in given), None)
        if found is None and name in known:
            problems.append(f"{text_of(part)}: expected one for all modalities, found one of each")
        elif found is None or given[found].shape != tensor.shape:
            problems.append(misfit(text_of(part), tensor, None if found is None else given[found]))
        else:
            plan[part] = found
    left = {part: _why_left(part, anew, needed) for part in given.keys() - plan.values()}
    problems += [misfit(text_of(part), None, given[part]) for part, why in left.items() if not why]
    refuse(problems, f"{called} is no model of the same network")
    copy_parts({part: given[found] for part, found in plan.items()}, own)
    net.taken_over = TakenOver(
        called,
        origins,
        tuple(map(text_of, plan)),
        {text_of(part): why for part, why in kept.items()},
        {text_of(part): why for part, why in sorted(left.items(), key=str)},
    )
    return net.taken_over


def checked_like(
    modalities: Sequence[str], known: Sequence[str], like: Mapping[str, str] | None, called: str
) -> dict[str, str]:
    """For every modality, the one of a source that it starts from.

    Args:
        modalities: Those of the network.
        known: Those of the source.
        like: Where it is not the one of the same name.
        called: What the source is called.

    Raises:
        CheckpointError: There is no such modality.
    """
    like = dict(like or {})
    if other := [name for name in like if name not in modalities]:
        raise CheckpointError(
            f"there is no modality {other[0]!r} that could start like another one: the network has "
            f"{', '.join(modalities)}{meant(other[0], modalities)}"
        )
    origins = {name: like.get(name, name) for name in modalities}
    for name, first in origins.items():
        if first not in known:
            raise CheckpointError(
                f"the modality {name!r} cannot start like {first!r}: {called} has {', '.join(known)}. Say which of "
                f"these it starts like, such as {{{name}: {known[0]}}}."
            )
    return origins


def parts_of(net: Multimodal) -> dict[Part, Tensor]:
    """All tensors of a network's state, those of each modality by themselves; views, not copies."""
    return dict([*_parts(net.network, "", None), *_parts(net.ensemble, ":ensemble", None)])


def is_added(name: str) -> bool:
    """Whether a tensor is none of the plain network's, but of what `fuse` has added to it."""
    return ":" in name


def may_be_left(name: str) -> bool:
    """Whether a network is the same without a tensor: what was added, and counts of batches."""
    return is_added(name) or name.endswith("num_batches_tracked")


def own_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The parameters and kept buffers of a module itself, by its own names."""
    kept = {key: value for key, value in module._buffers.items() if key not in module._non_persistent_buffers_set}
    yield from ((key, value.detach()) for key, value in {**module._parameters, **kept}.items() if value is not None)


def require_values(tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Refuse tensors, by name, that have no values and take none.

    Raises:
        CheckpointError: With the name of the first one.
    """
    for name, tensor in tensors:
        if tensor.is_meta:
            raise CheckpointError(
                f"{name}: the network is on the meta device, where tensors have no values and take none. Make it on "
                "the CPU or a GPU."
            )


@torch.no_grad()
def copy_parts(values: Mapping[Part, Tensor], own: Mapping[Part, Tensor]) -> None:
    """Write values, each in the precision and on the device of the tensor that takes it.

    Raises:
        CheckpointError: There is a tensor without values; nothing is written.
    """
    require_values((text_of(part), tensor) for part, tensor in chain(values.items(), own.items()))
    for part, value in values.items():
        own[part].copy_(value)


def misfit(name: str, expected: Tensor | None, found: Tensor | None) -> str:
    """Which tensor does not fit, for a message."""
    forms = [f"the shape {tuple(tensor.shape)}" if tensor is not None else "none" for tensor in (expected, found)]
    return f"{name}: expected {forms[0]}, found {forms[1]}"


def refuse(problems: Sequence[str], what: str) -> None:
    """Refuse if there is a problem.

    Raises:
        CheckpointError: With the first ones.
    """
    if problems:
        more = f"; ... ({len(problems)} in all)" if len(problems) > _MOST else ""
        raise CheckpointError(f"{what}: {'; '.join(sorted(problems)[:_MOST])}{more}.")


def text_of(part: Part) -> str:
    """A tensor as people read it, `name` or `name[modality]`."""
    name = part[0].lstrip(":").replace(":", ".")
    return name if part[1] is None else f"{name}[{part[1]}]"


def _parts(module: nn.Module, path: str, modality: str | None) -> Iterator[tuple[Part, Tensor]]:
    said: Sequence[str] = getattr(module, "per_modality", ())
    stands_for = getattr(module, "in_place", None)
    roster = getattr(module, "roster", None)
    for key, tensor in own_tensors(module):
        name = _joined(path, key, added=stands_for is not None)
        if key not in said:
            yield (name, modality), tensor
        elif roster is None:  # a norm that all share, in the form of a private one
            yield (name, modality), tensor[0]
        else:
            yield from (((name, m), row) for m, row in zip(roster.names, tensor, strict=True))
    for key, child in module._modules.items():
        if child is None:
            continue
        if key in said:
            named = isinstance(child, nn.ModuleDict)
            names = [of.removeprefix("of_") for of in child._modules] if named else list(roster.names)  # type: ignore[union-attr]
            for m, own in zip(names, child.children(), strict=True):
                yield from _parts(own, path, m)
        elif key == stands_for:
            yield from _parts(child, path, modality)
        else:
            slot = key == "fusion" and isinstance(module, PrivateNorm | Attached)
            yield from _parts(child, _joined(path, key, added=slot), modality)


def _joined(path: str, key: str, *, added: bool = False) -> str:
    if added:
        return f"{path}:{key}"
    return f"{path}.{key}" if path else key


def _why_anew(part: Part, tensor: Tensor, known: Container[str], same: bool) -> str:
    """Why a tensor keeps the value that it has; empty where it is to be taken over."""
    name, modality = part
    if name not in known:
        return "the model has none of it" if may_be_left(name) else ""
    if is_added(name) and tensor.dtype == torch.bool:
        return "decided by the fusion's settings"
    if is_added(name) and modality is None and not same:
        return "of the modalities together, which are others"
    return ""


def _why_left(part: Part, anew: Mapping[str, str], needed: Container[str]) -> str:
    """Why a tensor of the source has no place; empty where that means that the network is another one."""
    name, modality = part
    if name in anew:
        return anew[name]
    if name not in needed:
        return "not part of this network" if may_be_left(name) else ""
    return "of a modality that nothing starts like" if modality is not None else "replaced by the network's own"
