"""A data set folder for Lightning: what `data:` in a recipe configures."""

from collections.abc import Sequence
from functools import cached_property, partial
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from polymodal.data.collate import Batch, collate
from polymodal.data.continued import check_same, meaning
from polymodal.data.dropout import ModalityDropout
from polymodal.data.fingerprint import identity
from polymodal.data.folder import FolderDataset, Sample
from polymodal.data.histogram import Counted, Histogram, count
from polymodal.data.inputs import InputSpec
from polymodal.data.parts import TargetSpec, only
from polymodal.data.sampler import SeededSampler, TurnSampler
from polymodal.data.spec import FILE, DatasetSpec
from polymodal.data.statistics import input_specs
from polymodal.data.substitute import check_substitute, substituted_specs
from polymodal.data.target import settle_targets
from polymodal.data.transforms import Augment
from polymodal.errors import ConfigError, DataError
from polymodal.limits import at_least, check, each, or_none
from polymodal.processes import place

_LIMITS = {
    "size": or_none(each(at_least(1), "a height and a width above 0")),
    "batch_size": at_least(1),
    "eval_batch_size": at_least(1),
    "workers": at_least(0),
}

_ONE_SIZE = "Set data.size or data.augment.crop, so that training samples are of one size."
_ONE_BY_ONE = "Set data.eval_batch_size to 1; data.size makes inputs, never targets, of one size."

HISTOGRAM_SAMPLES = 100
"""So many labels of a split are looked at before a training starts."""


