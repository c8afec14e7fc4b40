"""Which tensors of a network there are as many of as it has classes."""

from collections.abc import Mapping
from typing import Any

import torch

from polymodal.models.registry import TRANSLATION, create


def head_argument(name: str) -> str:
    """The argument of a network that says how many channels it predicts."""
    return "out_channels" if name == TRANSLATION else "classes"


def head_of(name: str, arguments: Mapping[str, Any]) -> tuple[str, ...]:
    """The tensors of a plain network whose shape depends on how many channels it predicts, found by making two.

    Args:
        name: See `create`.
        arguments: Of the network.

    Raises:
        ConfigError: It cannot be made.
    """
    key = head_argument(name)
    with torch.random.fork_rng(devices=[]):  # first weights are drawn, and thrown away
        one, two = (create(name, **{**arguments, key: channels}).state_dict() for channels in (2, 3))
    return tuple(tensor for tensor in one if one[tensor].shape != two[tensor].shape)
