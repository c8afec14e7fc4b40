"""Change detection: two dates of one place are two modalities, and a decoder reads the difference of their maps.

Source: Daudt et al., "Fully Convolutional Siamese Networks for Change Detection", ICIP 2018 (FC-Siam-diff), whose skip
    connections carry |a - b|; with an exchange within the encoder, Fang et al., "Changer", TGRS 2023.
"""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from torch import Tensor, nn

from polymodal.errors import FusionError
from polymodal.fusion.decode_once import DecodeOnce
from polymodal.fusion.stages import OneMap
from polymodal.nn import Roster


@dataclass(frozen=True)
class Difference(DecodeOnce):
    """A fusion inside the encoder; behind it, the decoder reads |a - b| of the two dates at every scale.

    There is one prediction, of what has changed, and none from either date alone.

    Args:
        within: How the dates meet inside the encoder; it must keep one stream for each.

    Raises:
        FusionError: When a setting cannot work; from `fuse`, when there are not two modalities.
    """

    name: ClassVar[str] = "difference"
    branches: ClassVar[bool] = False

    weights: Literal["learned", "equal"] = field(default="equal", init=False, repr=False)

    @property
    def needs_all(self) -> str:
        """Nothing has changed in one date."""
        return "a difference is of two dates"

    def one_map(self, channels: int, roster: Roster) -> nn.Module:
        """The difference, where decoding once has the weighted mean.

        Raises:
            FusionError: When there are not two modalities.
        """
        del channels
        if len(roster.names) != 2:
            raise FusionError(
                f"A fusion by {self.name!r} takes two dates, that is two modalities, and was given "
                f"{', '.join(roster.names)}. Compare two at a time."
            )
        return Subtract(roster)


class Subtract(OneMap):
    """The difference of the maps of two dates."""

    def forward(self, x: Tensor) -> Tensor:
        """`(B*2, C, H, W)` to |a - b|, `(B, C, H, W)`."""
        first, second = self.roster.streams(x).unbind(1)
        return (first - second).abs()
