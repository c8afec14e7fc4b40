"""What Lightning tells every user every time is left out."""

import logging
import warnings
from pathlib import Path

_KNOWN = (
    "args parameter is intended",
    "does not have many workers",
    "smaller than the logging interval",
    "Checkpoint directory",
    "is_leaf",
    "could not find the monitored key",
    "sync_dist=True",  # said of scores, which are of all processes already
    "zero-element tensors",  # a network with such is refused
    "your dataloader is not resumable",  # its sampler is
    "was called before the ``update`` method",  # of several processes one may have nothing to count
)


def _is_asked_for(record: logging.LogRecord) -> bool:
    """Whether a message that passes through one logger of Lightning's for all is more than chatter."""
    return record.levelno > logging.INFO or Path(record.pathname).parent.name in ("callbacks", "profilers")


def quieten() -> None:
    """Leave out what Lightning tells every user every time."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # What callbacks and profilers say was asked for by whoever added them.
    for name in ("callbacks", "profilers", "utilities.rank_zero"):
        logging.getLogger(f"lightning.pytorch.{name}").setLevel(logging.INFO)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_asked_for)
    for message in _KNOWN:
        warnings.filterwarnings("ignore", f".*{message}.*")
