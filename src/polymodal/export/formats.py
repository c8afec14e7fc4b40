"""Writing a network to a file that runs without polymodal: ONNX, PyTorch's own exported programs, and OpenVINO."""

import copy
import io
import json
import os
import warnings
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from polymodal.errors import ExportError, first_line
from polymodal.export.absorb import Absorbed, settled
from polymodal.export.capture import image_channels
from polymodal.export.clipping import shapes_at_once
from polymodal.export.comparison import Run, compare, remedy
from polymodal.export.half import half_type, rounded, stored_in
from polymodal.export.inputs import check_axes
from polymodal.export.nncf_quantiser import NncfQuantiser
from polymodal.export.openvino_file import EXTRA, run_openvino, write_openvino
from polymodal.export.pooling import without_adaptive_pooling
from polymodal.export.program import captured
from polymodal.export.quantiser import Quantiser
from polymodal.export.session import DESCRIPTION, FLOAT_FORMAT, Session, by_prediction, needed_package, output_name
from polymodal.export.sizes import name_sizes
from polymodal.export.trials import Size, Trial, checked_size, said
from polymodal.files import publish, workplace
from polymodal.locks import LOCK
from polymodal.multimodal import Multimodal
from polymodal.names import ENSEMBLE, one_part, register
from polymodal.nn.ensemble import main_output

TOLERANCE = 1e-4
"""Of an exported network's predictions against those of the network itself, relative to the largest value."""


def save(
    net: Multimodal | Absorbed,
    path: str | os.PathLike[str],
    *,
    format: str = "onnx",
    size: Size | None = None,
    metadata: Mapping[str, Any] | None = None,
    weights: str | None = None,
) -> list[Path]:
    """Export a network in eval mode, check the file against it, and only then put it in its place.

    The file takes one image `(B, C_m, H, W)` for every modality, under its name, of any B, and any H and W that the
    network takes, or of one size alone. It returns what every modality predicts and their ensemble, at the network's
    own resolution, under the names `prediction_<modality>` and `prediction_ensemble`; where the fusion makes one
    stream, the latter alone. It is compared with the network on images that differ in kind, see `trials`.

    Args:
        net: A multimodal network, or what `absorb` made of one.
        path: The file; its name ends in `.onnx`, `.pt2` or `.xml`, as the format wants it.
        format: `"onnx"`; `"pt2"`, which `torch.export.load` reads; `"openvino"`, an .xml with a .bin beside it.
        size: Height and width, for a file of images of this size alone, such as of a network whose computation depends
            on the size in ways that no graph has; that which it was absorbed for if not given.
        metadata: Anything in types that JSON knows, kept in the file, such as how inputs were normalised.
        weights: `"fp16"` or `"bf16"`, for a file that holds weights in 16 bits, of half the size; it computes in
            float32, as the network with its weights rounded does. In 32 bits if not given.

    Returns:
        The files that were written: the path, and after it what has to lie beside it (the .bin of OpenVINO, the data
        of an ONNX file that is too large for one).

    Raises:
        ConfigError: Neither `fuse` nor `absorb` has made the network.
        ExportError: The format, the ending or the type of the weights is unknown or not for the format, a package is
            missing, the network cannot be exported, a modality's name is that of an output, the size is not the one
            that it was absorbed for, JSON does not know the metadata, or the file does not predict what the network
            does. Nothing is written then.
        OSError: The file cannot be written.
    """
    path = Path(path)
    writer = format_for(format, path)
    if weights is not None and not writer.half:
        able = " or ".join(name for name, kind in FORMATS.items() if kind.half)
        raise ExportError(f"weights: format {format} has them in 32 bits alone; {weights} is for {able}.")
    dtype = None if weights is None else half_type(weights)
    if not isinstance(net, Absorbed):
        check_axes(net)
    _check_names(net)
    size = _size(net, size)
    try:
        json.dumps(metadata and dict(metadata))
    except (TypeError, ValueError, RecursionError) as error:
        raise ExportError(f"metadata: expected types that JSON knows, and {error}.") from error
    like = next(p for p in [*net.parameters(), *net.buffers()] if p.is_floating_point())
    if like.dtype != torch.float32:
        raise ExportError(f"expected a network in float32, got {like.dtype}: convert it with net.float() first.")
    own = net if isinstance(net, Absorbed) else settled(net)
    if like.device.type != "cpu":
        own = copy.deepcopy(own).cpu()
    module = _Named(own if dtype is None else rounded(own, dtype)).eval()
    channels = (
        net.channels if isinstance(net, Absorbed) else {name: image_channels(net, name) for name in net.modalities}
    )

    def example(trial: Trial) -> tuple[dict[str, Tensor]]:
        batch, sides = trial
        return ({name: torch.zeros(batch, count, *sides) for name, count in channels.items()},)

    found = captured(module, example, size)
    if dtype is not None:
        stored_in(found.program, dtype)
    description: dict[str, Any] = {
        "format": FLOAT_FORMAT,
        "modalities": channels,
        "outputs": [*net.outputs, ENSEMBLE],
        "step": found.step,
        "size": None if size is None else list(size),
        "folded": isinstance(net, Absorbed),
        "metadata": dict(metadata or {}),
    }
    with workplace(path) as place:
        file = place / path.name
        try:
            run = writer.write(found.program, file, description)
        except (ExportError, OSError):
            raise
        except Exception as error:  # the converters' own, of no common class
            raise ExportError(
                f"The network cannot be written in format {format}: {first_line(error)} Nothing was written. "
                f"{remedy(size)}"
            ) from error

        def expected(images: dict[str, Tensor]) -> dict[str, Tensor]:
            return by_prediction(module(images), description["outputs"])

        compare(expected, run, channels, found.trials, f"The file of format {format}", TOLERANCE, remedy(size))
        beside = sorted(written.name for written in place.iterdir() if written.name not in (file.name, LOCK))
        # The file that others are opened by comes last.
        publish(place, *beside, file.name)
    return [path, *(path.parent / name for name in beside)]


