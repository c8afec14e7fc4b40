"""What `data check` says of things that files say of themselves: once for all files that say the same."""

from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from polymodal.data.bands import bands
from polymodal.data.content import Content
from polymodal.data.parts import ModalitySpec, TargetSpec
from polymodal.data.spec import FILE


class Remarks:
    """Notes on files, gathered by what they say."""

    def __init__(self) -> None:
        self._files: dict[tuple[str, str], list[str]] = defaultdict(list)

    def add(self, file: str, content: Content, raw: np.ndarray, part: ModalitySpec | TargetSpec) -> str | None:
        """Note what a file says of itself.

        Args:
            file: Its name.
            content: What was decoded.
            raw: The channels of it that are used.
            part: What dataset.yaml declares of it.

        Returns:
            A defect: pixels that the file declares to be no data, and that count all the same.
        """
        notes = list(content.notes)
        if content.alpha:
            opaque = len(raw) < len(content.array)
            notes.append("its alpha channel is opaque and left out" if opaque else "its alpha channel is read, too")
        defect = None
        if content.nodata is not None and (said := _of_nodata(content.nodata, raw, part)):
            note, counts = said
            if counts:
                defect = f"{note}."
            else:
                notes.append(note)
        for note in notes:
            self._files[part.folder, note].append(file)
        return defect

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """The first file of each note, and the note."""
        for (_, note), (file, *more) in self._files.items():
            yield file, note + (f" ({len(more)} more like it)." if more else ".")


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
