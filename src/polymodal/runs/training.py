"""From a recipe to a finished run folder: train, keep the best model, score it, write the report."""

import signal
import sys
from argparse import ArgumentError
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.plugins import CheckpointIO
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException

import polymodal
from polymodal.errors import ConfigError
from polymodal.files import tidy_below, write_file
from polymodal.locks import locked
from polymodal.names import ENSEMBLE
from polymodal.run_folder import BEST, CONFIG, score_column
from polymodal.runs.averaging import NetworkFirst
from polymodal.runs.checkpoints import (
    BestCheckpoint,
    Resumption,
    WholeFiles,
    check_free,
    check_resumable,
    how_to_go_on,
    run_of,
)
from polymodal.runs.classes import Classes
from polymodal.runs.epochs import EpochLines, LastEpochValidated
from polymodal.runs.files import check_run_folder, no_new_folder, unless_begun
from polymodal.runs.finish import finish
from polymodal.runs.interrupt import Signals, Stopped
from polymodal.runs.loggers import log_recipe, loggers_of
from polymodal.runs.overrides import gone_on
from polymodal.runs.parsing import RecipeParser, check_groups, recipes_first, refusal
from polymodal.runs.precision import hint_at_precision
from polymodal.runs.processes import Together, check_processes, settle_share
from polymodal.runs.quiet import quieten
from polymodal.runs.recorder import Recorder
from polymodal.runs.refusals import while_made, while_trained
from polymodal.runs.scored import scored_splits
from polymodal.runs.seeds import EpochSeeds
from polymodal.runs.synchronised import SynchronisedNorms
from polymodal.runs.trainer_settings import (
    blamed,
    check_callbacks,
    check_logged,
    check_seed,
    check_trainer,
    listed,
)
from polymodal.tasks.base import Task
from polymodal.tasks.gaps import may_lack


