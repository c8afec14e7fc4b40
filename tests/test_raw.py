"""Files that take images as cameras hold them: what `polymodal predict` says, pixel by pixel, without Python."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from export_tools import by_brightness
from fixtures_data import make_folder
from polymodal import fuse, models
from polymodal.cli import main
from polymodal.data import FolderData
from polymodal.errors import CheckpointError, DataError, ExportError
from polymodal.export import Session
from polymodal.export.raw import stored_types, take_raw
from polymodal.runs.evaluation import describe, save_model
from polymodal.runs.opened import Opened, read_model_description
from polymodal.runs.predict import predict

pytest.importorskip("onnx", reason="pip install 'polymodal[export]'")
pytest.importorskip("onnxruntime", reason="pip install 'polymodal[export]'")

MODALITIES = ("rgb", "depth", "normal", "bands")
FACTS = {"seconds": 1.0, "epochs": 1, "seed": 0, "output": "labels"}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Scenes with every kind of file that a raw file takes; depth and bands have holes."""
    return make_folder(
        tmp_path_factory.mktemp("raw") / "scenes", size=(36, 44), modalities=MODALITIES, splits={"train": 2, "val": 1}
    )


def data_of(root: Path, size: tuple[int, int] | None, modalities=MODALITIES) -> FolderData:
    data = FolderData(str(root), modalities=list(modalities), size=size)
    data.setup()
    return data


def stored(root: Path, key: str, session: Session) -> dict[str, np.ndarray]:
    """The files of a scene as any program reads them, (1, C, H, W)."""
    images = {}
    for name in session.modalities:
        file = next((root / name).glob(f"{key}.*"))
        pixels = np.load(file) if file.suffix == ".npy" else np.asarray(Image.open(file))
        pixels = pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)
        images[name] = np.ascontiguousarray(pixels[None]).astype(session.raw[name], casting="safe")
    return images


def assert_same_maps(file: Path, model: Path, root: Path, out: Path) -> None:
    """Every class map of a raw file is what `predict` writes with another file or folder."""
    session = Session(file)
    predict(model, {name: root / name for name in session.modalities}, out)
    for scene in sorted((root / "label").iterdir()):
        for name, classes in session(stored(root, scene.stem, session)).items():
            expected = np.asarray(Image.open(out / f"{scene.stem}_{name}.png"))
            assert classes.dtype == expected.dtype
            np.testing.assert_array_equal(classes[0], expected, err_msg=f"{scene.stem} {name}")


@pytest.mark.parametrize(
    "size", [(24, 52), *(pytest.param(s, marks=pytest.mark.slow) for s in (None, (60, 30)))], ids=str
)
def test_class_maps_are_those_of_predict(size, root, tmp_path):
    """If this breaks, a device without Python sees other classes than the person who tested the model."""
    metadata = describe(data_of(root, size)) | {"training": FACTS}
    plain, file = (by_brightness(tmp_path / name, root, metadata=metadata) for name in ("plain.onnx", "net.onnx"))
    specs, targets, _ = read_model_description(metadata, plain)
    target = targets["target"]
    take_raw(file, specs, target, size)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["net.onnx", "plain.onnx"]
    assert Session(file).raw == {"rgb": "uint8", "depth": "uint16", "normal": "uint8", "bands": "float32"}
    assert_same_maps(file, plain, root, tmp_path / "predicted")
    with pytest.raises(DataError, match="'rgb': expected uint8, as it is stored, got float32"):
        Session(file)({name: np.zeros((1, n, 36, 44), np.float32) for name, n in Session(file).modalities.items()})
    with pytest.raises(CheckpointError, match=r"\(--raw\), for programs of your own\. Predict with the model folder"):
        Opened(file)


def test_a_file_that_predicts_otherwise_is_not_written(root, tmp_path, monkeypatch):
    """If this breaks, an operator that a runtime computes otherwise spoils class maps in silence."""
    metadata = describe(data_of(root, None)) | {"training": FACTS}
    file = by_brightness(tmp_path / "net.onnx", root, metadata=metadata)
    before = file.read_bytes()
    specs, targets, _ = read_model_description(metadata, file)
    target = targets["target"]
    wrong = {name: replace(spec, mean=tuple(2 * one for one in spec.mean)) for name, spec in specs.items()}
    monkeypatch.setattr("polymodal.export.raw.resize_inputs", lambda raw, _, *rest: resize(raw, wrong, *rest))
    from polymodal.data import resize_inputs as resize

    with pytest.raises(ExportError, match=r"predicts another class than the network for .*% of the pixels"):
        take_raw(file, specs, target, None)
    assert file.read_bytes() == before


def test_what_has_no_raw_form_is_refused(root, tmp_path, capsys):
    """If this breaks, a file takes numbers for something that they are not."""
    specs, targets, _ = read_model_description(describe(data_of(root, None)) | {"training": FACTS}, root)
    target = targets["target"]
    for wrong, message in (
        (replace(specs["depth"], stored=""), "depth: .*nothing known"),
        (replace(specs["depth"], stored="1-bit"), "depth: .*1-bit"),
        (replace(specs["depth"], resize=(2.0, 2.0)), "depth: of another resolution"),
    ):
        with pytest.raises(ExportError, match=message):
            stored_types(specs | {"depth": wrong}, target)
    with pytest.raises(ExportError, match=r"kind depth\. Leave --raw out"):
        stored_types(specs, replace(target, kind="depth", classes=(), colors=()))
    assert main(["export", str(root), str(tmp_path / "net.pt2"), "--format", "pt2", "--raw"]) == 2
    assert "Give --format onnx" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_is_exported_for_stored_images(root, tmp_path):
    """If this breaks, `polymodal export --raw` writes no file that a device can use, or 16 or 8 bits spoil it."""
    data = data_of(root, (32, 48), ("rgb", "depth"))
    arguments = {"classes": 2, "stem": 4, "widths": [6], "decoder": 6}
    torch.manual_seed(0)
    net = fuse(models.create("rooms-unet", **arguments), data.channels, "exchange").eval()
    save_model(net, "rooms-unet", arguments, data, FACTS, tmp_path / "model")
    words = ["export", str(tmp_path / "model")]
    assert not main([*words, str(tmp_path / "plain.onnx"), "--weights", "fp16"])
    assert not main([*words, str(tmp_path / "net.onnx"), "--weights", "fp16", "--raw"])
    assert_same_maps(tmp_path / "net.onnx", tmp_path / "plain.onnx", root, tmp_path / "predicted")
    eight = ["--int8", "--calibrate", str(root), "--max-drop", "100"]
    assert not main([*words, str(tmp_path / "eight.onnx"), *eight])
    assert not main([*words, str(tmp_path / "raw-eight.onnx"), *eight, "--raw"])
    assert_same_maps(tmp_path / "raw-eight.onnx", tmp_path / "eight.onnx", root, tmp_path / "in-8-bits")
