"""Who is there: the one fact that every module which knows of modalities shares."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor


class Roster:
    """The modalities of one network, and which of them the running forward pass carries.

    Every private norm, fusion operation and private stem of a network holds the same roster, so that a forward pass
    on a subset of the modalities, or with the fusion switched off, is said once.

    Args:
        names: The modalities, in the order of the folded axis.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.present: tuple[int, ...] = tuple(range(len(self.names)))
        self.fusing = True

    @property
    def complete(self) -> bool:
        """Whether every modality is present."""
        return len(self.present) == len(self.names)

    def select(self, per_modality: Tensor) -> Tensor:
        """The rows of a tensor `(M, ...)` that belong to the K present modalities, `(K, ...)`; no copy when all are."""
        return per_modality if self.complete else per_modality[list(self.present)]

    @contextmanager
    def only(self, present: Sequence[int]) -> Iterator[None]:
        """Within the context, the folded axis carries these modalities alone."""
        self.present = tuple(present)
        try:
            yield
        finally:
            # Not what was found: two threads that overlap would leave one's subset behind for good.
            self.present = tuple(range(len(self.names)))

    @contextmanager
    def without_fusion(self) -> Iterator[None]:
        """Within the context, no fusion operation acts."""
        before, self.fusing = self.fusing, False
        try:
            yield
        finally:
            self.fusing = before
