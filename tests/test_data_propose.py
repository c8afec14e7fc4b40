"""`data init`: what a newcomer's folder becomes, in the layouts that people have."""

import numpy as np
import pytest
import tifffile
import yaml
from PIL import Image

from fixtures_data import make_folder
from polymodal.data import DatasetSpec, check
from polymodal.data.propose import propose
from polymodal.errors import DataError

RNG = np.random.default_rng(0)
SIZE = (12, 16)


def write(root, name: str, values: np.ndarray) -> None:
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    np.save(file, values) if file.suffix == ".npy" else Image.fromarray(values).save(file)


def colour() -> np.ndarray:
    return RNG.integers(0, 256, (*SIZE, 3)).astype(np.uint8)


def millimetres() -> np.ndarray:
    values = RNG.integers(500, 9000, SIZE).astype(np.uint16)
    values[0] = 0
    return values


def labels(*values: int) -> np.ndarray:
    return RNG.choice(values, SIZE).astype(np.uint8)


def proposed(root) -> tuple[dict, str]:
    """The description that is written, which a data set can be read by, and all guesses."""
    proposal = propose(root)
    proposal.write(root)
    spec = DatasetSpec.load(root)
    for keys in spec.splits.values():
        for part in (*spec.modalities.values(), spec.target):
            assert all(spec.file(part, key) for key in keys)
    return yaml.safe_load((root / "dataset.yaml").read_text()), "\n".join(proposal.guesses)


def test_a_folder_for_each_modality(tmp_path):
    root = make_folder(tmp_path / "data", modalities=("rgb", "depth", "normal", "bands"))
    (root / "dataset.yaml").unlink()
    for file in (root / "splits").iterdir():
        file.unlink()
    content, guesses = proposed(root)
    assert content["modalities"]["depth"] == {
        "folder": "depth",
        "kind": "depth",
        "scale": 0.001,
        "unit": "m",
        "invalid": 0,
    }
    assert {name: part["kind"] for name, part in content["modalities"].items()} == {
        "bands": "raw",
        "depth": "depth",
        "normal": "normal",
        "rgb": "image",
    }
    assert content["target"] == {"folder": "label", "kind": "label", "ignore": 255, "classes": ["class 0", "class 1"]}
    assert "in millimetres" in guesses
    assert [defect.problem for defect in check(root) if not defect.note and "NaN" not in defect.problem] == []


def test_suffixes_in_one_folder_and_masks_of_0_and_255(tmp_path):
    for n in range(5):
        write(tmp_path, f"{n:04d}_rgb.png", colour())
        write(tmp_path, f"{n:04d}_depth.png", millimetres())
        write(tmp_path, f"{n:04d}_mask.png", labels(0, 255))
    content, guesses = proposed(tmp_path)
    assert content["modalities"]["rgb"] == {"folder": ".", "suffix": "_rgb", "kind": "image"}
    assert content["target"]["map"] == {0: 0, 255: 1}
    assert "masks of 0 and 255" in guesses


def test_a_name_that_others_add_a_word_to_is_of_the_same_sample(tmp_path):
    for n in range(5):
        write(tmp_path, f"scene_{n}.png", colour())
        write(tmp_path, f"scene_{n}_depth.png", millimetres())
        write(tmp_path, f"scene_{n}_label.png", labels(0, 1))
    content, _ = proposed(tmp_path)
    assert content["modalities"]["image"] == {"folder": ".", "kind": "image"}
    assert content["modalities"]["depth"]["suffix"] == "_depth"
    assert content["target"]["suffix"] == "_label"


@pytest.mark.parametrize(("kind", "value", "dtype"), [("depth", 65535, np.uint16), ("thermal", -9999.0, np.float32)])
def test_a_number_that_seems_to_be_no_measurement_is_proposed_as_invalid(tmp_path, kind, value, dtype):
    """Else the first training is on depth in millimetres of which a tenth lies at 65 m."""
    for n in range(5):
        values = RNG.uniform(500, 9000, SIZE).astype(dtype)
        values[0] = value
        write(tmp_path, f"rgb/{n}.png", colour())
        write(tmp_path, f"{kind}/{n}.npy", values)
        write(tmp_path, f"label/{n}.png", labels(0, 1))
    content, guesses = proposed(tmp_path)
    assert content["modalities"][kind]["invalid"] == value
    assert f", {value} where nothing was measured" in guesses
    assert check(tmp_path) == []


def test_prefixes_in_one_folder_and_labels_of_colours(tmp_path):
    for n in range(5):
        write(tmp_path, f"rgb_{n:04d}.png", colour())
        write(tmp_path, f"thermal_{n:04d}.npy", RNG.normal(20, 3, SIZE).astype(np.float32))
        write(tmp_path, f"seg_{n:04d}.png", np.array([[0, 0, 0], [128, 0, 0]], np.uint8)[labels(0, 1)])
    content, _ = proposed(tmp_path)
    assert content["modalities"]["thermal"] == {"folder": ".", "prefix": "thermal_", "kind": "raw"}
    assert content["target"]["colors"] == [[0, 0, 0], [128, 0, 0]]


