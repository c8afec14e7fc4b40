"""Samples that lack modalities, as a task sees them."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from polymodal.errors import ConfigError
from polymodal.fusion import Fusion


def may_lack(data: Any) -> bool:
    """Whether samples may lack modalities, of a data module or data set; one that says nothing of it has whole ones."""
    return getattr(data, "gaps", False)


def check_gaps(fusion: Fusion, data: Any) -> None:
    """Refuse samples that lack modalities where the fusion cannot do with them, before a training starts.

    Raises:
        ConfigError: With the fusion.
    """
    if may_lack(data) and (fusion.needs_all or not fusion.takes_gaps):
        why = fusion.needs_all or "it does not say that samples may differ in their modalities (`takes_gaps`)"
        raise ConfigError(
            f"data: samples lack modalities (data.dropout, or `optional` in dataset.yaml), which the fusion "
            f"{fusion.name!r} cannot do with: {why}."
        )


def of_those_with(
    name: str, present: Mapping[str, Tensor] | None, output: Tensor, truth: Tensor
) -> tuple[Tensor, Tensor]:
    """The rows of a batch that count for a prediction: of a modality's, those of the samples that have it.

    Args:
        name: The prediction's.
        present: Which samples have a modality, boolean (B,), by modality; None for all.
        output: What is predicted, (B, ...).
        truth: What it is held against, (B, ...).
    """
    rows = (present or {}).get(name)
    return (output, truth) if rows is None else (output[rows], truth[rows])
