"""A training by several processes: what they can be, and that they end together, whatever ends one of them."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher, _SubprocessScriptLauncher

from polymodal.data import FolderData
from polymodal.errors import ConfigError, PolymodalError
from polymodal.runs.interrupt import Signals
from polymodal.runs.scored import part
from polymodal.runs.synchronised import SynchronisedNorms
from polymodal.tasks.gaps import may_lack

LOOK = 0.3
"""Seconds from one look at the other processes to the next."""
GRACE = 3.0
"""Seconds that a process has to end by itself after another one did, and to be ended with it before it says why."""
FIRST = "POLYMODAL_FIRST_PROCESS"
"""The environment variable that tells launched processes which one launched them."""


def check_processes(trainer: Trainer, data: Any) -> None:
    """Refuse what several processes would not do as one does.

    Raises:
        ConfigError: The strategy leaves no model or is none that runs are known to be right with, or data would not be
            dealt out.
    """
    name = type(trainer.strategy).__name__
    if isinstance(trainer.strategy.launcher, _MultiProcessingLauncher):
        raise ConfigError(
            f"--trainer.strategy: {name} would train in processes that are forked or spawned, and the model would end "
            "with them. Use --trainer.strategy ddp, outside of a notebook."
        )
    if not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):
        raise ConfigError(
            f"--trainer.strategy: a run is trained by one process or by ddp, got {name}. Use --trainer.strategy ddp."
        )
    if trainer.world_size == 1:
        return
    if trainer.overfit_batches:  # type: ignore[attr-defined]
        raise ConfigError(
            f"--trainer.overfit_batches: {trainer.world_size} processes would not see the same batches as one. Use "
            "--trainer.devices 1."
        )
    if isinstance(data, FolderData) and not trainer._accelerator_connector.use_distributed_sampler:
        raise ConfigError(
            "--trainer.use_distributed_sampler false: all processes would train on the same samples; leave it out."
        )
    if isinstance(getattr(trainer.strategy, "_layer_sync", None), SynchronisedNorms) and may_lack(data):
        raise ConfigError(
            "--trainer.sync_batchnorm true: samples lack modalities (data.dropout, or `optional` in dataset.yaml), so "
            "that processes differ in those that they have, and would wait for each other's statistics. Leave it out."
        )


def settle_share(trainer: Trainer, data: Any) -> None:
    """Make a number of batches of the share of the validation split that several processes validate together.

    Raises:
        ConfigError: The share leaves nothing.
    """
    limit = trainer.limit_val_batches
    if trainer.world_size > 1 and isinstance(data, FolderData) and isinstance(limit, float) and 0 < limit < 1:
        data.setup("validate")
        trainer.limit_val_batches = part(len(data.val_dataloader()), limit, "val")


class Together:
    """Ends a training's processes together, and lets one of them say why in one line.

    The first process looks after those that it launched, and they after it. Processes that something else launched,
    such as torchrun or SLURM, are ended by that.

    Where one process fails, the others fail soon after, as its answers never come. So whoever fails by something that
    is no user's to mend waits for the one that can say more; and all but the first wait to be ended with it, in case
    that it fails alike.

    Args:
        signals: Those that came to this process, and who trains.
        remedy: Gives what a user can do after an end that nobody asked for.
    """

    def __init__(self, signals: Signals, remedy: Callable[[], str]) -> None:
        self._signals = signals
        self._remedy = remedy
        self._others: list[subprocess.Popen[Any]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._number = int(os.environ.get("LOCAL_RANK", 0))
        self._parent = int(os.environ[FIRST]) if self._number > 0 and FIRST in os.environ else None

    def __enter__(self) -> "Together":
        if self._parent is None:
            os.environ[FIRST] = str(os.getpid())
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        failed = isinstance(error, Exception)
        if failed and self._parent is not None:
            time.sleep(GRACE)
        elif failed and self._others and not isinstance(error, PolymodalError | OSError):
            time.sleep(4 * GRACE)
        self._over.set()
        self._thread.join()
        if error is not None:
            self._end_others(0 if failed else GRACE)
        if isinstance(error, SystemExit) and (self._parent is not None or self._others):
            # What several processes had in common takes the interpreter ten seconds and more to clear away.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(error.code if isinstance(error.code, int) else 1)

    def _look(self) -> None:
        while not self._over.wait(LOOK):
            if self._parent is not None and os.getppid() != self._parent:
                self._leave("The first process of this training was killed", 1)
            self._take_others()
            if number := self._signals.overdue():
                self._leave("" if self._number else signal.Signals(number).name, 128 + number)
            ended = next((other.returncode for other in self._others if other.poll()), 0)
            if ended < 0:
                self._leave(f"A process of this training was ended by {signal.Signals(-ended).name}", 128 - ended)
            # It has said why, or left by a signal, which this process mostly knows, too.
            elif ended > 0 and not self._over.wait(GRACE):
                self._leave(signal.Signals(ended - 128).name if ended > 128 else "", ended)

    def _take_others(self) -> None:
        """Look after launched processes in the place of Lightning, which kills this one in silence when one ends."""
        trainer = self._signals.trainer
        launcher = trainer.strategy.launcher if trainer is not None else None
        if not isinstance(launcher, _SubprocessScriptLauncher) or launcher.procs is self._others:
            return
        if len(launcher.procs) == launcher.num_processes - 1:
            theirs, launcher.procs = launcher.procs, list(launcher.procs)
            self._others = launcher.procs
            theirs.clear()

    def _leave(self, why: str, status: int) -> None:
        """End this process at once: it may wait in a library for an answer that never comes."""
        if why and self._number <= 1:
            print(f"polymodal: {why}. {self._remedy()}", file=sys.stderr, flush=True)
        self._end_others(0)
        os._exit(status)

    def _end_others(self, patience: float) -> None:
        until = time.monotonic() + patience
        for other in self._others:
            try:
                other.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                other.kill()
