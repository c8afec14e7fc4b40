"""What a benchmark says while it runs, and the counts it can run with."""

import sys

from polymodal.errors import ConfigError


def tell(what: str) -> None:
    """Say on the error stream what is being done; standard output belongs to the report."""
    print(what, file=sys.stderr, flush=True)


def tell_turn(what: str, name: object, round_: int) -> None:
    """Say whose turn it is."""
    tell(f"{what} {name}, {f'round {round_}' if round_ else 'warm-up'}")


def check_counts(repeats: int, warmup: int) -> None:
    """Refuse counts that time nothing.

    Raises:
        ConfigError: With the option.
    """
    for option, value, least in (("--repeats", repeats, 1), ("--warmup", warmup, 0)):
        if value < least:
            raise ConfigError(f"{option}: expected {least} or more, got {value}.")
