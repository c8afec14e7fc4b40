"""`data prepare` on tiny copies of the official downloads: what arrives in the folder, resuming, and bad input."""

import json
import shutil
import sys

import h5py
import numpy as np
import pytest
import scipy.io
from hypothesis import given
from hypothesis import strategies as st

from fixtures_data import target_of
from fixtures_prepare import (
    SIZE,
    make_cen,
    make_cityscapes,
    make_nyudv2,
    make_sunrgbd,
    png,
    write_cen_lists,
    write_sunrgbd_split,
)
from polymodal.cli import main
from polymodal.data import DatasetSpec, FolderDataset, InputSpec, check, read_array
from polymodal.data.prepare import PREPARATIONS, nyu_classes, prepare, writing
from polymodal.data.prepare.cityscapes import centimetres
from polymodal.data.prepare.sunrgbd import rotated_back
from polymodal.errors import ConfigError, DataError

# The classes of the kinds in the fixture, written down by hand from the published tables.
FORTY = {0: 255, 21: 0, 5: 4, 3: 2, 25: 37, 12: 38, 1: 39, 894: 39}
THIRTY_SEVEN = FORTY | {25: 255, 12: 255, 1: 255, 894: 255}
THIRTEEN = {0: 255, 21: 11, 5: 3, 3: 5, 25: 6, 12: 5, 1: 6, 894: 6}


def refused(capsys, *words):
    """The message of a command that must end with status 2 and leave no data set."""
    assert main([str(word) for word in words]) == 2
    message = capsys.readouterr().err
    assert "Traceback" not in message
    return message


def files(root):
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    root = tmp_path_factory.mktemp("nyudv2")
    return root, make_nyudv2(root)


@pytest.fixture
def truth(template, tmp_path):
    """A download of NYUDv2 in tmp_path / "source", and what it holds."""
    shutil.copytree(template[0], tmp_path / "source")
    return template[1]


# -- NYUDv2 ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("depth", "member"), [("filled", "depths"), ("raw", "rawDepths")])
def test_nyudv2_comes_back_from_the_folder_as_it_was_in_the_mat(truth, depth, member, tmp_path):
    prepare("nyudv2", tmp_path / "source", tmp_path / "out", depth=depth)
    plain = {"rgb": InputSpec("image", 3), "depth": InputSpec("depth", 1, scale=0.001, unit="m", invalid=0)}
    for split, numbers in {"train": [1, 4], "test": [2, 3, 5]}.items():
        dataset = FolderDataset(tmp_path / "out", split, inputs=plain)
        assert [int(sample["key"]) for sample in dataset] == numbers
        for sample, number in zip(dataset, numbers, strict=True):
            image, metres, labels = (truth[name][number - 1] for name in ("images", member, "labels"))
            assert (sample["inputs"]["rgb"].permute(1, 2, 0).mul(255).round().numpy() == image).all()
            np.testing.assert_allclose(sample["inputs"]["depth"][0].numpy(), metres, atol=0.00051)
            assert (sample["valid"]["depth"][0].numpy() == (metres > 0)).all()
            assert (target_of(sample).numpy() == np.vectorize(FORTY.get)(labels)).all()
    assert dataset.spec.target.classes[:3] == ("wall", "floor", "cabinet")
    assert [defect for defect in check(tmp_path / "out") if not defect.note] == []


@pytest.mark.parametrize(("classes", "expected"), [(40, FORTY), (37, THIRTY_SEVEN), (13, THIRTEEN)])
def test_nyudv2_has_40_37_or_13_classes(truth, classes, expected, tmp_path):
    prepare("nyudv2", tmp_path / "source" / "nyu_depth_v2_labeled.mat", tmp_path / "out", classes=classes)
    label = read_array(tmp_path / "out/label/000004.png", labels=True)[0]
    assert (label == np.vectorize(expected.get)(truth["labels"][3])).all()
    names = DatasetSpec.load(tmp_path / "out").target.classes
    assert len(names) == classes
    assert names[expected[21]] == "wall"
    assert names[expected[5]] == "chair"


