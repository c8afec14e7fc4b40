"""TIFF: which page is the image, which of its numbers are colours, and which value is none."""

import io
import logging
import math
from collections.abc import Iterable, Sequence
from xml.etree import ElementTree

import numpy as np
import tifffile
from PIL import Image
from tifffile import COMPRESSION, PHOTOMETRIC, TiffFrame, TiffPage

from polymodal.data.claims import SIZED, claimed_size
from polymodal.data.content import Content, FileSpec, RefusedError, check_pixels, check_unpacked, full_scale, seen
from polymodal.data.pictures import CMYK_NOTE, check_jpeg

MAX_TAGS = 2**16
"""Of all pages of a file, some 4000 pages as they are usual; the next one is found in each, so it can be itself."""

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

# Of tags that it cannot follow itself it would print lines of its own between ours; what they mean is judged here.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

_WHOLE_JPEG = (COMPRESSION.JPEG, COMPRESSION.ALT_JPEG, COMPRESSION.JPEG_LOSSY)
_NEUTRAL: dict[str | None, int] = {"scale": 1, "offset": 0}
ALPHA = (1, 2)  # associated and unassociated; 0 is a channel of any meaning
_PLAIN = (None, PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.RGB, PHOTOMETRIC.MASK)
_JPEG = (COMPRESSION.OJPEG, COMPRESSION.JPEG)  # decoded from YCbCr to RGB
_LOSSLESS = (
    *(COMPRESSION.NONE, COMPRESSION.PACKBITS, COMPRESSION.LZW, COMPRESSION.DEFLATE, COMPRESSION.ADOBE_DEFLATE),
    *(COMPRESSION.CCITTRLE, COMPRESSION.CCITTFAX3, COMPRESSION.CCITTFAX4, COMPRESSION.LZMA, COMPRESSION.ZSTD),
    *(COMPRESSION.ZSTD_DEPRECATED, COMPRESSION.PNG),
)


def decode_tiff(data: bytes, reading: FileSpec) -> Content:
    """A TIFF file; (C, H, W) not yet upright.

    Raises:
        Exception: Of the decoder, when the file is damaged.
        RefusedError: When it says of itself what cannot be followed.
    """
    # A TiffFile and its pages hold each other, and the stream, until garbage is collected; closed, it holds no bytes.
    with io.BytesIO(data) as stream, tifffile.TiffFile(stream) as file:
        return _content(file, data, reading)


def _content(file: tifffile.TiffFile, data: bytes, reading: FileSpec) -> Content:
    found = all_pages(file)
    masks = [page for page in found if page.is_mask]
    pages = full_pages([page for page in found if not page.is_mask])
    page = pages[0]
    for each in (*pages, *masks):
        _check_page(each, data)
    if masks and not all(mask.asarray().all() for mask in masks if mask.shape[:2] == page.shape[:2]):
        raise RefusedError("its mask leaves pixels out. Give them a no-data value instead")
    array = _stacked(file, pages, reading) if len(pages) > 1 or holds_more(file, page) else _planes(page)
    nodata = nodata_of(pages, array.dtype)
    colors, alpha, notes = _colors(array, page, reading)
    if colors is not array and nodata is not None:
        hidden = array == nodata
        if hidden.any() and max(len(array), len(colors)) > 1:
            raise RefusedError(f"its no-data value {nodata:g} stands for a colour. Save it as RGB or grey")
        nodata = colors[hidden][0].item() if hidden.any() else None
    orientation = page.tags.valueof("Orientation", default=1)
    indices = page.photometric == PHOTOMETRIC.PALETTE and not seen(reading)
    palette = _palette(page.colormap).T if indices and page.colormap is not None else None
    if scaling := scaling_of(page):
        notes = (f"declares {scaling}, which dataset.yaml alone can apply", *notes)
    packed = COMPRESSION(page.compression)
    lossy = "" if packed in _LOSSLESS else packed.name
    return Content(colors, alpha, nodata, notes, int(orientation), palette, lossy, scaling)


def _check_page(page: TiffPage, data: bytes) -> None:
    """Refuse what would fill the memory, or take hours; each tile is unpacked whole, however little the image has."""
    check_pixels(page.imagewidth, page.imagelength * page.imagedepth)
    if page.is_tiled:
        check_pixels(page.tilewidth, page.tilelength * page.tiledepth)
    check_unpacked(page.nbytes)
    needed, listed = math.prod(page.chunked), len(page.dataoffsets)
    if needed > listed and not page.is_contiguous:
        raise ValueError(f"cut off: {needed} strips or tiles are announced, and {listed} are there")
    if page.compression in (*_WHOLE_JPEG, *SIZED):
        for start, size in zip(page.dataoffsets, page.databytecounts, strict=True):
            if size and page.compression in _WHOLE_JPEG:
                check_jpeg(data[start : start + size])
            elif size:
                _check_claim(page, data[start : start + size])


