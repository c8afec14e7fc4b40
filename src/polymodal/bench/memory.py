"""How much memory a variant needs: its peak in a process that does nothing else."""

import gc
import sys
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

import torch

from polymodal.allocator import give_back_freed_memory
from polymodal.bench.case import Case, Networks, check_size
from polymodal.bench.variants import BASES, Base, Mode, Variant, predictor, prepare

_STEPS = 2
"""The first one makes the optimiser's state, the second has it and the gradients."""


def peak_memory(case: Case, variant: Variant, task: Mode, exports: Path) -> int | None:
    """The bytes that a variant needs at its peak, with parameters, activations, gradients and the optimiser's state.

    On a GPU the peak of torch's allocator. On a CPU the peak of the resident memory of a process of its own, less what
    it had after importing and before it built the network; freed memory goes back to the system at once there, so that
    resident is in use. What a compiled network's code takes counts there, too.

    Args:
        case: The network and its images.
        variant: What runs.
        task: What it does.
        exports: Folder of exported files; what runs one that is not there yet has it written first.

    Returns:
        The bytes; None where the system does not tell, or the process was ended for want of memory.

    Raises:
        PolymodalError: The case does not allow the variant.
    """
    if torch.device(case.device).type == "cpu" and not sys.platform.startswith("linux"):
        return None
    if BASES[variant.base].file:
        # By this process: what exporting takes is not what running takes.
        predictor(variant, Networks(case, exports))
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        try:
            return process.submit(
                _peak, case, variant, BASES[variant.base], task, exports, torch.get_num_threads()
            ).result()
        except BrokenProcessPool:
            return None


def _peak(case: Case, variant: Variant, base: Base, task: Mode, exports: Path, threads: int) -> int:
    torch.set_num_threads(threads)
    BASES[variant.base] = base  # which a tool may have added
    on_gpu = torch.device(case.device).type == "cuda"
    if not on_gpu:
        give_back_freed_memory()
    # On images of no content: what it imports is not the network's.
    check_size(case)
    before = 0 if on_gpu else _resident("VmRSS")
    step = prepare(variant, Networks(case, exports), task)
    gc.collect()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(case.device)
    else:
        # The peak starts anew (proc(5)), without what building took for a moment.
        Path("/proc/self/clear_refs").write_text("5")
    for _ in range(_STEPS):
        step()
    return torch.cuda.max_memory_allocated(case.device) if on_gpu else _resident("VmHWM") - before


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) * 1024
