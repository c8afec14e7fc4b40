"""The images that an absorbed network and an exported file take: every modality, and sizes that fit the graph."""

from collections.abc import Mapping
from typing import Any

from polymodal.errors import DataError, ExportError
from polymodal.export.trials import Size, said
from polymodal.given import check_inputs
from polymodal.multimodal import Multimodal, require_fused


def check_axes(net: Multimodal) -> None:
    """Refuse a network of anything but images, of which no graph is made.

    Raises:
        ConfigError: `fuse` has not made it.
        ExportError: With what it takes.
    """
    require_fused(net)
    if net.stem.axes != 2:
        raise ExportError(
            f"The network takes {'volumes' if net.stem.axes == 3 else 'signals'}, and files are made for networks of "
            "images (batch, channels, height, width) alone. Predict with the model folder."
        )


def check_images(inputs: Mapping[str, Any], channels: Mapping[str, int], step: int, size: Size | None) -> None:
    """Refuse images that a graph cannot take.

    Args:
        inputs: Images by modality, tensors or arrays.
        channels: Those of every modality.
        step: What height and width must be multiples of.
        size: Height and width where they are fixed.

    Raises:
        DataError: A modality is unknown or missing, or an image does not fit; with the nearest size that does.
    """
    # A graph has no form for fewer modalities, so the remedy is not that of the network itself.
    if isinstance(inputs, Mapping) and inputs.keys() < channels.keys():
        missing = ", ".join(name for name in channels if name not in inputs)
        raise DataError(
            f"Missing modality {missing}: this graph takes an image for each of {', '.join(channels)}. For some of "
            "them, absorb the network anew, polymodal.export.absorb(net, modalities)."
        )
    check_inputs(inputs, channels)
    height, width = next(iter(inputs.values())).shape[-2:]
    if size is not None and (height, width) != size:
        raise DataError(
            f"An image of {said((height, width))} is no input of this exported network, which was fixed to "
            f"{said(size)}. Resize it, export the network for its size (--size {height} {width}), or predict with the "
            "model folder."
        )
    if height % step or width % step:
        near = [max(1, round(side / step)) * step for side in (height, width)]
        raise DataError(
            f"An image of {said((height, width))} is no input of this exported network, whose sides must be "
            f"multiples of {step}. Resize or pad it, such as to {near[1]}x{near[0]}, or predict with the model folder."
        )
