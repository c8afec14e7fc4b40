"""Runs of one recipe file each, trained as child processes, some at a time: the engine of `compare` and `tune`."""

import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import torch

from polymodal.errors import CheckpointError, ConfigError
from polymodal.locks import locked
from polymodal.run_folder import LAST, REPORT, scores_file
from polymodal.runs import children
from polymodal.runs.checkpoints import check_resumable

OWN = ("--seed_everything", "--trainer.default_root_dir", "--ckpt_path", "--config", "--print_config")
"""What every run is given of its own."""


def check_own(overrides: Sequence[str], who: str) -> None:
    """Refuse settings for all runs that each has of its own.

    Raises:
        ConfigError: One is given.
    """
    for word in overrides:
        if word.partition("=")[0] in OWN:
            raise ConfigError(f"{word.partition('=')[0]}: {who} sets it for each of its runs; leave it out.")


@dataclass(frozen=True)
class SeededRun:
    """One recipe with one seed, such as a method of a comparison.

    Attributes:
        method: What it is called.
        seed: Its seed.
        folder: Its run folder, beside which its recipe.yaml lies.
    """

    method: str
    seed: int
    folder: Path

    def __str__(self) -> str:
        return f"{self.method}, seed {self.seed}"

    def scores(self, split: str) -> Path:
        """The file of its scores on a split; it is there, and whole, once the split is scored."""
        return self.folder / scores_file(split)

    def finished(self, splits: Iterable[str]) -> bool:
        """Whether it is scored on all splits, and its page, which a training writes last, is there."""
        return all(self.scores(split).is_file() for split in splits) and (self.folder / REPORT).is_file()


class Processes:
    """Trains runs on this machine, each with its share of the cores, or with a GPU of its own.

    Args:
        trainer: The settings of the recipe's trainer.
        jobs: Runs at a time; None for one on every GPU, or one where there is none.
        runs: How many there are.

    Attributes:
        together: Runs at a time.
    """

    def __init__(self, trainer: Mapping[str, Any], jobs: int | None, runs: int) -> None:
        gpus = usable_gpus(trainer)
        self.together = min(jobs or max(1, len(gpus)), runs)
        self._environment = children.environment(max(1, children.cores() // self.together))
        self._places: SimpleQueue[dict[str, str]] = SimpleQueue()
        for i in range(self.together):
            self._places.put({"CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)]} if gpus else {})

    def train(self, run: SeededRun, started: list[children.Child], on_epoch: Callable[[str], None]) -> None:
        """Train a run to its end, from where it was; an error of `on_epoch` ends it.

        Args:
            run: It.
            started: Where its process is noted, for `children.end`.
            on_epoch: See `children.follow`.

        Raises:
            PolymodalError: It failed; with its last lines.
        """
        place = self._places.get()
        try:
            command = children.fit_command(fit_words(run))
            children.follow(str(run), command, self._environment | place, started, on_epoch)
        finally:
            self._places.put(place)


def wants_gpu(trainer: Mapping[str, Any]) -> bool:
    """Whether a run takes one GPU, where there are some."""
    return trainer["accelerator"] in ("auto", "gpu", "cuda") and str(trainer["devices"]) in ("auto", "1")


def usable_gpus(trainer: Mapping[str, Any]) -> list[str]:
    """The GPUs of which every run gets one; none when the recipe uses none, or asks for several itself."""
    if not wants_gpu(trainer):
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    every = [str(i) for i in range(torch.cuda.device_count())]
    return visible.split(",")[: len(every)] if visible else every


def fit_words(run: SeededRun) -> list[str]:
    """The arguments of `polymodal fit` that start a run, or continue it from a checkpoint that can be trusted."""
    words = [
        *("--config", str(run.folder.parent / "recipe.yaml"), "--seed_everything", str(run.seed)),
        *("--trainer.default_root_dir", str(run.folder), "--trainer.enable_progress_bar", "true"),
    ]
    last = run.folder / LAST
    try:
        check_resumable(last)
        return [*words, "--ckpt_path", str(last)]
    except CheckpointError:
        with locked(run.folder):
            shutil.rmtree(run.folder)
        return words
