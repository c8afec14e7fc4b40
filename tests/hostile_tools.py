"""Commands run within one process that is watched: what they execute, write, connect to, say, take and need."""

import ctypes
import importlib
import io
import json
import os
import shlex
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_PATHS = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.symlink", "os.link", "os.chmod", "os.truncate")
_PROGRAMS = ("os.system", "os.exec", "os.posix_spawn", "os.spawn")

_LIBRARIES = (
    "polymodal.runs.training",
    "polymodal.runs.compare",
    "polymodal.runs.predict",
    "polymodal.runs.export",
    "polymodal.report.page",
    "segmentation_models_pytorch",
    "onnxruntime",
)

_watch: dict[str, Any] = {}
"""The sandbox and what happened, while a command runs."""

_BYTES = 800 * 2**20
"""What a command may take on a hostile file: a gigabyte is promised, and machines differ."""


def _hear(event: str, values: tuple) -> None:
    if not _watch:
        return
    if event == "open" and isinstance(values[0], str | bytes | os.PathLike) and (values[2] or 0) & _WRITES:
        _touch(values[0])
    elif event in _PATHS:
        for value in values[: 2 if event == "os.rename" else 1]:
            _touch(value)
    elif event in _PROGRAMS:
        _watch["happened"].append(f"{event} {values[:1]}")


def _touch(path: Any) -> None:
    if not isinstance(path, str | bytes | os.PathLike):
        return
    real = os.path.realpath(os.fsdecode(path))
    allowed = (str(_watch["sandbox"]), "/dev/null", "/dev/shm", "/proc/self")
    # What libraries keep of their own between calls is no matter of the file that is read.
    if (
        not real.startswith(allowed)
        and "__pycache__" not in real
        and "/.cache/" not in real
        and "/.config/" not in real
    ):
        _watch["happened"].append(f"touches {real}")


sys.addaudithook(_hear)  # cannot be taken off again, so it hears while something is watched alone


class _NoSocket(socket.socket):
    def __init__(self, *values: Any, **named: Any) -> None:
        _watch.get("happened", []).append("a socket")
        raise OSError("no connection in this test")


@contextmanager
def _watched(sandbox: Path) -> Iterator[list[str]]:
    happened: list[str] = []
    plain, here, temporary = socket.socket, Path.cwd(), tempfile.tempdir
    tempfile.tempdir = str(sandbox)
    _watch.update(sandbox=sandbox.resolve(), happened=happened)
    socket.socket = _NoSocket  # type: ignore[misc]
    os.chdir(sandbox)
    try:
        yield happened
    finally:
        _watch.clear()
        socket.socket = plain  # type: ignore[misc]
        os.chdir(here)
        tempfile.tempdir = temporary


def _peak(clear: bool = False) -> int:
    """Bytes that the process held at most since it was asked to clear that."""
    if clear:
        ctypes.CDLL(None).malloc_trim(0)  # what an earlier command held would hide what this one takes
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def run(call: str, sandbox: Path) -> dict[str, Any]:
    """Give a command in a sandbox; what came of it."""
    from polymodal.cli import main

    out, said = io.StringIO(), io.StringIO()
    before, began, crash = _peak(clear=True), time.process_time(), ""
    with _watched(sandbox) as happened, redirect_stdout(out), redirect_stderr(said):
        try:
            status = main(shlex.split(call))
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else 1
        except BaseException as error:
            status, crash = 1, repr(error)
    return {
        "call": call,
        "status": status,
        "said": said.getvalue() + crash,
        "out": out.getvalue()[-500:],
        "seconds": time.process_time() - began,
        "bytes": _peak() - before,
        "happened": happened,
        "executed": (sandbox / "executed").exists(),
    }


def problems(found: dict[str, Any]) -> list[str]:
    """What is wrong with how a command ended on a hostile file."""
    lines = [line for line in found["said"].split("\n") if line and "warning: " not in line]
    of_check = found["call"].startswith("data check") and found["status"] == 1 and not lines
    return [
        *(["it executed code"] if found["executed"] else []),
        *found["happened"],
        *(["a traceback"] if "Traceback" in found["said"] else []),
        *([f"status {found['status']}"] if found["status"] not in (0, 2) and not of_check else []),
        *([f"{len(lines)} lines"] if found["status"] == 2 and len(lines) != 1 else []),
        *([f"{found['seconds']:.1f} s"] if found["seconds"] > 10 and found["status"] else []),
        *([f"{found['bytes'] / 2**20:.0f} MiB more"] if found["bytes"] > _BYTES else []),
    ]


if __name__ == "__main__":
    box = Path(sys.argv[1])
    for library in _LIBRARIES:  # what takes seconds to load is no matter of the file
        importlib.import_module(library)
    for given in json.loads((box / "calls.json").read_text()):
        print(json.dumps({"begins": given}), file=sys.__stdout__, flush=True)
        print(json.dumps(run(given, box)), file=sys.__stdout__, flush=True)
