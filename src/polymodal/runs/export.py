"""From a trained run to a file that predicts without Python."""

from collections.abc import Sequence
from pathlib import Path

from polymodal import checkpoint, export
from polymodal.export.formats import format_for
from polymodal.files import half_published, require_new

REFERENCE_SIZE = (480, 640)
"""Height and width that savings are told for where a model has no size of its own, or the next that it takes."""


def export_model(model: Path, out: Path, format: str, *, absorbed: bool, size: tuple[int, int] | None = None) -> str:
    """Export a trained network with all that `predict` must know of it.

    Args:
        model: A run folder or a model folder.
        out: The file.
        format: One of `polymodal.export.FORMATS`.
        absorbed: Whether to absorb norms and exchange into the convolutions first.
        size: Height and width, for a file for images of this size alone.

    Returns:
        What was written, a sentence for people.

    Raises:
        CheckpointError: The model cannot be read.
        ConfigError: There is such a file already.
        ExportError: The network or the format does not allow it; nothing is written then.
        OSError: The file cannot be written.
    """
    kind = format_for(format, out)
    for ending in (kind.ending, *kind.beside):
        if not half_published(out):
            require_new(out.with_suffix(ending))
    folder = checkpoint.model_folder(model)
    metadata = checkpoint.read_config(folder).get("metadata") or {}
    net = checkpoint.load(folder)
    if not absorbed:
        return _written(export.save(net, out, format=format, size=size, metadata=metadata))
    plain = export.absorb(net, size=size)
    height, width = size or metadata.get("size") or (-(-side // plain.step) * plain.step for side in REFERENCE_SIZE)
    saved = export.saving(net, plain, (height, width))
    written = _written(export.save(plain, out, format=format, metadata=metadata))
    return f"{written}, absorbed; for {width}x{height} (width x height) {saved}"


def _written(files: Sequence[Path]) -> str:
    return ", ".join(f"{file} ({file.stat().st_size / 1e6:.1f} MB)" for file in files)
