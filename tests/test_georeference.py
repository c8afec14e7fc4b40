"""If these break, maps lose their place on the earth, or files of different places are predicted together."""

from dataclasses import replace

import numpy as np
import pytest
import rasterio
import tifffile
from PIL import Image

from polymodal import Predictor
from polymodal.cli import main
from polymodal.data import TargetSpec, palette
from polymodal.data.content import FileSpec
from polymodal.data.georeference import beside, check_grids, georeference
from polymodal.data.large_tiff import large_tiff
from polymodal.data.reading import read_content
from polymodal.errors import DataError
from polymodal.runs.predict import predict
from polymodal.tasks.outputs import Images, Labels
from polymodal.tasks.windows import Windows
from predict_tools import HEIGHT, WIDTH

GRID = rasterio.Affine(10.0, 0.0, 500_000.0, 0.0, -10.0, 5_200_000.0)
TURNED = GRID * rasterio.Affine.rotation(30)


def write(file, array, **profile):
    file.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = array.shape
    profile = {"crs": "EPSG:32632", "transform": GRID, **profile}
    settings = {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": array.dtype, **profile}
    with rasterio.open(file, "w", **settings) as opened:
        opened.write(array)
    return file


def scene(folder, rgb=None, depth=None, size=(HEIGHT, WIDTH)):
    numbers = np.random.default_rng(0)
    colours, metres = numbers.integers(1, 256, (3, *size), np.uint8), numbers.integers(1, 4000, (1, *size))
    colours[:, :4, :4], metres[:, :4, :5] = 0, 0
    return {
        "rgb": write(folder / "rgb" / "a.tif", colours, **{"nodata": 0, "photometric": "rgb", **(rgb or {})}),
        "depth": write(folder / "depth" / "a.tif", metres.astype(np.uint16), **(depth or {})),
    }


@pytest.mark.parametrize("windows", [None, Windows((16, 16))])
@pytest.mark.parametrize("grid", [GRID, TURNED])
def test_maps_keep_the_place_of_the_pictures(grid, windows, model, tmp_path):
    """As another program reads it: CRS, transform, where there is nothing, colours and classes."""
    files = scene(tmp_path, {"transform": grid, "tiled": True, "blockxsize": 16, "blockysize": 16}, {"transform": grid})
    written = predict(model, files, tmp_path / "out", certainty=True, windows=windows)
    assert sorted({file.suffix for file in written if "overlay" not in file.name}) == [".tif"]
    with rasterio.open(tmp_path / "out" / "a_ensemble.tif") as opened:
        assert opened.crs == "EPSG:32632"
        assert opened.transform.almost_equals(grid)
        assert (opened.shape, opened.count, opened.nodata) == ((HEIGHT, WIDTH), 1, 255)
        labels = opened.read(1)
        assert opened.colormap(1)[1][:3] == (128, 0, 0)
        assert opened.tags()["CLASS_2"] == "class 2"
    with rasterio.open(tmp_path / "out" / "a_ensemble_confidence.tif") as opened:
        assert opened.crs == "EPSG:32632"
        confidence = opened.read(1)
    nothing = np.zeros((HEIGHT, WIDTH), bool)
    nothing[:4, :4] = True
    assert np.array_equal(labels == 255, nothing)
    assert np.array_equal(np.isnan(confidence), nothing)
    assert (confidence[~nothing] > 1 / 3 - 1e-3).all()


def test_a_map_is_the_one_of_the_same_picture_without_a_place(model, tmp_path):
    files = scene(tmp_path, {"nodata": None})
    predict(model, files, tmp_path / "placed")
    plain = {name: tmp_path / "plain" / name / "a.png" for name in files}
    for name, file in plain.items():
        file.parent.mkdir(parents=True)
        with rasterio.open(files[name]) as opened:
            array = opened.read()
        Image.fromarray(array[0] if len(array) == 1 else array.transpose(1, 2, 0)).save(file)
    predict(model, plain, tmp_path / "out")
    with rasterio.open(tmp_path / "placed" / "a_rgb.tif") as opened:
        assert np.array_equal(opened.read(1), np.array(Image.open(tmp_path / "out" / "a_rgb.png")))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"crs": "EPSG:32633"}, r"a\.tif: expected the CRS of .*EPSG:32633, got EPSG:32632"),
        ({"transform": GRID * rasterio.Affine.translation(0.5, 0)}, r"a\.tif: expected the grid of .*begins at 500005"),
        ({"transform": GRID * rasterio.Affine.scale(2)}, r"pixels of 20, got .*pixels of 10"),
        ({"transform": TURNED}, "expected the grid of"),
    ],
)
def test_pictures_of_different_places_are_refused_before_anything_is_written(other, message, model, tmp_path):
    with pytest.raises(DataError, match=message):
        predict(model, scene(tmp_path, None, other), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_assumed_of_a_place_or_lost_is_said(model, tmp_path, capsys):
    predict(model, scene(tmp_path / "a", {"crs": None}), tmp_path / "a" / "out")
    assert "rgb/a.tif names no CRS, and is taken to have that of the others, EPSG:32632" in capsys.readouterr().err
    with rasterio.open(tmp_path / "a" / "out" / "a_rgb.tif") as opened:
        assert opened.crs == "EPSG:32632"
    bare = {"crs": None, "transform": None}
    files = scene(tmp_path / "b", bare, bare)
    (tmp_path / "b" / "rgb" / "a.tfw").write_text("10\n0\n0\n-10\n500005\n5199995\n")
    predict(model, files, tmp_path / "b" / "out")
    assert "a.tfw: no map keeps this georeference" in capsys.readouterr().err
    assert (tmp_path / "b" / "out" / "a_rgb.png").is_file()
    write(tmp_path / "c" / "a.png", np.ones((1, 4, 4), np.uint8), driver="PNG")  # GDAL puts the place beside it
    assert beside(tmp_path / "c" / "a.png") == tmp_path / "c" / "a.png.aux.xml"
    (tmp_path / "c" / "a.png.aux.xml").write_text("<PAMDataset><PAMRasterBand/></PAMDataset>")
    assert beside(tmp_path / "c" / "a.png") is None
    (tmp_path / "c" / "a.PGW").touch()
    assert beside(tmp_path / "c" / "a.png") == tmp_path / "c" / "a.PGW"


def test_control_points_and_points_at_the_centres_of_pixels_are_kept_as_they_are(model, tmp_path):
    points = [rasterio.control.GroundControlPoint(r, c, 10 * c + r, 5 * r) for r, c in ((0, 0), (0, 9), (9, 0), (9, 9))]
    of_points = {"gcps": points, "transform": rasterio.Affine.identity()}
    predict(model, scene(tmp_path / "a", of_points, of_points), tmp_path / "a" / "out")
    with rasterio.open(tmp_path / "a" / "out" / "a_rgb.tif") as opened:
        assert [(one.row, one.col, one.x, one.y) for one in opened.gcps[0]] == [
            (p.row, p.col, p.x, p.y) for p in points
        ]
    files = scene(tmp_path / "b")
    with rasterio.open(files["rgb"], "r+") as opened:
        opened.update_tags(AREA_OR_POINT="Point")
    assert check_grids({name: georeference(file) for name, file in files.items()}) == []


def test_names_of_a_crs_in_any_letters_are_kept(model, tmp_path):
    """As of French ones; the parts of such a text are found by their place in its bytes."""
    own = rasterio.CRS.from_epsg(2154).to_wkt().replace("Lambert-93", "Projeté à l'été").replace('"2154"', '"0"')
    files = scene(tmp_path, {"crs": own}, {"crs": own})
    predict(model, files, tmp_path / "out")
    with rasterio.open(files["rgb"]) as opened, rasterio.open(tmp_path / "out" / "a_rgb.tif") as written:
        assert "été" in opened.crs.to_wkt()
        assert written.crs.to_wkt() == opened.crs.to_wkt()


@pytest.mark.parametrize(("invalid", "nodata"), [(0.0, 0.0), (-9999.0, None), (float("nan"), None), (0.5, None)])
def test_an_image_says_no_data_by_what_its_file_can_hold(invalid, nodata):
    depth = Images(TargetSpec("depth", "depth", scale=0.001, invalid=invalid, range=(0.0, 4.0), channels=1))
    assert depth.nodata("", np.zeros((2, 2), np.uint16)) == nodata


@pytest.mark.parametrize(("ignore", "nodata"), [(200, 200), (-100, 255), (0, 255), (300, 255)])
def test_labels_say_no_data_by_a_number_of_no_class(ignore, nodata):
    names = ("unlabelled", "road")
    labels = Labels(TargetSpec("label", "label", ignore, palette(2), classes=names))
    assert labels.nodata("", np.zeros((2, 2), np.uint8)) == nodata


def test_a_georeference_of_turned_pixels_is_refused(tmp_path):
    file = scene(tmp_path)["depth"]
    with tifffile.TiffFile(file) as opened:
        tags = [
            (tag.code, int(tag.dtype), tag.count, tag.value, True) for tag in opened.pages[0].tags if tag.code > 33000
        ]
    tifffile.imwrite(file, np.ones((4, 6), np.uint16), extratags=[*tags, (274, 3, 1, 6, True)])
    with pytest.raises(DataError, match="in doubt of which pixels"):
        georeference(file)


def test_a_crs_of_its_own_is_told_from_another(tmp_path):
    def placed(latitude):
        crs = rasterio.CRS.from_proj4(f"+proj=laea +lat_0={latitude} +lon_0=10 +ellps=GRS80 +units=m +no_defs")
        return georeference(write(tmp_path / f"{latitude}.tif", np.ones((1, 4, 4), np.uint8), crs=crs))

    one, other = placed(50), placed(52)
    with pytest.raises(DataError, match="expected the CRS"):
        check_grids({"a": one, "b": other})
    assert check_grids({"a": one, "b": replace(one)}) == []


@pytest.mark.parametrize(
    "profile",
    [
        {"tiled": True, "blockxsize": 16, "blockysize": 32, "interleave": "band"},
        {"tiled": True, "blockxsize": 32, "blockysize": 16, "compress": "deflate", "predictor": 2},
        {"blockysize": 7, "compress": "lzw"},
        {"blockysize": 5, "interleave": "band", "endianness": "BIG"},
        {"tiled": True, "blockxsize": 16, "blockysize": 16, "sparse_ok": True, "nodata": 7},
    ],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_rows_of_a_large_file_are_those_of_the_whole_one(profile, dtype, tmp_path):
    """If this breaks, windows over a GeoTIFF show other pixels than the picture has."""
    array = np.random.default_rng(0).integers(1, 200, (3, 45, 53)).astype(dtype)
    array[:, :16, 16:32] = 7 if "nodata" in profile else array[:, :16, 16:32]
    file = write(tmp_path / "a.tif", array, **profile)
    raw = FileSpec("raw")
    large, whole = large_tiff(file, raw), read_content(file, raw)
    assert large.nodata == whole.nodata
    assert (large.array.shape, large.array.dtype, large.array.size) == (array.shape, array.dtype, array.size)
    for rows in (slice(0, 45), slice(11, 30), slice(44, 45), slice(40, 60)):
        assert np.array_equal(large.array[:, rows, 5:50], whole.array[:, rows, 5:50])
    for step in (2, 7, 40):
        assert np.array_equal(large.array[:, ::step, ::step], array[:, ::step, ::step])


@pytest.mark.parametrize(
    ("profile", "count"),
    [({"photometric": "rgb", "compress": "jpeg"}, 3), ({"alpha": "yes"}, 4), ({"nbits": 4}, 1), ({}, 0)],
)
def test_what_only_the_whole_file_tells_is_left_to_the_reader_of_wholes(profile, count, tmp_path):
    file = tmp_path / "a.tif"
    if count:
        write(file, np.ones((count, 32, 32), np.uint8), **profile)
    else:
        tifffile.imwrite(file, np.ones((8, 8), np.uint8), photometric="palette", colormap=np.zeros((3, 256), np.uint16))
    assert large_tiff(file, FileSpec("image")) is None


def test_a_file_beyond_what_is_read_at_once_is_predicted_in_windows(model, tmp_path, monkeypatch):
    files = scene(tmp_path, {"blockysize": 4}, {"blockysize": 4})
    monkeypatch.setattr("polymodal.data.content.MAX_PIXELS", HEIGHT * WIDTH - 1)
    with pytest.raises(DataError, match="Cut it into parts"):
        predict(model, files, tmp_path / "whole")
    predict(model, files, tmp_path / "out", windows=Windows((16, 16)))
    with rasterio.open(tmp_path / "out" / "a_ensemble.tif") as opened:
        labels, valid = opened.read(1), opened.read_masks(1) > 0
    found = Predictor(model, window=(16, 16)).read(**files)
    assert np.array_equal(found["labels"][valid], labels[valid])
    whole = Predictor(model, window=(HEIGHT, WIDTH)).read(**files)
    monkeypatch.undo()
    assert np.array_equal(whole["labels"], Predictor(model).read(**files)["labels"])
    files["rgb"].write_bytes(files["rgb"].read_bytes()[:-200])
    with pytest.raises(DataError, match=r"rgb/a\.tif: cannot be read"):
        predict(model, files, tmp_path / "cut", windows=Windows((16, 16)))
    assert not (tmp_path / "cut").exists()


def test_the_command_says_what_it_wrote(model, tmp_path, capsys):
    files = scene(tmp_path)
    words = ["predict", "--model", model, "--input", *(f"{m}={f}" for m, f in files.items()), "--out", tmp_path / "out"]
    assert main([str(word) for word in [*words, "--window", "16,16"]]) == 0
    assert "6 pictures" in capsys.readouterr().out
