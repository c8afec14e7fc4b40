"""A network in an ONNX file, computed with 8 bits: ONNX Runtime's static quantisation."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

from polymodal import processor
from polymodal.data.track import track
from polymodal.errors import ExportError, first_line
from polymodal.export.session import DESCRIPTION, DESCRIPTION_FORMAT, INT8, SAFE_BITS, Session, needed_package

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators with weights, most of the work: what may be kept in float by name."""

Images = Mapping[str, np.ndarray]
"""A float32 image (1, C_m, H, W) of every modality, normalised as in training."""


class Quantiser:
    """A network whose ranges of activations are known: files with more or fewer of its layers in 8 bits are written.

    Activations have 8 bits without a sign and a range for each tensor, the least and the largest value that it had;
    weights have 8 bits with a sign and a range for each channel. Where the processor cannot add products of 8 bits
    exactly, weights use 7 of them.

    Args:
        file: The network in float, as `save` wrote it.
        images: What the ranges are taken from.
        place: A folder for files on the way.

    Attributes:
        layers: The names of the layers that can be quantised, in the order in which they run.
        weight_bits: How many bits of the weights are used.
        packages: What has to be installed beside those of the format.

    Raises:
        ExportError: There are no images, or ONNX Runtime cannot quantise the network.
    """

    packages: ClassVar[tuple[str, ...]] = ()

    def __init__(self, file: Path, images: Iterable[Images], place: Path) -> None:
        self._onnx = needed_package("onnx", "quantising", "export")
        tools = self._tools = needed_package("onnxruntime.quantization", "quantising", "export")
        registry = needed_package("onnxruntime.quantization.registry", "quantising", "export")
        if file.with_name(f"{file.name}.data").exists():
            raise ExportError(
                "int8: the network is too large for one file, which quantising needs: export it in float."
            )
        self.weight_bits = 8 if processor.adds_int8_exactly() else SAFE_BITS
        self._operators = sorted({*registry.QLinearOpsRegistry, *registry.QDQRegistry})
        self._plain = place / "plain.onnx"
        try:
            # The sizes are free, and names for them are all that its symbolic inference would add.
            tools.quant_pre_process(file, self._plain, skip_symbolic_shape=True)
            calibrator = tools.create_calibrator(
                self._plain, self._operators, augmented_model_path=str(place / "augmented.onnx")
            )
            self._images = 0
            for image in images:
                # A reader gives one image after the other, and None at the end; this one has a single one.
                calibrator.collect_data(SimpleNamespace(get_next=partial(next, iter([dict(image)]), None)))
                self._images += 1
            if not self._images:
                raise ExportError("int8: there are no images to take the ranges of activations from.")
            self._ranges = calibrator.compute_data()
        except ExportError:
            raise
        except Exception as error:  # ONNX Runtime's own, of no common class
            raise refused("ONNX Runtime", error) from error
        nodes = self._onnx.load(self._plain, load_external_data=False).graph.node
        self.layers: tuple[str, ...] = tuple(node.name for node in nodes if node.op_type in LAYERS)

    def write(self, path: Path, in_float: Collection[str] = ()) -> list[str]:
        """Write the network in 8 bits.

        Args:
            path: The file.
            in_float: The names of layers that stay in float.

        Returns:
            The names of files that have to lie beside it: none.

        Raises:
            ExportError: ONNX Runtime cannot quantise it.
        """
        model = self._quantised(exclude=list(in_float))
        entry = next(entry for entry in model.metadata_props if entry.key == DESCRIPTION)
        entry.value = json.dumps(described_in_8_bits(entry.value, self.weight_bits, self._images, in_float))
        self._onnx.save(model, path)
        return []

    def opened(self, path: Path) -> Session:
        """What runs a file that was written."""
        return Session(path)

    def by_sensitivity(self, images: Sequence[Images]) -> list[str]:
        """The layers, first those that move the predictions most when they alone are in 8 bits.

        Args:
            images: What is predicted.
        """
        expected = self._predict(self._onnx.load(self._plain), images)
        moved = {}
        for layer in track(self.layers, "layers in 8 bits, one at a time"):
            found = self._predict(self._quantised(only=[layer]), images)
            moved[layer] = max(_distance(ours, theirs) for ours, theirs in zip(found, expected, strict=True))
        return sorted(self.layers, key=lambda layer: -moved[layer])

    def _quantised(self, only: list[str] | None = None, exclude: list[str] | None = None) -> Any:
        """The network as the package onnx holds it, some layers or all in 8 bits."""
        types = self._tools.QuantType
        model = self._onnx.load(self._plain)  # anew, as it is changed
        try:
            quantiser = self._tools.QDQQuantizer(
                self._onnx.shape_inference.infer_shapes(model),
                per_channel=True,
                reduce_range=self.weight_bits == SAFE_BITS,
                weight_qType=types.QInt8,
                activation_qType=types.QUInt8,
                tensors_range=self._ranges,
                nodes_to_quantize=only or [],
                nodes_to_exclude=exclude or [],
                op_types_to_quantize=self._operators,
                extra_options={},
            )
            quantiser.quantize_model()
        except Exception as error:  # as above
            raise refused("ONNX Runtime", error) from error
        return quantiser.model.model

    def _predict(self, model: Any, images: Sequence[Images]) -> list[np.ndarray]:
        """All predictions of all images, one after the other."""
        runtime = needed_package("onnxruntime", "quantising", "export")
        session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        return [prediction for image in images for prediction in session.run(None, dict(image))]


def described_in_8_bits(description: str, weight_bits: int, images: int, in_float: Collection[str]) -> dict[str, Any]:
    """What a file in 8 bits says of itself.

    Args:
        description: Of the network in float, in JSON.
        weight_bits: How many bits of the weights are used.
        images: How many the ranges are taken from.
        in_float: The names of layers that stay in float.
    """
    how = {"weight_bits": weight_bits, "images": images, "in_float": list(in_float)}
    described: dict[str, Any] = json.loads(description)
    return described | {"format": DESCRIPTION_FORMAT, INT8: how}


def _distance(found: np.ndarray, expected: np.ndarray) -> float:
    """The mean square of what differs, relative to that of the values."""
    return float(np.square(found - expected).mean() / max(np.square(expected).mean(), np.finfo(np.float32).tiny))


def refused(quantiser: str, error: Exception) -> ExportError:
    """What to raise where a quantiser, whose errors have no common class, fails."""
    return ExportError(
        f"int8: {quantiser} cannot quantise the network: {first_line(error)} Export it in float, without --int8."
    )
