"""If these break, a user's camera frames are predicted otherwise than the same files, or are misread without a word."""

import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from polymodal import Predictor, fuse, models
from polymodal.data import InputSpec
from polymodal.data.ranges import Range
from polymodal.errors import CheckpointError, ConfigError, DataError
from polymodal.runs import predictor as module
from polymodal.runs.frames import as_stored
from polymodal.runs.predict import predict
from predict_tools import write_scene

RGB = InputSpec("image", channels=3)
DEPTH = InputSpec("depth", channels=1, scale=0.001, unit="m", invalid=0)


@pytest.fixture
def frames(tmp_path):
    return {name: np.array(Image.open(file)) for name, file in write_scene(tmp_path, "a").items()}


def test_frames_are_predicted_as_their_files_are(model, frames, tmp_path):
    predict(model, {name: tmp_path / name / "a.png" for name in frames}, tmp_path / "out")
    found = Predictor(model)(**frames)
    for name in ("rgb", "depth", "ensemble"):
        assert np.array_equal(found.arrays[name]["labels"], np.array(Image.open(tmp_path / "out" / f"a_{name}.png")))
        overlay = np.array(Image.open(tmp_path / "out" / f"a_{name}_overlay.png"))
        assert np.array_equal(np.array(found.shown(name)), overlay)
    assert np.array_equal(found["labels"], found.arrays["ensemble"]["labels"])
    probability = found.scores["ensemble"].softmax(0).max(0).values
    assert np.allclose(found["confidence"], probability.numpy())
    assert found["colors"].shape == (*found["labels"].shape, 3)


def test_every_form_of_a_frame_gives_the_same(model, frames):
    predictor = Predictor(model)
    expected = predictor(**frames)["labels"]
    rgb, depth = frames["rgb"], frames["depth"]
    forms = [
        {"rgb": rgb.transpose(2, 0, 1), "depth": depth[..., None]},
        {"rgb": torch.from_numpy(rgb).permute(2, 0, 1), "depth": torch.from_numpy(depth.astype(np.int32))},
        {"rgb": Image.fromarray(rgb), "depth": Image.fromarray(depth)},
        {"rgb": Image.fromarray(rgb).convert("RGBA"), "depth": depth[None]},
        {"rgb": (rgb / 255).astype(np.float32), "depth": depth.astype(np.int64)},
    ]
    for form in forms:
        assert np.array_equal(predictor(**form)["labels"], expected)


def test_a_photograph_is_turned_upright():
    image = Image.fromarray(np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3))
    exif = image.getexif()
    exif[274] = 6
    image.info["exif"] = exif.tobytes()
    assert as_stored(image, RGB, "rgb").shape == (3, 3, 2)


def test_palettes_are_colours_of_an_image_and_numbers_of_labels():
    image = Image.fromarray(np.array([[0, 1]], np.uint8), mode="P")
    image.putpalette([9, 8, 7, 6, 5, 4])
    assert as_stored(image, RGB, "rgb")[:, 0, 1].tolist() == [6, 5, 4]
    assert as_stored(image, InputSpec("label", channels=2, classes=("a", "b")), "sketch")[0, 0].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("frame", "spec", "message"),
    [
        ("a.png", RGB, "expected an array"),
        (np.zeros((2, 4, 4, 3), np.uint8), RGB, "without a batch axis"),
        (np.zeros((5, 5, 2), np.uint8), RGB, r"expected 3 channel\(s\)"),
        (np.full((4, 4, 3), 200.0), RGB, "from 0 to 1"),
        (np.zeros((4, 4), complex), DEPTH, "expected numbers"),
        (np.zeros((0, 4), np.uint16), DEPTH, "expected numbers"),
        (np.zeros((4, 4, 4), np.uint8), RGB, "some pixels are transparent"),
        (Image.new("CMYK", (4, 4)), RGB, "got CMYK"),
        (np.ma.masked_equal(np.eye(4, dtype=np.uint16), 1), DEPTH, "its mask hides pixels.* measured, 0:"),
    ],
)
def test_what_is_no_frame_is_refused_by_name(frame, spec, message):
    with pytest.raises(DataError, match=message) as caught:
        as_stored(frame, spec, "cam")
    assert str(caught.value).startswith("cam: ")


def test_some_modalities_are_enough_and_others_are_refused(model, frames):
    predictor = Predictor(model)
    alone = predictor(rgb=frames["rgb"])
    assert set(alone.arrays) == {"rgb", "ensemble"}
    assert torch.equal(alone.scores["rgb"], alone.scores["ensemble"])
    with pytest.raises(ConfigError, match="no modality 'thermal'"):
        predictor(thermal=frames["depth"])
    with pytest.raises(ConfigError, match="Give at least one"):
        predictor()
    with pytest.raises(DataError, match="expected the size"):
        predictor(rgb=frames["rgb"][:-1], depth=frames["depth"])


