"""SIGTERM, SIGINT and SIGHUP: a training ends after its step, with a checkpoint."""

import os
import signal
import threading
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name))

ANSWER = 2.0
"""Seconds in which Python answers a signal, unless it waits in a library, as for other processes that are not there."""
STEP = 8.0
"""Seconds that one of several processes has for its step after a signal, and longer where steps take longer."""


class Stopped(SystemExit):
    """Ends the process with the status that shells give to a signal, 128 more than its number.

    Attributes:
        signal: Which one.
    """

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.signal = signal.Signals(number)


class Signals:
    """Notes the first signal, and leaves at once unless someone has promised to look.

    A second SIGINT, from somebody who does not want to wait, leaves in any case. Data loaders' workers inherit this; it
    does nothing in them, as their training ends them.

    Python answers signals between two of its own instructions. Whoever waits in a library, as for the other processes
    of a training, is found by a thread that asks for what is `overdue`.

    Attributes:
        received: The signal's number, once there was one.
        watched: Whether a training looks at `received` after every step and leaves by itself.
        folder: The run folder, once it is known.
        trainer: Who trains, once it is known.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.watched = False
        self.folder: Path | None = None
        self.trainer: Trainer | None = None
        self._process = os.getpid()
        self._before: dict[signal.Signals, Any] = {}
        self._arrivals: tuple[int, int] | None = None
        self._before_wakeup = -1
        self._first: tuple[int, float] | None = None
        self._looked: float | None = None
        self._longest = 0.0

    def __enter__(self) -> "Signals":
        self._before = {number: signal.getsignal(number) for number in SIGNALS}
        self.listen()
        if _may_listen() and hasattr(os, "register_at_fork"):
            _keep_to_this_process()
            self._arrivals = os.pipe()
            for end in self._arrivals:
                os.set_blocking(end, False)
            self._before_wakeup = signal.set_wakeup_fd(self._arrivals[1], warn_on_full_buffer=False)
        return self

    def __exit__(self, *_: object) -> None:
        if _may_listen():
            for number, handler in self._before.items():
                signal.signal(number, handler)
        if self._arrivals is not None:
            signal.set_wakeup_fd(self._before_wakeup)
            arrivals, self._arrivals = self._arrivals, None
            for end in arrivals:
                os.close(end)

    def attend(self, trainer: Trainer) -> None:
        """Be told of signals while a trainer trains.

        Lightning puts itself there when a training starts, and would wait for all processes within its answer to a
        SIGTERM that only one has received.
        """
        self.trainer = trainer
        connector = trainer._signal_connector
        theirs = connector.register_signal_handlers

        def register() -> None:
            theirs()
            self.listen()

        connector.register_signal_handlers = register  # type: ignore[method-assign]

    def listen(self) -> None:
        """Be told of signals, in the place of whoever was before."""
        for number, before in self._before.items():
            if _may_listen() and not (number == getattr(signal, "SIGHUP", None) and before is signal.SIG_IGN):  # nohup
                signal.signal(number, self._note)

    def leave(self) -> None:
        """Raise Stopped if there was a signal."""
        if self.received is not None:
            raise Stopped(self.received)

    def stepped(self) -> None:
        """Note that a training has looked, as it does after every step."""
        now = time.monotonic()
        self._longest = max(self._longest, now - (self._looked or now))
        self._looked = now

    def overdue(self) -> int | None:
        """A signal that came to this process so long ago that whoever should answer it waits in vain, if there is one.

        One process alone ends its step, however long it takes.
        """
        with suppress(BlockingIOError, TypeError, OSError):  # nothing came; closed meanwhile
            came = [number for number in os.read(self._arrivals[0], 64) if number in SIGNALS]  # type: ignore[index]
            self._first = self._first or (came[0], time.monotonic()) if came else self._first
        if self._first is None:
            return None
        number, since = self._first
        alone = self.trainer is None or self.trainer.world_size == 1
        if not self.watched and self.received is None:
            patience = ANSWER
        else:
            patience = float("inf") if alone else max(STEP, 2 * self._longest)
        return number if time.monotonic() - since > patience else None

    def _note(self, number: int, *_: Any) -> None:
        if os.getpid() != self._process:
            return
        impatient = self.received is not None and number == signal.SIGINT
        self.received = number if self.received is None else self.received
        if impatient or not self.watched:
            self.leave()


@cache
def _keep_to_this_process() -> None:
    """Let no forked process, such as a data loader's worker, announce its own signals here."""
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))


def _may_listen() -> bool:
    """Whether Python lets this thread say what answers a signal."""
    return threading.current_thread() is threading.main_thread()