def test_nested_folders_with_splits_suffixes_and_sparse_ids(tmp_path):
    for n in range(6):
        key = f"{'train/a' if n < 4 else 'val/b'}/x_{n:06d}"
        write(tmp_path, f"leftImg8bit/{key}_leftImg8bit.png", colour())
        write(tmp_path, f"disparity/{key}_disparity.png", millimetres())
        write(tmp_path, f"gtFine/{key}_gtFine_labelIds.png", labels(7, 8, 11, 255))
    content, guesses = proposed(tmp_path)
    assert content["target"]["suffix"] == "_gtFine_labelIds"
    assert content["target"]["map"] == {7: 0, 8: 1, 11: 2}
    assert content["target"]["ignore"] == 255
    assert (tmp_path / "splits/val.txt").read_text().split() == [f"val/b/x_{n:06d}" for n in (4, 5)]
    assert "by the folders" in guesses


def test_without_labels_the_last_modality_is_the_target_and_is_said(tmp_path):
    for n in range(4):
        write(tmp_path, f"rgb/{n}.png", colour())
        write(tmp_path, f"shading/{n}.png", colour()[..., 0])
    content, guesses = proposed(tmp_path)
    assert content["target"] == "shading"
    assert "no folder looks like labels" in guesses


@pytest.mark.parametrize("name", ["rgb/stra\udcdfe-1", "stra\udcdfe/1"])
def test_names_in_another_encoding_are_told(tmp_path, name):
    """If this breaks, files that were unpacked with the names of an old Windows end in a traceback."""
    write(tmp_path, f"{name}.png", colour())
    write(tmp_path, f"depth/{name.rpartition('/')[2]}.png", millimetres())
    with pytest.raises(DataError, match=r"are called 'stra\\udcdfe.*'; expected a path of letters that can be seen"):
        propose(tmp_path)


