"""What `data check` says of things that files say of themselves."""

from collections.abc import Iterator

import numpy as np

from polymodal.data.bands import bands
from polymodal.data.content import Content
from polymodal.data.inputs import UNITS
from polymodal.data.labels import can_hold
from polymodal.data.parts import ModalitySpec, TargetSpec
from polymodal.data.spec import FILE


def remarks(content: Content, raw: np.ndarray, part: ModalitySpec | TargetSpec) -> Iterator[tuple[str, bool]]:
    """What a file says of itself, without full stops.

    Args:
        content: What was decoded.
        raw: The channels of it that are used.
        part: What dataset.yaml declares of it.

    Yields:
        Each remark, and whether it is a defect: pixels that the file declares to be no data, and that count all the
        same.
    """
    yield from ((note, False) for note in content.notes)
    if content.alpha:
        opaque = len(raw) < len(content.array)
        yield "its alpha channel is opaque and left out" if opaque else "its alpha channel is read, too", False
    if part.kind in UNITS and content.lossy:
        yield f"compressed as {content.lossy}, which changes numbers, most of all beside edges and holes", False
    if part.invalid is not None and not can_hold(raw.dtype, part.invalid):
        yield f"{raw.dtype}, no number of which is the `invalid: {part.invalid:.9g}` of {FILE}: all pixels count", False
    if content.nodata is not None and (said := _of_nodata(content.nodata, raw, part)):
        yield said


def _of_nodata(nodata: float, raw: np.ndarray, part: ModalitySpec | TargetSpec) -> tuple[str, bool] | None:
    """What is to be said of a file's own no-data value, and whether pixels that hold it count nevertheless."""
    held = any((band == nodata).all(0).any() for band in bands(raw))
    said = f"the file declares {nodata:.9g} to be no data"
    if isinstance(part, TargetSpec) and part.kind == "label":
        if nodata in part.code.ignored:
            return None
        number = part.code.numbers.get(nodata)
        counts = "" if number is None else f": it counts as the class {part.classes[number]!r}"
        return f"{said}, and `ignore` in {FILE} does not{counts}", False
    if part.invalid is None:
        return f"{said}, and {FILE} declares no `invalid`: it counts as not measured", False
    if np.array_equal(nodata, part.invalid, equal_nan=True):
        return None
    differ = f"{said}, and {FILE} declares `invalid: {part.invalid:.9g}`"
    if not held:
        return f"{differ}; no pixel of it holds the former", False
    return (
        f"{differ}, so that its pixels of {nodata:.9g} count as measured. Declare that value, or store the other",
        True,
    )