def test_batches_give_what_single_frames_give_in_their_order(model, frames):
    predictor = Predictor(model)
    scenes = [{name: np.roll(frame, i, 0)[: 24 - 8 * (i > 2)] for name, frame in frames.items()} for i in range(5)] + [
        {"rgb": frames["rgb"]}
    ]
    together = list(predictor.many(iter(scenes), batch=2))
    assert [found["labels"].shape for found in together] == [(24, 32)] * 3 + [(16, 32)] * 2 + [(24, 32)]
    for scene, found in zip(scenes, together, strict=True):
        assert torch.allclose(predictor(**scene).scores["ensemble"], found.scores["ensemble"], atol=1e-5)


@pytest.mark.parametrize("batch", [1, 2])
def test_a_camera_that_fills_the_same_memory_again_is_predicted_frame_by_frame(batch, model, frames):
    """If this breaks, a stream has the map of each frame beside the next one."""
    predictor = Predictor(model)
    shown, buffer = [np.roll(frames["depth"], 5 * i, 0) for i in range(3)], frames["depth"].copy()

    def camera():
        for frame in shown:
            buffer[:] = frame
            yield {"depth": buffer}

    for frame, found in zip(shown, predictor.many(camera(), batch=batch), strict=True):
        assert torch.allclose(predictor(depth=frame).scores["depth"], found.scores["depth"], atol=1e-5)


def test_threads_that_ask_at_once_are_each_told_of_their_own_scene(model, frames):
    """If this breaks, a service predicts one visitor's scene with the modalities of another's."""
    predictor = Predictor(model)
    asked = [frames, {"rgb": frames["rgb"]}, {"depth": frames["depth"]}] * 8
    alone = [predictor(**scene).scores["ensemble"] for scene in asked[:3]] * 8
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda scene: predictor(**scene).scores["ensemble"], asked))
    assert all(torch.allclose(one, own, atol=1e-5) for one, own in zip(found, alone, strict=True))


def test_what_cannot_be_asked_for_is_refused(model, frames):
    predictor = Predictor(model)
    for batch in (0, -1, 2.0):
        with pytest.raises(ConfigError, match="batch: expected a whole number"):
            next(predictor.many([frames], batch=batch))
    for found in (predictor(**frames), Predictor(model, window=(16, 16))(**frames)):
        with pytest.raises(ConfigError, match="no prediction 'thermal' of this frame"):
            found.shown("thermal")


def test_numbers_that_are_none_have_no_class(model, frames):
    """If this breaks, one pixel of -3.4e38, which nobody declared, makes a whole map of the first class."""
    predictor = Predictor(model, scales={"depth": 1e30})
    with pytest.raises(DataError, match="predicts holds NaN or infinite"):
        predictor(rgb=frames["rgb"], depth=np.where(frames["depth"] > 3000, 3e38, 1).astype(np.float32))


class Picky(nn.Module):
    """Takes multiples of 8 alone, as many decoders do."""

    def __init__(self, classes):
        super().__init__()
        self.plain = models.create("rooms-unet", classes=classes)

    def forward(self, x):
        if x.shape[-1] % 8 or x.shape[-2] % 8:
            raise RuntimeError("multiples of 8")
        return self.plain(x)


def test_a_size_that_the_network_refuses_is_resized_to_the_nearest_and_back(model, frames, monkeypatch):
    predictor = Predictor(model)
    predictor._opened.network = fuse(Picky(len(predictor.classes)), {"depth": 1, "rgb": 3}).eval()
    asked = []
    monkeypatch.setattr(predictor._opened, "predict", lambda images, size, **_: asked.append((images, size)) or {})
    cut = {name: frame[:21, :30] for name, frame in frames.items()}
    predictor(**cut)
    ((images, size),) = asked
    assert size == (21, 30)
    assert {tuple(image.shape[-2:]) for image in images.values()} == {(24, 32)}
    assert predictor._takes(predictor.modalities, (24, 32)) == (24, 32)


def test_other_units_are_said_once(model, frames, monkeypatch):
    monkeypatch.setattr(module, "doubt_of", lambda raw, spec, file: "far" if file == "depth" else "")
    predictor = Predictor(model)
    with pytest.warns(UserWarning, match="far"):
        predictor(**frames)
    with warnings.catch_warnings(action="error"):
        predictor(**frames)


def test_a_sensor_that_dies_is_told_of_though_its_unit_was_doubted_before(model, frames, monkeypatch):
    predictor = Predictor(model)
    predictor._opened.specs["depth"] = replace(
        predictor.modalities["depth"], seen=Range((1e6,), (2e6,)), invalid=0, scale=1.0
    )
    with pytest.warns(UserWarning, match="far from"):
        predictor(**frames)
    with pytest.warns(UserWarning, match="no pixel holds a measurement"):
        predictor(**frames | {"depth": np.zeros_like(frames["depth"])})


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(CheckpointError):
        Predictor(tmp_path)
    (tmp_path / "net.pt2").touch()
    with pytest.raises(CheckpointError, match=r"ends in \.onnx"):
        Predictor(tmp_path / "net.pt2")
