"""SIGTERM, SIGINT and SIGHUP: a training ends after its step, with a checkpoint."""

import os
import signal
import threading
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from lightning.pytorch import Trainer

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name))


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

    def __enter__(self) -> "Signals":
        self._before = {number: signal.getsignal(number) for number in SIGNALS}
        self.listen()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if _may_listen():
            for number, handler in self._before.items():
                signal.signal(number, handler)

    def listen(self) -> None:
        """Be told of signals, in the place of whoever was before.

        Lightning puts itself there when a training starts, and would wait for all processes within its answer to a
        SIGTERM that only one has received.
        """
        for number, before in self._before.items():
            if _may_listen() and not (number == getattr(signal, "SIGHUP", None) and before is signal.SIG_IGN):  # nohup
                signal.signal(number, self._note)

    def leave(self) -> None:
        """Raise Stopped if there was a signal."""
        if self.received is not None:
            raise Stopped(self.received)

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        if os.getpid() != self._process:
            return
        impatient = self.received is not None and number == signal.SIGINT
        self.received = number if self.received is None else self.received
        if impatient or not self.watched:
            self.leave()


def _may_listen() -> bool:
    """Whether Python lets this thread say what answers a signal."""
    return threading.current_thread() is threading.main_thread()
