"""Networks in 8 bits: files that score as the network in float does, or no file at all."""

import json
import shutil
import sys
from dataclasses import replace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from export_tools import by_brightness
from fixtures_data import make_folder
from polymodal import export, fuse, models, processor
from polymodal.cli import main
from polymodal.data import FolderData, FolderDataset
from polymodal.errors import CheckpointError, ConfigError, DataError, ExportError
from polymodal.export.formats import FORMATS
from polymodal.export.nncf_quantiser import NncfQuantiser
from polymodal.export.openvino_file import run_openvino
from polymodal.export.quantiser import Quantiser
from polymodal.runs import export as runs_export
from polymodal.runs import quantised
from polymodal.runs.evaluation import save_model
from polymodal.runs.export import export_model
from polymodal.runs.predict import predict
from polymodal.runs.quantised import Calibration, Quantisation, write_quantised

onnx = pytest.importorskip("onnx", reason="pip install 'polymodal[export]'")
pytest.importorskip("onnxruntime", reason="pip install 'polymodal[export]'")

ARGUMENTS = {"classes": 2, "stem": 4, "widths": [6], "decoder": 6}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder of a network of colour and depth, with its data."""
    folder = tmp_path_factory.mktemp("run")
    root = make_folder(folder / "scenes", size=(32, 32), modalities=("rgb", "depth"))
    data = FolderData(str(root))
    data.setup()
    torch.manual_seed(0)
    net = fuse(models.create("rooms-unet", **ARGUMENTS), data.channels, "exchange").eval()
    facts = {"seconds": 1.0, "epochs": 1, "seed": 0, "output": "labels"}
    save_model(net, "rooms-unet", ARGUMENTS, data, facts, folder / "model")
    settings = {"class_path": "polymodal.data.FolderData", "init_args": {"root": str(root)}}
    (folder / "config.yaml").write_text(json.dumps({"data": settings}))
    return folder


@pytest.fixture
def written(run, tmp_path, monkeypatch):
    """Quantises the network that tells classes by brightness in the place of the run's own."""

    def write(how: Quantisation, *outliers: str, name: str = "net.onnx", make: Any = Quantiser) -> str:
        monkeypatch.setattr(
            quantised.export, "save", lambda _, path, **__: by_brightness(path, run / "scenes", outliers)
        )
        return write_quantised(None, tmp_path / name, Calibration(run, how), None, {}, lambda file: None, make)

    return write


def test_a_quantised_file_predicts_the_classes_of_the_float_one(run, tmp_path):
    """If this breaks, 8 bits are no approximation of the network, or no 8 bits."""
    calibration = Calibration(run, Quantisation("train"))
    plain = by_brightness(tmp_path / "float.onnx", run / "scenes")
    quantiser = Quantiser(plain, calibration.inputs(calibration.images), tmp_path)
    assert set(quantiser.layers) == {"rgb.first", "prediction_rgb", "depth.first", "prediction_depth"}
    quantiser.write(tmp_path / "net.onnx")
    file, net = export.Session(tmp_path / "net.onnx"), export.Session(plain)
    assert (file.quantised, net.quantised) == (True, False)
    kinds = {weight.data_type for weight in onnx.load(tmp_path / "net.onnx").graph.initializer if weight.dims[1:2]}
    assert kinds == {onnx.TensorProto.INT8}
    for sample in FolderDataset(run / "scenes", "val"):
        images = {name: image[None] for name, image in sample["inputs"].items()}
        for name, expected in net(images).items():
            found = file(images)[name]
            assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()
            assert (found.argmax(1) == expected.argmax(1)).mean() > 0.98


@pytest.mark.slow
def test_openvino_in_8_bits_predicts_the_classes_of_the_float_file_or_is_not_written(run, written, tmp_path):
    """If this breaks, --int8 for OpenVINO is no approximation of the network, no 8 bits, or loses half of its files."""
    openvino = pytest.importorskip("openvino", reason="pip install 'polymodal[openvino]'")
    pytest.importorskip("nncf", reason="pip install 'polymodal[openvino]'")
    # Of so small a network OpenVINO spoils the ensemble in 8 bits, and nothing else, whatever the data.
    with pytest.raises(ExportError, match=r"rgb (9\d\.\d+) to 9\d.*ensemble 9\S+ to [0-7]\d\..*Nothing was written"):
        written(Quantisation("train"), name="net.xml", make=NncfQuantiser)
    assert not list(tmp_path.iterdir())
    said = written(Quantisation("train", images=5, max_drop=100), name="net.xml", make=NncfQuantiser)
    assert "ranges of 5 images" in said
    assert sorted(file.name for file in tmp_path.iterdir()) == ["net.bin", "net.xml"]
    model = openvino.Core().read_model(tmp_path / "net.xml")
    about = json.loads(model.get_rt_info(["polymodal"]).value)
    assert about["int8"] == {"weight_bits": 8 if processor.adds_int8_exactly() else 7, "images": 5, "in_float": []}
    kinds = {node.get_element_type().get_type_name() for node in model.get_ops() if node.get_type_name() == "Constant"}
    assert "i8" in kinds
    plain = export.Session(by_brightness(tmp_path / "float.onnx", run / "scenes"))
    file = run_openvino(tmp_path / "net.xml", plain.outputs)
    for sample in FolderDataset(run / "scenes", "val"):
        images = {name: image[None] for name, image in sample["inputs"].items()}
        for name in plain.modalities:
            assert (file(images)[name].argmax(1) == plain(images)[name].argmax(1)).mean() > 0.98


