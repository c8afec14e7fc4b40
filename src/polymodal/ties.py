"""Ties: tensors that several layers share, as their copies do then, or which are refused."""

from collections.abc import Mapping
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from polymodal.errors import FusionError

COPIES = "a layer of each modality"
"""What becomes of a layer of which every modality has a copy."""
_ONE = "a layer of all modalities"


def check_ties(model: nn.Module, kinds: Mapping[int, str]) -> None:
    """Refuse tensors that two layers share and whose successors could not be one tensor.

    Args:
        model: The plain network.
        kinds: What becomes of the layers that are to be replaced, by their ids.

    Raises:
        FusionError: With the names of both.
    """
    found: dict[tuple[int, int], tuple[str, str, Tensor]] = {}
    for name, module in model.named_modules():
        kind = kinds.get(id(module), _ONE)
        for key, tensor in chain(module._parameters.items(), module._buffers.items()):
            if tensor is None or is_lazy(tensor) or tensor.layout != torch.strided or not tensor.numel():
                continue
            here = f"{name}.{key}".lstrip(".")
            memory = (tensor.untyped_storage()._cdata, tensor.storage_offset())
            first, its_kind, same = found.setdefault(memory, (here, kind, tensor))
            if kind != its_kind:
                raise FusionError(
                    f"'{first}' and '{here}' share their values, and could no longer: one becomes part of {its_kind}, "
                    f"the other of {kind}. Give each a tensor of its own before fusing, or choose norms, convolutions "
                    "and stems that treat both layers alike."
                )
            # What copies a parameter copies its memory, which others may hold, too.
            if tensor is not same and (isinstance(tensor, nn.Parameter) or kind not in (_ONE, COPIES)):
                raise FusionError(
                    f"'{first}' and '{here}' are two tensors that share their memory, which copies would not. Give "
                    "each memory of its own before fusing, or let both layers hold one and the same tensor."
                )
