"""Who is there: the one fact that every module which knows of modalities shares."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


class Roster:
    """The modalities of one network, and which of them the running forward pass carries.

    Every private norm, fusion operation and private stem of a network holds the same roster, so that a forward pass
    on a subset of the modalities, with the fusion switched off, or with a prediction from every modality beside that of
    one stream, is said once.

    Args:
        names: The modalities, in the order of the folded axis.

    Attributes:
        present: The indices of those that the forward pass carries.
        fusing: Whether fusion operations act.
        branching: Whether what merges the modalities keeps their own streams beside the merged one.
        samples: B, how many samples of each modality the last forward pass carried; None before the first.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.present: tuple[int, ...] = tuple(range(len(self.names)))
        self.fusing = True
        self.branching = False
        self.samples: int | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Without the size of a batch, which may be a symbol of a graph."""
        return {**vars(self), "samples": None}

    def count(self, network: nn.Module, images: tuple[Any, ...]) -> None:
        """Note how many samples a network is given, before it runs."""
        del network
        if images and isinstance(images[0], Tensor):
            self.samples = images[0].shape[0] // len(self.present)

    @property
    def complete(self) -> bool:
        """Whether every modality is present."""
        return len(self.present) == len(self.names)

    def select(self, per_modality: Tensor) -> Tensor:
        """The rows of a tensor `(M, ...)` that belong to the K present modalities, `(K, ...)`; no copy when all are."""
        return per_modality if self.complete else per_modality[list(self.present)]

    @contextmanager
    def only(self, present: Sequence[int], *, branching: bool = False) -> Iterator[None]:
        """Within the context these modalities are there alone, kept beside their merged stream or not."""
        self.present, self.branching = tuple(present), branching
        try:
            yield
        finally:
            # Not what was found: two threads that overlap would leave one's subset behind for good.
            self.present, self.branching = tuple(range(len(self.names))), False

    @contextmanager
    def without_fusion(self) -> Iterator[None]:
        """Within the context, no fusion operation acts."""
        before, self.fusing = self.fusing, False
        try:
            yield
        finally:
            self.fusing = before