def test_8_bits_are_refused_before_any_work_where_there_are_none(run, tmp_path, monkeypatch):
    """If this breaks, somebody waits for an export to be told that a format or a package is missing."""
    monkeypatch.setattr(runs_export, "Calibration", Mock(side_effect=AssertionError("worked")))
    monkeypatch.setattr(runs_export, "format_for", lambda name, _: FORMATS[name])
    how = Quantisation("train")
    with pytest.raises(ExportError, match=r"pt2 is written in float alone\. Give --format onnx or openvino"):
        export_model(run, tmp_path / "net.pt2", "pt2", absorbed=False, quantisation=how)
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(ExportError, match=r"--int8 in format openvino needs .*nncf.*polymodal\[openvino\]"):
        export_model(run, tmp_path / "net.xml", "openvino", absorbed=False, quantisation=how)


def test_a_network_that_loses_little_is_written_with_its_scores(written, tmp_path):
    """If this breaks, nobody knows what 8 bits cost."""
    said = written(Quantisation("train", images=5))
    assert "ranges of 5 images" in said
    assert "mean IoU on val, float to int8: rgb 9" in said
    assert "in float: " not in said
    about = json.loads({one.key: one.value for one in onnx.load(tmp_path / "net.onnx").metadata_props}["polymodal"])
    assert about["format"] == 3
    assert about["int8"] == {"weight_bits": 8 if processor.adds_int8_exactly() else 7, "images": 5, "in_float": []}
    assert [file.name for file in tmp_path.iterdir()] == ["net.onnx"]


def test_the_layer_that_loses_most_stays_in_float(written, tmp_path):
    """If this breaks, one layer that 8 bits are too few for takes int8 from the whole network, or spoils it."""
    said = written(Quantisation("train"), "rgb")
    assert said.endswith("in float: prediction_rgb")
    kinds = {one.name: one.data_type for one in onnx.load(tmp_path / "net.onnx").graph.initializer}
    assert kinds["prediction_rgb.weight"] == onnx.TensorProto.FLOAT
    assert kinds["prediction_depth.weight_quantized"] == onnx.TensorProto.INT8


def test_a_network_that_loses_much_leaves_no_file(written, tmp_path, monkeypatch):
    """If this breaks, a network that 8 bits have spoilt is deployed."""
    monkeypatch.setattr(quantised, "KEPT", (1,))
    with pytest.raises(ExportError, match=r"rgb 9.* to .* 1 of 4 layers in float .* 0\.1 less .*Nothing was written"):
        written(Quantisation("train", max_drop=0.1), "rgb", "depth")
    assert not list(tmp_path.iterdir())


def test_weights_of_all_bits_are_refused_where_sums_would_overflow(run, tmp_path, monkeypatch):
    """If this breaks, a file from a newer processor predicts worse on an older one, and nothing says so."""
    monkeypatch.setattr(processor, "adds_int8_exactly", lambda: True)
    images = Calibration(run, Quantisation("train")).inputs(2)
    Quantiser(by_brightness(tmp_path / "float.onnx", run / "scenes"), images, tmp_path).write(tmp_path / "net.onnx")
    assert export.Session(tmp_path / "net.onnx").quantised
    monkeypatch.setattr(processor, "adds_int8_exactly", lambda: False)
    with pytest.raises(CheckpointError, match=r"avx_vnni.*overflow.*Export it here"):
        export.Session(tmp_path / "net.onnx")


@pytest.mark.parametrize(
    ("machine", "flags", "exact"),
    [("x86_64", "avx2", False), ("x86_64", "avx2 avx_vnni", True), ("AMD64", "", False), ("aarch64", "", True)],
)
def test_who_adds_products_of_8_bits_exactly(machine, flags, exact, monkeypatch):
    """If this breaks, sums overflow in silence, or a bit of precision is given away for nothing."""
    monkeypatch.setattr(processor, "_said", lambda key: flags)
    monkeypatch.setattr(processor.platform, "machine", lambda: machine)
    assert processor.adds_int8_exactly() is exact
    assert processor.instructions() == flags.replace(" ", ", ")


