"""The forward passes of a network, of which layers may run again for the gradient, as gradient checkpointing does."""

from typing import Any

import torch

_KEPT = 16
"""Passes that are remembered: more than anybody keeps waiting for their gradients."""


class Passes:
    """What the last forward passes with a gradient began with.

    PyTorch numbers operations as they run forward, so that the one whose gradient is computed tells its pass. The
    functions that say so are private, and have been there since 2.6 at least.
    """

    def __init__(self) -> None:
        self._begun: list[tuple[int, Any]] = []  # the number of the operation that comes first, and with what
        self._backward = -1  # the backward pass in which the whole network ran last

    def begin(self, what: Any) -> None:
        """Note what a pass begins with; what is told by comparison, such as a tuple of numbers."""
        if not torch.is_grad_enabled():
            return
        self._backward = torch._C._current_graph_task_id()
        if not self._begun or self._begun[-1][1] != what:
            self._begun = [*self._begun[1 - _KEPT :], (torch._C._autograd._get_sequence_nr(), what)]

    def running_again(self) -> Any:
        """What the pass began with of which layers run again at this moment; None where none do."""
        if torch.compiler.is_compiling() or torch._C._current_graph_task_id() in (-1, self._backward):
            return None
        number = torch._C._current_autograd_node()._sequence_nr()
        return next((what for first, what in reversed(self._begun) if first <= number), None)
