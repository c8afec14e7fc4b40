"""Weights of 16 bits in a file: half of its size, and the same computation in float32."""

import copy
from typing import TypeVar

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from polymodal.errors import ExportError

Module = TypeVar("Module", bound=nn.Module)

HALF = {"fp16": torch.float16, "bf16": torch.bfloat16}
"""Types of weights by their names."""


def half_type(name: str) -> torch.dtype:
    """The type of weights of a name.

    Raises:
        ExportError: There is none.
    """
    if name not in HALF:
        raise ExportError(f"weights: expected {' or '.join(HALF)}, got {name!r}; without it they have 32 bits.")
    return HALF[name]


def rounded(module: Module, dtype: torch.dtype) -> Module:
    """A copy whose weights, still in float32, have values that a type of 16 bits holds.

    Raises:
        ExportError: A weight is beyond what the type holds; with its name.
    """
    own = copy.deepcopy(module)
    with torch.no_grad():
        for name, tensor in own.state_dict().items():
            if tensor.is_floating_point():
                near = tensor.to(dtype)
                if not near[tensor.isfinite()].isfinite().all():
                    raise ExportError(
                        f"weights: {name} has values up to {float(tensor.abs().max()):.3g}, more than {dtype} holds "
                        f"({torch.finfo(dtype).max:.3g}). Take bf16, or 32 bits."
                    )
                tensor.copy_(near)
    return own


def stored_in(program: ExportedProgram, dtype: torch.dtype) -> None:
    """Let a program hold the weights of a module that was `rounded` in the type, and compute in float32 as before."""
    graph = program.graph_module.graph
    nodes = {node.name: node for node in graph.nodes}
    first = next(node for node in graph.nodes if node.op != "placeholder")
    for spec in program.graph_signature.input_specs:
        weight = program.state_dict.get(spec.target) if spec.target else None
        if spec.kind not in (InputKind.PARAMETER, InputKind.BUFFER) or weight is None or not weight.is_floating_point():
            continue
        node = nodes[spec.arg.name]
        with graph.inserting_before(first):
            single = graph.call_function(torch.ops.aten._to_copy.default, (node,), {"dtype": torch.float32})
        node.replace_all_uses_with(single, delete_user_cb=lambda user, own=single: user is not own)
        single.meta["val"], node.meta["val"] = node.meta["val"], node.meta["val"].to(dtype)
        small = weight.detach().to(dtype)
        program.state_dict[spec.target] = (
            nn.Parameter(small, requires_grad=False) if isinstance(weight, nn.Parameter) else small
        )
    graph.lint()
    program.graph_module.recompile()
