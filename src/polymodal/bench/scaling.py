"""`polymodal bench scaling`: one network with one to M modalities, its time and memory for each of them."""

import dataclasses
from collections.abc import Sequence
from functools import partial
from statistics import median

from polymodal.bench.case import Case, Networks, check_size
from polymodal.bench.machine import machine
from polymodal.bench.memory import peak_memory
from polymodal.bench.progress import check_counts, tell, tell_turn
from polymodal.bench.report import NONE, Report, Table, memory, seconds, timing
from polymodal.bench.timing import take_turns
from polymodal.bench.variants import TASKS, Task, Variant, candidate


def bench_scaling(
    case: Case,
    word: str = "exchange",
    tasks: Sequence[Task] = TASKS,
    repeats: int = 5,
    warmup: int = 1,
    *,
    with_memory: bool = True,
) -> Report:
    """Measure a variant with 1 to `case.modalities` modalities against itself, in turns.

    Args:
        case: The network, its images, and the most modalities.
        word: The variant.
        tasks: "inference", "training" or both.
        repeats: Rounds; in each, every number of modalities runs once.
        warmup: How often each runs before.
        with_memory: Whether the memory of each is measured, too, in a process of its own.

    Returns:
        One table for each task.

    Raises:
        ConfigError: The variant is unknown, a number is out of its range, or the network cannot take the size; nothing
            was measured.
        PolymodalError: The variant cannot be built.
    """
    check_counts(repeats, warmup)
    variant = Variant.parse(word)
    counts = range(1, case.modalities + 1)
    cases = {str(count): dataclasses.replace(case, modalities=count) for count in counts}
    macs = check_size(cases["1"])
    candidates = {}
    for count, one in cases.items():
        tell(f"building {variant} of {count}")
        candidates[count] = candidate(variant, Networks(one))
    tables = []
    for task in tasks:
        steps = {count: made.ready(task, case.device) for count, made in candidates.items()}
        times = take_turns(steps, repeats, warmup, partial(tell_turn, f"{task}: M ="))
        rows, records = [], []
        for count, own in times.items():
            each = own.median / int(count)
            relative = 1 / (own.speed(times["1"]) * int(count))
            row = [count, *timing(own), seconds(median(own.processor)), seconds(each), f"{relative:.2f}×"]
            record = {
                "modalities": int(count),
                "median": own.median,
                "quartiles": list(own.quartiles),
                "seconds": list(own.seconds),
                "processor": list(own.processor),
                "seconds per modality": each,
                "relative": relative,
            }
            if with_memory:
                tell(f"{task}: memory of M = {count}")
                needed = peak_memory(cases[count], variant, task)
                row += [memory(needed), NONE if needed is None else memory(needed // int(count))]
                record |= {"memory": needed}
            rows.append(row)
            records.append(record)
        headings = ["M", "median", "quartiles", "processor", "per modality", "relative to M = 1"]
        headings += ["memory", "per modality"] if with_memory else []
        note = (
            "processor: the time of all threads together. relative: the time for one modality, the median over the "
            "rounds of the ratio within a round."
        )
        tables.append(Table(task, note, headings, rows, records))
    facts = {
        **case.facts(),
        "variant": str(variant),
        "multiply-accumulates of a modality": f"{macs / 1e9:.4g} G",
        "repeats": repeats,
        "warm-up": warmup,
    }
    return Report("polymodal bench scaling", facts, machine(case.device), tables)
