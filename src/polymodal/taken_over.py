"""What a network that starts from another one has of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_SHOWN = 6
"""Names that a sentence can hold; the file of a run has all."""


@dataclass(frozen=True)
class TakenOver:
    """The list of what was and what was not taken over. A tensor of one modality is written `name[modality]`.

    Attributes:
        source: What it is from, for people.
        like: For each modality, the one whose tensors it starts from.
        taken: The tensors of the network that have the source's values.
        anew: Those that have not, each with the reason.
        left: The source's tensors that the network has no place for, each with the reason.
    """

    source: str
    like: Mapping[str, str]
    taken: tuple[str, ...]
    anew: Mapping[str, str]
    left: Mapping[str, str]

    def as_dict(self) -> dict[str, Any]:
        """In types that JSON knows."""
        return {
            "from": self.source,
            "like": dict(self.like),
            "taken": list(self.taken),
            "anew": dict(self.anew),
            "left": dict(self.left),
        }

    def __str__(self) -> str:
        """A line each for what was taken over, what was not, and what was left."""
        others = [f"{name} like {first}" for name, first in self.like.items() if name != first]
        total = len(self.taken) + len(self.anew)
        lines = [f"start: {len(self.taken)} of {total} tensors from {self.source}", *others]
        return "\n".join(["; ".join(lines), *_lines("anew", self.anew), *_lines("left there", self.left)])


def _lines(kind: str, reasons: Mapping[str, str]) -> list[str]:
    """A line for each reason, with the tensors that it is the reason of."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        by_reason.setdefault(reason, []).append(name)
    return [
        f"start: {kind}, {reason}: {', '.join(names[:_SHOWN])}"
        + (f", ... ({len(names)} in all)" if len(names) > _SHOWN else "")
        for reason, names in by_reason.items()
    ]
