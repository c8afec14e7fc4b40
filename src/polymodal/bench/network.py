"""`polymodal bench`: variants of one network against each other, in turns, with their memory and whether they agree."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from torch import Tensor

from polymodal.bench.case import Case, Networks, check_size, check_statistics
from polymodal.bench.equality import Equality, equality
from polymodal.bench.machine import machine
from polymodal.bench.memory import peak_memory
from polymodal.bench.report import NONE, Report, Table, memory, seconds, share, timing
from polymodal.bench.timing import Timing, check_counts, take_turns, tell, tell_turn
from polymodal.bench.variants import BASES, MODES, MODIFIERS, Mode, Variant, check_variant, predictor, prepare
from polymodal.errors import ConfigError
from polymodal.export import saving
from polymodal.files import scratch

DEFAULT = ("plain", "apart", "no-exchange", "exchange", "exchange+auto", "exchange+auto+amp")
"""What is measured when nothing is named."""


def bench(
    case: Case,
    words: Sequence[str] = (),
    tasks: Sequence[Mode] = MODES,
    repeats: int = 5,
    warmup: int = 1,
    *,
    with_memory: bool = True,
) -> Report:
    """Measure variants of a network against each other in one process.

    Args:
        case: The network and its images.
        words: Variants by name, the first of which the others are compared with; `DEFAULT` when none is given.
        tasks: "inference", "training" or both.
        repeats: Rounds; in each, every variant runs once.
        warmup: How often each runs before.
        with_memory: Whether the memory of each is measured, too, in a process of its own.

    Returns:
        One table for each task.

    Raises:
        ConfigError: A variant is unknown or named twice or not for this case, none can do a task, a number is out of
            its range, or the network cannot take the size; nothing was measured.
        PolymodalError: A variant cannot be built.
    """
    check_counts(repeats, warmup)
    check_statistics(case, tasks)
    variants = [Variant.parse(word) for word in words or DEFAULT]
    if doubled := next((variant for variant in variants if variants.count(variant) > 1), None):
        raise ConfigError(f"--variants: {str(doubled)!r} is named twice.")
    for task in tasks:
        if not any(task == "inference" or variant.trains for variant in variants):
            raise ConfigError(f"--task {task}: none of {', '.join(map(str, variants))} can be trained.")
    for variant in variants:
        check_variant(variant, case)
    macs = check_size(case)
    tables = []
    with scratch() as exports:
        networks = Networks(case, exports)
        for task in tasks:
            able = [variant for variant in variants if task == "inference" or variant.trains]
            # First, while this process is small: it keeps what it has had.
            needed = {}
            for variant in able if with_memory else ():
                tell(f"{task}: memory of {variant}")
                needed[variant] = peak_memory(case, variant, task, exports)
            runs = {}
            for variant in able:
                tell(f"{task}: building {variant}")
                runs[variant] = prepare(variant, networks, task)
            agreed = _equalities(runs, networks) if task == "inference" else {}
            times = take_turns(runs, repeats, warmup, partial(tell_turn, f"{task}:"))
            tables.append(_table(task, times, needed, agreed))
        facts = {
            **case.facts(),
            "multiply-accumulates of a sample": f"{macs / 1e9:.4g} G",
            "exchanged": {name: share(part) for name, part in networks.exchanged().items()},
            "repeats": repeats,
            "warm-up": warmup,
        }
        for like in dict.fromkeys(BASES[variant.base].like for variant in variants if "absorb" in variant.modifiers):
            key = "absorbing" if like == "exchange" else f"absorbing, {like}"
            facts[key] = str(saving(networks.named(like), networks.static(like), case.size))
    return Report("polymodal bench", facts, machine(case.device), tables)


def _equalities(runs: Mapping[Variant, Callable[[], dict[str, Tensor]]], networks: Networks) -> dict[Variant, Equality]:
    """How near the variants are to the eager networks in float32."""
    expected: dict[str, dict[str, Tensor]] = {}
    found = {}
    for variant, run in runs.items():
        like = BASES[variant.base].like
        if like not in expected:
            expected[like] = predictor(Variant(like), networks)()
        tell(f"predictions of {variant}")
        found[variant] = equality(run(), expected[like])
    return found


def _table(
    task: Mode,
    times: Mapping[Variant, Timing],
    needed: Mapping[Variant, int | None],
    agreed: Mapping[Variant, Equality],
) -> Table:
    first, *_ = times
    headings = ["variant", "median", "quartiles", "processor", "speed"]
    headings += ["memory", "of the first's"] if needed else []
    headings += ["same class", "difference"] if agreed else []
    rows, records = [], []
    for variant, own in times.items():
        speed = own.speed(times[first])
        row = [str(variant), *timing(own), seconds(own.worked), f"{speed:.2f}×"]
        record = {"variant": str(variant), **own.record(), "speed": speed}
        if needed:
            bytes_, of = needed[variant], needed[first]
            ratio = bytes_ / of if bytes_ and of else None
            row += [memory(bytes_), NONE if ratio is None else f"{ratio:.2f}×"]
            record |= {"memory": bytes_, "memory ratio": ratio}
        if agreed:
            row += [share(agreed[variant].classes), f"{agreed[variant].difference:.1e}"]
            record |= {"same class": agreed[variant].classes, "difference": agreed[variant].difference}
        rows.append(row)
        records.append(record)
    names = [f"`{name}`: {BASES[name].about}" for name in dict.fromkeys(variant.base for variant in times)]
    used = frozenset().union(*(variant.modifiers for variant in times))
    names += [f"`+{name}`: {about}" for name, about in MODIFIERS.items() if name in used]
    note = "processor: the time of all threads together. "
    note += f"speed: how many times as fast as `{first}`, the median over the rounds of the ratio within a round."
    if agreed:
        note += (
            " same class, difference: the share of pixels with the same most probable class, and the largest "
            "difference of a logit relative to the largest logit, against the eager network in float32 "
            "(`exchange`; of variants without exchange `no-exchange`, of those that decode once `decode-once`)."
        )
    if needed:
        note += " memory: the peak in a process of its own, parameters included."
    return Table(task, f"{note} {'; '.join(names)}.", headings, rows, records)
