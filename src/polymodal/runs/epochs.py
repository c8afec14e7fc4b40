"""What happens at the ends of epochs: the last is validated, and each is told where nobody watches a progress bar."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from polymodal.run_folder import EXCHANGED, TRAIN_LOSS, score_column
from polymodal.runs.recorder import Recorder


class LastEpochValidated(Callback):
    """Validates the last epoch, whatever `check_val_every_n_epoch` is: its model is often the best."""

    def on_train_start(self, trainer: Trainer, *_: Any) -> None:
        """Look at the epoch that is resumed: its start was before."""
        self.on_train_epoch_start(trainer)

    def on_train_epoch_start(self, trainer: Trainer, *_: Any) -> None:
        """Ask for a validation after every epoch from the last one on."""
        if trainer.check_val_every_n_epoch is not None and trainer.current_epoch + 1 == trainer.max_epochs:
            trainer.check_val_every_n_epoch = 1


class EpochLines(Callback):
    """One line of text for every epoch, where no progress bar can be drawn.

    Args:
        recorder: Knows the epoch's own scores: Lightning goes on reporting those of the last validation.
    """

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the epoch's losses and scores."""
        if not trainer.is_global_zero:
            return
        scores = score_column(str(pl_module.chosen_by), "")
        shown = {
            name.removeprefix(scores): value
            for name, value in self.recorder.rows[-1].items()
            if name == TRAIN_LOSS or name.startswith((scores, EXCHANGED))
        }
        texts = [f"{name} {value:.3g}" for name, value in shown.items()]
        print(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}: {', '.join(texts)}", flush=True)
