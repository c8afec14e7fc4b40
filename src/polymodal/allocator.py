"""How the C library treats memory that tensors on the CPU give back."""

import ctypes
import sys

# The numbers of mallopt's parameters in glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_NEVER = -1


def keep_freed_memory() -> None:
    """Keep freed memory for the next tensor instead of giving it back to the system, where glibc is the C library.

    glibc maps every tensor above 32 MiB anew and unmaps it when it is freed, and trims its heap; the page faults of
    doing so at every step cost a tenth to a half of the CPU time. The process keeps the size of its peak.
    """
    _set(_MMAP_MAX, 0)
    _set(_TRIM_THRESHOLD, _NEVER)


def give_back_freed_memory() -> None:
    """Give freed memory back to the system at once, so that resident is in use, where glibc is the C library.

    glibc then maps every block of 64 KiB or more anew and unmaps it when it is freed.
    """
    _set(_MMAP_THRESHOLD, 1 << 16)


def _set(parameter: int, value: int) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(parameter, value)
