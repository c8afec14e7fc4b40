"""Height and width of a picture from its header alone, so that those of thousands are known in a moment."""

import io
import warnings
from contextlib import suppress

from PIL import ExifTags, Image


def header_size(content: bytes) -> tuple[int, int] | None:
    """Height and width as people see them, or None where only reading the whole file tells: it is no PNG or JPEG.

    Args:
        content: Of the file.
    """
    with (
        warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning),  # our own bound is told of
        suppress(Exception),
        Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as image,
    ):
        # Asked without need, Pillow would decode a whole PNG to look for an orientation behind its pixels.
        # From 5 on, rows and columns change places.
        turned = "exif" in image.info and image.getexif().get(ExifTags.Base.Orientation, 1) in range(5, 9)
        width, height = reversed(image.size) if turned else image.size
        return height, width
    return None
