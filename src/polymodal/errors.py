"""The errors a user can cause and mend: each says what was expected, what came, where, and what to do."""

from collections.abc import Iterator
from contextlib import contextmanager


class PolymodalError(Exception):
    """Base of every error that a user can mend; the command line prints its message alone and exits with status 2."""


class ConfigError(PolymodalError):
    """A setting that cannot work, found before anything was started."""


class DataError(PolymodalError):
    """A data set, a file or a batch that is not what its description says."""


class FusionError(PolymodalError):
    """A network that cannot be made multimodal the way that was asked for."""


class CheckpointError(PolymodalError):
    """A saved model that is corrupted, incomplete or belongs to another network."""


class ExportError(PolymodalError):
    """A network that cannot leave Python the way that was asked for."""


@contextmanager
def naming(what: str) -> Iterator[None]:
    """Say of what a DataError speaks: of which samples, scene or target."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{what}: {error}") from error


def first_line(error: BaseException) -> str:
    """The first line of what an error of somebody else's says; how it is written where it says nothing."""
    return (str(error).strip() or repr(error)).splitlines()[0]
