"""TIFF images that are unpacked some rows at a time, so that they may be larger than the memory."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tifffile
from tifffile import COMPRESSION, PHOTOMETRIC, TiffPage

from polymodal.data.content import Content, FileSpec
from polymodal.data.files import MASK
from polymodal.data.tiff import ALPHA, SIGNATURES, all_pages, chunk_of, full_pages, holds_more, nodata_of, scaling_of
from polymodal.errors import DataError

_PACKED = (
    *(COMPRESSION.NONE, COMPRESSION.LZW, COMPRESSION.DEFLATE, COMPRESSION.ADOBE_DEFLATE, COMPRESSION.PACKBITS),
    COMPRESSION.ZSTD,
)
"""Ways whose strips and tiles say no size of their own."""

_MOST = 2**25
"""Bytes that the strips or tiles of a row of them may hold, each of which is unpacked whole."""

_ROWS = 256
"""That are unpacked at a time where only some of all rows are wanted."""


class LargeTiff:
    """The image of a file, in the way of an array (C, H, W): slices of it are arrays, unpacked when they are taken.

    Args:
        file: One that `large_tiff` has looked at.
        page: Of it, the image.

    Attributes:
        shape: (C, H, W).
        dtype: Of the slices.
        size: How many numbers there are.
        ndim: 3.
    """

    def __init__(self, file: Path, page: TiffPage) -> None:
        self.shape = (page.samplesperpixel, page.imagelength, page.imagewidth)
        assert page.dtype is not None
        self.dtype = page.dtype.newbyteorder("=")
        self.size = math.prod(self.shape)
        self.ndim = 3
        self._file = file
        self._offset = page.offset
        self._last: tuple[int, np.ndarray] | None = None  # the first row, and the rows from it on

    def __getitem__(self, key: tuple[slice, slice, slice]) -> np.ndarray:
        channels, rows, columns = key
        top, bottom, step = rows.indices(self.shape[1])
        if step == 1:
            return self._rows(top, bottom)[channels, :, columns]
        most = step * max(1, _ROWS // step)
        parts = (self._rows(at, min(at + most, bottom)) for at in range(top, bottom, most))
        return np.concatenate([part[channels, ::step, columns].copy() for part in parts], axis=1)

    def _rows(self, top: int, bottom: int) -> np.ndarray:
        """All columns of some rows; those that were unpacked last are kept, as parts beside each other share them."""
        if self._last is None or not (self._last[0] <= top and bottom <= self._last[0] + self._last[1].shape[1]):
            try:
                with tifffile.TiffFile(self._file) as opened:
                    page = next(page for page in all_pages(opened) if page.offset == self._offset)
                    self._last = top, self._unpacked(page, top, bottom)
            except Exception as error:  # every decoder has its own errors
                raise DataError(f"{self._file}: cannot be read as TIFF ({error}). Replace the file.") from error
        first, rows = self._last
        return rows[:, top - first : bottom - first]

    def _unpacked(self, page: TiffPage, top: int, bottom: int) -> np.ndarray:
        out = np.zeros((self.shape[0], bottom - top, self.shape[2]), self.dtype)
        handle = page.parent.filehandle
        for index in _chunks(page, top, bottom):
            handle.seek(page.dataoffsets[index])
            data = handle.read(page.databytecounts[index])
            if len(data) < page.databytecounts[index]:
                raise ValueError("cut off")
            segment, (plane, _, y, x, _), _ = page.decode(data or None, index)
            if segment is None:  # GDAL leaves out what holds no-data alone
                segment = np.full(chunk_of(page), page.nodata, self.dtype)
            first, last = max(top, y), min(bottom, y + segment.shape[1])
            pixels = segment[0, first - y : last - y, : self.shape[2] - x]
            samples = slice(None) if page.planarconfig == 1 else slice(plane, plane + 1)
            out[samples, first - top : last - top, x : x + pixels.shape[1]] = np.moveaxis(pixels, 2, 0)
        return out


def large_tiff(file: Path, reading: FileSpec) -> Content | None:
    """A TIFF file whose rows can be unpacked by themselves, with what it says of itself.

    Args:
        file: Of any size.
        reading: What is known of it.

    Returns:
        The content, whose array is a `LargeTiff`; None for a file that is no TIFF or whose whole must be looked at to
        know what it means: one with several pages, a mask, alpha, a palette, another orientation, odd bits, or packed
        in another way or in strips that are too large; or one that cannot be read, which the reader of wholes names.
    """
    if file.with_name(file.name + MASK).exists():
        return None
    try:
        with file.open("rb") as stream:
            if not stream.read(4).startswith(SIGNATURES):
                return None
        with tifffile.TiffFile(file) as opened:
            found = all_pages(opened)
            pages = full_pages(found)
            page = pages[0]
            if len(pages) > 1 or any(each.is_mask for each in found) or holds_more(opened, page):
                return None
            if not _plain(page, reading):
                return None
            image = LargeTiff(file, page)
            nodata = nodata_of(pages, image.dtype)
            return Content(image, nodata=nodata, scaling=scaling_of(page))  # type: ignore[arg-type]
    except Exception:  # of a damaged file
        return None


def _plain(page: TiffPage, reading: FileSpec) -> bool:
    """Whether the numbers of a page are those that are meant, and each row can be had for little."""
    alpha = reading.kind != "raw" and any(sample in ALPHA for sample in page.extrasamples)
    if page.dtype is None or page.bitspersample != page.dtype.itemsize * 8 or page.dtype.kind not in "uif" or alpha:
        return False
    listed = min(len(page.dataoffsets), len(page.databytecounts))
    return (
        page.photometric in (None, PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.RGB)
        and page.tags.valueof("Orientation", default=1) not in range(2, 9)
        and page.compression in _PACKED
        and page.imagedepth == 1
        and math.prod(page.chunked) <= listed
        and math.prod(chunk_of(page)) * page.dtype.itemsize * -(-page.imagewidth // chunk_of(page)[2]) <= _MOST
    )


def _chunks(page: TiffPage, top: int, bottom: int) -> Iterator[int]:
    """The numbers of the strips or tiles that hold some rows."""
    _, height, width, samples = chunk_of(page)
    across, down = -(-page.imagewidth // width), -(-page.imagelength // height)
    for plane in range(page.samplesperpixel // samples):
        for row in range(top // height, -(-bottom // height)):
            start = (plane * down + row) * across
            yield from range(start, start + across)
