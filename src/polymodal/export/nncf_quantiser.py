"""A network in a file of OpenVINO, computed with 8 bits: static quantisation by NNCF."""

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import ClassVar

from polymodal import processor
from polymodal.errors import ExportError
from polymodal.export.comparison import Run
from polymodal.export.openvino_file import EXTRA, run_openvino, write_openvino
from polymodal.export.quantiser import Images, described_in_8_bits, refused
from polymodal.export.session import DESCRIPTION, SAFE_BITS, Session, needed_package


class NncfQuantiser:
    """As `Quantiser`, for OpenVINO. All layers that NNCF takes are in 8 bits.

    Activations have 8 bits without a sign, weights 8 with a sign and a range for each channel, of which 7 are used
    where the processor cannot add products of 8 bits exactly.

    Args:
        file: The network in float, an ONNX file as `save` wrote it.
        images: What the ranges are taken from.
        place: A folder for files on the way; needed by none here.

    Attributes:
        weight_bits: How many bits of the weights are used.
        packages: What has to be installed beside those of the format.

    Raises:
        ExportError: There are no images, or NNCF cannot quantise the network.
    """

    packages: ClassVar[tuple[str, ...]] = ("nncf",)

    def __init__(self, file: Path, images: Iterable[Images], place: Path) -> None:
        del place
        openvino, nncf, onnx = (needed_package(name, "quantising", EXTRA) for name in ("openvino", "nncf", "onnx"))
        self.weight_bits = 8 if processor.adds_int8_exactly() else SAFE_BITS
        self._outputs = Session(file).outputs
        entries = {entry.key: entry.value for entry in onnx.load(file, load_external_data=False).metadata_props}
        taken = [dict(image) for image in images]
        if not taken:
            raise ExportError("int8: there are no images to take the ranges of activations from.")
        settings = nncf.AdvancedQuantizationParameters(
            overflow_fix=nncf.OverflowFix.DISABLE if self.weight_bits == 8 else nncf.OverflowFix.ENABLE,
            # The least and the largest value of all images, as ONNX Runtime takes them; NNCF's own, their means, clip.
            activations_range_estimator_params=nncf.quantization.range_estimator.RangeEstimatorParametersSet.MINMAX,
            # It cost the packaged rooms 0.6 points of mean IoU.
            disable_bias_correction=True,
        )
        try:
            self._model = nncf.quantize(
                openvino.convert_model(file),
                nncf.Dataset(taken),
                preset=nncf.QuantizationPreset.MIXED,
                target_device=nncf.TargetDevice.CPU,
                subset_size=len(taken),
                advanced_parameters=settings,
            )
        except Exception as error:  # NNCF's and OpenVINO's own, of no common class
            raise refused("NNCF", error) from error
        self._description = described_in_8_bits(entries[DESCRIPTION], self.weight_bits, len(taken), ())

    def write(self, path: Path, in_float: Collection[str] = ()) -> list[str]:
        """Write the network in 8 bits.

        Args:
            path: The .xml.
            in_float: The names of layers that stay in float; none can.

        Returns:
            The name of the .bin, which has to lie beside it.
        """
        del in_float
        write_openvino(self._model, path, self._description)
        return [path.with_suffix(".bin").name]

    def opened(self, path: Path) -> Run:
        """What runs a file that was written."""
        return run_openvino(path, self._outputs)

    def by_sensitivity(self, images: Sequence[Images]) -> list[str]:
        """None: no layers can stay in float."""
        del images
        return []
