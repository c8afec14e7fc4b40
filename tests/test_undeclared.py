"""Values that nobody declared: a -9999 that counts as measured is most of the mean, and all else becomes one grey."""

import subprocess
import sys

import numpy as np
import pytest
import tifffile
from PIL import Image

from fixtures_data import edit, make_folder
from polymodal.cli import main
from polymodal.data import DatasetSpec, FolderDataset, InputSpec, check
from polymodal.data.content import FileSpec
from polymodal.data.inputs import settled
from polymodal.data.ranges import Range
from polymodal.data.reading import read_content
from polymodal.data.statistics import compute, input_specs
from polymodal.data.undeclared import undeclared
from polymodal.errors import DataError
from polymodal.runs.predict import Scene, warn_of_values
from predict_tools import save, write_scene

DEPTH = np.linspace(500, 9000, 24 * 32).reshape(24, 32)
SCALED = '<GDALMetadata><Item name="SCALE" sample="0" role="scale">0.01</Item></GDALMetadata>'


def holed(value, dtype):
    array = DEPTH.astype(dtype)
    array[:3, :5] = value
    return array


@pytest.fixture
def root(tmp_path):
    root = make_folder(tmp_path / "data", modalities=("rgb", "depth"))
    edit(root, lambda d: d["modalities"]["depth"].pop("invalid"))
    return root


def fill(root, array):
    for file in (root / "depth").iterdir():
        file.unlink()
        tifffile.imwrite(file.with_suffix(".tif"), array)


@pytest.mark.parametrize(
    ("value", "dtype", "shown"),
    [
        (-3.4028234663852886e38, np.float32, "-3.4028235e+38"),
        (1e10, np.float32, "1.0e+10"),
        (-9999, np.float32, "-9999.0"),
        (-32768, np.int16, "-32768"),
        (65535, np.uint16, "65535"),
        (0, np.uint16, "0"),
    ],
)
def test_it_is_named_by_check_and_by_training_and_statistics_and_the_remedy_works(root, value, dtype, shown):
    fill(root, holed(value, dtype))
    found = check(root)
    assert all(f"Declare `invalid: {shown}`" in defect.problem for defect in found)
    # 0 may be the nearest of relative depths, and the largest number all that is beyond it.
    assert [defect.note for defect in found] == ([True] if value in (0, 65535) else 9 * [False])
    for read in (lambda: input_specs(DatasetSpec.load(root), ["depth"]), lambda: compute(root)):
        with pytest.warns(UserWarning, match=r"/depth: .* counts as measured") as warned:
            read()
        assert len({str(one.message) for one in warned}) == 1
    text = (root / "dataset.yaml").read_text()
    (root / "dataset.yaml").write_text(text.replace("kind: depth", f"kind: depth\n    invalid: {shown}"))
    assert check(root) == []
    assert compute(root)["depth"].mean[0] == pytest.approx(DEPTH.mean() * 0.001, rel=0.1)


def test_the_command_line_says_it_once_and_without_a_place_in_the_source(root):
    fill(root, holed(65535, np.uint16))
    done = subprocess.run([sys.executable, "-m", "polymodal", "data", "stats", root], capture_output=True, text=True)
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"polymodal: warning: {root}/depth: 65535 lies far from all other values")


@pytest.mark.filterwarnings("default")
def test_it_is_named_in_a_target(root):
    edit(root, lambda d: d["modalities"]["depth"].update(range=[0, 10]))
    fill(root, holed(0, np.uint16))
    with pytest.warns(UserWarning, match="/depth: 0 is no distance"):
        FolderDataset(root, "train", ["rgb"], target="depth")


EDGES = np.where(DEPTH > 8000, 255, 0)
CASES = [
    ("raw", EDGES.astype(np.uint8)),  # a mask, or edges
    ("raw", np.where(DEPTH > 8000, DEPTH, 0).astype(np.float32)),  # objects above a ground at 0
    ("raw", DEPTH.clip(max=8000).astype(np.float32)),  # saturated
    ("depth", DEPTH.clip(max=8000).astype(np.uint16)),  # cut off at the sensor's reach
    ("image", (EDGES / 255 * 0.9).astype(np.float32)),  # lights in the dark
    ("raw", np.full((24, 32), 7.0, np.float32)),
    ("depth", np.full((24, 32), np.nan, np.float32)),
]


@pytest.mark.parametrize(("kind", "array"), CASES)
def test_what_may_be_measured_is_left_alone(kind, array):
    assert undeclared(array[None], InputSpec(kind, 1)) is None


def test_a_thermal_image_with_dead_pixels_is_told(root):
    assert undeclared(holed(65535, np.uint16)[None], InputSpec("raw", 1)).value == "65535"
    assert undeclared(holed(65535, np.uint16)[None], InputSpec("raw", 1, invalid=65535)) is None


def test_predict_names_it_unless_the_model_was_trained_with_it(tmp_path, capsys):
    scene = Scene("a", {"depth": tmp_path / "a.png"})

    def said(array, **settings):
        warn_of_values({"depth": array[None]}, scene, {"depth": InputSpec("depth", 1, **settings)})
        return capsys.readouterr().err

    seen = Range((0.5,), (9.0,))
    assert "65535 lies far" in said(holed(65535, np.uint16), scale=0.001, seen=seen, invalid=0.0)
    assert "store 0." in said(holed(65535, np.uint16), scale=0.001, seen=seen, invalid=0.0)
    assert "no-data value" in said(holed(65535, np.uint16), scale=0.001, seen=seen)
    assert "store NaN." in said(holed(-9999, np.float32), scale=0.001, seen=seen)
    assert said(holed(-9999, np.float32), scale=0.001, seen=Range((-9.999,), (9.0,))) == ""
    assert said(holed(0, np.uint16), scale=0.001, seen=seen, invalid=0.0) == ""


