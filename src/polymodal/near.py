"""What may have been meant by a name that is not known."""

from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most like a name, if one is."""
    from difflib import get_close_matches  # the command line starts without it

    return next(iter(get_close_matches(name, list(known), n=1)), None)


def meant(name: str, known: Iterable[str], form: str = "{}") -> str:
    """The end of a sentence on an unknown name: `; did you mean ...?`, or a full stop where none is like it.

    Args:
        name: The unknown one.
        known: All that there are.
        form: How the meant one is written, for its braces.
    """
    near = nearest(name, known)
    return f"; did you mean {form.format(near)}?" if near else "."
