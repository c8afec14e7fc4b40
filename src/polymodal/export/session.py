"""Running an exported ONNX file."""

import importlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from torch import Tensor

from polymodal import processor
from polymodal.documents import parse_json
from polymodal.errors import CheckpointError, DataError, ExportError, first_line
from polymodal.export.bounds import MEMORY, beyond_memory, check_operators, session_options
from polymodal.export.inputs import check_images
from polymodal.export.trials import Size
from polymodal.names import one_part, twins

DESCRIPTION = "polymodal"
"""The key under which an exported file describes itself, in JSON."""

DESCRIPTION_FORMAT = 3
"""Which keys the description may have; a newer polymodal may write others, under a higher number."""

FLOAT_FORMAT = 2
"""That of a network in float, which an earlier polymodal reads, too."""

INT8 = "int8"
"""The key of what is said of a quantised network: the bits that its weights use, and how it came about."""

RAW = "raw"
"""The key of the types of numbers that a network takes as they are stored, by modality; see `export.raw`."""

SAFE_BITS = 7
"""So many bits of weights cannot overflow on any processor, see `processor.adds_int8_exactly`."""


def output_name(prediction: str) -> str:
    """What a prediction, by the name of its modality or "ensemble", is called in a file."""
    return f"prediction_{prediction}"


def by_prediction(found: Mapping[str, Any], predictions: Iterable[str]) -> dict[str, Any]:
    """Of what a file returned, some predictions by the names of their modalities or "ensemble"."""
    return {name: found[output_name(name)] for name in predictions}


class Session:
    """A network in an ONNX file, run by ONNX Runtime on the CPU.

    Args:
        path: A file that `save` wrote.
        threads: How many it uses; as ONNX Runtime sees fit if not given.

    Attributes:
        modalities: The channels of each modality.
        outputs: The names of the predictions: the modalities' and "ensemble".
        step: What height and width must be multiples of.
        size: Height and width where they are fixed; else None.
        absorbed: Whether the network was absorbed.
        quantised: Whether it computes with 8 bits.
        raw: The type of the numbers of each modality where it takes them as they are stored, and returns class numbers;
            else empty.
        metadata: What `save` was given.

    Raises:
        ExportError: ONNX Runtime is not installed.
        CheckpointError: The file is not there, is no network of polymodal, may compute without end, was written by
            a newer one, or was quantised for other processors than this one.
    """

    def __init__(self, path: str | os.PathLike[str], *, threads: int | None = None) -> None:
        onnx, runtime = (needed_package(name, "running an ONNX file", "export") for name in ("onnx", "onnxruntime"))
        if not Path(path).is_file():
            raise CheckpointError(f"{path}: there is no such file.")
        self._path = path
        try:
            model = check_operators(onnx, path)
            described = _description({entry.key: entry.value for entry in model.metadata_props}, path)
            self.quantised: bool = _quantised(described, path)
            options = session_options(runtime, threads)
            self._session = runtime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
            self.modalities: dict[str, int] = dict(described["modalities"])
            self.outputs: tuple[str, ...] = _outputs(described)
            self.step: int = described["step"]
            fixed = described.get("size")  # files of format 1 never are
            self.size: Size | None = None if fixed is None else (fixed[0], fixed[1])
            self.absorbed: bool = described["folded"]
            self.metadata: dict[str, Any] = described["metadata"]
            self.raw: dict[str, str] = _raw(described)
            self._check_graph()
        except CheckpointError:
            raise
        except Exception as error:  # ONNX Runtime's errors have no common class
            raise CheckpointError(
                f"{path} is no network that `polymodal export` wrote, or it is damaged: {first_line(error)}"
            ) from error

    def __call__(self, inputs: Mapping[str, np.ndarray | Tensor]) -> dict[str, np.ndarray]:
        """Predict.

        Args:
            inputs: A floating-point image `(B, C_m, H, W)` for every modality, normalised as in training, all of the
                same B, H and W; of a raw file, as it is stored. The file computes in float32.

        Returns:
            The predictions `(B, ...)` of every modality and of the ensemble, by name.

        Raises:
            DataError: A modality is unknown or missing, or an image does not fit.
            CheckpointError: The network itself cannot be run, as one that is damaged or takes more than `MEMORY`.
        """
        self.check(inputs)
        images = {
            name: np.asarray(_on_cpu(image, name in self.raw), self.raw.get(name, np.float32))
            for name, image in inputs.items()
        }
        try:
            found = self._session.run([output_name(name) for name in self.outputs], images)
        except Exception as error:  # as above
            if beyond_memory(error):
                raise CheckpointError(
                    f"{self._path}: takes more than {MEMORY / 2**30:.1f} GiB for these images, half of the memory that "
                    "there is. Predict smaller or fewer images at once."
                ) from error
            raise CheckpointError(f"{self._path} cannot be run, and may be damaged: {first_line(error)}") from error
        return dict(zip(self.outputs, found, strict=True))

    def check(self, inputs: Mapping[str, np.ndarray | Tensor]) -> None:
        """Refuse images that the network does not take, without predicting; as the call itself does.

        Raises:
            DataError: A modality is unknown or missing, or an image does not fit.
        """
        if isinstance(inputs, Mapping):
            for name, image in inputs.items():
                _check_numbers(name, image, self.raw.get(name, ""))
        check_images(inputs, self.modalities, self.step, self.size)

    def _check_graph(self) -> None:
        """Refuse a graph that is none of what the description says; sizes that are free in it are words."""
        taken = {node.name: node.shape for node in self._session.get_inputs()}
        made = {node.name for node in self._session.get_outputs()}
        if taken.keys() != self.modalities.keys() or made != set(map(output_name, self.outputs)):
            raise ValueError(f"its graph makes {sorted(made)} of {sorted(taken)}, which is not what it says of itself")
        for name, channels in self.modalities.items():
            expected = [None, channels, *(self.size or (None, None))]
            fits = len(taken[name]) == 4 and all(
                not isinstance(own, int) or own == side for own, side in zip(taken[name], expected, strict=True)
            )
            if not fits:
                raise ValueError(f"{name!r}: its graph takes {taken[name]}, which is not what it says of itself")