def test_pictures_of_0_to_255_among_those_of_0_to_1_are_refused(root):
    """A training took them 255 times as bright as all others."""
    (file,) = (root / "rgb").glob("0001.*")
    array = np.array(Image.open(file)).astype(np.float32)
    file.unlink()
    tifffile.imwrite(file.with_suffix(".tif"), array, photometric="rgb")
    with pytest.raises(DataError, match=r"rgb/0001.tif: most of its values lie beyond 0 to 1.* kind raw"):
        FolderDataset(root, "train")[1]
    tifffile.imwrite(file.with_suffix(".tif"), array / 255, photometric="rgb")
    assert FolderDataset(root, "train")[1]["inputs"]["rgb"].abs().max() < 3


@pytest.mark.parametrize("windows", [[], ["--window", "24,32"]])
def test_numbers_that_a_file_declares_to_be_scaled_are_told_of(tmp_path, capsys, windows):
    """The same scene in millimetres and as steps of a scale gave two maps, without a word."""
    save(tmp_path / "model")
    files = write_scene(tmp_path, "a")
    depth = np.array(Image.open(files["depth"]))
    tifffile.imwrite(tmp_path / "a.tif", depth, extratags=[(42112, "s", 0, SCALED, True)])
    inputs = [f"rgb={files['rgb']}", f"depth={tmp_path / 'a.tif'}"]
    words = ["predict", "--model", str(tmp_path / "model"), "--input", *inputs, *windows, "--out"]
    main([*words, str(tmp_path / "one")])
    assert "a.tif: declares the scale 0.01 of its numbers" in capsys.readouterr().err
    main([*words, str(tmp_path / "two"), "--scale", "depth=0.01"])
    assert "declares" not in capsys.readouterr().err


def test_a_model_knows_which_scale_its_files_declared(root, tmp_path):
    fill(root, DEPTH.astype(np.uint16))
    assert input_specs(DatasetSpec.load(root), ["depth"])["depth"].as_dict()["scaling"] == ""
    for file in (root / "depth").iterdir():
        tifffile.imwrite(file, DEPTH.astype(np.uint16), extratags=[(42112, "s", 0, SCALED, True)])
    known = input_specs(DatasetSpec.load(root), ["depth"])["depth"].as_dict()
    assert InputSpec.from_dict(known).scaling == "the scale 0.01"


def test_a_model_that_does_not_say_what_its_files_declared_is_not_held_to_have_seen_none():
    """If this breaks, every model from before is told to doubt the very files that it was trained with."""
    known = InputSpec("depth", 1).as_dict()
    del known["scaling"]
    assert InputSpec.from_dict(known).scaling is None
    assert InputSpec.from_dict(InputSpec.from_dict(known).as_dict()).scaling is None


HOT = np.where(DEPTH > 8990, 16383, 2900 + DEPTH % 40)
MEASURED = [
    ("raw", HOT.astype(np.uint16)),  # a fire in a thermal image of 14 bits
    ("raw", np.where(DEPTH > 8000, DEPTH / 100, -30).astype(np.float32)),  # the floor of a radar
    ("depth", np.where(DEPTH > 8900, 80, DEPTH / 1000).astype(np.float32)),  # the sky, at the end of the range
    ("raw", (DEPTH > 8000).astype(np.int32) * 7 + (DEPTH > 4000)),  # counts
]


@pytest.mark.parametrize(("kind", "array"), MEASURED)
def test_what_lies_apart_but_is_no_number_for_nothing_is_left_alone(kind, array):
    """If this breaks, whoever follows the advice loses what was measured."""
    assert undeclared(array[None], InputSpec(kind, 1)) is None


def test_the_remedy_fits_what_is_declared_and_one_channel_of_several():
    """If this breaks, whoever follows the advice is given it again, or loses the value that was declared before."""
    holes = holed(-9999, np.float32)
    assert undeclared(holes[None], InputSpec("raw", 1)).how == "Declare `invalid: -9999.0`"
    assert undeclared(holes[None], InputSpec("raw", 1, invalid=0)).how == "Store 0 in all channels instead"
    one = np.stack([holes, DEPTH.astype(np.float32)])
    assert undeclared(one, InputSpec("raw", 2)).how == "Store NaN in all channels instead"
    assert undeclared(one, InputSpec("raw", 2, invalid=-9999)).how == "Store -9999 in all channels instead"


def test_a_model_of_pictures_beyond_full_scale_goes_on_predicting_them(tmp_path):
    """If this breaks, a model that was trained with floating-point pictures of 0 to 255 can never be used again."""
    file = tmp_path / "a.tif"
    tifffile.imwrite(file, (DEPTH / 40).astype(np.float32))
    content = read_content(file, FileSpec("image"))
    assert settled(content, InputSpec("image", 1, mean=(120.0,), std=(60.0,)), "a.tif")[0].max() > 200
    with pytest.raises(DataError, match="beyond 0 to 1"):
        settled(content, InputSpec("image", 1, mean=(0.4,), std=(0.2,)), "a.tif")
