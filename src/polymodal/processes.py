"""What several processes of one training know together; in one process, everything is as it is there."""

from collections.abc import Iterable
from itertools import chain, zip_longest
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

T = TypeVar("T")

_NOTHING = object()


def processes(group: ProcessGroup | None = None) -> int:
    """How many processes there are in a group; None stands for all of them."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return 1
    return torch.distributed.get_world_size(group)


class Place(NamedTuple):
    """Which of the processes of a training one is."""

    rank: int = 0
    processes: int = 1


def place() -> Place:
    """Which one this process is now: after their common work it is alone."""
    return Place(torch.distributed.get_rank(), processes()) if processes() > 1 else Place()


def gathered(item: T) -> list[T]:
    """What each process gives, by its rank."""
    if processes() == 1:
        return [item]
    found: list[Any] = [None] * processes()
    torch.distributed.all_gather_object(found, item)
    return found


def own(items: list[T]) -> T:
    """This process's item of what `gathered` returned."""
    return items[place().rank]


def in_turn(items: list[T]) -> list[T]:
    """What all processes hold of work that was dealt out in turn, in the order in which one would have done it."""
    turns = zip_longest(*gathered(items), fillvalue=_NOTHING)
    return [item for item in chain.from_iterable(turns) if item is not _NOTHING]  # type: ignore[misc]


def mean_of_all(value: Tensor) -> Tensor:
    """The mean of a tensor over the processes, without gradients."""
    if processes() == 1:
        return value
    total = value.detach().clone()
    torch.distributed.all_reduce(total)
    return total / processes()


def as_first(tensors: Iterable[Tensor]) -> None:
    """Write the first process's values into the tensors of every other one."""
    if processes() > 1:
        for tensor in tensors:
            torch.distributed.broadcast(tensor, 0)
