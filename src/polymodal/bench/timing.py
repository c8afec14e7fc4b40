"""Timing in turns: what disturbs the machine for a while disturbs every candidate alike."""

import sys
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any, TypeVar

from polymodal.limits import at_least, check

Name = TypeVar("Name", bound=Hashable)

Step = Callable[[], object]
"""What is timed; it returns when the work is done."""


@dataclass(frozen=True)
class Timing:
    """How long one candidate took, round by round.

    Attributes:
        seconds: Of each round, in their order.
        processor: The processor time of each round, of all threads together. One thread that takes much longer than
            that has waited: for a GPU, for the disk, or for other programs to leave it the processor.
    """

    seconds: tuple[float, ...]
    processor: tuple[float, ...]

    @property
    def median(self) -> float:
        """The time that half of the rounds stayed below."""
        return median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """The times between which the middle half of the rounds lies; of a single round, its own."""
        if len(self.seconds) == 1:
            return self.seconds[0], self.seconds[0]
        low, _, high = quantiles(self.seconds, n=4, method="inclusive")
        return low, high

    @property
    def worked(self) -> float:
        """The processor time that half of the rounds stayed below."""
        return median(self.processor)

    def record(self) -> dict[str, Any]:
        """All of it, for programs to read."""
        return {
            "median": self.median,
            "quartiles": list(self.quartiles),
            "seconds": list(self.seconds),
            "processor": list(self.processor),
        }

    def speed(self, other: "Timing") -> float:
        """How many times as fast this is as another candidate of the same turns.

        The median over the rounds of the ratio within a round, in which both ran one soon after the other: a machine
        that is slower for some rounds changes it little.
        """
        return median(there / here for here, there in zip(self.seconds, other.seconds, strict=True))


def take_turns(
    steps: Mapping[Name, Step], rounds: int, warmup: int, on_turn: Callable[[Name, int], None]
) -> dict[Name, Timing]:
    """Run every candidate once in each round, each round beginning with the next candidate.

    Args:
        steps: The candidates by name.
        rounds: How many rounds are timed.
        warmup: How often each candidate runs before, untimed.
        on_turn: Told the candidate's name and the round, from 1, before each turn; round 0 is the warm-up.

    Returns:
        The times of each candidate.
    """
    names = list(steps)
    for name in names:
        for _ in range(warmup):
            on_turn(name, 0)
            steps[name]()
    taken: dict[Name, list[tuple[float, float]]] = {name: [] for name in names}
    for round_ in range(rounds):
        first = round_ % len(names)
        for name in names[first:] + names[:first]:
            on_turn(name, round_ + 1)
            begun, worked = time.perf_counter(), time.process_time()
            steps[name]()
            taken[name].append((time.perf_counter() - begun, time.process_time() - worked))
    return {name: Timing(*zip(*pairs, strict=True)) for name, pairs in taken.items()}


def tell(what: str) -> None:
    """Say on the error stream what is being done; standard output belongs to the report."""
    print(what, file=sys.stderr, flush=True)


def tell_turn(what: str, name: object, round_: int) -> None:
    """Say whose turn it is."""
    tell(f"{what} {name}, {f'round {round_}' if round_ else 'warm-up'}")


def check_counts(repeats: int, warmup: int) -> None:
    """Refuse counts that time nothing.

    Raises:
        ConfigError: With the option.
    """
    check({"repeats": repeats, "warmup": warmup}, {"repeats": at_least(1), "warmup": at_least(0)}, "--")
