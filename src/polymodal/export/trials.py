"""The images on which a graph is compared with the network that it was captured from.

A graph is captured with one example. Whatever Python, PyTorch or a format made of the example's size stays in it, so
that it can be right there and wrong elsewhere.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from types import CodeType
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.utils._pytree import tree_map_only

from polymodal.errors import ExportError

Size = tuple[int, int]
"""Height and width."""

Trial = tuple[int, Size]
"""Batch size, height and width."""

Example = Callable[[Trial], tuple[Any, ...]]
"""From a trial to the arguments of a module."""

UNIT = 32
"""Sides are odd multiples of the network's step next to multiples of so many pixels, or of the step if it is more."""

SHAPES = ((1, 1), (3, 2), (2, 5), (5, 1))
"""Height and width of the standing trials in units: the least, portrait and landscape, none another's neighbour."""

SMALLEST = 16
"""No side is tried that is smaller, in pixels."""

SIDES = (*range(1, 33), 48, 49, 64, 81, 96, 121, 128, 161, 192, 241, 256, 321, 384, 481, 512, 769, 1024, 1537, 2048)
"""Multiples of the step among which one is looked for that an assumption does not hold for."""

LARGEST = 4096
"""The largest of them, in pixels."""

BATCHES = (1, 2, 3, 4, 8, 17, 33, 64)
"""Likewise for the batch."""


def said(size: Size) -> str:
    """A size for people, `WIDTHxHEIGHT (width x height)`."""
    return f"{size[1]}x{size[0]} (width x height)"


def checked_size(size: Any) -> Size | None:
    """Height and width that a graph is to be fixed to, as a file or a user says them; None where they are free.

    Raises:
        ExportError: They are no two numbers of pixels.
    """
    if size is None:
        return None
    if not isinstance(size, Sequence) or len(size) != 2 or any(type(side) is not int or side < 1 for side in size):
        raise ExportError(f"size: expected height and width of at least one pixel, got {size}.")
    return size[0], size[1]


def trials(
    program: ExportedProgram, example: Example, names: Sequence[str], step: int, size: Size | None
) -> list[Trial]:
    """Those that a graph must pass: standing ones, and one for every assumption that does not hold for all sizes.

    torch.export notes what a network asked about the size of its input, such as in `if height > 200`, and goes the way
    that the example goes.

    Args:
        program: As torch.export made it.
        example: Makes the arguments of the module that was captured.
        names: Of the parameters of its forward, of which the first take these arguments.
        step: What height and width must be multiples of.
        size: Height and width where they are fixed.
    """
    # The notes are Python expressions of the arguments' sizes; not every version of PyTorch keeps them.
    notes: Sequence[str] = getattr(program, "_guards_code", None) or ()
    assumptions = [compile(note, "<assumption>", "eval") for note in dict.fromkeys(notes)]
    found, small = _standing(step, size), example((1, (1, 1)))
    for trial in _candidates(step, size):
        images = tree_map_only(Tensor, partial(_ghost, trial=trial), small)
        known = {"L": dict(zip(names, images, strict=False)), "torch": torch, "math": math}
        broken = [assumption for assumption in assumptions if not _holds(assumption, known)]
        if broken:
            found.append(trial)
            assumptions = [assumption for assumption in assumptions if assumption not in broken]
    return found


def _ghost(image: Tensor, trial: Trial) -> Tensor:
    """An image of the size of a trial, without values."""
    return image.new_empty((trial[0], image.shape[1], *trial[1]), device="meta")


def _standing(step: int, size: Size | None) -> list[Trial]:
    if size is not None:
        return [(1, size), (3, size)]
    unit = max(step, UNIT)
    odd = step if step < UNIT else 0
    return [(1 if i % 2 else 3, (unit * down + odd, unit * across + odd)) for i, (down, across) in enumerate(SHAPES)]


def _candidates(step: int, size: Size | None) -> list[Trial]:
    """Trials to look among for one that breaks an assumption, those of few pixels first."""
    sides = [step * side for side in SIDES if SMALLEST <= step * side <= LARGEST]
    short, middle = sides[0], sides[len(sides) // 2]
    usual = (middle, middle) if size is None else size
    found = {(batch, usual) for batch in BATCHES}
    if size is None:
        found |= {
            (2, sides) for side in sides for other in (short, middle, side) for sides in ((side, other), (other, side))
        }
    return sorted(found, key=lambda trial: (trial[0] * math.prod(trial[1]), trial))


def _holds(assumption: CodeType, known: dict[str, Any]) -> bool:
    try:
        return bool(eval(assumption, known))
    except Exception:  # a note of a form that nothing can be read from
        return True