FORMATS: dict[str, type["Format"]] = {}
"""Every format by its name."""


class Format(ABC):
    """One kind of file; a subclass is known by its name once its module is imported."""

    name: ClassVar[str]
    ending: ClassVar[str]
    beside: ClassVar[tuple[str, ...]] = ()
    """The endings of further files of the same name."""
    packages: ClassVar[tuple[str, ...]] = ()
    """What has to be installed beside torch."""
    extra: ClassVar[str] = ""
    """The extra of polymodal that installs them."""
    half: ClassVar[bool] = True
    """Whether weights may have 16 bits."""
    quantiser: ClassVar[type[Quantiser] | type[NncfQuantiser] | None] = None
    """What makes a file in 8 bits of an ONNX file; None where there is nothing that does."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        register(FORMATS, cls)

    @abstractmethod
    def write(self, program: ExportedProgram, file: Path, description: Mapping[str, Any]) -> Run:
        """Write the file.

        Args:
            program: Takes images by modality, and returns predictions by the names of `output_name`.
            file: Where to, in a folder of its own; what belongs beside it goes there, too.
            description: What the file should say of itself.

        Returns:
            What runs the file: images by modality to predictions by the names of `description["outputs"]`.
        """


class Onnx(Format):
    """For ONNX Runtime and all that reads ONNX."""

    name = "onnx"
    ending = ".onnx"
    packages = ("onnx", "onnxscript", "onnxruntime")
    extra = "export"
    quantiser = Quantiser

    def write(self, program: ExportedProgram, file: Path, description: Mapping[str, Any]) -> Run:
        """See `Format`."""
        for name in description["modalities"]:
            try:
                one_part(name)  # as whoever predicts with the file calls its pictures
            except ValueError as error:
                raise ExportError(
                    f"modality {name!r}: expected {error}. Build the network with such a name, polymodal.fuse(network, "
                    "modalities), or export it as pt2."
                ) from error
        with warnings.catch_warnings(), shapes_at_once():
            warnings.simplefilter("ignore")
            try:
                made = torch.onnx.export(
                    without_adaptive_pooling(program),
                    dynamo=True,
                    input_names=list(description["modalities"]),
                    output_names=[output_name(name) for name in description["outputs"]],
                    optimize=False,
                    verbose=False,
                )
                _simplify(made)
            except torch.onnx.OnnxExporterError as error:
                reason = first_line(error.__cause__ or error)
                raise ExportError(
                    f"The network has an operation that ONNX has no word for: {reason} Export it as pt2 instead."
                ) from error
        assert made is not None
        name_sizes(made.model)
        made.model.metadata_props[DESCRIPTION] = json.dumps(description)
        made.save(file, external_data=False)
        return Session(file)


class Pt2(Format):
    """For PyTorch without this library, from Python or C++."""

    name = "pt2"
    ending = ".pt2"

    def write(self, program: ExportedProgram, file: Path, description: Mapping[str, Any]) -> Run:
        """See `Format`."""
        # In memory first: on a full disk, torch's own writer ends the process.
        content = io.BytesIO()
        torch.export.save(program, content, extra_files={f"{DESCRIPTION}.json": json.dumps(description)})
        file.write_bytes(content.getbuffer())
        module = torch.export.load(file).module()
        return torch.no_grad()(lambda images: by_prediction(module(images), description["outputs"]))


class OpenVino(Format):
    """For OpenVINO, which converts the ONNX file, whose names and free sizes it keeps."""

    name = "openvino"
    ending = ".xml"
    beside = (".bin",)
    packages = (*Onnx.packages, "openvino")
    extra = EXTRA
    half = False
    quantiser = NncfQuantiser

    def write(self, program: ExportedProgram, file: Path, description: Mapping[str, Any]) -> Run:
        """See `Format`."""
        openvino = needed_package("openvino", "format openvino", self.extra)
        with workplace(file.with_suffix(Onnx.ending)) as place:
            onnx = place / "network.onnx"
            Onnx().write(program, onnx, description)
            write_openvino(openvino.convert_model(onnx), file, description)
        return run_openvino(file, description["outputs"])


def _simplify(made: Any) -> None:
    """Optimise a written graph, without what it has many times first: the optimiser's rules look at every node anew."""
    from onnx_ir.passes import common
    from onnxscript import optimizer

    optimizer.fold_constants(made.model)
    common.RemoveUnusedNodesPass()(made.model)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(made.model)
    common.DeduplicateInitializersPass()(made.model)
    common.CommonSubexpressionEliminationPass()(made.model)
    made.optimize()


