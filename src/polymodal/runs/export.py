"""From a trained run to a file that predicts without Python."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from polymodal import checkpoint, export
from polymodal.errors import ExportError
from polymodal.export.formats import FORMATS, Onnx, format_for
from polymodal.export.raw import stored_types, take_raw
from polymodal.export.session import needed_package
from polymodal.files import half_published, publish, require_new, workplace
from polymodal.runs.opened import read_model_description
from polymodal.runs.quantised import Calibration, Quantisation, write_quantised

REFERENCE_SIZE = (480, 640)
"""Height and width that savings are told for where a model has no size of its own, or the next that it takes."""


def export_model(
    model: Path,
    out: Path,
    format: str,
    *,
    absorbed: bool,
    size: tuple[int, int] | None = None,
    weights: str | None = None,
    raw: bool = False,
    quantisation: Quantisation | None = None,
) -> str:
    """Export a trained network with all that `predict` must know of it.

    Args:
        model: A run folder or a model folder.
        out: The file.
        format: One of `polymodal.export.FORMATS`.
        absorbed: Whether to absorb norms and exchange into the convolutions first.
        size: Height and width, for a file for images of this size alone.
        weights: Their type, as `export.save` takes it.
        raw: Whether the file takes images as they are stored and returns class numbers, see `polymodal.export.raw`.
        quantisation: How it is quantised; not at all if not given.

    Returns:
        What was written, a sentence for people.

    Raises:
        CheckpointError: The model cannot be read.
        ConfigError: There is such a file already, or there are no data to quantise with.
        DataError: These data cannot be used.
        ExportError: The network or the format does not allow it; nothing is written then.
        OSError: The file cannot be written.
    """
    if quantisation is not None:
        _check_quantiser(format)
    if raw and format != Onnx.name:
        raise ExportError(f"--raw: format {format} takes normalised images alone. Give --format {Onnx.name}.")
    kind = format_for(format, out)
    if quantisation is not None and kind.quantiser is not None:
        for package in kind.quantiser.packages:
            needed_package(package, f"--int8 in format {format}", kind.extra)
    for ending in (kind.ending, *kind.beside):
        if not half_published(out):
            require_new(out.with_suffix(ending))
    folder = checkpoint.model_folder(model)
    metadata = checkpoint.read_config(folder).get("metadata") or {}
    calibration = None if quantisation is None else Calibration(model, quantisation)
    finish = _taking_raw(metadata, folder) if raw else None
    net = checkpoint.load(folder)
    plain = export.absorb(net, size=size) if absorbed else net
    if calibration is not None:
        assert kind.quantiser is not None
        said = write_quantised(plain, out, calibration, size, metadata, finish, kind.quantiser)
        beside = [out.with_suffix(ending) for ending in kind.beside]
        written = f"{_written([out, *beside])}, {said}"
    elif finish is not None:
        with workplace(out) as place:
            export.save(plain, place / out.name, size=size, metadata=metadata, weights=weights)
            finish(place / out.name)
            publish(place, out.name)
        written = _written([out])
    else:
        written = _written(export.save(plain, out, format=format, size=size, metadata=metadata, weights=weights))
    if not isinstance(plain, export.Absorbed):
        return written
    height, width = size or metadata.get("size") or (-(-side // plain.step) * plain.step for side in REFERENCE_SIZE)
    return f"{written}, absorbed; for {width}x{height} (width x height) {export.saving(net, plain, (height, width))}"


def _taking_raw(metadata: Any, folder: Path) -> Callable[[Path], None]:
    """What lets a file take images as they are stored.

    Raises:
        ExportError: Its modalities or its target have no raw form.
    """
    specs, targets, size = read_model_description(metadata, folder)
    if len(targets) > 1:
        raise ExportError(
            f"raw: class numbers are returned, and the model predicts {', '.join(targets)}. Leave --raw out."
        )
    [target] = targets.values()
    stored_types(specs, target)
    return partial(take_raw, specs=specs, target=target, size=size)


def _check_quantiser(format: str) -> None:
    """Refuse 8 bits where the format has none.

    Raises:
        ExportError: With the formats that have.
    """
    kind = FORMATS.get(format)
    if kind is None:  # refused by its name elsewhere
        return
    if kind.quantiser is None:
        able = " or ".join(name for name, other in FORMATS.items() if other.quantiser is not None)
        raise ExportError(f"--int8: format {format} is written in float alone. Give --format {able} for 8 bits.")


def _written(files: Sequence[Path]) -> str:
    return ", ".join(f"{file} ({file.stat().st_size / 1e6:.1f} MB)" for file in files)
