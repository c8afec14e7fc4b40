"""Prediction from files: what a user gets from a trained model folder, and what he is told when it cannot be."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from fixtures_data import Described
from polymodal import checkpoint, fuse, models
from polymodal.cli import main
from polymodal.data import palette
from polymodal.errors import CheckpointError, ConfigError, DataError
from polymodal.runs.evaluation import save_model
from polymodal.runs.predict import predict
from polymodal.runs.scenes import Scene, check_pictures
from polymodal.tasks.overlay import overlay
from predict_tools import HEIGHT, WIDTH, save, write_scene


def names(folder):
    return sorted(file.name for file in folder.iterdir())


def refused(words, capsys, out):
    """The one message of a command that must end with status 2 and write nothing."""
    status = main([str(word) for word in words])
    message = capsys.readouterr().err
    assert status == 2
    assert message.startswith("polymodal: ")
    assert "Traceback" not in message
    assert not out.exists()
    return message


def test_files_give_a_class_map_and_an_overlay_for_each_modality_and_the_ensemble(model, tmp_path, capsys):
    files = write_scene(tmp_path, "a")
    out = tmp_path / "out"
    words = ["predict", "--model", model, "--input", f"rgb={files['rgb']}", f"depth={files['depth']}", "--out", out]
    assert main([str(word) for word in words]) == 0
    assert "6 pictures" in capsys.readouterr().out
    assert names(out) == sorted(f"a_{p}{kind}.png" for p in ("rgb", "depth", "ensemble") for kind in ("", "_overlay"))


def test_class_map_is_what_the_network_says_of_the_normalised_files(model, tmp_path):
    files = write_scene(tmp_path, "a")
    predict(model, files, tmp_path / "out")
    rgb = torch.from_numpy(np.array(Image.open(files["rgb"]))).permute(2, 0, 1).float() / 255
    stored = torch.from_numpy(np.array(Image.open(files["depth"])).astype(np.float32))
    depth = torch.where(stored == 0, 0.0, stored * 0.001 - 2.0)
    with torch.no_grad():
        said = checkpoint.load(model)({"rgb": ((rgb - 0.5) / 0.2)[None], "depth": depth[None, None]})
    for name, logits in {**said.per_modality, "ensemble": said.ensemble}.items():
        written = np.array(Image.open(tmp_path / "out" / f"a_{name}.png"))
        assert written.dtype == np.uint8
        assert (written == logits[0].argmax(0).numpy()).mean() > 0.999


def test_run_folder_and_folders_of_files_matched_by_name(model, tmp_path):
    for stem in ("a", "b"):
        write_scene(tmp_path, stem)
    written = predict(model.parent, {"rgb": tmp_path / "rgb", "depth": tmp_path / "depth"}, tmp_path / "out")
    assert len(written) == 12
    assert {file.name[0] for file in written} == {"a", "b"}


def test_inputs_are_resized_for_the_model_and_maps_have_the_size_of_the_files(tmp_path):
    save(tmp_path / "model", size=(16, 16))
    files = write_scene(tmp_path, "a", (30, 50))
    predict(tmp_path / "model", files, tmp_path / "out")
    assert Image.open(tmp_path / "out" / "a_ensemble.png").size == (50, 30)


def test_more_than_256_classes_are_written_with_16_bits(tmp_path):
    save(tmp_path / "model", classes=300)
    predict(tmp_path / "model", write_scene(tmp_path, "a"), tmp_path / "out")
    assert np.array(Image.open(tmp_path / "out" / "a_rgb.png")).dtype == np.uint16


def test_one_modality_alone_needs_subset(model, tmp_path, capsys):
    rgb = write_scene(tmp_path, "a")["rgb"]
    out = tmp_path / "out"
    words = ["predict", "--model", model, "--input", f"rgb={rgb}", "--out", out]
    message = refused(words, capsys, out)
    assert "no input for depth" in message
    assert "--subset" in message
    assert main([str(word) for word in [*words, "--subset"]]) == 0
    assert names(out) == ["a_ensemble.png", "a_ensemble_overlay.png", "a_rgb.png", "a_rgb_overlay.png"]


@pytest.mark.parametrize("words", [["rgb"], ["=a.png"], ["rgb="], ["rgb=a.png", "rgb=b.png"]])
def test_malformed_input_is_named(words, model, tmp_path, capsys):
    assert "--input" in refused(
        ["predict", "--model", model, "--input", *words, "--out", tmp_path / "out"], capsys, tmp_path / "out"
    )


def test_unknown_modality_is_named_with_those_that_the_model_has(model, tmp_path):
    files = write_scene(tmp_path, "a")
    with pytest.raises(ConfigError, match=r"no modality 'thermal'; it has depth, rgb"):
        predict(model, {**files, "thermal": files["rgb"]}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_files_of_different_size_are_refused(model, tmp_path, capsys):
    files = write_scene(tmp_path, "a")
    other = write_scene(tmp_path / "other", "a", (HEIGHT, WIDTH + 1))
    out = tmp_path / "out"
    words = ["predict", "--model", model, "--input", f"rgb={files['rgb']}", f"depth={other['depth']}", "--out", out]
    assert "33x24" in refused(words, capsys, out)


def test_a_broken_file_is_found_before_anything_is_written(model, tmp_path):
    for stem in ("a", "b"):
        write_scene(tmp_path, stem)
    (tmp_path / "rgb" / "b.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"b\.png"):
        predict(model, {"rgb": tmp_path / "rgb", "depth": tmp_path / "depth"}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_stems_without_partners_are_listed(model, tmp_path):
    for stem in ("a", "b"):
        write_scene(tmp_path, stem)
    (tmp_path / "depth" / "b.png").unlink()
    with pytest.raises(DataError, match=r"b \(no depth\)"):
        predict(model, {"rgb": tmp_path / "rgb", "depth": tmp_path / "depth"}, tmp_path / "out")


def test_file_and_folder_cannot_be_mixed_and_paths_must_exist(model, tmp_path):
    files = write_scene(tmp_path, "a")
    with pytest.raises(DataError, match="only files or only folders"):
        predict(model, {"rgb": files["rgb"], "depth": tmp_path / "depth"}, tmp_path / "out")
    with pytest.raises(DataError, match="no such file or folder for 'rgb'"):
        predict(model, {**files, "rgb": tmp_path / "nowhere"}, tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no file ends in"):
        predict(model, dict.fromkeys(files, tmp_path / "empty"), tmp_path / "out")


def test_two_files_of_one_stem_are_refused(model, tmp_path):
    files = write_scene(tmp_path, "a")
    Image.open(files["rgb"]).save(tmp_path / "rgb" / "a.jpg")
    with pytest.raises(DataError, match=r"a\.jpg and a\.png"):
        predict(model, {"rgb": tmp_path / "rgb", "depth": tmp_path / "depth"}, tmp_path / "out")


def test_folder_without_a_model_and_model_without_description_are_refused(model, tmp_path):
    files = write_scene(tmp_path, "a")
    with pytest.raises(CheckpointError, match="no model folder"):
        predict(tmp_path, files, tmp_path / "out")
    checkpoint.save(checkpoint.load(model), tmp_path / "bare")
    with pytest.raises(CheckpointError, match="does not say what the inputs"):
        predict(tmp_path / "bare", files, tmp_path / "out")


@pytest.mark.parametrize("file", ["net.pt2", "net.xml"])
def test_of_exported_files_only_onnx_is_predicted_with(file, tmp_path, capsys):
    (tmp_path / file).write_bytes(b"exported")
    words = ["predict", "--model", tmp_path / file, "--input", "rgb=a.png", "--out", tmp_path / "out"]
    assert f"{file}: expected a run folder" in (message := refused(words, capsys, tmp_path / "out"))
    assert "--format onnx" in message


@pytest.mark.parametrize(("size", "shown"), [((8, 400), (32, 1600)), ((2, 3000), (2, 3000)), ((96, 128), (480, 640))])
def test_overlay_of_a_strip_stays_a_strip(size, shown):
    """Enlarged by its short side, one row of a panorama would fill the memory."""
    picture = overlay(np.zeros((*size, 3), np.uint8), np.zeros(size, int), ["wall"], palette(1), title="rgb")
    assert shown[1] < picture.size[0] < shown[1] + 400
    assert picture.size[1] == max(shown[0], 92)  # as high as the legend of one class


def test_overlay_enlarges_small_scenes_and_holds_every_class_in_its_legend():
    labels = np.arange(40).repeat(3).reshape(10, 12)
    picture = np.zeros((10, 12, 3), np.uint8)
    colors = palette(40)
    shown = np.array(overlay(picture, labels, [f"class {i}" for i in range(40)], colors, title="ensemble"))
    assert shown.shape[0] >= 480
    legend = shown[:, 480 * 12 // 10 :].reshape(-1, 3)
    assert {tuple(color) for color in colors} <= {tuple(color) for color in legend.tolist()}


def folders(folder):
    return {"rgb": folder / "rgb", "depth": folder / "depth"}


def test_scenes_in_nested_folders_keep_their_folders(model, tmp_path):
    """If this breaks, data sets by town or camera cannot be predicted, or their maps replace one another."""
    for place in ("a", "b"):
        write_scene(tmp_path / "new" / place, "0001")
    for name in ("rgb", "depth"):
        for place in ("a", "b"):
            (tmp_path / name / place).mkdir(parents=True)
            file = tmp_path / "new" / place / name / "0001.png"
            file.rename(tmp_path / name / place / "0001.png")
    (tmp_path / "rgb" / ".thumbnails").mkdir()
    (tmp_path / "rgb" / ".thumbnails" / "0001.png").write_bytes(b"a small picture")
    predict(model, folders(tmp_path), tmp_path / "out")
    assert names(tmp_path / "out") == ["a", "b"]
    assert (tmp_path / "out" / "b" / "0001_ensemble_overlay.png").is_file()


@pytest.mark.parametrize("layout", ["one folder", "two folders", "plain"])
def test_files_are_found_by_the_prefix_and_suffix_of_the_training(layout, tmp_path):
    """If this breaks, files that train a model cannot be predicted with it before they are renamed."""
    data = Described()
    specs = {
        "depth": replace(data.inputs["depth"], prefix="depth_", suffix="_mm"),
        "rgb": replace(data.inputs["rgb"], suffix=""),
    }
    net = fuse(models.create("rooms-unet", classes=3), {"depth": 1, "rgb": 3}).eval()
    described = SimpleNamespace(inputs=specs, targets=data.targets, size=None)
    save_model(net, "rooms-unet", {"classes": 3}, described, {}, tmp_path / "model")
    for stem in ("0001", "0002"):
        write_scene(tmp_path, stem)
    if layout != "plain":
        for file in list((tmp_path / "depth").iterdir()):
            file.rename(file.with_name(f"depth_{file.stem}_mm.png"))
    if layout == "one folder":
        for file in list((tmp_path / "depth").iterdir()):
            file.rename(tmp_path / "rgb" / file.name)
    inputs = dict.fromkeys(specs, tmp_path / "rgb") if layout == "one folder" else folders(tmp_path)
    predict(tmp_path / "model", inputs, tmp_path / "out")
    assert {name[:5] for name in names(tmp_path / "out")} == {"0001_", "0002_"}
    assert len(names(tmp_path / "out")) == 12
    if layout == "two folders":  # one scene's files are called as in their folder
        files = {"depth": tmp_path / "depth/depth_0001_mm.png", "rgb": tmp_path / "rgb/0001.png"}
        predict(tmp_path / "model", files, tmp_path / "one")
        assert set(names(tmp_path / "one")) == {name for name in names(tmp_path / "out") if name.startswith("0001")}


def test_scenes_that_lack_a_modality_are_predicted_from_what_they_have(model, tmp_path, capsys):
    """If this breaks, one missing depth file among thousands keeps all scenes from being predicted."""
    for stem in ("a", "b", "c"):
        write_scene(tmp_path, stem)
    (tmp_path / "depth" / "b.png").unlink()
    (tmp_path / "rgb" / "c.png").unlink()
    with pytest.raises(DataError, match=r"b \(no depth\), c \(no rgb\).*--subset"):
        predict(model, folders(tmp_path), tmp_path / "out")
    predict(model, folders(tmp_path), tmp_path / "out", subset=True)
    shown = [name.removesuffix(".png") for name in names(tmp_path / "out") if "overlay" not in name]
    assert shown == ["a_depth", "a_ensemble", "a_rgb", "b_ensemble", "b_rgb", "c_depth", "c_ensemble"]
    assert "1 of 3 scenes have no depth: b" in capsys.readouterr().out
    predict(model, {"rgb": tmp_path / "rgb" / "b.png"}, tmp_path / "alone", subset=True)
    alone, among = ((tmp_path / out / "b_rgb.png").read_bytes() for out in ("alone", "out"))
    assert alone == among


@pytest.mark.parametrize("subset", [False, True])
def test_files_that_are_named_otherwise_are_shown(subset, model, tmp_path):
    """If this breaks, scenes are predicted from one modality each, or the user is not told how the files differ."""
    write_scene(tmp_path, "0001")
    (tmp_path / "depth" / "0001.png").rename(tmp_path / "depth" / "0001_depth.png")
    with pytest.raises(DataError, match=r"0001 \(no depth\).*0001_depth\.png.*`suffix: _depth`"):
        predict(model, folders(tmp_path), tmp_path / "out", subset=subset)


def test_an_earlier_prediction_and_a_persons_files_stay_as_they_are(model, tmp_path):
    """If this breaks, maps of an earlier model lie among the new ones, or a picture of the user's is replaced."""
    files = write_scene(tmp_path, "a")
    out = tmp_path / "out"
    out.mkdir()
    (out / "a_rgb.png").write_bytes(b"mine")
    with pytest.raises(ConfigError, match="out is not empty; name a new or an empty folder"):
        predict(model, files, out)
    assert (out / "a_rgb.png").read_bytes() == b"mine"
    assert names(out) == ["a_rgb.png"]


