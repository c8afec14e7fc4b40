"""How far a comparison is: bars on a terminal, a line for every epoch elsewhere."""

import re
import sys
from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean
from threading import Lock

from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bars

from polymodal.report.render import duration
from polymodal.runs.engine import SeededRun


class Progress:
    """Shows which run of how many is at which epoch, and the time that is left, estimated from finished runs.

    Args:
        asked: All runs of the comparison.
        pending: Those of them that are to be trained.
        together: How many at a time.
    """

    def __init__(self, asked: Sequence[SeededRun], pending: Sequence[SeededRun], together: int) -> None:
        self.number = {run: i for i, run in enumerate(asked, start=1)}
        self.done = dict.fromkeys(pending, 0.0)
        self.together = together
        self.seconds: defaultdict[str, list[float]] = defaultdict(list)
        self.bars: Bars | None = None
        self.tasks: dict[SeededRun, TaskID] = {}
        self.lock = Lock()

    def __enter__(self) -> "Progress":
        each = f", {self.together} at a time" if self.together > 1 else ""
        print(f"{self._finished()} are finished; training {len(self.done)}{each}", flush=True)
        if sys.stdout.isatty():
            text = TextColumn("{task.description}")
            self.bars = Bars(text, BarColumn(), TextColumn("{task.fields[note]}"))
            self.bars.start()
            self.all = self.bars.add_task(self._finished(), total=len(self.done), note="")
        return self

    def __exit__(self, *_: object) -> None:
        if self.bars is not None:
            self.bars.stop()

    def begin(self, run: SeededRun) -> None:
        """A run starts."""
        with self.lock:
            if self.bars is not None:
                self.tasks[run] = self.bars.add_task(self._name(run), total=1, note="starts")

    def epoch(self, run: SeededRun, line: str) -> None:
        """A run has finished an epoch and says `epoch 3/12: its scores`, or how far the scoring after it is."""
        with self.lock:
            said = re.match(r"epoch (\d+)/(\d+)", line)
            self.done[run] = int(said[1]) / max(1, int(said[2])) if said else self.done[run]
            left = self._left()
            if self.bars is not None:
                self.bars.update(self.tasks[run], completed=self.done[run], note=line)
                self.bars.update(self.all, completed=sum(self.done.values()), note=left)
            else:
                print(f"{self._name(run)}  {line}{f' ({left})' if left else ''}", flush=True)

    def end(self, run: SeededRun, seconds: float, failed: bool) -> None:
        """A run has ended after so many seconds."""
        with self.lock:
            self.done[run] = 1.0
            if not failed:
                self.seconds[run.method].append(seconds)
            left = self._left()
            said = f"{self._name(run)}  {'failed' if failed else 'finished'} after {duration(seconds)}"
            if self.bars is not None:
                self.bars.remove_task(self.tasks.pop(run))
                all_done = sum(self.done.values())
                self.bars.update(self.all, completed=all_done, note=left, description=self._finished())
                self.bars.console.print(said, highlight=False, markup=False)
            else:
                print(f"{said}{f' ({left})' if left else ''}", flush=True)

    def _finished(self) -> str:
        left = sum(done < 1 for done in self.done.values())
        return f"{len(self.number) - left} of {len(self.number)} runs"

    def _name(self, run: SeededRun) -> str:
        return f"[{self.number[run]}/{len(self.number)}] {run}"

    def _left(self) -> str:
        """The time left: of a method as its own runs took, of one without as all took."""
        if not self.seconds or all(done == 1 for done in self.done.values()):
            return ""
        mean = fmean(seconds for taken in self.seconds.values() for seconds in taken)
        expected = sum(
            (1 - done) * (fmean(self.seconds[run.method]) if run.method in self.seconds else mean)
            for run, done in self.done.items()
        )
        return f"about {duration(expected / self.together)} left"
