"""What of a data set a finished model is scored on: its splits, or the first batches of them."""

from typing import Any

from lightning.pytorch import Trainer

from polymodal.errors import ConfigError


def part(batches: int, limit: int | float, split: str) -> int:
    """How many batches of a split are scored, as Lightning counts those that it validates on.

    Args:
        batches: All of them.
        limit: An int for so many, a float for a share.
        split: "val" or "test".

    Raises:
        ConfigError: The share of them is none, though more than nothing was asked for.
    """
    count = min(limit, batches) if isinstance(limit, int) else int(limit * batches)
    if count == 0:
        raise ConfigError(f"--trainer.limit_{split}_batches {limit}: no batch of {batches} is left to score.")
    return count


def scored_parts(trainer: Trainer) -> dict[str, int | float]:
    """How many batches of each split, or what share of them, a finished model is scored on: as it is validated."""
    return {"val": trainer.limit_val_batches, "test": trainer.limit_test_batches}


def scored_splits(data: Any, trainer: Trainer) -> tuple[str, ...]:
    """The splits that a finished model is scored on: "val", and "test" where there is one with any truth.

    Benchmarks withhold the labels of their test images; prepared, all of them are ignored. A limit of 0 leaves a split
    out.

    Raises:
        ConfigError: The limit of the test split is a share that leaves nothing; that of "val" is Lightning's to tell.
        DataError: The data set cannot be read, or a label of its test split.
    """
    limits = scored_parts(trainer)
    wanted = tuple(split for split, limit in limits.items() if limit > 0)
    spec = data.description
    if data.test_split != "test":
        spec.keys(data.test_split)  # one that was named must be there
    if "test" not in wanted or data.test_split not in spec.splits:
        return tuple(split for split in wanted if split != "test")
    data.setup("test")
    loader = data.test_dataloader()
    part(len(loader), limits["test"], "test")
    return wanted if loader.dataset.has_truth() else tuple(split for split in wanted if split != "test")