def test_calibration_that_cannot_be_is_refused_with_what_is_missing(run, tmp_path):
    """If this breaks, a network is quantised with ranges of something else, or of fewer images than was stated."""
    other = make_folder(tmp_path / "other", modalities=("rgb", "grey"))
    ignored = make_folder(tmp_path / "ignored", modalities=("rgb", "depth"), splits={"train": 2, "val": 2})
    for file in (ignored / "label").iterdir():
        file.write_bytes(b"")
    for folder, how, problem, message in (
        (run, Quantisation("test"), ConfigError, "expected train or val"),
        (run / "model", Quantisation("train"), ConfigError, "model folder, which does not say where its data are"),
        (run, Quantisation("train", images=7), DataError, r"--images 7: .*has 6 for calibration\. State 6 or fewer"),
        (run, Quantisation(str(other)), DataError, "depth"),
        (run, Quantisation(str(tmp_path / "none")), ConfigError, "there is no such folder"),
        (run, Quantisation(str(tmp_path)), DataError, "dataset.yaml"),
        (run, Quantisation(str(ignored)), DataError, "label"),
    ):
        with pytest.raises(problem, match=message):
            Calibration(folder, how)
    for wrong in ({"images": 0}, {"max_drop": -1.0}, {"max_drop": float("nan")}):
        with pytest.raises(ConfigError, match="expected"):
            Quantisation("train", **wrong)
    assert Calibration(run / "model", Quantisation(str(run / "scenes"))).images == 6
    with pytest.raises(ConfigError, match="classes"):
        Calibration(run, Quantisation("rooms"))  # the embedded set is there, and has other classes


def test_val_is_the_split_that_the_run_was_validated_on(run, tmp_path):
    """If this breaks, ranges are taken from a split that only happens to be called so, or there is none."""
    shutil.copytree(run, tmp_path / "run")
    settings = json.loads((run / "config.yaml").read_text())
    settings["data"]["init_args"]["val_split"] = "train"
    (tmp_path / "run" / "config.yaml").write_text(json.dumps(settings))
    assert Calibration(run, Quantisation("val")).images == 3
    assert Calibration(tmp_path / "run", Quantisation("val")).images == 6


def test_a_score_in_another_unit_needs_a_drop_in_that_unit(run, monkeypatch):
    """If this breaks, half of an image's range is thought to be half a per cent of mean IoU."""
    scores = quantised.output_of

    def of_images(target, training):
        output = scores(target, training)
        counted = output.scores(["ensemble"])
        score = replace(counted.scored[0], name="MAE", unit="parts of the target's range", higher_is_better=False)
        monkeypatch.setattr(output, "scores", lambda names: Mock(scored=[score]))
        return output

    monkeypatch.setattr(quantised, "output_of", of_images)
    with pytest.raises(ConfigError, match=r"MAE is in parts of the target's range, where 0\.5 may be much"):
        Calibration(run, Quantisation("train"))
    calibration = Calibration(run, Quantisation("train", max_drop=0.01))
    assert calibration.lost({"rgb": 0.25}, {"rgb": 0.125}) == 0.125  # of errors, more is worse
    assert np.isnan(calibration.lost({"rgb": float("nan")}, {"rgb": 0.125}))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--int8"], "give --calibrate train"),
        (["--calibrate", "train"], "--calibrate: belongs to --int8"),
        (["--max-drop", "1"], "--max-drop: belongs to --int8"),
        (["--images", "9"], "--images: belongs to --int8"),
        (["--int8", "--calibrate", "train", "--format", "openvino"], "openvino is expected to end in .xml"),
        (["--int8", "--calibrate", "train", "--format", "pt2"], "Give --format onnx"),
    ],
)
def test_options_that_do_not_go_together_are_refused(words, message, run, tmp_path, capsys):
    """If this breaks, what a user asked for is dropped without a word."""
    assert main(["export", str(run), str(tmp_path / "net.onnx"), *words]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_run_is_exported_in_8_bits_and_predicts(run, tmp_path, capsys):
    """If this breaks, `polymodal export --int8` writes no file that `polymodal predict` runs."""
    words = ["--fold", "--int8", "--calibrate", str(run / "scenes"), "--images", "3", "--max-drop", "100"]
    assert not main(["export", str(run), str(tmp_path / "net.onnx"), *words])
    assert "in 8 bits" in capsys.readouterr().out
    inputs = {name: run / "scenes" / name for name in ("rgb", "depth")}
    found = predict(tmp_path / "net.onnx", inputs, tmp_path / "predicted")
    assert len(found) == 9 * 3 * 2
