"""The checkpoints of a run: written whole, continued from exactly."""

from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.plugins import TorchCheckpointIO

from polymodal.data import FolderData
from polymodal.errors import CheckpointError, ConfigError
from polymodal.files import write_file
from polymodal.processes import gathered, own
from polymodal.run_folder import BEST, CHECKPOINTS, CONFIG, LAST, METRICS, MODEL
from polymodal.runs.interrupt import Signals
from polymodal.runs.position import POSITION, Position, accumulates, batches_done, put_back
from polymodal.tasks.resume import on_schedule
from polymodal.weight_files import load_tensors

EXACT = f"A run keeps the one to continue with in {LAST}."


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A Lightning checkpoint, without running anything in it.

    Raises:
        CheckpointError: It is missing, damaged, or holds more than tensors and plain values.
    """
    content = load_tensors(path, f"Use a checkpoint that `polymodal fit` wrote; a run keeps its own in {LAST}.")
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
        raise CheckpointError(f"{path} is no checkpoint of a training: it has no 'state_dict'")
    return content


def check_resumable(path: Path) -> None:
    """Refuse a checkpoint that a training cannot be continued from, before anything is built or written.

    Raises:
        CheckpointError: As `read_checkpoint`, when it lacks the state of the training, and when it was written at a
            moment from which nobody can go on as if there had been no break.
    """
    checkpoint = read_checkpoint(path)
    missing = [key for key in ("loops", "optimizer_states", "lr_schedulers") if key not in checkpoint]
    if missing:
        raise CheckpointError(
            f"{path} has no {', '.join(missing)}: a training is continued from a checkpoint that `polymodal fit` wrote"
        )
    unfinished = Position.of_checkpoint(checkpoint).unfinished
    if unfinished:
        raise CheckpointError(f"{path} was written {unfinished}, and no training goes on exactly from there. {EXACT}")


def newest(folder: Path) -> Path | None:
    """The newest checkpoint in a run folder that a training can be continued from."""
    last = folder / LAST
    others = [file for file in (folder / CHECKPOINTS).glob("*.ckpt") if file != last]
    for path in (last, *sorted(others, key=lambda file: file.stat().st_mtime, reverse=True)):
        try:
            check_resumable(path)
        except CheckpointError:
            continue
        return path
    return None


def run_of(checkpoint: Path) -> Path | None:
    """The run folder that a checkpoint lies in; None where it was kept elsewhere."""
    folder = checkpoint.resolve().parent
    return folder.parent if folder.name == CHECKPOINTS and (folder.parent / CONFIG).is_file() else None


def check_free(folder: Path, resume: Path | None = None) -> None:
    """Refuse a folder with a run that could be continued, or that is finished.

    One that was killed before its first checkpoint has nothing that could be lost: it starts again.

    Args:
        folder: The run folder.
        resume: The checkpoint that is continued from; the run that it lies in may go on in its own folder.

    Raises:
        ConfigError: With the checkpoint to continue from.
    """
    if resume is not None and run_of(resume) in (None, folder.resolve()):
        return
    whole = [path for path in (folder / CHECKPOINTS).glob("*.ckpt") if not _early(path)]
    if not whole and not (folder / MODEL).exists():
        if (folder / METRICS).exists():
            print(f"{folder} holds a run that ended before its first checkpoint: it starts again")
        return
    other = "choose another folder with --trainer.default_root_dir"
    checkpoint = newest(folder)
    if checkpoint is None:
        raise ConfigError(
            f"{folder} already holds a run, with no checkpoint that it could be continued from. Remove the folder, or "
            f"{other}."
        )
    raise ConfigError(f"{folder} already holds a run. Continue it with --ckpt_path {checkpoint}, or {other}.")


def _early(path: Path) -> bool:
    """Whether a checkpoint, such as best.ckpt, was to be written again when its epoch was complete."""
    try:
        return bool(Position.of_checkpoint(read_checkpoint(path)).unfinished)
    except CheckpointError:
        return False


def how_to_go_on(folder: Path | None) -> str:
    """What to do after a training was interrupted, in a sentence."""
    checkpoint = None if folder is None else newest(folder)
    if checkpoint is None:
        return "There is no checkpoint yet: start again with the same command."
    return f"Continue with the same command and --ckpt_path {checkpoint}."


class WholeFiles(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it, so that a kill or a full disk leaves the earlier one.

    Attributes:
        early: Files that must be written again before a training can go on from them, each with its step.
    """

    def __init__(self) -> None:
        self.early: list[tuple[str, int]] = []

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write a file whole or not at all, and wait until the disk has it."""
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        content = BytesIO()  # on a full disk, torch's own writer fails without a reason
        torch.save(checkpoint, content)
        write_file(Path(path), content.getbuffer())
        position = checkpoint.get(POSITION, {})
        if position.get("unfinished") or position.get("validation_due"):
            self.early.append((str(path), checkpoint["global_step"]))


class BestCheckpoint(ModelCheckpoint):
    """Keeps `best.ckpt`, of whole epochs: an epoch that was broken off is no other run's, nor that of one resumed."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the model if it is the best."""
        if trainer.is_last_batch:
            super().on_train_epoch_end(trainer, pl_module)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what was the best, also in a run folder that was moved."""
        here = Path(str(self.dirpath), Path(BEST).name)
        if here.is_file():
            known = {str(here): score for score in state_dict["best_k_models"].values()}
            paths = dict.fromkeys(("best_model_path", "kth_best_model_path"), str(here) if known else "")
            state_dict = {**state_dict, **paths, "dirpath": self.dirpath, "best_k_models": known}
        super().load_state_dict(state_dict)


class Resumption(Checkpoint):
    """Keeps `last.ckpt`, after every epoch and wherever else a training ends, and goes on from any checkpoint exactly.

    What is kept beside Lightning's own state: where within an epoch the training stands, the means so far, gradients
    that wait for more, and the scores of the last validation. The order of the samples is the data module's, the random
    state `EpochSeeds`', the rows of metrics.csv the `Recorder`'s.

    A training that ends within an epoch (by steps, time, a signal or an early stop) leaves `last.ckpt` as of its last
    step. Its row in metrics.csv says how far it came; continued, the whole epoch's row takes that place. The learning
    rates are those of the length that each command asks for.

    It comes last among the callbacks: files that others wrote too early, as at the last step of an epoch, are written
    again in its turn, when everything of that moment is done.

    Args:
        folder: The run folder.
        files: What writes the checkpoints.
        signals: Which end a training early.
    """

    def __init__(self, folder: Path, files: WholeFiles, signals: Signals) -> None:
        self.last = folder / LAST
        self.files = files
        self.signals = signals
        self._validated = -1
        self._saved = -1
        self._settled = False
        self._loaded: dict[str, Any] = {}

    # -- what a checkpoint holds ---------------------------------------------------------------------------------------

    def on_save_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Add where the training stands, and what it has measured since the epoch began."""
        checkpoint[POSITION] = asdict(self._position(trainer))
        checkpoint["metrics"] = {name: value.detach().cpu() for name, value in trainer.callback_metrics.items()}
        checkpoint["means"] = gathered({name: mean.sums() for name, mean in pl_module.means.items()})
        checkpoint["processes"] = trainer.world_size
        if accumulates(trainer):
            gradients = {name: weight.grad for name, weight in pl_module.named_parameters() if weight.grad is not None}
            checkpoint["gradients"] = gradients

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Make Lightning go on where the training stood.

        Raises:
            CheckpointError: It stood within an epoch, and the data module cannot go on within one; or there were other
                processes, of which each had statistics and random numbers of its own.
        """
        del pl_module
        before = checkpoint.get("processes", trainer.world_size)
        if before != trainer.world_size:
            raise CheckpointError(
                f"{trainer.ckpt_path} was written by {before} process(es) and cannot be continued exactly by "
                f"{trainer.world_size}. Continue with --trainer.devices {before}."
            )
        position = Position.of_checkpoint(checkpoint)
        loops = checkpoint["loops"]["fit_loop"]
        data = trainer.datamodule  # type: ignore[attr-defined]
        if position.batches and not isinstance(data, FolderData) and not loops["state_dict"].get("combined_loader"):
            raise CheckpointError(
                f"{trainer.ckpt_path} was written within an epoch, and {type(data).__name__} does not say how to go on "
                "there. Continue with a checkpoint of an epoch's end, or give its loader a state_dict."
            )
        put_back(loops, position)
        self._loaded = {key: checkpoint.get(key, {}) for key in ("metrics", "means", "gradients")}
        self._loaded[POSITION] = position

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Go on with what was measured, and watch for signals."""
        self.signals.watched = True
        if not self._loaded:
            return
        if trainer.is_global_zero and not on_schedule([config.scheduler for config in trainer.lr_scheduler_configs]):
            print(
                "the learning rates go on as in a training of the length that is now asked for; until here they were "
                "those of another, so that one without a break would end elsewhere"
            )
        position, self._validated = self._loaded[POSITION], -1
        trainer.callback_metrics.update(self._loaded["metrics"])
        if position.batches == 0:
            trainer.fit_loop.epoch_loop.restarting = False  # with max_steps, Lightning takes the end for a break
            return
        if not position.validation_due:
            self._validated = batches_done(trainer)
        means = self._loaded["means"]
        # Of one process alone in runs of earlier versions.
        for name, (total, count) in (own(means) if isinstance(means, list) else means).items():
            pl_module.mean(name).go_on(total, count)
            pl_module.show_mean(name)  # of this epoch, nothing but a validation and the end may be left
        weights = dict(pl_module.named_parameters())
        for name, gradient in self._loaded["gradients"].items():
            weights[name].grad = gradient.to(pl_module.device)

    # -- when checkpoints are written ----------------------------------------------------------------------------------

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Keep the step if it is the last one."""
        stopped = self._stopped(trainer)
        if stopped or _ends(trainer):
            self._keep(trainer, stopped)

    def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Break off a validation when a signal comes; the resumed training makes it again."""
        if self._stopped(trainer):
            self._keep(trainer, stopped=True)

    def on_validation_end(self, trainer: Trainer, *_: Any) -> None:
        """Keep the step if the validation has made it the last one."""
        if trainer.sanity_checking:
            return
        self._validated = batches_done(trainer)
        if not self._position(trainer).unfinished:
            self._complete(trainer)
        stopped = self._stopped(trainer)
        if stopped or _ends(trainer):
            self._keep(trainer, stopped)

    def on_train_epoch_end(self, trainer: Trainer, *_: Any) -> None:
        """Keep every whole epoch."""
        if trainer.is_last_batch:
            self._settled = True
            self._complete(trainer)
            trainer.save_checkpoint(self.last)
            self._settled = False
        if self._stopped(trainer):
            self.signals.leave()

    def on_train_end(self, trainer: Trainer, *_: Any) -> None:
        """Watch no more."""
        self._stopped(trainer)
        self.signals.watched = False
        self.signals.leave()

    def on_exception(self, *_: Any) -> None:
        """Watch no more."""
        self.signals.watched = False

    def _position(self, trainer: Trainer) -> Position:
        return Position.of_trainer(trainer, self._validated, self._settled)

    def _stopped(self, trainer: Trainer) -> bool:
        """Whether any process of the training has received a signal, of which all know then."""
        self.signals.stepped()
        if trainer.world_size > 1:
            mine = torch.tensor(self.signals.received or 0, device=trainer.strategy.root_device)
            received = int(trainer.strategy.reduce(mine, reduce_op="max"))
            self.signals.received = received or None
        return self.signals.received is not None

    def _keep(self, trainer: Trainer, stopped: bool) -> None:
        """Write last.ckpt if the training can go on from here and it is not written yet, and leave after a signal."""
        kept = self._saved == batches_done(trainer)
        if not kept and not self._position(trainer).unfinished:
            trainer.save_checkpoint(self.last)
            kept, self._saved = True, batches_done(trainer)
        # Otherwise the end of the epoch is near, and has its own checkpoint.
        if stopped and kept:
            self.signals.leave()

    def _complete(self, trainer: Trainer) -> None:
        """Write those files again that were written too early in this moment."""
        again = [path for path, step in self.files.early if step == trainer.global_step and Path(path).is_file()]
        for path in trainer.strategy.broadcast(list(dict.fromkeys(again))):
            trainer.save_checkpoint(path)
        self.files.early.clear()


def _ends(trainer: Trainer) -> bool:
    """Whether the training ends with this step, at the latest after a validation."""
    enough = trainer.current_epoch >= (trainer.min_epochs or 0) and trainer.global_step >= (trainer.min_steps or 0)
    return (trainer.should_stop and enough) or 0 < trainer.max_steps <= trainer.global_step
