"""Data sets as folders: what they hold, how files become inputs, augmentation, and the loaders for training.

`FolderData` is imported when it is first used, because Lightning takes a while.
"""

from typing import TYPE_CHECKING, Any

from polymodal.data.check import Defect, check
from polymodal.data.derive import derive
from polymodal.data.files import EXTENSIONS, Store
from polymodal.data.folder import FolderDataset, Sample
from polymodal.data.inputs import InputSpec, prepare_input
from polymodal.data.labels import palette
from polymodal.data.parts import KINDS, ModalitySpec, TargetSpec
from polymodal.data.reading import read_array
from polymodal.data.spec import DatasetSpec
from polymodal.data.statistics import Moments
from polymodal.data.target import Truth, prepare_target, restore_target, settle_target, settle_targets
from polymodal.data.transforms import Augment, resize_inputs

if TYPE_CHECKING:
    from polymodal.data.module import FolderData

__all__ = [
    "EXTENSIONS",
    "KINDS",
    "Augment",
    "DatasetSpec",
    "Defect",
    "FolderData",
    "FolderDataset",
    "InputSpec",
    "ModalitySpec",
    "Moments",
    "Sample",
    "Store",
    "TargetSpec",
    "Truth",
    "check",
    "derive",
    "palette",
    "prepare_input",
    "prepare_target",
    "read_array",
    "resize_inputs",
    "restore_target",
    "settle_target",
    "settle_targets",
]


def __getattr__(name: str) -> Any:
    if name == "FolderData":
        from polymodal.data.module import FolderData

        return FolderData
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