def test_what_belongs_to_nothing_is_left_out_and_said(tmp_path):
    for n in range(4):
        write(tmp_path, f"rgb/{n}.png", colour())
        write(tmp_path, f"depth/{n}.png", millimetres())
        write(tmp_path, f"previews/p{n + 90}.png", colour())
    write(tmp_path, "rgb/9.png", colour())
    content, guesses = proposed(tmp_path)
    assert list(content["modalities"]) == ["depth", "rgb"]
    assert "previews: left out" in guesses
    assert "1 key(s) that not all modalities have" in guesses


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ([], "no file ends in"),
        (["rgb/0.png", "depth/1.png"], "no two folders"),
        (["train/rgb/0.png", "train/depth/0.png", "val/rgb/1.png", "val/depth/1.png"], "its folders are splits"),
        (["rgb/0.png", "rgb/1.png", "label/0.png", "label/1.png", "dataset.yaml"], "is there already"),
    ],
)
def test_what_cannot_be_described_is_refused_and_nothing_written(tmp_path, files, said):
    for file in files:
        if file.endswith(".yaml"):
            (tmp_path / file).write_text("name: mine")
        else:
            write(tmp_path, file, colour())
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError, match=said):
        propose(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_lower_resolution_is_proposed_to_be_resized_and_nan_to_be_ignored(tmp_path):
    """If this breaks, the first command after `data init` refuses what it has written."""
    for key in range(3):
        write(tmp_path, f"rgb/{key}.png", colour())
        write(tmp_path, f"thermal/{key}.png", millimetres()[::2, ::2])
        write(tmp_path, f"label/{key}.npy", np.where(np.eye(*SIZE), np.nan, labels(0, 1)))
    content, said = proposed(tmp_path)
    assert content["modalities"]["thermal"]["resize"]
    assert "resize" not in content["modalities"]["rgb"]
    assert "thermal: of another resolution than label" in said
    assert np.isnan(content["target"]["ignore"])
    assert not [defect for defect in check(tmp_path) if not defect.note]


def test_masks_in_jpeg_are_refused_and_no_classes_made_of_their_blur(tmp_path):
    for key in range(3):
        write(tmp_path, f"rgb/{key}.png", colour())
        write(tmp_path, f"mask/{key}.jpg", labels(0, 255))
    with pytest.raises(DataError, match=r"mask/0\.jpg: compressed as JPEG"):
        propose(tmp_path)


VOC = np.array([[0, 0, 0], [128, 0, 0], [0, 128, 0], *[[9, 9, n] for n in range(253)]], np.uint8)


def palette_label(root, key: int, indices: np.ndarray, table: np.ndarray, ending: str = "png") -> None:
    file = root / f"label/{key}.{ending}"
    file.parent.mkdir(exist_ok=True)
    if ending == "tif":
        tifffile.imwrite(file, indices, photometric="palette", colormap=table.T.astype(np.uint16) * 257)
    else:
        image = Image.fromarray(indices, "P")
        image.putpalette(table.tobytes())
        image.save(file)


@pytest.mark.parametrize("ending", ["png", "tif"])
@pytest.mark.parametrize("stored", [(0, 1, 2), (0, 2, 9)])
def test_a_palette_tells_numbers_and_the_colours_of_classes(tmp_path, ending, stored):
    """If this breaks, the classes of the best known sets are shown in other colours than everywhere else."""
    for key in range(4):
        write(tmp_path, f"rgb/{key}.png", colour())
        palette_label(tmp_path, key, labels(*stored, 255), VOC, ending)
    content, said = proposed(tmp_path)
    assert content["target"]["ignore"] == 255
    assert content["target"]["colors"] == VOC[list(stored)].tolist()
    assert "those of the files' palettes" in said
    assert not [defect for defect in check(tmp_path) if not defect.note]


@pytest.mark.parametrize(
    "table", [np.repeat(np.arange(256, dtype=np.uint8), 3).reshape(-1, 3), np.zeros((256, 3), np.uint8)]
)
def test_a_palette_without_colours_of_its_own_tells_none(tmp_path, table):
    for key in range(4):
        write(tmp_path, f"rgb/{key}.png", colour())
        palette_label(tmp_path, key, labels(0, 1, 2), table)
    content, _ = proposed(tmp_path)
    assert content["target"] == {"folder": "label", "kind": "label", "classes": ["class 0", "class 1", "class 2"]}


def test_of_several_labels_one_is_the_target_and_none_an_input(tmp_path):
    """If this breaks, a newcomer's first network reads the truth beside the image, and scores 100."""
    for key in range(4):
        write(tmp_path, f"rgb/{key}.png", colour())
        write(tmp_path, f"gt/{key}_gt_color.png", np.array([[0, 0, 0], [128, 0, 0]], np.uint8)[labels(0, 1)])
        write(tmp_path, f"gt/{key}_gt_instanceIds.png", labels(7, 8).astype(np.uint16) * 1000)
        write(tmp_path, f"gt/{key}_gt_labelIds.png", labels(0, 1))
    content, said = proposed(tmp_path)
    assert content["target"]["suffix"] == "_gt_labelIds"
    assert list(content["modalities"]) == ["rgb"]
    assert said.count("left out: labels, too") == 2


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.full(SIZE, 0.5), r"label/0\.npy: expected whole class numbers, got 0\.5"),
        (np.full(SIZE, np.inf), "expected whole class numbers, got inf"),
        (np.full(SIZE, -1), "no pixel is labelled: all are -1"),
        (np.zeros((*SIZE, 2), np.uint8), r"got 2 channel\(s\)"),
        (np.zeros((*SIZE, 3), np.uint16), r"got 3 channel\(s\) of uint16"),
        (np.arange(SIZE[0] * SIZE[1] * 2).reshape(SIZE[0], -1), "more than 256 different labels"),
    ],
)
def test_what_can_be_no_labels_is_refused_in_one_line(tmp_path, values, said):
    for key in range(2):
        write(tmp_path, f"rgb/{key}.png", colour())
        write(tmp_path, f"label/{key}.npy", values)
    with pytest.raises(DataError, match=said):
        propose(tmp_path)


def test_numbers_and_colours_side_by_side_are_refused(tmp_path):
    for key in range(2):
        write(tmp_path, f"rgb/{key}.png", colour())
        write(tmp_path, f"label/{key}.png", colour() // 200 if key else labels(0, 1))
    with pytest.raises(DataError, match="some files hold class numbers and others colours"):
        propose(tmp_path)


def test_an_image_in_a_palette_is_read_as_its_colours(tmp_path):
    for key in range(3):
        (tmp_path / "rgb").mkdir(exist_ok=True)
        Image.fromarray(colour()).quantize(16).save(tmp_path / f"rgb/{key}.png")
        write(tmp_path, f"label/{key}.png", labels(0, 1))
    content, said = proposed(tmp_path)
    assert content["modalities"]["rgb"]["kind"] == "image"
    assert "3 channels" in said


@pytest.mark.parametrize(
    ("high", "declared"),
    [
        (8.0, {"unit": "m", "invalid": 0}),
        (8000.0, {"scale": 0.001, "unit": "m", "invalid": 0}),
        (1.0, {"invalid": 0}),
    ],
)
def test_floating_point_depth_is_in_what_its_size_says(tmp_path, high, declared):
    """If this breaks, millimetres or shares of a range are trained on as metres, and holes as depth 0."""
    values = RNG.uniform(0.1, 1, SIZE).astype(np.float32) * high
    values[0], values[1] = 0, high
    for n in range(5):
        write(tmp_path, f"rgb/{n}.png", colour())
        write(tmp_path, f"depth/{n}.npy", values)
        write(tmp_path, f"label/{n}.png", labels(0, 1))
    content, _ = proposed(tmp_path)
    assert content["modalities"]["depth"] == {"folder": "depth", "kind": "depth", **declared}