class RecipeCLI(LightningCLI):
    """Lightning's command line for `fit` alone, writing the run folder `trainer.default_root_dir`."""

    def __init__(self, arguments: Sequence[str], signals: Signals | None = None, held: ExitStack | None = None) -> None:
        self.signals = signals or Signals()
        self.held = held or ExitStack()
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
            save_config_kwargs={"save_to_log_dir": False},
            trainer_defaults={"default_root_dir": "runs/run"},
            parser_kwargs={"prog": "polymodal"},
            parser_class=RecipeParser,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            args=["fit", *recipes_first(arguments)],
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """`fit`, without what this class decides itself."""
        return {"fit": {"model", "train_dataloaders", "val_dataloaders", "datamodule", "weights_only"}}

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, and say in one line what cannot be parsed."""
        try:
            super().parse_arguments(parser, args)
        except ArgumentError as error:
            raise ConfigError(refusal(str(error), self._subcommand_parsers["fit"], recipes())) from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"--config: expected text in UTF-8 ({error}).") from error

    def _parse_ckpt_path(self) -> None:
        """Take no settings from a checkpoint: the recipe says them, and a checkpoint may come from anyone."""

    def _set_seed(self) -> None:
        """Every run has a seed; `true` draws one, and config.yaml says which."""
        check_seed(self._get(self.config, "seed_everything"))
        super()._set_seed()

    def instantiate_classes(self) -> None:
        """Make everything, and say in one line what cannot be made."""
        check_trainer(self._get(self.config, "trainer"))
        check_groups({part: self._get(self.config, part) for part in ("model", "data")})
        with while_made():
            super().instantiate_classes()

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self._get(self.config, "trainer")["default_root_dir"])

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The trainer with the callbacks that write the run folder."""
        settings = self._get(self.config_init, "trainer")
        given = listed(settings["callbacks"])
        check_callbacks(given, settings, self.folder)
        self.recorder = Recorder(self.folder)
        self.best = BestCheckpoint(
            (self.folder / BEST).parent,
            Path(BEST).stem,
            score_column(self.model.chosen_by, ENSEMBLE),
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
        bar = any(isinstance(callback, ProgressBar) for callback in given)
        if settings["enable_progress_bar"] is not False:
            if not sys.stdout.isatty():
                callbacks.append(EpochLines(self.recorder))
                kwargs["enable_progress_bar"] = bar
            elif not bar:
                callbacks.append(RichProgressBar())
        self.trainer_defaults["callbacks"] = callbacks
        kwargs["enable_model_summary"] = bool(settings["enable_model_summary"])
        kwargs["plugins"] = listed(settings["plugins"])
        if not any(isinstance(plugin, CheckpointIO) for plugin in kwargs["plugins"]):  # which write checkpoints
            kwargs["plugins"].append(files)
        if settings["sync_batchnorm"]:
            kwargs["plugins"].append(SynchronisedNorms())
            kwargs["sync_batchnorm"] = False
        kwargs["logger"] = loggers_of(settings["logger"], self.folder)
        build = super().instantiate_trainer
        with while_made(partial(blamed, settings)):
            # A list of its own for each: Lightning adds to it.
            trainer = build(**kwargs, callbacks=list(given))
            some = self.model.alternates or may_lack(self.datamodule)  # a step may reach only some of the parameters
            if trainer.world_size > 1 and settings["strategy"] == "auto" and some:
                trainer = build(**kwargs, callbacks=list(given), strategy="ddp_find_unused_parameters_true")
        check_processes(trainer, self.datamodule)
        hint_at_precision(trainer)
        self.first = NetworkFirst(partial(check_logged, given))
        trainer.callbacks.insert(0, self.first)  # type: ignore[attr-defined]
        return trainer

    def fit(self, **kwargs: Any) -> None:
        """Train; nothing in a checkpoint that is resumed from is executed."""
        self.signals.folder = self.folder
        if self.trainer.is_global_zero:
            self.held.enter_context(no_new_folder(self.folder))
            self.held.enter_context(locked(self.folder))
            tidy_below(self.folder)
        resume = kwargs.get("ckpt_path")
        if resume is not None:
            check_resumable(Path(resume))
        check_run_folder(self.folder)
        check_free(self.folder, None if resume is None else Path(resume))
        self.scored = scored_splits(self.datamodule, self.trainer)
        settle_share(self.trainer, self.datamodule)
        self.signals.attend(self.trainer)
        if self.trainer.world_size == 1:
            # Before any logger begins; several processes must meet first.
            self.build(self.datamodule)
        with while_trained(), unless_begun(self.folder, lambda: self.recorder.began):
            self.trainer.fit(weights_only=True, **kwargs)
        if resume is not None and not self.recorder.began and self.trainer.is_global_zero:
            print(f"{resume} is of the end of this training: no step was left. Raise --trainer.max_epochs for more.")

    def build(self, data: Any) -> None:
        """Make the network for a data module, as the trainer would.

        Raises:
            PolymodalError: Settings do not fit the data, the fusion not the network, or callbacks not what is logged.
        """
        data.setup("fit")
        self.trainer.datamodule = data  # type: ignore[attr-defined]
        self.model.trainer = self.trainer
        self.first.setup(self.trainer, self.model, "fit")


class ConfigFile(SaveConfigCallback):
    """Writes config.yaml when training begins: a run that is refused before leaves no file, or the earlier one."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Wait."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the settings, without the checkpoint: with them the run can be repeated from its start."""
        self.config = self.config.clone()
        self.config["ckpt_path"] = None
        super().setup(trainer, pl_module, "fit")

    def save_config(self, trainer: Trainer, *_: Any) -> None:
        """Write the file whole, which Lightning's own way does not, and give the settings to the recipe's loggers.

        What a training that goes on changes in them is printed, and kept in the file: epochs were trained by others.
        """
        text = self.parser.dump(self.config, skip_none=False)
        if trainer.ckpt_path is not None and (run := run_of(Path(trainer.ckpt_path))) is not None:
            text, changed = gone_on(text, run / CONFIG, trainer.current_epoch + 1)
            if changed:
                print(f"other settings than until here, {changed}")
        write_file(Path(trainer.default_root_dir) / self.config_filename, text.encode())
        if trainer.enable_autolog_hparams:
            log_recipe(trainer.loggers, yaml.safe_load(text))


def fit(arguments: Sequence[str]) -> Path:
    """Train by a recipe and finish the run folder.

    Args:
        arguments: The command line after `polymodal fit`: `--config RECIPE.yaml` and settings that override it.

    Returns:
        The run folder.

    Raises:
        PolymodalError: Anything that a user can mend.
        SystemExit: SIGTERM, SIGINT or SIGHUP has come, to one of several processes: the training has ended after its
            step, with a checkpoint, and the status is 143, 130 or 129.
    """
    quieten()
    signals = Signals()
    with Together(signals, lambda: how_to_go_on(signals.folder)), signals, ExitStack() as held:
        try:
            cli = RecipeCLI(arguments, signals, held)
            part_processes()
            if cli.trainer.is_global_zero:
                finish(cli)
        except Stopped as stop:
            if getattr(rank_zero_only, "rank", 0) == 0:
                print(f"polymodal: {stop.signal.name}. {how_to_go_on(signals.folder)}", file=sys.stderr)
            raise
        except SIGTERMException as stop:  # Lightning's own, where one of several processes was first
            raise Stopped(signal.SIGTERM) from stop
        except BrokenPipeError:
            print(f"polymodal: nobody reads the output. {how_to_go_on(signals.folder)}", file=sys.stderr)
            raise
    return cli.folder


def part_processes() -> None:
    """End the common work of several processes, each of which has a device, once all of them are here.

    One alone finishes the run; its scores would wait for those of the others for ever.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def recipes() -> Path:
    """The folder of the recipes that come with the package."""
    package = Path(polymodal.__file__).parent
    installed = package / "recipes"
    return installed if installed.is_dir() else package.parents[1] / "recipes"


def recipe(name: str) -> Path:
    """The path of a recipe that comes with the package, such as "rooms".

    Raises:
        ConfigError: There is none of that name.
    """
    file = recipes() / f"{name}.yaml"
    if not file.is_file():
        raise ConfigError(f"there is no recipe {name!r} with this installation")
    return file