def test_the_tables_of_nyudv2_have_the_published_counts():
    split = nyu_classes.official_split()
    assert (len(split["train"]), len(split["test"])) == (795, 654)
    assert split["train"][:3] + split["test"][:3] == [3, 4, 5, 1, 2, 9]
    assert set(split["train"]) | set(split["test"]) == set(range(1, 1450))
    forty = nyu_classes.table_of(40, 255)
    assert np.bincount(forty, minlength=256)[[*range(40), 255]].tolist() == [1] * 37 + [68, 82, 707, 1]


@pytest.mark.usefixtures("truth")
def test_without_splits_mat_the_official_split_asks_for_all_images(tmp_path, capsys):
    (tmp_path / "source/splits.mat").unlink()
    message = refused(capsys, "data", "prepare", "nyudv2", tmp_path / "source", tmp_path / "out")
    assert "the official split lists 1444 image(s)" in message
    assert "it holds 5" in message


def _cut_off(root):
    file = root / "nyu_depth_v2_labeled.mat"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _without_labels(root):
    with h5py.File(root / "nyu_depth_v2_labeled.mat", "a") as mat:
        del mat["labels"]


def _label_895(root):
    with h5py.File(root / "nyu_depth_v2_labeled.mat", "a") as mat:
        mat["labels"][3, 0, 0] = 895


def _other_order(root):
    with h5py.File(root / "nyu_depth_v2_labeled.mat", "a") as mat:
        references = mat["names"][()]
        mat["names"][0] = references[0][::-1]


def _other_split(root):
    scipy.io.savemat(root / "splits.mat", {"trainNdxs": [[1], [99]], "testNdxs": [[2]]})


def _split_without_test(root):
    scipy.io.savemat(root / "splits.mat", {"trainNdxs": [[1]]})


def _damaged_split(root):
    (root / "splits.mat").write_bytes(b"MATLAB 5.0 MAT-file" + bytes(20))


@pytest.mark.parametrize(
    ("damage", "parts"),
    [
        (_cut_off, ["nyu_depth_v2_labeled.mat: cannot be read", "download it again"]),
        (_without_labels, ["nyu_depth_v2_labeled.mat: the member 'labels' is missing", "official file"]),
        (_label_895, ["nyu_depth_v2_labeled.mat: labels of image 4", "from 0 to 894", "got 895"]),
        (_other_order, ["names: expected the official order", "kind 21 is 'wall', got 'thing 874'"]),
        (_other_split, ["splits.mat lists 1 image(s)", "the first is 99"]),
        (_split_without_test, ["splits.mat: the member 'testNdxs' is missing"]),
        (_damaged_split, ["splits.mat: cannot be read"]),
        (shutil.rmtree, ["there is no such file or folder"]),
    ],
)
@pytest.mark.usefixtures("truth")
def test_nyudv2_names_what_is_wrong_with_the_download(damage, parts, tmp_path, capsys):
    damage(tmp_path / "source")
    message = refused(capsys, "data", "prepare", "nyudv2", tmp_path / "source", tmp_path / "out")
    for part in parts:
        assert part in message
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("truth")
def test_a_library_that_is_missing_is_named_with_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ConfigError, match=r"needs h5py: pip install polymodal\[prepare\]"):
        prepare("nyudv2", tmp_path / "source", tmp_path / "out")


# -- resuming ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("truth")
def test_an_interrupted_preparation_is_no_data_set_and_is_finished_by_the_same_command(tmp_path, monkeypatch, capsys):
    prepare("nyudv2", tmp_path / "source", tmp_path / "whole")
    words = ["data", "prepare", "nyudv2", str(tmp_path / "source"), str(tmp_path / "out")]
    write_scene, written = writing._write_scene, []

    def write(scene, key, root):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(key)
        write_scene(scene, key, root)

    monkeypatch.setattr(writing, "_write_scene", write)
    assert main(words) == 130
    assert not (tmp_path / "out").exists()
    with pytest.raises(DataError, match=r"dataset\.yaml: missing"):
        FolderDataset(tmp_path / "out.partial", "train")
    assert "begun with other settings" in refused(capsys, *words, "--classes", "13")

    monkeypatch.setattr(
        writing, "_write_scene", lambda scene, key, root: (written.append(key), write_scene(scene, key, root))
    )
    assert main(words) == 0
    assert written == ["000001", "000004", "000002", "000003", "000005"]  # none of them twice
    assert files(tmp_path / "out") == files(tmp_path / "whole")
    assert not (tmp_path / "out.partial").exists()


