"""Runs as tasks of a Ray cluster, whose machines see the same folders: the engine of `compare --ray`."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any

from polymodal.errors import ConfigError, PolymodalError
from polymodal.runs import children
from polymodal.runs.engine import SeededRun, fit_words, wants_gpu

LOCAL = "local"
"""A cluster of this machine alone, for as long as the command runs."""

PATIENCE = 5.0
"""Seconds in which a cluster's head must answer; four times as many for Ray's own answer, which starts a Python."""

ATTEMPTS = 4
"""How often a run is started whose worker is lost, each time from where it was."""

PAUSE = 2.0
"""Seconds before that, in which the training that lost its worker ends."""


def join(address: str) -> None:
    """Become part of a cluster.

    Args:
        address: HOST:PORT of its head, or `local`.

    Raises:
        ConfigError: Ray is not installed, or the cluster does not answer.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ConfigError("--ray needs the package ray: pip install 'polymodal[ray]'.") from error
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # a run without a GPU of its own keeps its view
    quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False, "include_dashboard": False}
    if ray.is_initialized():
        return
    if address == LOCAL:
        ray.init(num_cpus=children.cores(), **quiet)
        return
    _check(address)
    del quiet["include_dashboard"]
    try:
        ray.init(address=address, **quiet)
    except Exception as error:  # whatever keeps this machine from being part of it
        raise ConfigError(
            f"--ray {address}: this machine cannot join ({' '.join(str(error).split())[:200]}). Run the command on one "
            "of the cluster's machines."
        ) from error


def _check(address: str) -> None:
    """Refuse an address that does not answer as Ray does; Ray itself would try for minutes.

    Raises:
        ConfigError: With what was expected.
    """
    host, colon, port = address.rpartition(":")
    if not (host and colon and port.isdigit() and 0 < int(port) < 2**16) or "/" in host:
        raise ConfigError(
            f"--ray: expected HOST:PORT of a cluster's head, such as 10.0.0.1:6379, or local, got {address!r}."
        )
    status = [sys.executable, "-P", "-m", "ray.scripts.scripts", "status", "--address", address]
    try:
        socket.create_connection((host, int(port)), timeout=PATIENCE).close()
        answers = subprocess.run(status, capture_output=True, timeout=4 * PATIENCE).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        answers = False
    if not answers:
        raise ConfigError(
            f"--ray {address}: no Ray cluster answers there. Start one: ray start --head --port {port}; or see with "
            "`ray status` where it is."
        )


class Cluster:
    """Trains runs as Ray tasks, each with its share of the cores, or with a GPU, and again if its worker is lost.

    Args:
        trainer: The settings of the recipe's trainer.
        jobs: Runs at a time; None for one on every GPU, or one on every machine where there is none.
        runs: How many there are.

    Attributes:
        together: Runs at a time.
    """

    def __init__(self, trainer: Mapping[str, Any], jobs: int | None, runs: int) -> None:
        import ray

        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        gpus = int(sum(found.get("GPU", 0) for found in machines)) if wants_gpu(trainer) else 0
        self.together = min(jobs or gpus or len(machines), runs)
        on_each = -(-self.together // len(machines))
        self._cores = max(1, int(min(found.get("CPU", 1) for found in machines)) // on_each)
        self._task: Any = ray.remote(_follow).options(num_cpus=self._cores, num_gpus=bool(gpus), max_retries=0)

    def train(self, run: SeededRun, started: list[children.Child], on_epoch: Callable[[str], None]) -> None:
        """As of `Processes`; where its worker is lost, it goes on where it was on another one.

        Raises:
            PolymodalError: It failed, or lost its worker again and again.
        """
        import ray

        del started  # they end with their workers, and these with this process
        for attempt in range(1, ATTEMPTS + 1):
            try:
                for part in self._task.remote(run, str(Path.cwd()), self._cores):
                    line, failure = ray.get(part)
                    if failure:
                        raise PolymodalError(failure)
                    on_epoch(line)
                return
            except ray.exceptions.RayError as error:
                if attempt == ATTEMPTS:
                    raise PolymodalError(
                        f"the training {str(run)!r} lost its worker {ATTEMPTS} times: {error}"
                    ) from error
                print(f"{run}: its worker is lost; it goes on where it was", flush=True)
                time.sleep(PAUSE)


def _follow(run: SeededRun, folder: str, threads: int) -> Iterator[tuple[str, str]]:
    """On a worker: train a run; its lines, or why it failed."""
    os.chdir(folder)  # relative paths of the recipe are those of the command
    lines: SimpleQueue[tuple[str, str] | None] = SimpleQueue()

    def train() -> None:
        try:
            command = children.fit_command(fit_words(run))
            children.follow(str(run), command, children.environment(threads), [], lambda line: lines.put((line, "")))
        except PolymodalError as error:
            lines.put(("", str(error)))
        except BaseException as error:  # the driver must not wait for what will not come
            lines.put(("", f"the training {str(run)!r}: {error!r}"))
        finally:
            lines.put(None)

    Thread(target=train, daemon=True).start()
    while (part := lines.get()) is not None:
        yield part
