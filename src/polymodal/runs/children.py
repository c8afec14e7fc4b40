"""Trainings as child processes: each has its cores or its GPU, is followed line by line, and ends with its parent."""

import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

from polymodal.errors import PolymodalError
from polymodal.runs.tested import SCORES_ON

LAST_LINES = 12
TOLD = ("epoch ", SCORES_ON)
"""How lines begin that say how far a training is."""

Child = subprocess.Popen[str]
T = TypeVar("T")


def cores() -> int:
    """Those that this process may use, which a container or a batch system limits."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def fit_command(words: Sequence[str]) -> list[str]:
    """`polymodal fit` with these words, in this Python, which imports nothing from the current folder (`-P`)."""
    return [sys.executable, "-P", "-m", "polymodal.child", "fit", *words]


def environment(threads: int) -> dict[str, str]:
    """What a training's process is given: this process's own, and so many threads, or as few as the user asked for."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    threads = min(threads, int(asked)) if asked.isdecimal() and int(asked) else threads
    return os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}


def follow(
    name: str,
    command: Sequence[str],
    environment: Mapping[str, str],
    children: list[Child],
    on_epoch: Callable[[str], None],
) -> None:
    """Run a training to its end and pass its epochs on.

    Args:
        name: What to call it in an error.
        command: The process.
        environment: Its environment.
        children: Where it is noted, for `end`.
        on_epoch: Called with every line about an epoch, or the scoring after the last one.

    Raises:
        PolymodalError: It failed; with its last lines.
    """
    last: deque[str] = deque(maxlen=LAST_LINES)
    with subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as child:
        children.append(child)
        assert child.stdout is not None
        for line in child.stdout:
            last.append(line.rstrip())
            if line.startswith(TOLD):
                on_epoch(line.rstrip())
        # Before its standard input is closed, which would end it.
        child.wait()
    if child.returncode != 0:
        raise PolymodalError(f"the training {name!r} ended with status {child.returncode}:\n" + "\n".join(last))


def side_by_side(trainings: Mapping[T, Callable[[list[Child]], None]], together: int) -> Iterator[T]:
    """Run trainings, some at a time, and yield each when it has ended; an error ends all of them.

    Args:
        trainings: By what is yielded; each is given where `follow` notes its process.
        together: How many at a time.
    """
    started: list[Child] = []
    with ThreadPoolExecutor(together) as pool:
        running = {pool.submit(train, started): name for name, train in trainings.items()}
        try:
            for future in as_completed(running):
                future.result()
                yield running[future]
        except BaseException:
            # The pool waits for its threads, and these wait for their children.
            pool.shutdown(wait=False, cancel_futures=True)
            end(started)
            raise


def end(children: Sequence[Child]) -> None:
    """End those that still run: politely first, after five seconds by force."""
    for child in children:
        if child.poll() is None:
            child.terminate()
    for child in children:
        try:
            child.wait(timeout=5)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
