"""Modules that a network keeps beside its tree, where what takes their place in the tree would not be found."""

from collections.abc import Iterable, Iterator, ValuesView
from typing import Any

from torch import nn

from polymodal.errors import FusionError

_OWN = vars(nn.Module()).keys()


def check_listed(network: nn.Module, names: Iterable[str]) -> None:
    """Refuse to replace layers that a network also keeps in lists, tuples or dicts of plain Python, nested at will.

    Raises:
        FusionError: With the name of the first one.
    """
    values = (value for module in network.modules() for key, value in vars(module).items() if key not in _OWN)
    listed = {id(module) for value in values for module in _modules(value)}
    for name in names:
        layer = network.get_submodule(name)
        if id(layer) in listed:
            raise FusionError(
                f"The layer '{name}' ({type(layer).__name__}) is also kept in a plain list or dict, where its "
                "replacement would not be found: use ModuleList or ModuleDict."
            )


def _modules(value: Any) -> Iterator[nn.Module]:
    if isinstance(value, nn.Module):
        yield value
    elif isinstance(value, dict | list | tuple | ValuesView):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _modules(item)
