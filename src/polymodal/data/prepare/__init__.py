"""From the official download of a known data set to a folder with a dataset.yaml, by one function for all of them.

A new data set is a file with its plan and a line in `PREPARATIONS`.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from polymodal.data.prepare.cen_folder import cen
from polymodal.data.prepare.cityscapes import cityscapes
from polymodal.data.prepare.nyudv2 import nyudv2
from polymodal.data.prepare.sunrgbd import sunrgbd
from polymodal.data.prepare.writing import Plan, Summary, write_dataset
from polymodal.errors import ConfigError, DataError

__all__ = ["PREPARATIONS", "Plan", "Preparation", "Summary", "prepare"]


@dataclass(frozen=True)
class Preparation:
    """How a data set is prepared.

    Args:
        plan: Opens the download, given its path and the settings by name.
        settings: The accepted values of each setting, the default first.
    """

    plan: Callable[..., AbstractContextManager[Plan]]
    settings: dict[str, tuple[Any, ...]] = field(default_factory=dict)


PREPARATIONS = {
    "nyudv2": Preparation(nyudv2, {"classes": (40, 37, 13), "depth": ("filled", "raw")}),
    "sunrgbd": Preparation(sunrgbd, {"depth": ("filled", "raw")}),
    "cityscapes": Preparation(cityscapes),
    "cen": Preparation(cen),
}


def prepare(name: str, source: str | Path, out: str | Path, **settings: Any) -> Summary:
    """Turn an official download into a data set folder, or finish one that was interrupted.

    Args:
        name: One of `PREPARATIONS`.
        source: The download, unpacked; nothing in it is changed.
        out: A folder that is empty or does not exist yet.
        settings: Of the data set, such as `classes=13`; the default for those that are absent or None.

    Raises:
        ConfigError: No such data set or setting, or a library is not installed.
        DataError: A file of the download is missing, damaged or not the official one, or `out` holds something.
        OSError: A file cannot be written.
    """
    if name not in PREPARATIONS:
        raise ConfigError(f"there is no preparation for {name!r}; there are {', '.join(PREPARATIONS)}.")
    known = PREPARATIONS[name].settings
    given = {key: value for key, value in settings.items() if value is not None}
    for key, value in given.items():
        if key not in known:
            raise ConfigError(
                f"--{key}: {name} has no such choice" + (f"; it has {', '.join(known)}." if known else ".")
            )
        if value not in known[key]:
            raise ConfigError(f"--{key}: expected one of {', '.join(map(str, known[key]))}, got {value!r}.")
    source, out = Path(source).expanduser(), Path(out).expanduser()
    out = out if out.name else out.resolve()  # "." has no name to put ".partial" behind
    if not source.exists():
        raise DataError(f"{source}: there is no such file or folder. Give the official download of {name}.")
    chosen = {key: given.get(key, values[0]) for key, values in known.items()}
    with PREPARATIONS[name].plan(source, **chosen) as plan:
        return write_dataset(plan, out, {"name": name, **chosen})
