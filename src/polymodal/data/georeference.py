"""Where on the earth the pixels of a TIFF file lie: what GeoTIFF 1.1 says of it, compared, and kept as it is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import tifffile
from tifffile import TiffPage, TiffTag

from polymodal.data.tiff import SIGNATURES
from polymodal.errors import DataError

_SCALE, _TIES, _MATRIX = 33550, 33922, 34264
_TAGS = (_SCALE, _TIES, _MATRIX, 34735, 34736, 34737, 50844)  # with the keys of the CRS, and a camera's coefficients
_METADATA, _NODATA = 42112, 42113
_OWN = 32767  # the number of a CRS that has none
_PLACE = (b"<SRS", b"<GeoTransform", b"<GCPList", b'domain="RPC"')
"""What GDAL's file beside another one says of its place; most hold statistics alone."""

_TOLERANCE = 0.01
"""Of a pixel: programs round coordinates, and no two grids are so near each other on purpose."""


@dataclass(frozen=True)
class Georeference:
    """What a file says of its place.

    Args:
        size: Height and width of the file.
        crs: The coordinate reference system, for people; empty where the file names none.
        corners: Coordinates of the four corners, (4, 2); None where it has control points or a camera's model alone.
        tags: Number, type, count and value of each tag that says so.
    """

    size: tuple[int, int]
    crs: str
    corners: np.ndarray | None = field(compare=False)
    tags: tuple[tuple[int, int, int, Any], ...]


def georeference(file: Path) -> Georeference | None:
    """What a file says of its place; None if nothing, as of any that is no TIFF.

    Raises:
        DataError: What it says is damaged, or is said of pixels that it asks to be turned.
    """
    with file.open("rb") as stream:
        if not stream.read(4).startswith(SIGNATURES):
            return None
    try:
        with tifffile.TiffFile(file) as opened:
            page = opened.pages[0]
            assert isinstance(page, TiffPage)
            found = [page.tags[code] for code in _TAGS if code in page.tags]
            if not found:
                return None
            turned = page.tags.valueof("Orientation", default=1) in range(2, 9)
            size = page.imagelength, page.imagewidth
            keys = page.geotiff_tags or {}
            corners = _corners(page, size, keys)
            tags = tuple((tag.code, int(tag.dtype), tag.count, _stored(opened, tag)) for tag in found)
    except Exception as error:  # tifffile's errors have no common class
        raise DataError(f"{file}: its georeference cannot be read ({error}). Write it anew, or remove it.") from error
    if turned:
        raise DataError(
            f"{file}: has a georeference and an orientation by which it is turned, so that it is in doubt of which "
            "pixels its coordinates are. Save it upright."
        )
    return Georeference(size, _crs(keys), corners, tags)


def beside(file: Path) -> Path | None:
    """A world file, or GDAL's .aux.xml, in which a georeference stands that no map keeps."""
    ending = file.suffix[1:].lower()
    endings = (f"{ending[0]}{ending[-1]}w", f"{ending}w", "wld")
    worlds = [file.with_suffix(f".{each}") for own in endings for each in (own, own.upper())]
    found = next((world for world in worlds if world.is_file()), None)
    told = file.with_name(f"{file.name}.aux.xml")
    if found is None and told.is_file() and any(word in told.read_bytes() for word in _PLACE):
        found = told
    return found


def check_grids(references: Mapping[str, Georeference]) -> list[str]:
    """Refuse files of one scene that lie at different places.

    Args:
        references: By file.

    Returns:
        What is assumed, a line for people each.

    Raises:
        DataError: With two files and what differs.
    """
    assumed = []
    (first, known), *others = references.items()
    remedy = "Bring one onto the grid of the other first, such as by gdalwarp."
    for file, other in others:
        if known.crs != other.crs and known.crs and other.crs:
            raise DataError(f"{file}: expected the CRS of {first}, {known.crs}, got {other.crs}. {remedy}")
        if known.crs != other.crs:
            without, having = (first, other.crs) if not known.crs else (file, known.crs)
            assumed.append(f"{without} names no CRS, and is taken to have that of the others, {having}")
        if known.corners is None or other.corners is None:
            continue
        apart = np.abs(known.corners - other.corners).max()
        if apart > _TOLERANCE * max(_pixel(known), _pixel(other)):
            (x, y), (other_x, other_y) = known.corners[0], other.corners[0]
            raise DataError(
                f"{file}: expected the grid of {first}, which begins at {x:.10g}, {y:.10g} with pixels of "
                f"{_pixel(known):.6g}, got one that begins at {other_x:.10g}, {other_y:.10g} with pixels of "
                f"{_pixel(other):.6g}; corners are up to {apart:.6g} apart. {remedy}"
            )
    return assumed


