"""Who is there: the one fact that every module which knows of modalities shares."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from polymodal.functional import fold, unfold


@dataclass(frozen=True)
class Pattern:
    """The samples of a batch that have the same modalities.

    Attributes:
        present: The indices of their modalities.
        samples: Which samples of the batch they are, an index tensor `(N,)`.
    """

    present: tuple[int, ...]
    samples: Tensor


class Roster:
    """The modalities of one network, and which of them the running forward pass carries.

    Every private norm, fusion operation and private stem of a network holds the same roster, so that a forward pass
    on a subset of the modalities, with the fusion switched off, or with a prediction from every modality beside that of
    one stream, is said once.

    Where samples differ in the modalities that they have, the folded batch holds the patterns one behind the other,
    each folded by itself: what is absent has no row. `each` runs an operation on one pattern after the other, in which
    `present` is the pattern's; `apart` and `together` see the rows of each modality.

    Args:
        names: The modalities, in the order of the folded axis.

    Attributes:
        present: The indices of those that the forward pass carries, in any of its samples.
        patterns: How the samples differ in the modalities that they have; empty where they do not.
        fusing: Whether fusion operations act.
        branching: Whether what merges the modalities keeps their own streams beside the merged one.
        rows: How many images the last forward pass carried, of all modalities together; None before the first.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.present: tuple[int, ...] = tuple(range(len(self.names)))
        self.patterns: tuple[Pattern, ...] = ()
        self.fusing = True
        self.branching = False
        self.rows: int | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Without the size of a batch, which may be a symbol of a graph."""
        return {**vars(self), "rows": None}

    def count(self, network: nn.Module, images: tuple[Any, ...]) -> None:
        """Note how many images a network is given, before it runs."""
        del network
        if images and isinstance(images[0], Tensor):
            self.rows = images[0].shape[0]

    @property
    def complete(self) -> bool:
        """Whether every modality is present."""
        return len(self.present) == len(self.names)

    def select(self, per_modality: Tensor) -> Tensor:
        """The rows of a tensor `(M, ...)` that belong to the K present modalities, `(K, ...)`; no copy when all are."""
        return per_modality if self.complete else per_modality[list(self.present)]

    def each(self, operation: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Apply an operation on folded features to them, the samples of one pattern after the other.

        Args:
            operation: It; what it makes of a sample does not depend on others.
            x: Folded features, `(B*K, ...)`, or the rows of the patterns one behind the other.
        """
        if not self.patterns:
            return operation(x)
        parts = []
        for pattern, part in zip(self.patterns, self._parts(x), strict=True):
            with self.at(pattern):
                parts.append(operation(part))
        return torch.cat(parts)

    def apart(self, x: Tensor) -> list[Tensor]:
        """The rows of each of the K present modalities, from folded features `(B*K, ...)`."""
        if not self.patterns:
            return list(unfold(x, len(self.present)).unbind(1))
        rows: dict[int, list[Tensor]] = {m: [] for m in self.present}
        for pattern, part in zip(self.patterns, self._parts(x), strict=True):
            streams = part.unflatten(0, (len(pattern.samples), len(pattern.present), -1)).unbind(1)
            for m, stream in zip(pattern.present, streams, strict=True):
                rows[m].append(stream.flatten(0, 1))
        return [torch.cat(parts) for parts in rows.values()]

    def together(self, streams: Sequence[Tensor]) -> Tensor:
        """The reverse of `apart`: folded features from the rows of each of the K present modalities."""
        if not self.patterns:
            return fold(streams)
        inner = sum(map(len, streams)) // self._images()
        rows = {
            m: iter(stream.split([len(p.samples) * inner for p in self.patterns if m in p.present]))
            for m, stream in zip(self.present, streams, strict=True)
        }
        return torch.cat(
            [
                torch.stack([next(rows[m]).unflatten(0, (-1, inner)) for m in p.present], 1).flatten(0, 2)
                for p in self.patterns
            ]
        )

    @contextmanager
    def only(
        self, present: Sequence[int], *, branching: bool = False, patterns: Sequence[Pattern] = ()
    ) -> Iterator[None]:
        """Within the context these modalities are there alone, kept beside their merged stream or not."""
        self.present, self.branching, self.patterns = tuple(present), branching, tuple(patterns)
        try:
            yield
        finally:
            # Not what was found: two threads that overlap would leave one's subset behind for good.
            self.present, self.branching, self.patterns = tuple(range(len(self.names))), False, ()

    @contextmanager
    def at(self, pattern: Pattern) -> Iterator[None]:
        """Within the context the batch is the samples of one pattern."""
        before = self.present, self.patterns, self.rows
        self.present, self.patterns, self.rows = pattern.present, (), len(pattern.samples) * len(pattern.present)
        try:
            yield
        finally:
            self.present, self.patterns, self.rows = before

    @contextmanager
    def without_fusion(self) -> Iterator[None]:
        """Within the context, no fusion operation acts."""
        before, self.fusing = self.fusing, False
        try:
            yield
        finally:
            self.fusing = before

    def _parts(self, x: Tensor) -> tuple[Tensor, ...]:
        """The rows of each pattern; of every image there may be several, such as its windows."""
        inner = x.shape[0] // self._images()
        return x.split([len(p.samples) * len(p.present) * inner for p in self.patterns])

    def _images(self) -> int:
        return sum(len(p.samples) * len(p.present) for p in self.patterns)


def patterns_of(present: Tensor) -> list[Pattern]:
    """The samples of a batch by the modalities that they have, in the order in which the patterns come.

    Args:
        present: Boolean `(B, M)`, every sample with one modality at least.
    """
    rows: dict[tuple[int, ...], list[int]] = {}
    for sample, flags in enumerate(present.tolist()):
        rows.setdefault(tuple(m for m, there in enumerate(flags) if there), []).append(sample)
    return [Pattern(key, torch.tensor(samples)) for key, samples in rows.items()]
