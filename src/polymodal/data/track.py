"""How far a loop over files is: a bar on a terminal, lines where they are wanted, silence elsewhere."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

EVERY = 30.0
"""Seconds between two lines."""


def track(items: Iterable[T], what: str, total: int | None = None, lines: bool = False) -> Iterable[T]:
    """Iterate with a bar on the error stream when that is a terminal.

    Args:
        items: What is iterated.
        what: What is done, in words.
        total: How many items there are, where these do not know it themselves.
        lines: Whether to print lines where no bar can be drawn: one at the start, and one every half minute.
    """
    if not sys.stderr.isatty():
        return _told(items, what, total) if lines else items
    from rich.console import Console
    from rich.progress import track as rich_track

    return rich_track(items, description=what, total=total, console=Console(stderr=True))


def _told(items: Iterable[T], what: str, total: int | None) -> Iterator[T]:
    print(f"{what}: 0 of {total}", flush=True)
    said = time.monotonic()
    for done, item in enumerate(items):
        if time.monotonic() - said >= EVERY:
            print(f"{what}: {done} of {total}", flush=True)
            said = time.monotonic()
        yield item
