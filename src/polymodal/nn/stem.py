"""The way in: images of different channel counts become one folded tensor that one network takes.

Two ways exist for each modality. *Repeat* tiles its channels up to those of the network, as the papers do with depth.
*Private* gives it a first convolution of its own, started from the network's, for any number of bands.
"""

import copy
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polymodal.anatomy.convolutions import Convolution
from polymodal.errors import FusionError
from polymodal.functional import fold
from polymodal.nn.roster import Roster


class Stem(nn.Module):
    """Folds a dict of images into one tensor.

    Args:
        roster: The network's modalities.
        channels: The channels C_m of each modality; None for those of the network, whatever they are.
        network_channels: The channels that the network's own first convolution takes.
        private: The modalities whose first convolution is their own.
        axes: How many axes an image has beside its channels.
    """

    def __init__(
        self,
        roster: Roster,
        channels: Mapping[str, int | None],
        network_channels: int,
        private: frozenset[str],
        axes: int = 2,
    ) -> None:
        super().__init__()
        self.roster = roster
        self.channels = dict(channels)
        self.private = private
        self.axes = axes
        self.tiles = {
            name: 1 if count is None or name in private else network_channels // count
            for name, count in channels.items()
        }
        # All modalities share the folded tensor, so the narrower ones are filled up with zeros that nothing reads.
        self.width = max((count or network_channels) * self.tiles[name] for name, count in channels.items())

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """`{name: (B, C_m, H, W)}` of the K present modalities to the folded tensor `(B*K, width, H, W)`.

        Where samples differ in what they have, it holds the images that are there.
        """
        names = self.roster.names
        if not self.roster.patterns:
            folded = fold([self._widen(names[m], inputs[names[m]]) for m in self.roster.present])
        else:
            rows = ((names[m], self.roster.samples_of(m)) for m in self.roster.present)
            folded = self.roster.together([self._widen(name, inputs[name][samples]) for name, samples in rows])
        self.roster.rows = folded.shape[0]  # who gives it to a part of the network alone leaves `Roster.count` out
        return folded

    def extra_repr(self) -> str:
        """The settings that `print(model)` shows."""
        way = {name: "private" if name in self.private else f"repeat {self.tiles[name]}x" for name in self.channels}
        return ", ".join(f"{name}: {count or 'any'} ({way[name]})" for name, count in self.channels.items())

    def _widen(self, name: str, image: Tensor) -> Tensor:
        tiled = image if self.tiles[name] == 1 else image.repeat(1, self.tiles[name], *(1,) * self.axes)
        missing = self.width - tiled.shape[1]
        # Without private stems nothing is filled up: the network itself says what it takes.
        return F.pad(tiled, (0, 0) * self.axes + (0, missing)) if missing > 0 and self.private else tiled


class PrivateConv(nn.Module):
    """A network's first convolution, with a copy of its own for the modalities that asked for one.

    Args:
        conv: The network's first convolution; the modalities without a private one go on sharing it.
        roster: The network's modalities.
        channels: The channels C_m of the private modalities.
        width: The channels of the folded images, those of the widest modality.
        memos: For each modality what was copied of other layers, see `PrivateLayer`.
    """

    per_modality: ClassVar[tuple[str, ...]] = ("private",)
    in_place: ClassVar[str] = "shared"

    def __init__(
        self,
        conv: Convolution,
        roster: Roster,
        channels: Mapping[str, int],
        width: int,
        memos: Mapping[str, dict[int, Any]],
    ) -> None:
        super().__init__()
        self.roster = roster
        self.width = width
        self.shared = conv if len(channels) < len(roster.names) else None
        # The prefix lets a modality have any name: "type" or "keys" are attributes of every module dict.
        self.private = nn.ModuleDict(
            {f"of_{name}": with_in_channels(conv, count, memos[name]) for name, count in channels.items()}
        )

    def forward(self, x: Tensor) -> Tensor:
        """`(B*K, width, ...)` to `(B*K, C_out, ...)`; each convolution reads the channels that are its own.

        Raises:
            FusionError: When it is given anything but the images.
        """
        if x.shape[1] != self.width:
            raise FusionError(
                f"A private stem takes the images themselves, with {self.width} channels, and was given {x.shape[1]}: "
                'the network makes something else of them first. Use stems="repeat".'
            )
        images = self.roster.apart(x)
        convolutions = [self.of(self.roster.names[m]) for m in self.roster.present]
        made = [conv(image[:, : conv.in_channels]) for conv, image in zip(convolutions, images, strict=True)]
        return self.roster.together(made)

    def of(self, name: str) -> Convolution:
        """The convolution of a modality, its own or the shared one."""
        conv = dict(self.private).get(f"of_{name}", self.shared)
        assert isinstance(conv, Convolution)
        return conv


def with_in_channels(conv: Convolution, channels: int, memo: dict[int, Any] | None = None) -> Convolution:
    """A copy of a convolution that takes another number of channels and starts from its filters.

    With fewer channels, each gets the mean filter; with more, the filters are repeated in turn. They are scaled so
    that an image whose channels are all equal gives what it gave before: for one channel this is the convolution of
    the tiled image.

    Args:
        conv: A convolution with one group.
        channels: The channels of the copy.
        memo: What was copied before, as `copy.deepcopy` takes it.

    Returns:
        A convolution of the same class, padding, stride and output.
    """
    private = copy.deepcopy(conv, memo)
    filters = conv.weight.detach()
    before = filters.shape[1]
    if channels == before:
        return private
    if channels < before:
        filters = filters.mean(1, keepdim=True).expand(-1, channels, *filters.shape[2:]) * (before / channels)
    else:
        source = torch.arange(channels) % before
        repeated = source.bincount(minlength=before)[source].view(1, -1, *(1,) * (filters.dim() - 2))
        filters = filters[:, source.to(filters.device)] / repeated.to(filters)
    private.in_channels = channels
    private.weight = nn.Parameter(filters.clone(), requires_grad=conv.weight.requires_grad)
    return private
