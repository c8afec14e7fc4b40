"""Label files whose numbers cannot be classes: saved with losses, or as indices that each file numbers anew."""

from collections import Counter

import numpy as np

from polymodal.data.bands import bands
from polymodal.data.content import Content
from polymodal.data.labels import Color, LabelCode
from polymodal.errors import DataError


class LabelFiles:
    """What the label files of a data set say of themselves, held against each other.

    Programs that save few colours often number them anew in every file: one class is then shown in one colour and has
    another index in each, and one index has another colour in each.

    Args:
        code: How the files store classes.
    """

    def __init__(self, code: LabelCode) -> None:
        self._code = code
        counts = Counter(code.colors)
        self._known: dict[Color, tuple[int, str]] = {
            color: (number, "`colors`") for number, color in enumerate(code.colors) if counts[color] == 1
        }
        self._known |= {value: (code.ignore, f"`{code.key}`") for value in code.ignored if isinstance(value, tuple)}
        self._shown: dict[int, tuple[Color, str]] = {}

    def check(self, content: Content, file: str) -> None:
        """Compare a file with what is known, and remember it.

        Args:
            content: The file.
            file: Its name, for messages.

        Raises:
            DataError: It is compressed with losses, or its palette has a class in the colour of another one, or in
                another colour than an earlier file.
        """
        require_lossless(content, file)
        if content.palette is None:
            return
        colors = [(red, green, blue) for red, green, blue in content.palette.tolist()]
        counts, numbers = Counter(colors), self._code.numbers
        found: dict[Color, tuple[int, str]] = {}
        shown: dict[int, tuple[Color, str]] = {}
        held = {index for band in bands(content.array) for index in np.flatnonzero(np.bincount(band.ravel())).tolist()}
        for index in sorted(held):
            # A colour that a palette has twice tells nothing, and what is no class is refused where classes are read.
            if index < len(colors) and index in numbers and counts[colors[index]] == 1:
                found[colors[index]] = numbers[index], file
                shown[index] = colors[index], file
        for color, (number, _) in found.items():
            other, source = self._known.get(color, (number, file))
            if other != number:
                raise self._anew(file, number, color, f"which by {source} is {self._name(other)}")
        for index, (color, _) in shown.items():
            before, source = self._shown.get(index, (color, file))
            if before != color and numbers[index] != self._code.ignore:
                raise self._anew(file, numbers[index], color, f"and {source} in {list(before)}")
        self._known = found | self._known
        self._shown = shown | self._shown

    def _anew(self, file: str, number: int, color: Color, otherwise: str) -> DataError:
        return DataError(
            f"{file}: its palette shows {self._name(number)} in the colour {list(color)}, {otherwise}: its indices "
            "seem to be numbered anew. Save it with the indices of the others; or as RGB, to be read by `colors`; or "
            "without a palette if the indices are right."
        )

    def _name(self, number: int) -> str:
        return "what is ignored" if number == self._code.ignore else f"the class {self._code.classes[number]!r}"


def require_lossless(content: Content, file: str) -> None:
    """Refuse labels that are compressed in a way that may change numbers, such as JPEG.

    Raises:
        DataError: With the remedy.
    """
    if content.lossy:
        raise DataError(
            f"{file}: compressed as {content.lossy}, which may change numbers near every edge to those of other "
            "classes. Store labels without loss, as PNG, from their source."
        )
