"""What other libraries refuse of a user's settings, in one line."""

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lightning.fabric.utilities.exceptions import MisconfigurationException

from polymodal.errors import ConfigError, PolymodalError
from polymodal.runs.parsing import essence


@contextmanager
def while_made(blame: Callable[[str], str] = lambda message: "") -> Iterator[None]:  # noqa: ARG005
    """What a setting's class raises while it is made: its reason lies below what jsonargparse raises.

    Args:
        blame: What to put before the reason.

    Raises:
        PolymodalError: That below, or a ConfigError with the reason.
    """
    try:
        yield
    except PolymodalError:
        raise
    except Exception as error:
        chain = list(_causes(error))
        ours = next((cause for cause in chain if isinstance(cause, PolymodalError)), None)
        if ours is not None:
            raise ours from error
        below = next((cause for cause in chain if not _is_of(cause, "jsonargparse")), None)
        # It hands on the error of the first type that it tried; of a list, the others are in its text alone.
        message = _reason(below or ValueError(essence(str(error)) or str(chain[-1])))
        raise ConfigError(blame(message) + message) from error


@contextmanager
def while_trained() -> Iterator[None]:
    """What Lightning itself raises in a training is about a setting; what others raise there is not.

    Raises:
        ConfigError: With Lightning's reason.
    """
    try:
        yield
    except (MisconfigurationException, ImportError, RuntimeError, TypeError, ValueError) as error:
        if not _is_of(error, "lightning"):
            raise
        raise ConfigError(_reason(error)) from error


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _is_of(error: BaseException, package: str) -> bool:
    """Whether the code of a package raised it itself."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(frames) and frames[-1].f_globals.get("__name__", "").startswith(package)


def _reason(error: BaseException) -> str:
    """The message in one line that ends with a full stop; with the kind of error where it alone says little."""
    text = " ".join(str(error).split())
    if not text or isinstance(error, KeyError | AttributeError):
        text = f"{type(error).__name__}: {text}"
    return text if text.endswith((".", "!", "?")) else f"{text}."
