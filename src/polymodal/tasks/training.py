"""From a recipe to a finished run folder: train, keep the best model, score it, write the report."""

import logging
import signal
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.cli import LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins import CheckpointIO
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException

import polymodal
from polymodal.data import DatasetSpec
from polymodal.errors import ConfigError
from polymodal.tasks.averaging import NetworkFirst, holds_average
from polymodal.tasks.base import ENSEMBLE, Task
from polymodal.tasks.checkpoints import (
    FOLDER,
    BestCheckpoint,
    Resumption,
    WholeFiles,
    check_free,
    check_resumable,
    how_to_go_on,
    read_checkpoint,
)
from polymodal.tasks.classes import Classes
from polymodal.tasks.evaluation import name_of_split, save_model, score_split, split_of, write_scenes
from polymodal.tasks.files import check_run_folder
from polymodal.tasks.interrupt import Signals, Stopped
from polymodal.tasks.recorder import Recorder
from polymodal.tasks.seeds import EpochSeeds

_KNOWN = (
    "args parameter is intended",
    "does not have many workers",
    "smaller than the logging interval",
    "Checkpoint directory",
    "is_leaf",
    "could not find the monitored key",
    "sync_dist=True",  # said of scores, which are of all processes already
    "your dataloader is not resumable",  # its sampler is
)


class RecipeCLI(LightningCLI):
    """Lightning's command line for `fit` alone, writing the run folder `trainer.default_root_dir`."""

    def __init__(self, arguments: Sequence[str], signals: Signals | None = None) -> None:
        self.signals = signals or Signals()
        self.recorder: Recorder
        self.best: BestCheckpoint
        self.scored: tuple[str, ...]
        super().__init__(
            Task,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            seed_everything_default=0,
            save_config_callback=ConfigFile,
            save_config_kwargs={"overwrite": True},
            trainer_defaults={"default_root_dir": "runs/run"},
            parser_kwargs={"prog": "polymodal"},
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            args=["fit", *arguments],
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """`fit`, without what this class decides itself."""
        return {"fit": {"model", "train_dataloaders", "val_dataloaders", "datamodule", "weights_only"}}

    def _parse_ckpt_path(self) -> None:
        """Take no settings from a checkpoint: the recipe says them, and a checkpoint may come from anyone."""

    def _set_seed(self) -> None:
        """Every run has a seed; `true` draws one, and config.yaml says which."""
        if self._get(self.config, "seed_everything") is False:
            raise ConfigError("seed_everything is false; a run has a seed: give a number, or true to have one drawn")
        super()._set_seed()

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self._get(self.config, "trainer")["default_root_dir"])

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The trainer with the callbacks that write the run folder."""
        settings = self._get(self.config_init, "trainer")
        if settings["sync_batchnorm"]:
            raise ConfigError(
                "trainer.sync_batchnorm cannot synchronise norms that are private by then. Leave the setting out; "
                "in Python, fuse a network that torch.nn.SyncBatchNorm.convert_sync_batchnorm converted."
            )
        self.recorder = Recorder(self.folder)
        self.best = BestCheckpoint(
            self.folder / FOLDER,
            "best",
            f"val/{self.model.chosen_by}/{ENSEMBLE}",
            mode=self.model.chosen_mode,
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )
        files = WholeFiles()
        callbacks: list[Callback] = [
            self.recorder,
            EpochSeeds(int(self._get(self.config, "seed_everything"))),
            Classes(),
            LastEpochValidated(),
            self.best,
            Resumption(self.folder, files, self.signals),
        ]
        watched = sys.stdout.isatty()
        if watched and settings["enable_progress_bar"] is not False:
            callbacks.append(RichProgressBar())
        elif settings["enable_progress_bar"] is not False:
            callbacks.append(EpochLines())
            kwargs["enable_progress_bar"] = False
        self.trainer_defaults["callbacks"] = callbacks
        kwargs["enable_model_summary"] = False
        kwargs["plugins"] = with_files(settings["plugins"], files)
        kwargs["logger"] = Events(self.folder, name="", version="")
        trainer = super().instantiate_trainer(**kwargs)
        if trainer.world_size > 1 and settings["strategy"] == "auto" and self.model.alternates:
            trainer = super().instantiate_trainer(**kwargs, strategy="ddp_find_unused_parameters_true")
        trainer.callbacks.insert(0, NetworkFirst())  # type: ignore[attr-defined]
        return trainer

    def fit(self, **kwargs: Any) -> None:
        """Train; nothing in a checkpoint that is resumed from is executed."""
        self.signals.folder = self.folder
        resume = kwargs.get("ckpt_path")
        if resume is not None:
            check_resumable(Path(resume))
        else:
            check_free(self.folder)
            check_run_folder(self.folder)
        self.scored = scored_splits(self.datamodule)
        self.trainer.fit(weights_only=True, **kwargs)


class ConfigFile(SaveConfigCallback):
    """Writes config.yaml when training begins: a run that is refused before leaves no file, or the earlier one."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Wait."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the settings, without the checkpoint: with them the run can be repeated from its start."""
        self.config = self.config.clone()
        self.config["ckpt_path"] = None
        super().setup(trainer, pl_module, "fit")


class Events(TensorBoardLogger):
    """TensorBoard's events alone; config.yaml says the settings."""

    def save(self) -> None:
        """Write the events, and no hparams.yaml beside them."""
        self.experiment.flush()