@pytest.mark.usefixtures("truth")
def test_a_scene_that_was_only_begun_is_written_again(tmp_path, monkeypatch):
    prepare("nyudv2", tmp_path / "source", tmp_path / "whole")
    monkeypatch.setattr(writing, "_verify", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        prepare("nyudv2", tmp_path / "source", tmp_path / "out")
    monkeypatch.undo()
    (tmp_path / "out.partial/label/000003.png").unlink()
    (tmp_path / "out.partial/depth/000003.png").write_bytes(b"half")
    prepare("nyudv2", tmp_path / "source", tmp_path / "out")
    assert files(tmp_path / "out") == files(tmp_path / "whole")


@pytest.mark.usefixtures("truth")
def test_nothing_that_is_there_is_overwritten(tmp_path, capsys):
    words = ["data", "prepare", "nyudv2", tmp_path / "source", tmp_path / "out"]
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "thesis.txt").touch()
    assert "in the way" in refused(capsys, *words)
    (tmp_path / "out.partial" / "thesis.txt").unlink()  # an empty folder is what a killed command leaves
    (tmp_path / "out").mkdir()
    assert main([str(word) for word in words]) == 0
    before = files(tmp_path / "out")
    assert "is not empty" in refused(capsys, *words)
    assert files(tmp_path / "out") == before