def _on_cpu(image: Any, raw: bool) -> Any:
    """An image that numpy can take; it has no bfloat16, which a pipeline in half precision may hold."""
    if not isinstance(image, Tensor):
        return image
    return image.detach().cpu() if raw else image.detach().float().cpu()


def _check_numbers(name: str, image: Any, raw: str) -> None:
    """Refuse what is no image, and pixels as a file holds them where normalised ones are taken, and the reverse."""
    if not isinstance(image, np.ndarray | Tensor):
        raise DataError(f"Modality {name!r}: expected a tensor or an array, got a {type(image).__name__}.")
    if raw:
        if str(image.dtype).removeprefix("torch.") != raw:
            raise DataError(f"Modality {name!r}: expected {raw}, as it is stored, got {image.dtype}.")
        return
    if not (image.is_floating_point() if isinstance(image, Tensor) else image.dtype.kind == "f"):
        raise DataError(
            f"Modality {name!r}: expected floating-point values, normalised as in training, got {image.dtype}. How "
            "they were normalised stands in the file: session.metadata."
        )


def needed_package(name: str, purpose: str, extra: str) -> ModuleType:
    """A package that is not installed with polymodal, but with one of its extras.

    Raises:
        ExportError: It is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ExportError(
            f"{purpose} needs the package {name}, which is not installed ({error}). Install it by "
            f"pip install 'polymodal[{extra}]'."
        ) from error


def _outputs(described: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the predictions, of which files are called."""
    names = tuple(map(one_part, described["outputs"]))
    if twins(names) or set(names) not in ({*described["modalities"], "ensemble"}, {"ensemble"}):
        raise ValueError(f"its predictions are {names}, expected 'ensemble', alone or with one of each modality")
    return names


def _quantised(described: Mapping[str, Any], path: str | os.PathLike[str]) -> bool:
    """Whether a network computes with 8 bits, refused where its sums would overflow."""
    if INT8 not in described:
        return False
    if described[INT8]["weight_bits"] > SAFE_BITS and not processor.adds_int8_exactly():
        raise CheckpointError(
            f"{path} was quantised for processors that add products of 8 bits exactly ({' or '.join(processor.VNNI)}), "
            "and this one does not: sums would overflow and predictions be worse without a word. Export it here, where "
            f"weights have {SAFE_BITS} bits, which every processor can add."
        )
    return True


def _raw(described: Mapping[str, Any]) -> dict[str, str]:
    """The types of numbers that a file takes as they are stored, of all modalities or of none."""
    types: dict[str, str] = described.get(RAW, {})
    known = types == {} or types.keys() == described["modalities"].keys()
    if not known or not set(types.values()) <= {"uint8", "uint16", "float32"}:
        raise ValueError(f"it takes raw images of {str(types)[:80]}")
    return types


def _description(metadata: Mapping[str, str], path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a file says of itself, from its metadata."""
    if DESCRIPTION not in metadata:
        raise CheckpointError(
            f"{path} is no network that `polymodal export` wrote: it has no description of polymodal."
        )
    described: dict[str, Any] = parse_json(metadata[DESCRIPTION])
    if described["format"] > DESCRIPTION_FORMAT:
        raise CheckpointError(
            f"{path}: its description has format {described['format']}, where this polymodal reads up to "
            f"{DESCRIPTION_FORMAT}: it was written by a newer polymodal. Update polymodal, or export the network again."
        )
    counts = [described["step"], *described["modalities"].values(), *(described.get("size") or ())]
    counts += [described[INT8]["weight_bits"]] if INT8 in described else []
    right = (
        all(type(count) is int and count > 0 for count in counts)
        and len(described.get("size") or (1, 1)) == 2
        and isinstance(described["folded"], bool)
        and isinstance(described["metadata"], dict)
    )
    if not right:
        raise ValueError(f"its description is {str(described)[:200]}")
    return described
