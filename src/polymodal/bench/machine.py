"""Which machine measured: without it no time means anything."""

import os
import platform
import sys

import torch

import polymodal
from polymodal import processor
from polymodal.errors import ConfigError
from polymodal.runs.children import cores


def machine(device: str) -> dict[str, str | int]:
    """The machine and the versions that times depend on.

    Args:
        device: Where the network runs, such as "cpu".

    Returns:
        Facts by name, for people to read.
    """
    host = processor.name()
    facts: dict[str, str | int] = {"device": host}
    if torch.device(device).type == "cuda":
        facts = {"device": torch.cuda.get_device_name(device), "cuda": str(torch.version.cuda), "host": host}
    return facts | {
        **({"instructions": there} if (there := processor.instructions()) else {}),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "system": platform.platform(terse=True),
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "polymodal": polymodal.__version__,
    }


def check_device(device: str) -> None:
    """Refuse a device that is not there.

    Raises:
        ConfigError: With those that are.
    """
    there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    if device not in (*there, *(["cuda"] if len(there) > 1 else [])):
        raise ConfigError(f"--device: there is no device {device!r} here; there are {', '.join(there)}.")