def write_geotiff(
    file: Path,
    array: np.ndarray,
    reference: Georeference,
    *,
    nodata: float | None = None,
    colors: Sequence[Sequence[int]] = (),
    names: Sequence[str] = (),
) -> None:
    """Write a map with the place of the file that it was made of.

    Args:
        file: To write.
        array: (H, W) or (H, W, C); one in a file is read as it is needed.
        reference: Of that file.
        nodata: The value of pixels without one.
        colors: Red, green and blue of the first numbers of 8 bits.
        names: Of the first numbers, kept as the metadata CLASS_0, CLASS_1, ...
    """
    tags: list[tuple[int, int | str, int, Any, bool]] = [(*tag, True) for tag in reference.tags]
    if names:
        items = "".join(f'<Item name="CLASS_{i}">{escape(name)}</Item>' for i, name in enumerate(names))
        # XML says any letter by such as TIFF allows.
        xml = f"<GDALMetadata>{items}</GDALMetadata>".encode("ascii", "xmlcharrefreplace").decode()
        tags.append((_METADATA, "s", 0, xml, True))
    if nodata is not None:
        tags.append((_NODATA, "s", 0, f"{nodata:g}", True))
    settings: dict[str, Any] = {"photometric": "rgb" if array.ndim == 3 and array.shape[2] == 3 else "minisblack"}
    if colors and array.dtype == np.uint8:
        table = np.zeros((3, 256), np.uint16)
        table[:, : len(colors)] = np.array(colors, np.uint16).T * 257
        settings = {"photometric": "palette", "colormap": table}
    if array.ndim == 3:
        settings["planarconfig"] = "contig"
    tifffile.imwrite(
        file,
        array,
        tile=(256, 256),
        compression="adobe_deflate",
        metadata=None,
        software="polymodal",
        extratags=tags,
        **settings,
    )


def _stored(opened: tifffile.TiffFile, tag: TiffTag) -> Any:
    """The value of a tag; of text the bytes, by whose place its parts are found: not all programs write ASCII."""
    if not isinstance(tag.value, str):
        return tag.value
    opened.filehandle.seek(tag.valueoffset)
    return opened.filehandle.read(tag.valuebytecount)


def _crs(keys: Mapping[str, Any]) -> str:
    """The number of the CRS in the EPSG's list, or all that defines it."""
    code = int(keys.get("ProjectedCSTypeGeoKey") or keys.get("GeographicTypeGeoKey") or 0)
    if code and code != _OWN:
        return f"EPSG:{code}"
    said = {name: value for name, value in keys.items() if name.startswith(("Geog", "Proj", "GTModel"))}
    defining = sorted(f"{name} {value}" for name, value in said.items() if "Citation" not in name)
    return ", ".join(defining) if code else ""


def _corners(page: TiffPage, size: tuple[int, int], keys: Mapping[str, Any]) -> np.ndarray | None:
    """By the matrix, or by the size of a pixel and the one point that is tied to a coordinate."""
    matrix = page.tags.valueof(_MATRIX)
    scale, ties = page.tags.valueof(_SCALE), page.tags.valueof(_TIES)
    if matrix is not None:
        m = np.array(matrix, np.float64).reshape(4, 4)[:2]
        linear, origin = m[:, :2], m[:, 3]
    elif scale is not None and ties is not None and len(ties) == 6:
        linear = np.diag([scale[0], -scale[1]])
        origin = np.array(ties[3:5], np.float64) - linear @ np.array(ties[:2], np.float64)
    else:
        return None
    point = 0.5 if int(keys.get("GTRasterTypeGeoKey", 1)) == 2 else 0.0  # coordinates of pixels' centres
    height, width = size
    pixels = np.array([(0, 0), (width, 0), (0, height), (width, height)], np.float64) - point
    return pixels @ linear.T + origin


def _pixel(reference: Georeference) -> float:
    """The width of a pixel, in the units of the CRS."""
    assert reference.corners is not None
    return float(np.linalg.norm(reference.corners[1] - reference.corners[0])) / reference.size[1]
