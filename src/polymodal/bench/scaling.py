"""`polymodal bench scaling`: one network with one to M modalities, its time and memory for each of them."""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial

from polymodal.bench.case import Case, Networks, check_size, check_statistics
from polymodal.bench.machine import machine
from polymodal.bench.memory import peak_memory
from polymodal.bench.report import NONE, Report, Table, memory, seconds, timing
from polymodal.bench.timing import Timing, check_counts, take_turns, tell, tell_turn
from polymodal.bench.variants import MODES, Mode, Variant, check_variant, prepare
from polymodal.errors import ConfigError
from polymodal.files import scratch


def bench_scaling(
    case: Case,
    word: str = "exchange",
    tasks: Sequence[Mode] = MODES,
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
        ConfigError: The variant is unknown, not for this case or cannot do a task, a number is out of its range, or the
            network cannot take the size; nothing was measured.
        PolymodalError: The variant cannot be built.
    """
    check_counts(repeats, warmup)
    check_statistics(case, tasks)
    variant = Variant.parse(word)
    if "training" in tasks and not variant.trains:
        raise ConfigError(f"--task training: {variant} cannot be trained.")
    cases = {count: dataclasses.replace(case, modalities=count) for count in range(1, case.modalities + 1)}
    for one in cases.values():
        check_variant(variant, one)
    macs = check_size(cases[1])
    tables = []
    with scratch() as folder:
        exports = {count: folder / str(count) for count in cases}
        for task in tasks:
            # First, while this process is small: it keeps what it has had.
            needed = {}
            for count, one in cases.items() if with_memory else ():
                tell(f"{task}: memory of M = {count}")
                needed[count] = peak_memory(one, variant, task, exports[count])
            steps = {}
            for count, one in cases.items():
                tell(f"{task}: building M = {count}")
                steps[count] = prepare(variant, Networks(one, exports[count]), task)
            times = take_turns(steps, repeats, warmup, partial(tell_turn, f"{task}: M ="))
            tables.append(_table(task, times, needed))
    facts = {
        **case.facts(),
        "variant": str(variant),
        "multiply-accumulates of a modality": f"{macs / 1e9:.4g} G",
        "repeats": repeats,
        "warm-up": warmup,
    }
    return Report("polymodal bench scaling", facts, machine(case.device), tables)


def _table(task: Mode, times: Mapping[int, Timing], needed: Mapping[int, int | None]) -> Table:
    rows, records = [], []
    for count, own in times.items():
        each = own.median / count
        relative = 1 / (own.speed(times[1]) * count)
        row = [str(count), *timing(own), seconds(own.worked), seconds(each), f"{relative:.2f}×"]
        record = {"modalities": count, **own.record(), "seconds per modality": each, "relative": relative}
        if needed:
            used = needed[count]
            row += [memory(used), NONE if used is None else memory(used // count)]
            record |= {"memory": used}
        rows.append(row)
        records.append(record)
    headings = ["M", "median", "quartiles", "processor", "per modality", "relative to M = 1"]
    headings += ["memory", "per modality"] if needed else []
    note = (
        "processor: the time of all threads together. relative: the time for one modality, the median over the rounds "
        "of the ratio within a round."
    )
    return Table(task, note, headings, rows, records)