class _Named(nn.Module):
    """A network with its predictions under the names that they have in a file.

    Args:
        net: The network.
    """

    def __init__(self, net: Multimodal | Absorbed) -> None:
        super().__init__()
        self.net = net

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Images by modality to predictions by name."""
        named = self.net(inputs).named()
        return {output_name(name): main_output(output) for name, output in named.items()}

    def _get_name(self) -> str:
        """That of the network, for messages."""
        return type(getattr(self.net, "network", self.net)).__name__


def format_for(name: str, path: Path) -> Format:
    """The format of a name, if it can be written to a file of this name here.

    Raises:
        ExportError: The format or the ending is unknown, or a package is missing.
    """
    if name not in FORMATS:
        raise ExportError(f"format: there is no {name!r}; there are {', '.join(FORMATS)}.")
    kind = FORMATS[name]
    if path.suffix != kind.ending:
        raise ExportError(
            f"{path}: a file of format {name} is expected to end in {kind.ending}, such as model{kind.ending}."
        )
    for package in kind.packages:
        needed_package(package, f"format {name}", kind.extra)
    return kind()


def _check_names(net: Multimodal | Absorbed) -> None:
    """Refuse modalities of which a file would hold two values of one name."""
    outputs = Counter(output_name(name) for name in (*net.outputs, ENSEMBLE))
    for name in net.modalities:
        if outputs[name] or outputs[output_name(name)] > 1:
            raise ExportError(
                f"modality {name!r}: a file has the outputs {', '.join(outputs)} beside an input for each of "
                f"{', '.join(net.modalities)}, each of which needs a name of its own. Build the network with another "
                "name for it: polymodal.fuse(network, modalities)."
            )


def _size(net: Multimodal | Absorbed, size: Size | None) -> Size | None:
    """The fixed height and width of a file; None where they are free."""
    size = checked_size(size)
    if not isinstance(net, Absorbed) or net.size is None:
        return size
    if size is not None and size != net.size:
        raise ExportError(f"size: the network was absorbed for images of {said(net.size)}, got {said(size)}.")
    return net.size