@pytest.mark.usefixtures("truth")
def test_the_end_is_verified_and_said(tmp_path, capsys):
    assert main(["data", "prepare", "nyudv2", str(tmp_path / "source"), str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert "train 2 (795 released), test 3 (654 released)" in shown
    assert "sizes: 8x6 (5)" in shown
    assert "data check: 0 defects" in shown
    record = json.loads((tmp_path / "out/prepared.json").read_text())
    labels = np.stack([read_array(file, labels=True) for file in (tmp_path / "out/label").iterdir()])
    assert record["shares"]["wall"] == pytest.approx((labels == 0).sum() / (labels != 255).sum())
    assert record["unlabelled"] == pytest.approx((labels == 255).mean())
    assert record["settings"] == {"name": "nyudv2", "classes": 40, "depth": "filled"}


@pytest.mark.usefixtures("truth")
def test_a_defect_of_the_release_itself_is_reported_by_the_status(tmp_path, capsys):
    with h5py.File(tmp_path / "source/nyu_depth_v2_labeled.mat", "a") as mat:
        mat["labels"][1] = 0
    assert main(["data", "prepare", "nyudv2", str(tmp_path / "source"), str(tmp_path / "out")]) == 1
    assert "label/000002.png: every pixel is labelled as ignored" in capsys.readouterr().out


# -- SUN RGB-D ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("depth", "divisor"), [("filled", 1), ("raw", 2)])
def test_sunrgbd_has_metres_its_own_labels_and_the_split_of_the_toolbox(depth, divisor, tmp_path):
    truth = make_sunrgbd(tmp_path / "source")
    prepare("sunrgbd", tmp_path / "source", tmp_path / "out", depth=depth)
    spec = DatasetSpec.load(tmp_path / "out")
    assert spec.splits == {"train": ("000003", "000002"), "test": ("000001",)}
    for number in range(3):
        stored = read_array(tmp_path / f"out/depth/{number + 1:06d}.png")[0]
        assert (stored == truth[f"depth{number}"] // divisor).all()
        label = read_array(tmp_path / f"out/label/{number + 1:06d}.png", labels=True)[0]
        assert (label == np.where(truth[f"label{number}"] == 0, 255, truth[f"label{number}"] - 1)).all()
    original = tmp_path / "source/SUNRGBD/xtion/sun3ddata/c/image/i2.jpg"
    assert (tmp_path / "out/rgb/000003.jpg").read_bytes() == original.read_bytes()


@given(st.lists(st.integers(0, 65535), min_size=1, max_size=20))
def test_the_bits_of_sunrgbd_are_rotated_right_by_three(values):
    stored = [(v * 8) % 65536 + (v * 8) // 65536 for v in values]
    assert rotated_back(np.array([stored], np.uint16)).tolist() == [values]


def _sun(change):
    def damage(root):
        change(root / "SUNRGBDtoolbox", root / "SUNRGBD/kv2/kinect2data/000065_a-resize")

    return damage


@pytest.mark.parametrize(
    ("damage", "parts"),
    [
        (
            lambda root: write_sunrgbd_split(root, ["kv1/nowhere"], ["xtion/sun3ddata/c"]),
            ["allsplit.mat", "kv1/nowhere"],
        ),
        (lambda root: write_sunrgbd_split(root, ["/data/x"], ["xtion/sun3ddata/c"]), ["allsplit.mat", "'/data/x'"]),
        (
            _sun(lambda toolbox, scene: (scene / "depth_bfx/d0.png").unlink()),
            ["d0.png: missing", "allsplit.mat lists it"],
        ),
        (_sun(lambda toolbox, scene: (scene / "image/i0.jpg").write_bytes(b"")), ["i0.jpg: cannot be read as JPG"]),
        (_sun(lambda toolbox, scene: png(scene / "depth_bfx/d0.png", np.ones(SIZE, np.uint8))), ["d0.png", "16 bits"]),
        (_sun(lambda toolbox, scene: (toolbox / "Metadata/SUNRGBD2Dseg.mat").unlink()), ["SUNRGBD2Dseg.mat: missing"]),
        (_sun(lambda toolbox, scene: (toolbox / "Metadata/SUNRGBDMeta.mat").unlink()), ["SUNRGBDMeta.mat: missing"]),
    ],
)
def test_sunrgbd_names_what_is_wrong_with_the_download(damage, parts, tmp_path, capsys):
    make_sunrgbd(tmp_path / "source")
    damage(tmp_path / "source")
    message = refused(capsys, "data", "prepare", "sunrgbd", tmp_path / "source", tmp_path / "out")
    for part in parts:
        assert part in message


def test_sunrgbd_with_a_label_of_no_class_is_refused(tmp_path, capsys):
    make_sunrgbd(tmp_path / "source")
    with h5py.File(tmp_path / "source/SUNRGBDtoolbox/Metadata/SUNRGBD2Dseg.mat", "a") as mat:
        mat["#refs#/1"][0, 0] = 38
    message = refused(capsys, "data", "prepare", "sunrgbd", tmp_path / "source", tmp_path / "out")
    assert "labels of scene 2: expected labels from 0 to 37" in message


# -- Cityscapes --------------------------------------------------------------------------------------------------------


def test_cityscapes_has_metres_19_classes_and_a_test_split_without_labels(tmp_path, capsys):
    truth = make_cityscapes(tmp_path / "source")
    assert main(["data", "prepare", "cityscapes", str(tmp_path / "source"), str(tmp_path / "out")]) == 0
    assert "train 2 (2975 released), val 1 (500 released), test 1 (1525 released)" in capsys.readouterr().out
    spec = DatasetSpec.load(tmp_path / "out")
    keys = ["aachen/aachen_000000_000000", "ulm/ulm_000000_000001", "munster/munster_000000_000002"]
    assert spec.splits["train"] + spec.splits["val"] == tuple(keys)
    for number, key in enumerate(keys):
        label = read_array(tmp_path / f"out/label/{key}.png", labels=True)[0]
        for stored, given_ in zip(label.ravel().tolist(), truth[f"label{number}"].ravel().tolist(), strict=True):
            assert stored == {
                7: 0,
                8: 1,
                11: 2,
                12: 3,
                13: 4,
                17: 5,
                **{n: n - 13 for n in range(19, 29)},
                31: 16,
                32: 17,
                33: 18,
            }.get(given_, 255)
        depth = read_array(tmp_path / f"out/depth/{key}.png")[0]
        for stored, p in zip(depth.ravel().tolist(), truth[f"disparity{number}"].ravel().tolist(), strict=True):
            metres = 0.2 * (2262.52 + number) / ((p - 1) / 256) if p > 1 else 0
            assert abs(stored / 100 - min(metres, 655.35)) <= 0.0051
        assert (read_array(tmp_path / f"out/rgb/{key}.png") == truth[f"image{number}"].transpose(2, 0, 1)).all()
    assert (read_array(tmp_path / "out/label/bonn/bonn_000000_000003.png") == 255).all()
    assert spec.target.colors[0] == (128, 64, 128)


def test_a_disparity_of_nothing_has_no_depth():
    assert centimetres(np.array([[0, 1, 257]], np.uint16), 4.0).tolist() == [[0, 0, 400]]


CAMERA = "camera/train/ulm/ulm_000000_000001_camera.json"
ULM = "train/ulm/ulm_000000_000001"


@pytest.mark.parametrize(
    ("damage", "parts"),
    [
        (lambda root: (root / CAMERA).unlink(), [f"{CAMERA}: missing", "baseline", "camera_trainvaltest.zip"]),
        (lambda root: (root / CAMERA).write_text('{"intrinsic": {"fx": 2}}'), [CAMERA, "extrinsic.baseline"]),
        (
            lambda root: (root / CAMERA).write_text('{"extrinsic": {"baseline": 0}, "intrinsic": {"fx": 2}}'),
            [CAMERA, "above 0"],
        ),
        (lambda root: (root / CAMERA).write_text("{"), [CAMERA, "extrinsic.baseline"]),
        (lambda root: shutil.rmtree(root / "gtFine/val"), ["munster_000000_000002_gtFine_labelIds.png: missing"]),
        (lambda root: shutil.rmtree(root / "leftImg8bit"), ["no images in train, val or test"]),
        (
            lambda root: png(root / f"gtFine/{ULM}_gtFine_labelIds.png", np.full(SIZE, 34, np.uint8)),
            ["ulm_000000_000001_gtFine_labelIds.png: expected labels from 0 to 33", "got 34"],
        ),
        (
            lambda root: png(root / f"disparity/{ULM}_disparity.png", np.ones(SIZE, np.uint8)),
            ["ulm_000000_000001_disparity.png: expected one channel of 16 bits"],
        ),
        (
            lambda root: png(root / f"disparity/{ULM}_disparity.png", np.ones((2, 3), np.uint16)),
            ["expected the size of", "8x6"],
        ),
    ],
)
def test_cityscapes_names_what_is_wrong_with_the_download(damage, parts, tmp_path, capsys):
    make_cityscapes(tmp_path / "source")
    damage(tmp_path / "source")
    message = refused(capsys, "data", "prepare", "cityscapes", tmp_path / "source", tmp_path / "out")
    for part in parts:
        assert part in message


# -- the folder of CEN's authors ---------------------------------------------------------------------------------------


def test_the_folder_of_cen_keeps_its_labels_and_loses_the_border_of_depth(tmp_path):
    truth = make_cen(tmp_path / "source")
    prepare("cen", tmp_path / "source", tmp_path / "out")
    spec = DatasetSpec.load(tmp_path / "out")
    assert spec.splits == {"train": ("000003", "000004"), "test": ("000001",)}
    height, width = SIZE
    for number in (1, 3, 4):
        key = f"{number:06d}.png"
        assert (read_array(tmp_path / "out/label" / key, labels=True)[0] == truth[f"label{number}"]).all()
        assert (read_array(tmp_path / "out/rgb" / key) == truth[f"image{number}"].transpose(2, 0, 1)).all()
        # 3 rows and 4 columns too many: 1 above, 2 below, 2 on either side
        inner = truth[f"depth{number}"][1 : 1 + height, 2 : 2 + width]
        assert (read_array(tmp_path / "out/depth" / key)[0] == inner).all()
    sample = FolderDataset(tmp_path / "out", "test")[0]
    metres = truth["depth1"][1 : 1 + height, 2 : 2 + width] / 5000
    np.testing.assert_allclose(sample["inputs"]["depth"][0].numpy(), metres, rtol=1e-5)  # as the released code feeds it


def test_a_list_of_cen_may_have_empty_lines_and_a_scene_twice(tmp_path):
    make_cen(tmp_path / "source")
    listing = tmp_path / "source/train.txt"
    listing.write_text("\n" + 2 * f"{listing.read_text()}\n" + " \n")
    prepare("cen", tmp_path / "source", tmp_path / "out")
    assert DatasetSpec.load(tmp_path / "out").splits["train"] == ("000003", "000004")


@pytest.mark.parametrize("name", ["train", "val"])
def test_scenes_of_cen_with_the_same_name_are_refused(tmp_path, name, capsys):
    """Only one of them would be written, and a list of 795 scenes become a data set of fewer."""
    make_cen(tmp_path / "source")
    write_cen_lists(tmp_path / "source", [3, 4], [1])
    other = tmp_path / "source/other/000003.png"
    other.parent.mkdir()
    shutil.copy(tmp_path / "source/rgb/000003.png", other)
    with (tmp_path / f"source/{name}.txt").open("a") as listing:
        listing.write("\nother/000003.png\tmasks/000003.png\tdepth/000003.png\n")
    message = refused(capsys, "data", "prepare", "cen", tmp_path / "source", tmp_path / "out")
    for part in ("rgb/000003.png and", str(other), "Rename", f"{name}.txt"):
        assert part in message


def test_without_lists_the_folder_of_cen_has_the_official_split(tmp_path, capsys):
    make_cen(tmp_path / "source")
    for name in ("train", "val"):
        (tmp_path / f"source/{name}.txt").unlink()
    message = refused(capsys, "data", "prepare", "cen", tmp_path / "source", tmp_path / "out")
    assert "rgb/000005.png" in message
    assert "The official split lists it" in message


@pytest.mark.parametrize(
    ("damage", "parts"),
    [
        (lambda root: write_cen_lists(root, [3, 9], [1]), ["rgb/000009.png", "train.txt lists it"]),
        (lambda root: (root / "val.txt").write_text("rgb/000001.png masks/000001.png"), ["val.txt, line 1", "tabs"]),
        (lambda root: (root / "val.txt").write_text(""), ["val.txt: lists no scene"]),
        (lambda root: (root / "val.txt").write_bytes(b"rgb/\xe4.png"), ["val.txt: expected text in UTF-8"]),
        (
            lambda root: png(root / "masks/000003.png", np.full(SIZE, 40, np.uint8)),
            ["masks/000003.png", "0 to 39", "40"],
        ),
        (lambda root: png(root / "depth/000003.png", np.ones((3, 9), np.uint16)), ["depth/000003.png", "8x6", "9x3"]),
        (
            lambda root: png(root / "depth/000003.png", np.ones((9, 9, 3), np.uint8)),
            ["depth/000003.png", "one channel"],
        ),
    ],
)
def test_the_folder_of_cen_names_what_is_wrong(damage, parts, tmp_path, capsys):
    make_cen(tmp_path / "source")
    damage(tmp_path / "source")
    message = refused(capsys, "data", "prepare", "cen", tmp_path / "source", tmp_path / "out")
    for part in parts:
        assert part in message


# -- the command -------------------------------------------------------------------------------------------------------


def test_choices_are_checked_before_anything_is_read(tmp_path, capsys):
    words = ["data", "prepare"]
    out = tmp_path / "out"
    assert "there are nyudv2, sunrgbd, cityscapes, cen" in refused(capsys, *words, "kitti", tmp_path, out)
    assert "one of 40, 37, 13, got 21" in refused(capsys, *words, "nyudv2", tmp_path, out, "--classes", "21")
    assert "one of filled, raw" in refused(capsys, *words, "nyudv2", tmp_path, out, "--depth", "hha")
    assert "--classes: cityscapes has no such choice" in refused(
        capsys, *words, "cityscapes", tmp_path, out, "--classes", "19"
    )


def test_the_help_names_every_data_set(capsys):
    with pytest.raises(SystemExit):
        main(["data", "prepare", "--help"])
    shown = capsys.readouterr().out
    assert all(name in shown for name in PREPARATIONS)
