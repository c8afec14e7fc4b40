"""A data set folder as a map-style PyTorch data set."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import NotRequired, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from polymodal.data.content import Content, honouring
from polymodal.data.dropout import ModalityDropout
from polymodal.data.inputs import InputSpec, check_sizes, settled
from polymodal.data.labels import class_numbers
from polymodal.data.parts import ModalitySpec, TargetSpec, only
from polymodal.data.resizing import aligned
from polymodal.data.sampler import Draw
from polymodal.data.sizes import header_size
from polymodal.data.spec import FILE, DatasetSpec
from polymodal.data.statistics import input_specs
from polymodal.data.substitute import check_substitute, substituted, substituted_specs
from polymodal.data.target import Truth, check_ends, nothing_of, settle_targets
from polymodal.data.transforms import Augment, Size, resize_inputs
from polymodal.errors import DataError


class Sample(TypedDict):
    """One sample; a batch is the same with a leading axis, and a list of keys."""

    inputs: dict[str, Tensor]
    """float32 (C_m, H, W) by modality, normalised, 0 where nothing was measured."""
    valid: dict[str, Tensor]
    """bool (1, H, W) by modality: where something was measured."""
    targets: dict[str, Tensor]
    """By the target's name: labels, int64 (H, W), `ignore` where none counts; or an image, float32 (C, H, W) from -1 to
    1, 0 without truth. Nothing counts of a target that the sample lacks."""
    targets_valid: dict[str, Tensor]
    """bool (1, H, W) by the names of targets that are images: where there is truth."""
    present: NotRequired[dict[str, bool]]
    """Whether the sample has a modality, where samples may lack some; 0 and not measured where it has not."""
    key: str


class FolderDataset(Dataset[Sample]):
    """The samples of one split, of the modalities that are asked for.

    With `augment` a sample is for training: inputs and targets are changed together. Without, it is for evaluation: the
    inputs may be resized and a target keeps the resolution of its file.

    A target may be labels or an image (any other kind); an image is scaled as `settle_target` says.

    Args:
        root: A folder, an archive, `rooms`, or its `DatasetSpec`.
        split: A name under `splits` in dataset.yaml.
        modalities: Names in the order wanted; None for all.
        inputs: What each modality's values mean; None to find out from dataset.yaml, statistics and files.
        size: Height and width of the inputs; None for those of the files.
        augment: Random changes for training.
        dropout: Which modalities training samples lose at random.
        substitute: Modalities that are noise or copies instead, as a control; see `check_substitute`.
        cache: Whether decoded files stay in memory, as they are stored. Loader workers keep one copy each.
        target: Which of the targets of dataset.yaml are read, a name or several; or modalities that are targets
            instead, and then no inputs. The only one if not given.

    Attributes:
        targets: What is predicted, by name.

    Raises:
        DataError: When the split or a modality does not exist, or an image target has no range.
    """

    def __init__(
        self,
        root: str | Path | DatasetSpec,
        split: str,
        modalities: Sequence[str] | None = None,
        *,
        inputs: Mapping[str, InputSpec] | None = None,
        size: Size | None = None,
        augment: Augment | None = None,
        substitute: Mapping[str, str] | None = None,
        dropout: ModalityDropout | None = None,
        cache: bool = False,
        target: str | Sequence[str] | None = None,
    ) -> None:
        spec = root if isinstance(root, DatasetSpec) else DatasetSpec.load(root)
        self.spec = spec.with_targets(target)
        self.targets = settle_targets(self.spec)
        self.keys = self.spec.keys(split)
        self.modalities = self.spec.select(modalities)
        known = inputs or input_specs(self.spec, self.modalities)
        self.substitute = check_substitute(substitute or {}, self.modalities)
        self.inputs = substituted_specs(known, self.substitute, self.modalities)
        self.size = size
        self.augment = augment
        self.dropout = dropout or ModalityDropout()
        self.dropout.check_names(self.modalities)
        self._check_presence(split)
        self._cache: dict[tuple[str, str], Content] | None = {} if cache else None

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int | tuple[int, int] | Draw) -> Sample:
        """The sample at an index; for training at (index, seed of all that is drawn for it), or a `Draw`.

        Raises:
            DataError: When a file is missing, damaged, of another size or holds values that it should not.
        """
        index, seed, epoch = Draw(*index) if isinstance(index, tuple) else (index, None, 0)
        key = self.keys[index]
        raw: dict[str, np.ndarray] = {}
        specs: dict[str, InputSpec] = {}
        named: dict[str, str] = {}
        present = self.present(key)
        for name in self.inputs:
            if name not in self.substitute and present[name]:
                part = self.spec.modalities[name]
                file = self.spec.file(part, key)
                named[name] = self.spec.store.where(file)
                raw[name], specs[name] = settled(self._read(part, file), self.inputs[name], named[name])
        truths = self._truths(key)
        raw = aligned(raw, specs, named, next(iter(truths.values())).size)
        check_sizes(
            {named[name]: array.shape[1:] for name, array in raw.items()}
            | {truth.file: truth.size for truth in truths.values()}
        )
        if self.augment is None:
            tensors, valid = resize_inputs(raw, specs, named, self.size)
            prepared = {name: truth.prepared() for name, truth in truths.items()}
            targets = {name: target for name, (target, _) in prepared.items()}
            known = {name: where for name, (_, where) in prepared.items() if where is not None}
        else:
            generator = None if seed is None else torch.Generator().manual_seed(seed)
            tensors, valid, targets, known = self.augment(
                raw, truths, specs, named, size=self.size, generator=generator
            )
        if self.substitute:
            draw = index if seed is None else seed
            tensors, valid = substituted(tensors, valid, self.substitute, self.inputs, draw)
        sample: Sample = {
            "inputs": tensors,
            "valid": valid,
            "targets": targets,
            "targets_valid": known,
            "key": key,
        }
        if self.dropout and seed is not None:
            present = self.dropout.draw(present, epoch, seed)
        if self.gaps or (self.dropout and seed is not None):
            sample["present"] = present
            sample["inputs"] = {
                name: _given(tensors, name, spec.channels, present) for name, spec in self.inputs.items()
            }
            sample["valid"] = {name: _given(valid, name, 1, present) for name in self.inputs}
        return sample

    @property
    def target(self) -> TargetSpec:
        """The one target.

        Raises:
            DataError: When there are several.
        """
        return only(self.targets, self.spec.store.where(FILE))

    @cached_property
    def gaps(self) -> bool:
        """Whether any sample lacks a modality by itself, one with `optional` in dataset.yaml."""
        return self._optional and not all(all(self.present(key).values()) for key in self.keys)

    @property
    def _optional(self) -> bool:
        return any(self.spec.modalities[name].optional for name in self.inputs)

    def present(self, key: str) -> dict[str, bool]:
        """Which modalities a sample has."""
        return {name: not self.spec.lacks(name, key) for name in self.inputs}

    def _check_presence(self, split: str) -> None:
        where = self.spec.store.where(FILE)

        def require_some(name: str, part: ModalitySpec | TargetSpec, setting: str) -> None:
            if part.optional and all(self.spec.lacks(part, key) for key in self.keys):
                raise DataError(
                    f"{where}: no sample of the split {split!r} has {name}, so nothing can be learned or scored of it. "
                    f"Leave it out of {setting}, or add files."
                )

        for name, target in self.targets.items():
            require_some(name, target, "data.target")
        for key in self.keys if any(target.optional for target in self.targets.values()) else ():
            self.spec.targets_of(key)
        if not self._optional:
            return
        if any(target.kind != "label" for target in self.targets.values()) or self.substitute:
            what = "data.substitute" if self.substitute else "a target that is an image"
            raise DataError(f"{where}: modalities with `optional` do not go with {what}. Choose other modalities.")
        for name in self.inputs:
            require_some(name, self.spec.modalities[name], "the modalities")
        for key in self.keys:
            if not any(self.present(key).values()):
                raise DataError(
                    f"{where}: the sample {key!r} of the split {split!r} has none of {', '.join(self.inputs)}. Remove "
                    "it from the split, or add a file."
                )

    def has_truth(self) -> bool:
        """Whether any pixel of any sample counts, of every target of labels; of images that is taken for granted.

        Raises:
            DataError: When a label file is missing or damaged, or holds what is no class.
        """
        labels = [target for target in self.targets.values() if target.kind == "label"]
        return all(
            any(
                (self._truth(target, key).raw != target.ignore).any()
                for key in self.keys
                if not self.spec.lacks(target, key)
            )
            for target in labels
        )

    def label(self, index: int) -> np.ndarray:
        """The class numbers of a sample and `target.ignore`, (H, W), of the one target.

        Raises:
            DataError: When the file is missing or damaged, or holds a label that is no class.
        """
        return self._truth(self.target, self.keys[index]).raw[0]

    def _truths(self, key: str) -> dict[str, Truth]:
        """Those of a sample; of a target that it lacks, none that counts."""
        found = {name: self._truth(self.targets[name], key) for name in self.spec.targets_of(key)}
        size = next(iter(found.values())).size
        return {name: found.get(name) or nothing_of(target, size) for name, target in self.targets.items()}

    def _truth(self, target: TargetSpec, key: str) -> Truth:
        file = self.spec.file(target, key)
        where = self.spec.store.where(file)
        content = self._read(target, file)
        if target.kind == "label":
            return Truth(content.channels(1, where), target, where)
        truth = Truth(content.channels(target.channels, where), honouring(target, content), where)
        check_ends(truth.raw, truth.meaning, where)
        return truth

    @cached_property
    def sizes(self) -> dict[Size, str]:
        """Height and width of the samples, each with its first key; for most files known from their headers.

        Raises:
            DataError: When the target's file of a sample is missing or damaged.
        """
        found: dict[Size, str] = {}
        for key in self.keys:
            target = self.targets[next(iter(self.spec.targets_of(key)))]  # all files of a sample are of one size
            content = self.spec.store.read(self.spec.file(target, key))
            shape = header_size(content) or self._truth(target, key).size
            found.setdefault((shape[0], shape[1]), key)
        return found

    def _read(self, part: ModalitySpec | TargetSpec, file: str) -> Content:
        slot = (file, f"target {part.name}" if isinstance(part, TargetSpec) else "input")
        if self._cache is not None and slot in self._cache:
            return self._cache[slot]
        content = self.spec.content(part, file)
        if isinstance(part, TargetSpec) and part.kind == "label":
            where = self.spec.store.where(file)
            content = Content(class_numbers(content.channels(1, where), part.code, where)[None])
        if self._cache is not None:
            self._cache[slot] = content
        return content


def _given(tensors: Mapping[str, Tensor], name: str, channels: int, present: Mapping[str, bool]) -> Tensor:
    """A modality's image or mask; zeros, of the size of the others, where the sample has none."""
    if present[name]:
        return tensors[name]
    like = next(iter(tensors.values()))
    return like.new_zeros(channels, *like.shape[-2:])
