"""The processor at hand: its name, and the instructions that decide how fast and how exact small numbers are."""

import platform
from functools import cache
from pathlib import Path

_ABOUT = Path("/proc/cpuinfo")

_X86 = ("x86_64", "amd64", "i386", "i686")

VNNI = ("avx512_vnni", "avx_vnni")
"""Either adds products of 8 bits in 32; an x86 processor without them adds two of them in 16, which can overflow."""

SMALL_NUMBERS = ("avx2", "avx512f", *VNNI, "avx512_bf16", "amx_int8", "amx_bf16")
"""Instructions of x86 that the speed of int8 and bfloat16 depends on, as Linux calls them."""


def name() -> str:
    """The processor's name: of Linux from /proc/cpuinfo, elsewhere as the system calls it."""
    return _said("model name") or platform.processor() or platform.machine()


def instructions() -> str:
    """Which of `SMALL_NUMBERS` there are, for people; empty where the system does not tell."""
    flags = _said("flags").split()
    return ", ".join(flag for flag in SMALL_NUMBERS if flag in flags)


def adds_int8_exactly() -> bool:
    """Whether sums of products of 8 bits cannot overflow here; False of x86 where the system does not tell."""
    return platform.machine().lower() not in _X86 or any(flag in _said("flags").split() for flag in VNNI)


@cache
def _said(key: str) -> str:
    """What Linux says of the first core under a key; elsewhere nothing."""
    lines = _ABOUT.read_text(encoding="utf-8").splitlines() if _ABOUT.is_file() else []
    found = [line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == key]
    return found[0] if found else ""
