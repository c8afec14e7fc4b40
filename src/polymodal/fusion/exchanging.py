"""What an exchange puts at its sites: modules that replace channels or columns, see `exchange` for the settings."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn

from polymodal import functional
from polymodal.errors import FusionError
from polymodal.fusion.base import AtSite
from polymodal.nn import Roster
from polymodal.nn.static import Choice, Mark, joint

if TYPE_CHECKING:
    from polymodal.fusion.exchange import ChannelFusion, Exchange, RandomExchange


class ChannelExchange(AtSite, ABC):
    """The exchange at one site.

    Args:
        scale: The site's γ, `(M, C)`, for its shape and device.
    """

    rule: "ChannelFusion"
    part: Tensor

    def __init__(self, rule: "ChannelFusion", roster: Roster, scale: Tensor) -> None:
        super().__init__(rule, roster)
        self.register_buffer("part", functional.own_parts(*scale.shape, device=scale.device), persistent=False)

    @abstractmethod
    def choose(self, scale: Tensor) -> Tensor:
        """Which channels the K present modalities keep, `(K, C)`, from their γ `(K, C)`."""

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        """Exchange among the K present modalities.

        Args:
            x: Normalised features, folded, `(B*K, C, ...)`.
            scale: γ of the present modalities, `(K, C)`.

        Returns:
            A tensor like `x`.
        """
        if not (self.roster.fusing and self.rule.exchanges):
            return x
        streams = self.roster.streams(x)
        return functional.refold(functional.exchange(streams, self.choose(scale), self.rule.others))

    def decided(self, scale: Tensor) -> "Decided | None":
        """What it does once the scales γ `(M, C)` do not change any more; None where nothing is exchanged."""
        if not (self.roster.meeting and self.rule.exchanges):
            return None
        return Decided(self.choose(self.roster.select(scale)), self.rule.others)


class Decided(nn.Module):
    """An exchange of which the choice is made: nothing is compared or sorted.

    Args:
        keep: Which channels the K present modalities keep, boolean `(K, C)`.
        others: What of the others stands in for the rest, see `functional.exchange`.
    """

    keep: Tensor

    def __init__(self, keep: Tensor, others: functional.Others) -> None:
        super().__init__()
        self.register_buffer("keep", keep)
        self.others = others

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        """Exchange folded features `(B*K, C, ...)`, whatever the scales."""
        del scale
        return functional.exchange(functional.unfold(x, len(self.keep)), self.keep, self.others).flatten(0, 1)

    def static(self, mark: Mark) -> nn.Module:
        """A choice of channels; where it is the largest of several, all streams are read."""
        return mark(Choice(self.keep.cpu()) if self.others == "mean" or len(self.keep) == 2 else joint(self))


class ScaleExchange(ChannelExchange):
    """The exchange of channels with small scales at one site, see `ChannelExchange`."""

    rule: "Exchange"

    def choose(self, scale: Tensor) -> Tensor:
        """Those with large scales."""
        return self.rule.keep(scale, self.roster.select(self.part))


class FixedExchange(ChannelExchange):
    """The exchange of drawn channels at one site, see `ChannelExchange`; `keep` `(M, C)` is part of the state.

    Args:
        site: Its name, on which the draw depends.
    """

    keep: Tensor

    def __init__(self, rule: "RandomExchange", roster: Roster, scale: Tensor, site: str) -> None:
        super().__init__(rule, roster, scale)
        self.register_buffer("keep", rule.draw(site, self.part))

    def choose(self, scale: Tensor) -> Tensor:
        """Those that were drawn, whatever their scales."""
        del scale
        return self.roster.select(self.keep)


class PeriodicExchange(AtSite):
    """The exchange of every p-th channel or column at one site, whatever the scales.

    Args:
        name: Where it stands, for error messages.
        axis: What is exchanged, `"channel"` or `"column"`.
    """

    rule: "Exchange"

    def __init__(self, rule: "Exchange", roster: Roster, name: str, axis: str) -> None:
        super().__init__(rule, roster)
        self.name = name
        self.columns = axis == "column"

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        """Features of the K present modalities, folded, `(B*K, C, ...)`, to a tensor like them.

        Raises:
            FusionError: When columns are to be exchanged of what has none.
        """
        del scale
        return self.roster.each(self._exchanged, x) if self.roster.fusing else x

    def keep(self, x: Tensor) -> Tensor:
        """What stays of features `(B*K, C, ...)`: channels `(K, C)` or columns `(W,)`."""
        size = x.shape[-1 if self.columns else 1]
        assert self.rule.every is not None
        keep = functional.keep_but_every(size, self.rule.every, device=x.device)
        if self.columns:
            return keep
        part = functional.own_parts(len(self.roster.names), size, device=x.device)
        return self.roster.select(keep | ~self.rule.allowed(part))

    def decided(self, scale: Tensor | None) -> nn.Module | None:
        """What it does once scales do not change any more: a choice, where the number of channels is known by now.

        None where nothing is exchanged.
        """
        if not self.roster.meeting:
            return None
        if self.columns or scale is None:
            return self
        return Decided(self.keep(scale), self.rule.others)

    def static(self, mark: Mark) -> nn.Module:
        """All streams are read."""
        return mark(joint(self)) if self.roster.meeting else nn.Identity()

    def _exchanged(self, x: Tensor) -> Tensor:
        if not self.roster.meeting:
            return x
        streams = self.roster.streams(x)
        if not self.columns:
            return functional.refold(functional.exchange(streams, self.keep(x), self.rule.others))
        require_columns(self.name, x.shape)
        return functional.refold(functional.exchange_columns(streams, self.keep(x), self.rule.others))


def require_columns(name: str, shape: Sequence[int]) -> None:
    """Refuse to exchange columns of what a layer returns if it has none.

    Raises:
        FusionError: With the layer.
    """
    if len(shape) < 4:
        raise FusionError(
            f"axis: '{name}' returns features of shape {tuple(shape)}, which have no rows and columns. Exchange "
            "channels there, or choose other sites."
        )


class BehindBlock(nn.Module):
    """An exchange behind a block, whose channels may stand in the last axis.

    Args:
        exchange: Takes folded features `(B*K, C, ...)`.
        axis: Where the channels of what the block returns are, 1 or -1.
    """

    def __init__(self, exchange: PeriodicExchange, axis: int) -> None:
        super().__init__()
        self.exchange = exchange
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        """What the block returns to a tensor like it."""
        return self.exchange(x.movedim(self.axis, 1)).movedim(1, self.axis)
