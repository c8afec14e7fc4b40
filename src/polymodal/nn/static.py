"""What modalities do together at inference, said to whoever writes a network as a static graph.

A module that knows of modalities, one that holds a `Roster`, takes part in `polymodal.export.absorb` by two methods:

- `decided(...)` gives what stands in its place once scales do not change any more (see `settled`);
- `static(mark)` gives what stands in its place in the graph of a single modality, where marks stand for what all do
  together. A module without it has no static form, and a network with it is exported as it is, with nothing absorbed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from polymodal.functional import fold, unfold


@dataclass(frozen=True)
class Choice:
    """Channels are chosen: each is a modality's own, or the mean of the others' (CEN eq. 6).

    Attributes:
        keep: Which are its own, boolean `(K, C)` for the K modalities that are present.
    """

    keep: Tensor


@dataclass(frozen=True)
class Joint:
    """All streams are read together.

    Attributes:
        operation: Takes for every value that is marked a list of the K streams' maps `(B, C, H, W)`; returns a tuple of
            K maps, or one.
        merges: Whether it returns one, which is all modalities'.
    """

    operation: nn.Module
    merges: bool = False


Mark = Callable[[Choice | Joint], nn.Module]
"""Makes a module that stands in the graph of one modality for what all do together. It takes what every stream has, one
value or several, and returns a tensor like the first."""


class OnFolded(nn.Module):
    """An operation on folded features `(B*K, C, H, W)`, seen as one on a list of K streams.

    Args:
        operation: It.
        merges: Whether it returns one map `(B, C, H, W)`.
    """

    def __init__(self, operation: nn.Module, *, merges: bool = False) -> None:
        super().__init__()
        self.operation = operation
        self.merges = merges

    def forward(self, streams: Sequence[Tensor]) -> Tensor | tuple[Tensor, ...]:
        """A map `(B, C, H, W)` of each stream to one, or to one for each."""
        out: Tensor = self.operation(fold(streams))
        return out if self.merges else unfold(out, len(streams)).unbind(1)


def joint(operation: nn.Module, *, merges: bool = False) -> Joint:
    """What an operation on folded features `(B*K, C, H, W)` does to all streams."""
    return Joint(OnFolded(operation, merges=merges), merges)
