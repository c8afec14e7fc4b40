"""A module as a graph of torch.export, for any batch and every size that it can take."""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram
from torch.utils._pytree import tree_map

from polymodal.errors import ExportError
from polymodal.export.reason import first_line

STEPS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""What height and width may have to be multiples of; 256 for a network that halves the image 8 times."""

PROVABLE = 32
"""Where sizes of any kind cannot be proved to fit, multiples of what encoders divide them by often can."""

EXAMPLE = (160, 224)
"""About the height and width of the images that graphs are captured with."""

Example = Callable[[tuple[int, int]], tuple[Any, ...]]
"""From height and width to the arguments of a module."""


def captured(module: nn.Module, example: Example, shapes: Any) -> tuple[ExportedProgram, int]:
    """Export a module for any batch and every size that it can take.

    Args:
        module: In eval mode; takes images.
        example: Makes its arguments.
        shapes: In the form of the arguments, of every image the dynamic dimensions without height and width.

    Returns:
        The program, and what height and width must be multiples of.

    Raises:
        ExportError: When it has no static graph for images of every size.
    """
    ghost = copy.deepcopy(module).to("meta")
    problems = {step: _problem(ghost, example, step) for step in STEPS}
    possible = [step for step, problem in problems.items() if problem is None]
    problem = problems[STEPS[-1]]
    # A network may take any size, and compute it in ways that cannot be proved to fit for all of them.
    for step in dict.fromkeys([*possible[:1], *(step for step in possible if step >= PROVABLE)]):
        try:
            return _exported(module, example, shapes, step), step
        except ExportError:
            raise
        except Exception as error:  # torch.export raises whatever the network's own code does
            problem = error
    assert problem is not None
    raise ExportError(
        f"The network {type(module).__name__} has no static graph for images of every size, as its computation depends "
        f"on more than their shape: {first_line(problem)} It cannot leave Python; predict with the model folder "
        "instead."
    ) from problem


def example_size(step: int, *, smaller: bool = False) -> tuple[int, int]:
    """Height and width for an example, odd multiples of the step; or smaller ones, even multiples, for another."""
    height, width = (step * max(3, side // step | 1) for side in EXAMPLE)
    return (height - step, width - step) if smaller else (height, width)


def _exported(module: nn.Module, example: Example, shapes: Any, step: int) -> ExportedProgram:
    sides = {2: step * Dim("h"), 3: step * Dim("w")} if step > 1 else {2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    dynamic = tree_map(lambda dims: dims | sides, shapes, is_leaf=lambda node: isinstance(node, dict) and 0 in node)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        return torch.export.export(module, example(example_size(step)), dynamic_shapes=dynamic, strict=False)


def _problem(ghost: nn.Module, example: Example, step: int) -> Exception | None:
    """Why a module on the meta device does not run on images of a size; None when it does."""
    try:
        with torch.no_grad():
            ghost(*tree_map(lambda image: image.to("meta"), example(example_size(step))))
    except Exception as error:  # whatever a network of somebody else's raises
        return error
    return None
