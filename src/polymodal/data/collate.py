"""Samples to a batch."""

from typing import Any

from torch.utils.data import default_collate

from polymodal.data.folder import Sample
from polymodal.errors import DataError

Batch = dict[str, Any]


def collate(samples: list[Sample], remedy: str) -> Batch:
    """A batch: every tensor with a leading axis, the keys as a list.

    Args:
        samples: Of equal modalities.
        remedy: What the user can do about unequal sizes.

    Raises:
        DataError: When sizes differ, with the keys.
    """
    first = samples[0]
    for sample in samples:
        for name, one, other in (
            *((name, first["inputs"][name], tensor) for name, tensor in sample["inputs"].items()),
            *((name, first["targets"][name], tensor) for name, tensor in sample["targets"].items()),
        ):
            if one.shape[-2:] != other.shape[-2:]:
                (h, w), (k, v) = one.shape[-2:], other.shape[-2:]
                raise DataError(
                    f"{name}: samples of different sizes in one batch: {first['key']} is {w}x{h} (width x height), "
                    f"{sample['key']} is {v}x{k}. {remedy}"
                )
    batch: Batch = default_collate(samples)
    return batch
