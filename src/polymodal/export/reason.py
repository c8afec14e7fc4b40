"""Why something of somebody else's failed, in one line."""


def first_line(error: BaseException) -> str:
    """The first line of what an error says; how it is written where it says nothing."""
    return (str(error).strip() or repr(error)).splitlines()[0]