class LastEpochValidated(Callback):
    """Validates the last epoch, whatever `check_val_every_n_epoch` is: its model is often the best."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the epoch that is resumed: its start was before."""
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ask for a validation after every epoch from the last one on."""
        del pl_module
        if trainer.check_val_every_n_epoch is not None and trainer.current_epoch + 1 == trainer.max_epochs:
            trainer.check_val_every_n_epoch = 1


class EpochLines(Callback):
    """One line of text for every epoch, where no progress bar can be drawn."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the epoch's losses and scores."""
        if not trainer.is_global_zero:
            return
        scores = f"val/{pl_module.chosen_by}/"
        shown = {
            name.removeprefix(scores): float(value)
            for name, value in trainer.callback_metrics.items()
            if name == "train/loss" or name.startswith((scores, "exchanged/"))
        }
        texts = [f"{name} {value:.3g}" for name, value in shown.items()]
        print(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}: {', '.join(texts)}", flush=True)


def fit(arguments: Sequence[str]) -> Path:
    """Train by a recipe and finish the run folder.

    Args:
        arguments: The command line after `polymodal fit`: `--config RECIPE.yaml` and settings that override it.

    Returns:
        The run folder.

    Raises:
        PolymodalError: Anything that a user can mend.
        SystemExit: The arguments cannot be parsed; the parser has said why. Or SIGTERM or SIGINT has come: the training
            has ended after its step, with a checkpoint, and the status is 143 or 130.
    """
    quieten()
    with Signals() as signals:
        try:
            cli = RecipeCLI(arguments, signals)
            part_processes()
            if cli.trainer.is_global_zero:
                finish(cli)
        except Stopped as stop:
            if getattr(rank_zero_only, "rank", 0) == 0:
                print(f"polymodal: {stop.signal.name}. {how_to_go_on(signals.folder)}", file=sys.stderr)
            raise
        except SIGTERMException as stop:  # Lightning's own, where one of several processes was first
            raise Stopped(signal.SIGTERM) from stop
    return cli.folder


def with_files(plugins: Any, files: WholeFiles) -> list[Any]:
    """The recipe's plugins and what writes checkpoints, unless they bring their own."""
    given = [] if plugins is None else list(plugins) if isinstance(plugins, list | tuple) else [plugins]
    return given if any(isinstance(plugin, CheckpointIO) for plugin in given) else [*given, files]


def finish(cli: RecipeCLI) -> None:
    """Keep the best model as a folder, score it on the splits there are, write scenes and report."""
    from polymodal.report import write_report

    folder, model, data = cli.folder, cli.model, cli.datamodule
    best = folder / FOLDER / "best.ckpt"
    selected_on = None
    averaged = holds_average(cli.trainer, model)
    if averaged is False:
        print("the training ended before StochasticWeightAveraging did: the model holds no average")
    if averaged:
        print("the averaged weights are kept, as they are at the end: no validation chose among them")
    elif ended_best(cli):
        selected_on = name_of_split(data, data.val_split)
    elif best.is_file():
        model.load_state_dict(read_checkpoint(best)["state_dict"])
        selected_on = name_of_split(data, data.val_split)
    else:
        print("the training ended before its first validation: the model is kept as it is at the end")
    unseen = cli.recorder.epochs_since_validation()
    if selected_on and unseen:
        print(f"the training ended {unseen} epoch(s) after its last validation: what they learned is not in the model")
    facts = {
        "seconds": round(cli.recorder.seconds, 1),
        "epochs": len(cli.recorder.rows),
        "seed": int(cli._get(cli.config, "seed_everything")),
        "data_set": DatasetSpec.load(data.root).name,
        "identities": {name: data.identity(name) for name in (split_of(data, split) for split in cli.scored)},
        "selected_on": selected_on,
        **model.scoring,
    }
    save_model(model.fused, model.network, model.arguments, data, facts, folder / "model")
    cli.recorder.write_scales(model.fused)
    for split in cli.scored:
        score_split(folder / "model", data, split, folder)
    write_scenes(folder / "model", data, folder)
    print(f"report: {write_report([folder], folder / 'report.html')}")


def ended_best(cli: RecipeCLI) -> bool:
    """Whether the training ended within an epoch, was validated there, and the model is the best as it is.

    best.ckpt is of whole epochs, as whoever continues the training needs it.
    """
    if cli.trainer.is_last_batch or not cli.recorder.rows:
        return False
    score, best = cli.recorder.rows[-1].get(str(cli.best.monitor)), cli.best.best_model_score
    if score is None or best is None:
        return score is not None
    return score > float(best) if cli.best.mode == "max" else score < float(best)


def part_processes() -> None:
    """End the common work of several processes, each of which has a device, once all of them are here.

    One alone finishes the run; its scores would wait for those of the others for ever.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def scored_splits(data: Any) -> tuple[str, ...]:
    """The splits that a finished model is scored on: "val", and "test" where there is one with any truth.

    Benchmarks withhold the labels of their test images; prepared, all of them are ignored.

    Raises:
        DataError: The data set cannot be read, or a label of its test split.
    """
    if data.test_split not in DatasetSpec.load(data.root).splits:
        return ("val",)
    data.setup("test")
    if data.target.kind != "label":
        return ("val", "test")
    dataset = data.test_dataloader().dataset
    labelled = any((dataset.label(index) != data.target.ignore).any() for index in range(len(dataset)))
    return ("val", "test") if labelled else ("val",)


def recipe(name: str) -> Path:
    """The path of a recipe that comes with the package, such as "rooms".

    Raises:
        ConfigError: There is none of that name.
    """
    package = Path(polymodal.__file__).parent
    for folder in (package / "recipes", package.parents[1] / "recipes"):
        if (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml"
    raise ConfigError(f"there is no recipe {name!r} with this installation")


def quieten() -> None:
    """Leave out what Lightning tells every user every time."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in _KNOWN:
        warnings.filterwarnings("ignore", f".*{message}.*")