class FolderData(LightningDataModule):
    """Any data set with a dataset.yaml; the split named `train` is trained on.

    The order of the samples and their augmentation depend on the seed of the run and the epoch alone, not on `workers`.

    Args:
        root: A folder, a .zip archive with the same layout, or `rooms` for the embedded set.
        modalities: Names in the order wanted; None for all.
        size: Height and width of the inputs; None for those of the files. Targets of evaluation keep their own.
        augment: Random changes for training; its `crop` is the size of training samples.
        batch_size: Training samples a step, of each process; a last batch of fewer is left out.
        eval_batch_size: Samples a step in validation and test; those of a split whose target files differ in size are
            evaluated one by one.
        workers: Processes that load; 0 loads in the training process.
        cache: Whether decoded files stay in memory; every worker keeps its own copy.
        val_split: Split for validation.
        test_split: Split for test.
        target: Which of the targets of dataset.yaml is learned where there are several; or a modality that is predicted
            instead, and is then no input. For a task of one's own, several names.
        dropout: Which modalities training samples lose at random; see `ModalityDropout`.
        substitute: Controls for comparisons, by modality: "noise" puts standard normal noise in its place, the name of
            another modality a copy of that.

    Attributes:
        inputs: What each modality's values mean, after `setup`.
        targets: What is predicted, by name, after `setup`.
    """

    inputs: dict[str, InputSpec]
    targets: dict[str, TargetSpec]

    def __init__(
        self,
        root: str,
        modalities: list[str] | None = None,
        size: tuple[int, int] | None = None,
        augment: Augment = Augment(),  # noqa: B008 - frozen
        batch_size: int = 8,
        eval_batch_size: int = 8,
        workers: int = 0,
        cache: bool = False,
        val_split: str = "val",
        test_split: str = "test",
        target: str | list[str] | None = None,
        substitute: dict[str, str] | None = None,
        dropout: ModalityDropout = ModalityDropout(),  # noqa: B008 - frozen
    ) -> None:
        super().__init__()
        self.root = root
        self.modalities = modalities
        self.size = size
        self.augment = augment
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.workers = workers
        self.cache = cache
        self.val_split = val_split
        self.test_split = test_split
        self.target_name = target
        self.substitute = substitute or {}
        self.dropout = dropout
        check(vars(self), _LIMITS, "data.")
        self._spec: DatasetSpec | None = None
        self._datasets: dict[tuple[str, bool], FolderDataset] = {}
        self._counted: dict[str, Counted] = {}
        self._seed: int | None = None
        self._resumed: dict[str, Any] = {}

    @cached_property
    def description(self) -> DatasetSpec:
        """What dataset.yaml says, read once.

        Raises:
            DataError: It is missing or wrong.
        """
        return DatasetSpec.load(self.root)

    @property
    def target(self) -> TargetSpec:
        """The one target, after `setup`.

        Raises:
            DataError: When there are several.
        """
        return only(self.targets, self.description.store.where(FILE))

    @property
    def num_classes(self) -> int:
        """Number of classes, after `setup`.

        Raises:
            DataError: When the target is of another kind than label.
        """
        if self.target.kind != "label":
            raise DataError(f"{self.root}: segmentation needs a target of kind label, got {self.target.kind}.")
        return len(self.target.classes)

    @property
    def gaps(self) -> bool:
        """Whether samples may lack modalities in training."""
        declared = self.description.modalities
        optional = [name for name, part in declared.items() if part.optional]
        return bool(self.dropout) or any(name in optional for name in self.modalities or declared)

    @property
    def channels(self) -> dict[str, int]:
        """Channels of each input, after `setup`."""
        return {name: spec.channels for name, spec in self.inputs.items()}

    def setup(self, stage: str | None = None) -> None:
        """Read dataset.yaml and open the splits of a stage (fit, validate, test or predict).

        Raises:
            DataError: When the data set is not what its description says, or lacks a split that the stage needs.
        """
        if self._spec is None:
            spec = self.description.with_targets(self.target_name)
            names = spec.select(self.modalities)
            check_substitute(self.substitute, names)
            self.dropout.check_names(names)
            self.inputs = substituted_specs(input_specs(spec, names), self.substitute, names)
            self.targets = settle_targets(spec)
            self._spec = spec
        if stage == "fit":
            dataset = self._dataset("train", augmented=True)
            samples, processes = len(dataset), place().processes
            if samples < self.batch_size * processes:
                each = f" for each of {processes} processes" if processes > 1 else ""
                remedy = f"Set data.batch_size to {samples // processes} or less."
                raise DataError(
                    f"{self._spec.store.path}: the split 'train' has {samples} sample(s), fewer than a batch of "
                    f"{self.batch_size}{each}. {remedy if samples >= processes else 'Set trainer.devices to less.'}"
                )
            fixed = self.size is not None or self.augment.crop is not None
            if not fixed and self.batch_size > 1 and len(dataset.sizes) > 1:
                (one, first), (other, second), *_ = dataset.sizes.items()
                raise DataError(
                    f"{self._spec.store.path}: samples of different sizes in the split 'train': {first} is "
                    f"{one[1]}x{one[0]} (width x height), {second} is {other[1]}x{other[0]}. {_ONE_SIZE}"
                )
        if stage in ("fit", "validate"):
            self._dataset(self.val_split)
        if stage == "test":
            self._dataset(self.test_split)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """All of a batch but who is there, which is asked on the host: a GPU's answer would have to be waited for."""
        present = {key: batch[key] for key in ("present",) if key in batch}
        rest = {key: value for key, value in batch.items() if key not in present}
        moved: Batch = super().transfer_batch_to_device(rest, device, dataloader_idx)
        return {**moved, **present}

    def train_dataloader(self) -> DataLoader[Sample]:
        """Shuffled, augmented batches of equal size."""
        dataset = self._dataset("train", augmented=True)
        overfits: Any = getattr(self.trainer, "overfit_batches", 0)
        if overfits and self.dropout:
            # Lightning then puts a sampler of its own in the place of this one, which alone says what to draw.
            raise ConfigError(
                "data.dropout: nothing would be dropped with --trainer.overfit_batches, which trains on the same "
                "samples without draws. Leave one of them out."
            )
        progress: Any = self.trainer.fit_loop.epoch_progress.current if self.trainer else None
        # A trainer may ask for the loader before it has read its own progress from a checkpoint.
        epoch = max(progress.processed if progress else 0, self._resumed.get("epochs", 0))
        batches = self._resumed["batches"] if epoch == self._resumed.get("epochs") else 0
        if batches and self._resumed_order() != self._order():
            raise ConfigError(
                f"The checkpoint was written within an epoch of {_told(self._resumed_order())}; now there are "
                f"{_told(self._order())}, and the rest of that epoch is another one. Continue with the same data, "
                "seed, batch size and devices, or with a checkpoint of an epoch's end."
            )
        order = self._order()
        step = order["step"]
        sampler = SeededSampler(order["samples"], order["seed"], epoch, batches * step, step, place())
        return self._loader(dataset, self.batch_size, _ONE_SIZE, sampler=sampler, drop_last=True)

    def state_dict(self) -> dict[str, Any]:
        """How many epochs and batches of the next one were trained on, what their order depends on, what data mean."""
        assert self.trainer is not None, "only a trainer writes checkpoints"
        epochs: Any = self.trainer.fit_loop.epoch_progress.current
        batches: Any = self.trainer.fit_loop.epoch_loop.batch_progress.current
        within = epochs.started > epochs.processed
        done = {"epochs": epochs.processed, "batches": batches.processed if within else 0}
        return {**done, **self._order(), **meaning(self.inputs, self.targets)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where the checkpoint was written.

        Raises:
            ConfigError: Inputs or targets mean something else now, or stand in another order.
        """
        check_same(state_dict, meaning(self.inputs, self.targets), self.root)
        self._resumed = state_dict

    def _order(self) -> dict[str, int]:
        """What the order of the training samples depends on: their number, the seed, and how many make a step."""
        if self._seed is None:
            # Asked once: every epoch seeds the global state anew, and a trainer may make loaders in any.
            self._seed = torch.initial_seed()
        samples = len(self._dataset("train", augmented=True))
        return {"samples": samples, "seed": self._seed, "step": self.batch_size * place().processes}

    def _resumed_order(self) -> dict[str, int]:
        return {key: self._resumed[key] for key in self._order()}

    def val_dataloader(self) -> DataLoader[Sample]:
        """The validation split in its order; of several processes each has every so many-th batch."""
        return self._evaluation(self.val_split, self.trainer.limit_val_batches if self.trainer else 1.0)

    def test_dataloader(self) -> DataLoader[Sample]:
        """The test split in its order."""
        return self._evaluation(self.test_split)

    def _evaluation(self, split: str, limit: int | float = 1.0) -> DataLoader[Sample]:
        dataset = self._dataset(split)
        together = self.eval_batch_size > 1 and len(dataset.sizes) == 1
        batch_size = self.eval_batch_size if together else 1
        settings = {}
        if place().processes > 1:
            most = limit if isinstance(limit, int) else None
            settings["sampler"] = TurnSampler(len(dataset), batch_size, place(), most)
        return self._loader(dataset, batch_size, _ONE_BY_ONE, **settings)

    def class_frequencies(self) -> Tensor:
        """Share of each class among the labelled pixels of the training split, (classes,); read once.

        Raises:
            DataError: When no pixel is labelled.
        """
        pixels = torch.from_numpy(self._count("train", None).classes).double()
        if not pixels.any():
            raise DataError(f"{self.root}: every pixel of the split 'train' is labelled as ignored.")
        return (pixels / pixels.sum()).float()

    def class_histogram(self) -> Histogram | None:
        """How often each class occurs in the splits of a training; None of an image, or of several targets.

        Of a large split up to `HISTOGRAM_SAMPLES` samples are counted, or all of it if they show one class alone.

        Raises:
            DataError: When a label file is missing or damaged, or holds what is no class.
        """
        if self._spec is None or [target.kind for target in self.targets.values()] != ["label"]:
            return None
        splits = [split for split in ("train", self.val_split, self.test_split) if split in self._spec.splits]
        found = {split: self._count(split, HISTOGRAM_SAMPLES) for split in splits}
        if (found["train"].classes > 0).sum() < 2:
            found["train"] = self._count("train", None)
        return Histogram(self.target.code, found)

    def _count(self, split: str, most: int | None) -> Counted:
        part = self._counted.get(split)
        if part is None or part.samples < min(most or part.of, part.of):
            part = self._counted[split] = count(self._dataset(split, augmented=split == "train"), most)
        return part

    def identity(self, split: str, modalities: Sequence[str] | None = None) -> str:
        """What tells a split's samples from any others, after `setup`; see `polymodal.data.fingerprint`.

        Args:
            split: Its name.
            modalities: Those that are read; the module's own if not given.
        """
        assert self._spec is not None, "setup comes first"
        read = [name for name in self.inputs if name not in self.substitute] if modalities is None else modalities
        return identity(self._spec, read, split)

    def _dataset(self, split: str, augmented: bool = False) -> FolderDataset:
        assert self._spec is not None, "setup comes first"
        if (split, augmented) not in self._datasets:
            self._datasets[split, augmented] = FolderDataset(
                self._spec,
                split,
                list(self.inputs),
                inputs=self.inputs,
                size=self.size,
                augment=self.augment if augmented else None,
                substitute=self.substitute,
                dropout=self.dropout if augmented else None,
                cache=self.cache,
                target=list(self.targets),
            )
        return self._datasets[split, augmented]

    def _loader(self, dataset: FolderDataset, batch_size: int, remedy: str, **settings: Any) -> DataLoader[Sample]:
        return DataLoader(
            dataset,
            batch_size,
            collate_fn=partial(collate, remedy=remedy),
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            pin_memory=torch.cuda.is_available(),
            **settings,
        )


def _told(order: dict[str, int]) -> str:
    return f"{order['samples']} samples, {order['step']} a step, in the order of seed {order['seed']}"