def _check_claim(page: TiffPage, chunk: bytes) -> None:
    """Refuse a strip or tile that is an image of its own, and larger than its place."""
    if page.compression == COMPRESSION.LERC and any(page.tags.valueof("LercParameters", default=(0, 0))[1:2]):
        raise RefusedError("its LERC is compressed once more. Save it as LERC alone, or with deflate")
    claimed = claimed_size(page.compression, chunk)
    if claimed is None:
        raise RefusedError(
            f"a strip or tile, compressed as {COMPRESSION(page.compression).name}, does not tell its size. Save it "
            "with deflate"
        )
    _, height, width, _ = chunk_of(page)
    if claimed[0] > height or claimed[1] > width:
        raise ValueError(
            f"a strip or tile of {width}x{height} pixels (width x height) claims to have {claimed[1]}x{claimed[0]}"
        )


def chunk_of(page: TiffPage) -> tuple[int, int, int, int]:
    """Depth, height, width and samples of a strip or tile."""
    samples = page.samplesperpixel if page.planarconfig == 1 else 1
    if page.is_tiled:
        return 1, page.tilelength, page.tilewidth, samples
    return 1, min(page.rowsperstrip, page.imagelength), page.imagewidth, samples


def _check_agreement(pages: Sequence[TiffPage]) -> None:
    """Refuse pages of one image that each say something else of themselves.

    Raises:
        RefusedError: With what they say.
    """
    told: dict[str, set[object]] = {
        "orientations": {page.tags.valueof("Orientation", default=1) for page in pages},
        "no-data values": {text for text in map(_nodata_text, pages) if text},
        "colours": {getattr(page.photometric, "name", page.photometric) for page in pages},
    }
    for what, values in told.items():
        if len(values) > 1:
            shown = " and ".join(sorted(map(str, values)))
            raise RefusedError(f"its pages declare different {what}, {shown}. Save them anew, all alike")


def all_pages(file: tifffile.TiffFile) -> list[TiffPage]:
    """All pages of a file, and those that its pages hold.

    Raises:
        ValueError: They lead in a circle.
        RefusedError: There are too many.
    """
    found: list[TiffPage] = []
    places: set[int] = set()
    tags = 0

    def walk(pages: Iterable[TiffPage | TiffFrame]) -> None:
        nonlocal tags
        for page in pages:
            if page.offset in places:
                raise ValueError("its pages lead in a circle")
            places.add(page.offset)
            tags += 1
            if isinstance(page, TiffPage):
                tags += len(page.tags)
                found.append(page)
            if tags > MAX_TAGS:
                raise RefusedError(f"its pages have more than {MAX_TAGS} tags. Save what is meant as a file of its own")

    walk(file.pages)
    for page in tuple(found):
        walk(page.pages or ())
    return found


def full_pages(pages: Sequence[TiffPage]) -> list[TiffPage]:
    """The pages of the full resolution: none that says to be reduced, and none that is smaller and of the same shape.

    Raises:
        RefusedError: When what is left are pictures of different sizes.
    """
    full = [page for page in pages if not (page.is_reduced or page.tags.valueof(255) == 2)] or list(pages)
    most = max(full, key=lambda page: page.imagewidth * page.imagelength)
    width, height = most.imagewidth, most.imagelength
    kept = []
    for page in full:
        size = page.imagewidth, page.imagelength
        if size == (width, height):
            kept.append(page)
        elif abs(size[0] / width - size[1] / height) > 1.5 / width + 1.5 / height:
            raise RefusedError(
                f"{len(full)} pictures of different shapes, such as {width}x{height} and {size[0]}x{size[1]}. Save the "
                "one that is meant as a file of its own"
            )
    return kept


def holds_more(file: tifffile.TiffFile, page: TiffPage) -> bool:
    """Whether an only page stands for the many images behind it."""
    return (page.is_shaped or file.is_imagej) and file.series[0].size > page.size


