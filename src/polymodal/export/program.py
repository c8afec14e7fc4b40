"""A module as a graph of torch.export, for any batch and every size that it can take."""

import copy
import inspect
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram
from torch.utils._pytree import tree_map

from polymodal.anatomy import ByShapes
from polymodal.errors import ExportError, first_line
from polymodal.export.clipping import shapes_at_once
from polymodal.export.same_padding import numbers_where_known
from polymodal.export.trials import Example, Size, Trial, said, trials

STEPS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""What height and width may have to be multiples of; 256 for a network that halves the image 8 times."""

PROVABLE = 32
"""Where sizes of any kind cannot be proved to fit, multiples of what encoders divide them by often can."""

EXAMPLE = (160, 224)
"""About the height and width of the images that graphs are captured with."""


@dataclass(frozen=True)
class Captured:
    """A module as a graph.

    Attributes:
        program: The graph.
        step: What height and width must be multiples of.
        trials: The images on which it must be compared with the module before anybody relies on it.
    """

    program: ExportedProgram
    step: int
    trials: list[Trial]


def captured(module: nn.Module, example: Example, size: Size | None = None) -> Captured:
    """Export a module for any batch and every size that it can take.

    Args:
        module: In eval mode; takes images.
        example: Makes its arguments.
        size: Height and width, if there is to be a graph for these alone.

    Raises:
        ExportError: When it has no static graph for images of every size, or of this one.
    """
    ghost = copy.deepcopy(module).to("meta")
    problem: Exception | None = None
    least = 0  # the smallest step at which the module runs
    for step in STEPS if size is None else (1,):
        # A network may take any size, and compute it in ways that cannot be proved to fit for all of them.
        if least and step < PROVABLE:
            continue
        refusal = _problem(ghost, example, size or example_size(step))
        if refusal is not None:
            problem = problem if least else refusal
            continue
        least = least or step
        try:
            program = _exported(module, example, step, size)
            names = list(inspect.signature(module.forward).parameters)
            return Captured(program, step, trials(program, example, names, step, size))
        except ExportError:
            raise
        except Exception as error:  # torch.export raises whatever the network's own code does
            problem = error
    assert problem is not None
    raise ExportError(
        f"The network {module._get_name()} has no static graph for images of "
        f"{'every size' if size is None else said(size)}, as its computation depends on more than their shape: "
        f"{first_line(problem)} {'Fix the size (--size), or predict' if size is None else 'Predict'} with the model "
        "folder instead."
    ) from problem


def example_size(step: int) -> Size:
    """Height and width for an example, odd multiples of the step."""
    height, width = (step * max(3, side // step | 1) for side in EXAMPLE)
    return height, width


def _exported(module: nn.Module, example: Example, step: int, size: Size | None) -> ExportedProgram:
    free: dict[int, Any] = {0: Dim.DYNAMIC}
    if size is None and step > 1:
        free |= {2: step * Dim("h"), 3: step * Dim("w")}
    elif size is None:
        free |= {2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    with warnings.catch_warnings(), torch.no_grad(), numbers_where_known(), shapes_at_once():
        warnings.simplefilter("ignore")
        arguments = example((2, size or example_size(step)))
        dynamic = tree_map(lambda _: free, arguments)
        program = torch.export.export(module, arguments, dynamic_shapes=dynamic, strict=False)
    for node in program.graph.nodes:  # files would name the folders of whoever wrote them
        node.meta.pop("stack_trace", None)
    return program


def _problem(ghost: nn.Module, example: Example, size: Size) -> Exception | None:
    """Why a module on the meta device does not run on images of a size; None when it does."""
    try:
        with torch.no_grad(), ByShapes():
            ghost(*tree_map(lambda image: image.to("meta"), example((2, size))))
    except Exception as error:  # whatever a network of somebody else's raises
        return error
    return None