def test_nothing_is_written_where_files_are_read(model, tmp_path):
    """If this breaks, the next call takes the pictures of this one for scenes."""
    write_scene(tmp_path, "a")
    with pytest.raises(ConfigError, match=r"out lies in .*rgb, where rgb is read from"):
        predict(model, folders(tmp_path), tmp_path / "rgb" / "out")
    files = folders(tmp_path)
    (tmp_path / "depth" / "a.png").rename(tmp_path / "rgb" / "a_depth.png")
    with pytest.raises(ConfigError, match="not empty"):
        predict(model, {**files, "depth": tmp_path / "rgb" / "a_depth.png"}, tmp_path / "rgb")


def test_two_pictures_of_one_name_are_refused(tmp_path):
    """If this breaks, the overlay of one scene replaces the class map of another."""
    scenes = [Scene("a", {"rgb_overlay": tmp_path, "rgb": tmp_path})]
    with pytest.raises(DataError, match=r"a_rgb_overlay\.png: one by rgb_overlay of a and one by rgb of a"):
        check_pictures(scenes, ["ensemble"], ["", "_overlay"])
    check_pictures([Scene("a", {"b_c": tmp_path}), Scene("a_b", {"d": tmp_path})], [], [""])
    with pytest.raises(DataError, match=r"a_b_c\.png"):
        check_pictures([Scene("a", {"b_c": tmp_path}), Scene("a_b", {"c": tmp_path})], [], [""])


def test_pictures_of_a_format_that_is_not_read_are_named(model, tmp_path, capsys):
    """If this breaks, half of a folder is predicted, and nobody says which half."""
    write_scene(tmp_path, "a")
    for name in ("b.bmp", "c.JP2", "notes.txt", "._a.bmp"):
        (tmp_path / "rgb" / name).touch()
    predict(model, folders(tmp_path), tmp_path / "out")
    assert "rgb: 2 file(s) such as b.bmp are left out, as no .png" in capsys.readouterr().err


def test_a_name_too_long_for_a_picture_is_found_before_anything_is_written(model, tmp_path):
    write_scene(tmp_path, "a")
    write_scene(tmp_path, "é" * 116)
    with pytest.raises(DataError, match=r"_depth_overlay\.png, 250 bytes, and up to 246 can be written"):
        predict(model, folders(tmp_path), tmp_path / "out")
    assert not (tmp_path / "out").exists()
