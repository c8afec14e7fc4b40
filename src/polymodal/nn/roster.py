"""Who is there: the one fact that every module which knows of modalities shares."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from polymodal.errors import FusionError
from polymodal.functional import fold, unfold
from polymodal.nn.passes import Passes


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

    Where samples differ in the modalities that they have, what is absent has no row: the folded batch holds the rows of
    one modality behind those of the other, each in the order of the patterns. Whoever goes through `apart`, `together`,
    `each` and `merged` need not know. In the latter two, `present` is the pattern's.

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
        self._passes = Passes()

    def __getstate__(self) -> dict[str, Any]:
        """Without the size of a batch, which may be a symbol of a graph, and without passes, which a copy never ran."""
        return {**vars(self), "rows": None, "_passes": Passes()}

    def count(self, _: nn.Module, images: tuple[Any, ...]) -> None:
        """Note how many images a network is given, before it runs."""
        if images and isinstance(images[0], Tensor):
            self.rows = images[0].shape[0]
        # A graph is made for rows of any number, which to compare would settle.
        if isinstance(self.rows, int) and not (torch.compiler.is_compiling() or torch.jit.is_tracing()):
            self._passes.begin(self._who())

    @property
    def complete(self) -> bool:
        """Whether every modality is present."""
        return len(self.present) == len(self.names)

    @property
    def meeting(self) -> bool:
        """Whether two modalities or more are there to meet."""
        return self.fusing and len(self.present) > 1

    def by_name(self, each: Sequence[Any]) -> dict[str, Any]:
        """What the present modalities have, in their order, each by its name."""
        return dict(zip((self.names[m] for m in self.present), each, strict=True))

    def select(self, per_modality: Tensor) -> Tensor:
        """The rows of a tensor `(M, ...)` that belong to the K present modalities, `(K, ...)`; no copy when all are."""
        return per_modality if self.complete else per_modality[list(self.present)]

    def streams(self, x: Tensor) -> Tensor:
        """Folded features `(B*K, ...)` as `(B, K, ...)`; where samples differ, of one pattern alone."""
        return unfold(x, len(self.present))

    def apart(self, x: Tensor) -> Sequence[Tensor]:
        """The rows of each of the K present modalities, from folded features `(B*K, ...)`."""
        if not self.patterns:
            # Not one index after the other: the backward pass of each would fill a whole folded tensor with zeros.
            if (inner := self.inner(x)) == 1:
                return self.streams(x).unbind(1)
            return [y.flatten(0, 1) for y in x.unflatten(0, (-1, len(self.present), inner)).unbind(1)]
        samples = [self.count_of(m) for m in self.present]
        inner = x.shape[0] // sum(samples)  # rows of an image, such as its windows
        return x.split([count * inner for count in samples])

    def together(self, streams: Sequence[Tensor]) -> Tensor:
        """The reverse of `apart`: folded features from the rows of each of the K present modalities."""
        if self.patterns:
            return torch.cat(tuple(streams))
        rows = streams[0].shape[0]  # a symbol where a graph is made, of which len() would make a number
        samples = self.rows // len(streams) if self.rows else rows
        if rows == samples:
            return fold(streams)
        return fold([y.unflatten(0, (samples, -1)) for y in streams]).flatten(0, 1)

    def inner(self, x: Tensor, reader: str = "A layer") -> int:
        """How many rows of the batch belong to one sample of one modality, such as its windows.

        Args:
            x: Folded features.
            reader: What was given them, for error messages.

        Raises:
            FusionError: When rows are left over, so that it is not known whose they are; or when layers run again for
                the gradient of a pass that had others.
        """
        self._require_pass()
        images = self.rows or len(self.present)
        if x.shape[0] % images:
            raise FusionError(
                f"{reader} was given {x.shape[0]} rows, which are no multiple of the {images} images in the batch, so "
                "it is not known which modality each belongs to. Let the network keep the batch in the first axis "
                'there, or fuse it with norms="shared" and convolutions="shared".'
            )
        return x.shape[0] // images if self.rows else 1  # not known yet, or a batch without samples

    def each(self, operation: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Apply an operation to folded features, the samples of one pattern after the other.

        Args:
            operation: Takes folded features `(B*K, ...)` and returns such; what it makes of a sample does not depend on
                others. Where an image has several rows, they count as further samples.
            x: Folded features.
        """
        if not self.patterns:
            return operation(x)
        made: dict[int, list[Tensor]] = {m: [] for m in self.present}
        for pattern, part in self._by_pattern(x):
            with self.at(pattern, part):
                streams = self.streams(operation(part)).unbind(1)
            for m, stream in zip(pattern.present, streams, strict=True):
                made[m].append(stream)
        return torch.cat([stream for streams in made.values() for stream in streams])

    def merged(self, operation: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Apply an operation that makes one map of all modalities' `(B*K, ...)`, likewise.

        Returns:
            `(B, ...)`; where samples differ, the patterns one behind the other, see `in_order`.
        """
        if not self.patterns:
            return operation(x)
        made = []
        for pattern, part in self._by_pattern(x):
            with self.at(pattern, part):
                made.append(operation(part))
        return torch.cat(made)

    def in_order(self, x: Tensor) -> Tensor:
        """Rows `(B, ...)` of the patterns one behind the other in the order of the samples."""
        return x[torch.cat([p.samples for p in self.patterns]).argsort()] if self.patterns else x

    def samples_of(self, m: int) -> Tensor:
        """Which samples the rows of a modality are, where samples differ."""
        return torch.cat([p.samples for p in self.patterns if m in p.present])

    def there(self) -> Tensor:
        """Which samples have which of the K present modalities, where samples differ: boolean `(B, K)`."""
        samples = [self.samples_of(m) for m in self.present]
        batch = sum(len(p.samples) for p in self.patterns)
        none = torch.zeros(batch, dtype=torch.bool, device=samples[0].device)
        return torch.stack([none.index_fill(0, rows, True) for rows in samples], 1)

    def spread(self, x: Tensor) -> Tensor:
        """Where samples differ, the rows of each modality as folded `(B*K, ...)`, NaN for what is absent."""
        batch, modalities = self.there().shape
        rows = torch.cat([self.samples_of(m) * modalities + column for column, m in enumerate(self.present)])
        return x.new_full((batch * modalities, *x.shape[1:]), math.nan).index_copy(0, rows, x)

    def count_of(self, m: int) -> int:
        """How many samples have a modality, where samples differ."""
        return sum(len(p.samples) for p in self.patterns if m in p.present)

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
    def at(self, pattern: Pattern, x: Tensor) -> Iterator[None]:
        """Within the context the batch is the samples of one pattern, with these features."""
        before = self.present, self.patterns, self.rows
        self.present, self.patterns, self.rows = pattern.present, (), x.shape[0]
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

    def _who(self) -> tuple[Any, ...]:
        """What layers that run again must find as it was."""
        return self.present, self.fusing, bool(self.patterns), self.rows

    def _require_pass(self) -> None:
        """Refuse to run layers again, as gradient checkpointing does, when others are there than in their pass.

        Raises:
            FusionError: With the remedy.
        """
        if self._passes.running_again() not in (None, self._who()):
            raise FusionError(
                "Gradient checkpointing runs layers again, and since their pass the network was given another batch "
                "size or other modalities, or its fusion was switched. Call backward() after each pass, within "
                "fusion_disabled() where that was on, and train on some of the modalities without checkpointing."
            )

    def _by_pattern(self, x: Tensor) -> Iterator[tuple[Pattern, Tensor]]:
        """The folded features of the samples of each pattern."""
        inner = x.shape[0] // sum(map(self.count_of, self.present))
        rows = {
            m: iter(stream.split([len(p.samples) * inner for p in self.patterns if m in p.present]))
            for m, stream in zip(self.present, self.apart(x), strict=True)
        }
        for pattern in self.patterns:
            yield pattern, fold([next(rows[m]) for m in pattern.present])


def patterns_of(present: Tensor) -> list[Pattern]:
    """The samples of a batch by the modalities that they have, in the order in which the patterns come.

    Args:
        present: Boolean `(B, M)`, every sample with one modality at least.
    """
    rows: dict[tuple[int, ...], list[int]] = {}
    for sample, flags in enumerate(present.tolist()):
        rows.setdefault(tuple(m for m, there in enumerate(flags) if there), []).append(sample)
    return [Pattern(key, torch.tensor(samples)) for key, samples in rows.items()]