def _stacked(file: tifffile.TiffFile, pages: Sequence[TiffPage], reading: FileSpec) -> np.ndarray:
    """Several pages as channels, where the data set or the file says that they are.

    Raises:
        RefusedError: When neither does, or the pages have channels themselves.
    """
    series = file.series[0]
    complete = series.size >= sum(page.size for page in pages)
    # Of one array, tifffile notes the shape and microscopes which axis the channels are.
    declared = series.axes in ("QYX", "CYX", "SYX") and series.kind != "generic" and complete
    count = max(len(pages), series.size // pages[0].size)
    if reading.pages is None and not declared:
        raise RefusedError(
            f"{count} pages of equal size, and one image is expected. Declare `pages: bands` in dataset.yaml if they "
            "are the channels of one image, or save each as a file of its own"
        )
    _check_agreement(pages)
    check_pixels(pages[0].imagewidth, pages[0].imagelength * count)
    check_unpacked(max(series.nbytes, sum(page.nbytes for page in pages)))
    if series.ndim == 3 and complete and series.axes.endswith("YX"):
        return series.asarray()
    planes = [_planes(page) for page in pages]
    if any(len(plane) > 1 or plane.dtype != planes[0].dtype for plane in planes):
        raise RefusedError(f"{count} pages that are no bands. Each must hold one channel, all of one type")
    return np.concatenate(planes)


def _planes(page: TiffPage) -> np.ndarray:
    """(C, H, W) of one page."""
    array, axes = page.asarray(), page.axes
    if array.ndim == 2:
        return array[None]
    if array.ndim != 3 or "Y" not in axes or "X" not in axes:
        raise ValueError(f"expected one image with its channels, got axes {axes} of shape {array.shape}")
    (channel,) = (axis for axis in range(3) if axes[axis] not in "YX")
    return np.moveaxis(array, channel, 0)


def _colors(array: np.ndarray, page: TiffPage, reading: FileSpec) -> tuple[np.ndarray, bool, tuple[str, ...]]:
    """The values that a person sees, or the stored ones where they are numbers; whether the last is alpha; notes."""
    photometric, bits = page.photometric, page.bitspersample
    alphas = [sample in ALPHA for sample in page.extrasamples if reading.kind != "raw"]
    alpha = alphas[-1:] == [True]
    if sum(alphas) > alpha:
        raise RefusedError("its alpha is not the last channel, or not the only one. Save it without, or of kind raw")
    if photometric == PHOTOMETRIC.MINISWHITE:
        return _inverted(array, page, reading), alpha, ("min-is-white: its values are inverted",)
    if not seen(reading):
        return array, alpha, ()
    if photometric == PHOTOMETRIC.PALETTE:
        if len(array) != 1 or page.colormap is None:
            raise RefusedError(f"a palette for {len(array)} channels. Save it as RGB")
        return _palette(page.colormap)[:, array[0].astype(np.intp)], False, ()
    if photometric == PHOTOMETRIC.SEPARATED:
        if array.dtype != np.uint8 or len(array) != 4:
            raise RefusedError(f"{len(array)} inks of {array.dtype}, and CMYK of 8 bits is read. Save it as RGB")
        image = Image.fromarray(np.ascontiguousarray(np.moveaxis(array, 0, 2)), "CMYK").convert("RGB")
        return np.moveaxis(np.array(image), 2, 0), False, (CMYK_NOTE,)
    if photometric not in _PLAIN and not (photometric == PHOTOMETRIC.YCBCR and page.compression in _JPEG):
        name = getattr(photometric, "name", photometric)
        raise RefusedError(f"its colours are {name}, and grey, RGB, palette and CMYK are read. Save it as RGB")
    if array.dtype.kind == "u" and array.dtype.itemsize <= 2:
        array = full_scale(array, bits)
    return array, alpha, ()


def _inverted(array: np.ndarray, page: TiffPage, reading: FileSpec) -> np.ndarray:
    if reading.kind in ("depth", "raw"):
        raise RefusedError(
            f"min-is-white, so that its numbers may count upwards or downwards, which kind {reading.kind} must know. "
            "Save it as min-is-black"
        )
    if len(array) != 1 or array.dtype.name not in ("bool", "uint8", "uint16"):
        raise RefusedError(f"min-is-white with {len(array)} channel(s) of {array.dtype}. Save it as min-is-black")
    if array.dtype == bool:
        return ~array
    inverted = ((1 << page.bitspersample) - 1 - array).astype(array.dtype)
    return full_scale(inverted, page.bitspersample) if seen(reading) else inverted


def _palette(table: np.ndarray) -> np.ndarray:
    """(3, n) of 8 bits; the table in the file has 16, of which some programs fill in 8."""
    return (table if table.max() < 256 else table >> 8).astype(np.uint8)


def _nodata_text(page: TiffPage) -> str:
    return str(page.tags.valueof("GDAL_NODATA", default="")).strip(" \0\n")


def nodata_of(pages: Iterable[TiffPage], dtype: np.dtype) -> float | None:
    """The value that GDAL declares on the first of the pages that has one, as a pixel of the file would hold it."""
    text = next(filter(None, map(_nodata_text, pages)), "")
    if not text:
        return None
    try:
        value: float = int(text) if text.lstrip("-").isdecimal() else float(text)
    except ValueError as error:
        raise ValueError(f"its no-data value is {text!r}, which is no number") from error
    if dtype.kind in "bui":  # what no whole number of this type is, no pixel holds
        limits = np.iinfo(np.uint8 if dtype.kind == "b" else dtype)
        return int(value) if limits.min <= value <= limits.max and value == int(value) else None
    if math.isnan(value) or "inf" in text.lower():
        return value
    # Written with 15 digits, the lowest number of either length is a little lower than any.
    lowest, highest = float(np.finfo(dtype).min), float(np.finfo(dtype).max)
    return float(np.array(min(max(value, lowest), highest)).astype(dtype))


def scaling_of(page: TiffPage) -> str:
    """What GDAL declares that the stored numbers are to be multiplied by, and added to; `scale` is what counts."""
    try:
        text = str(page.tags.valueof("GDAL_METADATA", default="<none/>")).strip(" \0\n")
        items = ElementTree.fromstring(text).iter("Item")
        told = [(role, float(item.text)) for item in items if (role := item.get("role")) in _NEUTRAL and item.text]
    except (ElementTree.ParseError, ValueError):
        return ""
    # Of every band there may be one of each.
    return " and ".join(dict.fromkeys(f"the {role} {value:g}" for role, value in told if value != _NEUTRAL[role]))
