"""Where an exchange that needs no scales acts: behind norms, behind blocks, or on what the encoder returns."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from polymodal.anatomy import Anatomy, blocks
from polymodal.errors import FusionError
from polymodal.fusion.base import Sites, describe_candidates, select
from polymodal.fusion.exchanging import BehindBlock, PeriodicExchange, require_columns
from polymodal.fusion.stages import encoded, last_blocks, layout_at
from polymodal.nn import Exits, stand_behind


@dataclass(frozen=True)
class Place:
    """A site, and what is exchanged there.

    Attributes:
        name: Of the layer.
        axes: What is exchanged of each tensor that it returns, `"none"` for nothing.
        channels: Where the channels of what it returns are, 1 or -1; None behind a norm, which turns them itself.
    """

    name: str
    axes: tuple[str, ...]
    channels: int | None

    def install(self, network: nn.Module, make: Callable[[str, str], PeriodicExchange]) -> None:
        """Put the exchange, made of the name and the axis, behind the layer of a network with private norms."""
        if len(self.axes) > 1:
            stand_behind(network, self.name, Exits([None if a == "none" else make(self.name, a) for a in self.axes]))
            return
        exchange = make(self.name, self.axes[0])
        stand_behind(network, self.name, exchange if self.channels is None else BehindBlock(exchange, self.channels))


def find(network: nn.Module, sites: Sites, axis: str | Sequence[str]) -> tuple[str, ...]:
    """The names of the layers, without those of stages in which nothing is exchanged.

    Raises:
        FusionError: When nothing matches, or there are other stages than axes.
    """
    anatomy = Anatomy(network)
    encoder = blocks.encoder_of(network)
    if sites in ("encoder", [encoder], (encoder,)):
        _axes_of_maps(anatomy, axis)
        return (encoder,)
    norms = anatomy.norms_of_channels
    if sites in ("early", "middle", "late", "all"):
        chosen = list(last_blocks(network, sites))
    elif sites == "auto":
        chosen = [name for name in blocks.sites(network) if name in norms]
    else:
        ends = [held[-1] for held in anatomy.stages.values()]
        candidates = {name: m for name, m in network.named_modules() if name in norms or name in ends}
        chosen = select(candidates, sites)
    chosen = [name for name in chosen if _axis_at(anatomy, name, axis) != "none"]
    if not chosen:
        raise FusionError(
            f"sites: {sites!r} and axis {axis!r} leave no layer at which to exchange." + describe_candidates(norms)
        )
    return tuple(chosen)


def look(anatomy: Anatomy, sites: Sequence[str], axis: str | Sequence[str]) -> list[Place]:
    """What is exchanged at each site.

    Raises:
        FusionError: When a block returns no tensor, or columns are to be exchanged of what has none.
    """
    if list(sites) == [blocks.encoder_of(anatomy.network)]:
        return [Place(sites[0], _axes_of_maps(anatomy, axis), 1)]
    found = []
    for name in sites:
        chosen, is_norm = _axis_at(anatomy, name, axis), name in anatomy.norms
        shape, channels = (anatomy.run.shape_of(name), None) if is_norm else layout_at(anatomy, name)
        if chosen == "column" and shape is not None:
            require_columns(name, shape)
        found.append(Place(name, (chosen,), channels))
    return found


def _axis_at(anatomy: Anatomy, name: str, axis: str | Sequence[str]) -> str:
    """What is exchanged at a layer: the axis, or that of the stage that the layer is in."""
    if isinstance(axis, str):
        return axis
    stages = anatomy.stages
    if len(axis) != len(stages):
        raise FusionError(
            f"axis: expected one for each of the {len(stages)} stages of the encoder ({', '.join(stages)}), got "
            f"{len(axis)}: {', '.join(axis)}."
        )
    for chosen, held in zip(axis, stages.values(), strict=True):
        if any(f"{name}.".startswith(f"{block}.") for block in held):
            return chosen
    raise FusionError(
        f"axis: '{name}' is in none of the stages {', '.join(stages)}, so its axis is not known. Give one axis for all "
        "sites, or leave the layer out of the sites."
    )


def _axes_of_maps(anatomy: Anatomy, axis: str | Sequence[str]) -> tuple[str, ...]:
    """What is exchanged of each tensor that the encoder returns: nothing of those that nobody reads."""
    seen = encoded(anatomy)
    read = sorted(seen.read)
    wanted = [axis] * len(read) if isinstance(axis, str) else list(axis)
    if not read or len(wanted) != len(read):
        raise FusionError(
            f"axis: expected one for each of the {len(read)} maps that are read of what '{seen.encoder}' returns, got "
            f"{len(wanted)}: {', '.join(wanted)}."
        )
    chosen = dict(zip(read, wanted, strict=True))
    return tuple(chosen.get(index, "none") for index in range(len(seen.features)))
