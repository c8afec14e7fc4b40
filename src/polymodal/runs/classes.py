"""What a training is about to learn from: how often each class occurs, and a refusal where only one does."""

from typing import Any

from lightning.pytorch import Callback, Trainer

from polymodal.data import FolderData
from polymodal.errors import DataError


class Classes(Callback):
    """Says at the start of a training how often each class occurs in each split."""

    def on_fit_start(self, trainer: Trainer, *_: Any) -> None:
        """Print a table and what is remarkable in it.

        Raises:
            DataError: All labelled pixels are of one class; every network would seem perfect.
        """
        data = trainer.datamodule  # type: ignore[attr-defined]
        histogram = data.class_histogram() if isinstance(data, FolderData) else None
        if histogram is None:
            return
        if problem := histogram.one_class():
            raise DataError(f"{data.root}: target: {problem}")
        if trainer.is_global_zero:
            print("\n".join([*histogram.lines(), *(f"note: {note}" for note in histogram.notes())]), flush=True)
