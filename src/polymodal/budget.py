"""Networks that a saved model describes, made within what its weights hold: a few words cannot fill the memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from polymodal.errors import CheckpointError

SPARE_VALUES, SPARE_TENSORS = 2**27, 2**10
"""What a network may take besides while it is made: encoders lose a classifier again, that of VGG 2**26.8 values."""


@contextmanager
def budget(values: int, tensors: int) -> Iterator[None]:
    """Refuse, within the context, networks that are larger than weights allow, as soon as a layer shows it.

    Args:
        values: That the weights hold.
        tensors: In which they are.

    Raises:
        CheckpointError: The network is larger.
    """
    most = values + SPARE_VALUES, tensors + SPARE_TENSORS
    made = [0, 0]

    def count(_module: nn.Module, _name: str, parameter: Any) -> None:
        made[0] += 0 if parameter is None else parameter.numel()
        made[1] += 1
        if made[0] > most[0] or made[1] > most[1]:
            raise CheckpointError(
                f"it has more than {made[0]} values in {made[1]} tensors, and the weights have {values} in "
                f"{tensors}; restore the file, or save the model again"
            )

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()
