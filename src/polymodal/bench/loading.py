"""`polymodal bench data`: how many samples a second a recipe's loader hands out when no network keeps it waiting."""

import itertools
from collections import deque
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from polymodal.bench.machine import machine
from polymodal.bench.report import Report, Table, seconds, timing
from polymodal.bench.timing import Step, Timing, check_counts, take_turns, tell_turn
from polymodal.errors import ConfigError


def bench_data(
    config: Path,
    caches: Sequence[str] = ("false", "true"),
    workers: Sequence[int] = (0,),
    repeats: int = 3,
    overrides: Sequence[str] = (),
) -> Report:
    """Measure the loading of a recipe's training samples, an epoch at a time, with settings in turns.

    Args:
        config: The recipe.
        caches: Values of its setting `data.cache`.
        workers: Values of its setting `data.workers`; each is measured with each of `caches`.
        repeats: Epochs that are timed, after a first one of which the time is reported apart: it starts the workers and
            fills the caches.
        overrides: Arguments of `polymodal fit`.

    Returns:
        One table.

    Raises:
        ConfigError: A number is out of its range, or a setting cannot be used.
        DataError: The data set is not what its description says.
    """
    from polymodal.runs.prepared import Prepared
    from polymodal.runs.quiet import quieten

    check_counts(repeats, 0)
    if not caches or not workers or min(workers) < 0:
        raise ConfigError("--workers: expected numbers from 0 on, such as 0,2; --cache: values such as false,true.")
    quieten()
    epochs: dict[str, Step] = {}
    facts: dict[str, Any] = {}
    for cache, processes in itertools.product(caches, workers):
        words = ["--data.cache", cache, "--data.workers", str(processes)]
        data = Prepared(["--config", str(config), *overrides, *words]).datamodule
        data.setup("fit")
        loader = data.train_dataloader()
        facts = {"recipe": config, "data": data.root, "samples": len(loader) * data.batch_size}
        facts |= {"batch": data.batch_size, "repeats": repeats}
        epochs[f"cache {cache}, {processes} workers"] = partial(deque, loader, maxlen=0)

    # The first epoch is of interest by itself, so it is no warm-up.
    times = take_turns(epochs, repeats + 1, 0, partial(tell_turn, "loading:"))
    rows, records = [], []
    for name, own in times.items():
        first, later = own.seconds[0], Timing(own.seconds[1:], own.processor[1:])
        rate = facts["samples"] / later.median
        rows.append([name, f"{rate:.1f}", *timing(later), seconds(first)])
        records.append({"settings": name, "samples per second": rate, **later.record(), "first epoch": first})
    headings = ["settings", "samples a second", "median epoch", "quartiles", "first epoch"]
    note = (
        "A sample is an image of every modality, with its target, augmented. The first epoch is not among the others."
    )
    return Report("polymodal bench data", facts, machine("cpu"), [Table("loading", note, headings, rows, records)])
