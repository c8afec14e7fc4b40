"""A trained model as it lies on the disk, folder or exported file, opened to predict with."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from polymodal import checkpoint
from polymodal.data import InputSpec, TargetSpec
from polymodal.data.inputs import UNITS
from polymodal.data.substitute import NOISE
from polymodal.errors import CheckpointError, ConfigError, DataError
from polymodal.multimodal import Multimodal
from polymodal.names import one_part
from polymodal.runs.evaluation import controls_of, described
from polymodal.runs.tested import best_device, temperatures_of, trained
from polymodal.sources import local
from polymodal.tasks.base import named_outputs, output_at
from polymodal.tasks.several import output_of

if TYPE_CHECKING:
    from polymodal.export import Session

ONNX = ".onnx"
"""The ending of exported files."""


class Opened:
    """What a model says of itself, at once; the network itself, when it is first needed.

    Args:
        model: A run folder, a model folder, the name of a model that comes with the package, a model on the Hub
            (`hf://user/name`), or a file that `polymodal export` wrote as ONNX, run by ONNX Runtime.
        scales: Of modalities whose numbers here have another scale than the training's files, see `rescaled`.

    Attributes:
        specs: What the inputs mean, by modality.
        size: Height and width that inputs are resized to; None for their own.
        output: How predictions are shown and written.
        temperatures: Those that their confidence is taken at, by prediction.
        one_at_a_time: For threads: a network notes which modalities it is given while it runs.

    Raises:
        CheckpointError: The model cannot be used.
        ConfigError: A scale is none, or belongs to no modality that has one.
        ExportError: A package that runs exported files is missing.
    """

    def __init__(self, model: Path, scales: Mapping[str, float] | None = None) -> None:
        model = local(model)
        if model.is_file() and model.suffix != ONNX:
            raise CheckpointError(
                f"{model}: expected a run folder, a model folder or an exported file that ends in {ONNX}; no other "
                "file can be predicted with here. Give the folder, or export the run again with --format onnx."
            )
        self.one_at_a_time = Lock()
        self.session: Session | None = None
        taken = None
        if model.suffix == ONNX:
            from polymodal import export  # takes seconds to load, and few need it

            self.session = export.Session(model)
            if self.session.raw:
                raise CheckpointError(
                    f"{model} takes images as they are stored and returns class numbers (--raw), for programs of your "
                    "own. Predict with the model folder, or with a file that was exported without --raw."
                )
            self.source, metadata, taken = model, self.session.metadata, self.session.modalities
        else:
            self.source = checkpoint.model_folder(model)
            metadata = checkpoint.read_config(self.source).get("metadata") or {}
        specs, targets, self.size = read_model_description(metadata, self.source, taken)
        self.specs = rescaled(specs, scales or {})
        self.output = output_of(targets, metadata.get("training") or {})
        self.temperatures = temperatures_of(metadata, self.source)
        self._controls = controls_of(metadata, self.source)

    @cached_property
    def network(self) -> Multimodal:
        """That of a folder, on the best device."""
        return trained(self.source)

    def check_names(self, given: Iterable[str], *, subset: bool, how_absent: str) -> None:
        """Refuse modalities that the model has not, and to do without some where that is not wanted or not possible.

        Args:
            given: The modalities that there are.
            subset: Whether some may be absent.
            how_absent: How a user lets them be absent, a sentence.

        Raises:
            ConfigError: With the modalities of the model; or with one that it has never seen.
        """
        given = list(given)
        for name in given:
            if name not in self.specs:
                raise ConfigError(f"the model has no modality {name!r}; it has {', '.join(self.specs)}.")
            if self._controls.get(name) == NOISE:
                raise ConfigError(
                    f"{name}: the model is a control, which has seen noise in its place and knows of no real one. "
                    "Leave it out, as any modality that is absent; polymodal validate scores the model on noise."
                )
        missing = [name for name in self.specs if name not in given]
        if not missing or (given and subset and self.session is None):
            return
        remedy = how_absent
        if self.session is not None:
            remedy = (
                "An exported network takes all of them: predict with the model folder, or export one absorbed for "
                "some, polymodal.export.absorb(net, modalities)."
            )
        raise ConfigError(f"no input for {', '.join(missing)}: the model has {', '.join(self.specs)}. {remedy}")

    def predict(self, images: Mapping[str, Tensor], size: Sequence[int], *, subset: bool = False) -> dict[str, Tensor]:
        """Predictions (B, C, *size) of every modality that is there and of all of them together, by name.

        Args:
            images: (B, C_m, H, W) by modality, normalised as in training.
            size: Height and width of the predictions.
            subset: Whether modalities may be absent.

        Raises:
            DataError: The network cannot take the images, or what it makes of them is no number.
            CheckpointError: It predicts something else than its description says.
        """
        if self.session is not None:
            found = {name: torch.from_numpy(output) for name, output in self.session(images).items()}
        else:
            with torch.inference_mode(), self.one_at_a_time:
                moved = {name: image.to(best_device()) for name, image in images.items()}
                found = named_outputs(self.network(moved, subset=subset, per_modality=True))
        for name, prediction in found.items():
            if prediction.ndim != 4 or prediction.shape[1] != self.output.channels:
                raise CheckpointError(
                    f"{self.source}: its description says that it predicts {self.output.channels} channels, and the "
                    f"network's {name!r} has the shape {tuple(prediction.shape)}. Restore the model, or save or export "
                    "it again."
                )
            if not prediction.amax() < math.inf:  # by -inf a network masks a class
                raise DataError(
                    f"what {name} predicts holds NaN or infinite numbers, for which no class and no value can be told: "
                    "inputs hold numbers far beyond those of the training. Where one means that nothing was measured, "
                    "as -3.4e38 does in many TIFF files, store NaN, or declare it there as the no-data value."
                )
        return {name: output_at(prediction, size) for name, prediction in found.items()}


def read_model_description(
    metadata: Any, source: Path, modalities: Iterable[str] | None = None
) -> tuple[dict[str, InputSpec], dict[str, TargetSpec], tuple[int, int] | None]:
    """Inputs, targets and input size of a model, from what it says of itself.

    Args:
        metadata: As `describe` made it.
        source: The model folder or the exported file that it stands in.
        modalities: Those that the network takes; all that are described if not given.

    Raises:
        CheckpointError: They are not there, as in a model that was saved by hand, or damaged.
    """
    try:
        specs, targets, size = described(metadata)
        specs = {one_part(name): specs[name] for name in modalities or specs}
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, DataError) as error:
        raise CheckpointError(
            f"{source} does not say what the inputs and the classes are ({error!r}). A model that `polymodal fit` has "
            "trained does, and so does what `polymodal export` makes of it."
        ) from error
    for target in targets.values():
        if not specs or not target.settled:
            raise CheckpointError(
                f"{source} does not say what it predicts: {len(specs)} inputs, target {target.kind} of "
                f"{len(target.classes)} classes, {len(target.colors)} colours and the range {target.range}."
            )
    return specs, targets, size


def rescaled(specs: Mapping[str, InputSpec], scales: Mapping[str, float]) -> dict[str, InputSpec]:
    """What inputs mean whose numbers have another scale than the training's files; they may be of any type then.

    Args:
        specs: As the model was trained.
        scales: By modality, how much one step of its numbers is in the unit that the model knows, such as 0.001 for
            depth in millimetres where that is metres.

    Raises:
        ConfigError: The model has no such modality, its numbers have no unit, or the scale is no number above 0.
    """
    changed = dict(specs)
    for name, scale in scales.items():
        if name not in specs:
            raise ConfigError(f"scale: the model has no modality {name!r}; it has {', '.join(specs)}.")
        if specs[name].kind not in UNITS:
            raise ConfigError(
                f"scale: {name} is of kind {specs[name].kind}, whose numbers have no unit; only {' and '.join(UNITS)} "
                "have a scale. Leave it out."
            )
        if type(scale) not in (int, float) or not 0 < scale < math.inf:
            raise ConfigError(f"scale: {name}: expected a number above 0, got {scale!r}.")
        changed[name] = replace(specs[name], scale=float(scale), stored="", bits=None, scaling=None)
    return changed
