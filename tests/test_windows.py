"""If these break, large pictures show seams, fill the memory, or are predicted otherwise than small ones."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fixtures_data import Described
from polymodal import Predictor, checkpoint, fuse, models
from polymodal.cli import main
from polymodal.data import TargetSpec
from polymodal.errors import ConfigError
from polymodal.runs.evaluation import save_model
from polymodal.runs.predict import predict
from polymodal.tasks.windows import Windows, blended
from predict_tools import save, write_scene

SIDES = st.tuples(st.integers(1, 12), st.integers(1, 12))


def reference(predict, size, windows):
    """The weighted mean written out: the weight of a pixel falls in a line from a window's middle to its borders."""
    sums, weights = 0.0, torch.zeros(size, dtype=torch.float64)
    height, width = (min(side, own) for side, own in zip(windows.size, size, strict=True))
    for top in windows.starts(size)[0]:
        for left in windows.starts(size)[1]:
            part = slice(top, top + height), slice(left, left + width)
            tent = torch.tensor(
                [[min(y + 0.5, height - y - 0.5) * min(x + 0.5, width - x - 0.5) for x in range(width)]
                 for y in range(height)], dtype=torch.float64
            )  # fmt: skip
            values = predict(part)["a"].double()
            placed = torch.zeros(len(values), *size, dtype=torch.float64)
            placed[:, part[0], part[1]] = values * tent
            sums = sums + placed
            weights[part] += tent
    return sums / weights


@given(size=SIDES, window=SIDES, share=st.tuples(st.floats(0, 1), st.floats(0, 1)))
@settings(max_examples=40, deadline=None)
def test_windows_are_blended_as_the_mean_written_out(size, window, share):
    stride = tuple(max(1, round(side * of)) for side, of in zip(window, share, strict=True))
    windows = Windows(window, stride)

    def predicted(part):
        seed = 100 * part[0].start + part[1].start
        shape = (2, *(side.stop - side.start for side in part))
        return {"a": torch.rand(shape, generator=torch.Generator().manual_seed(seed))}

    found, covered = torch.full((2, *size), torch.nan), torch.zeros(size)
    at = (0, 0)
    for part, means in blended(predicted, size, windows):
        assert (part[0].start, part[1].start) >= at
        at = part[0].start, part[1].start
        found[:, part[0], part[1]] = means["a"]
        covered[part] += 1
    assert (covered == 1).all()
    torch.testing.assert_close(found.double(), reference(predicted, size, windows), atol=1e-6, rtol=0)


def read(folder, name):
    return np.array(Image.open(folder / f"{name}.png"))


def test_class_maps_and_certainty_are_those_of_the_mean_probabilities(model, tmp_path):
    """Of windows that overlap, at borders, and of sides that are no multiple of anything."""
    files, windows = write_scene(tmp_path, "a", (41, 53)), Windows((24, 32), (16, 24))
    predict(model, files, tmp_path / "out", certainty=True, windows=windows)
    net = checkpoint.load(model)
    rgb = torch.from_numpy(np.array(Image.open(files["rgb"]))).permute(2, 0, 1).float() / 255
    depth = torch.from_numpy(np.array(Image.open(files["depth"])).astype(np.float32))[None] / 1000
    scene = {"depth": torch.where(depth == 0, 0.0, depth - 2.0), "rgb": (rgb - 0.5) / 0.2}

    def probabilities(part):
        with torch.no_grad():
            said = net({name: image[None, :, part[0], part[1]] for name, image in scene.items()})
        return {"a": said.ensemble[0].softmax(0)}

    expected = reference(probabilities, (41, 53), windows)
    assert (read(tmp_path / "out", "a_ensemble") == expected.argmax(0).numpy()).mean() > 0.999
    confidence = read(tmp_path / "out", "a_ensemble_confidence") / 65535
    assert np.allclose(confidence, expected.amax(0).numpy(), atol=1e-4)
    assert read(tmp_path / "out", "a_rgb_overlay").shape[0] == 41 * 12  # enlarged as any small picture


@pytest.mark.parametrize("window", [(24, 32), (500, 40)])
def test_a_window_that_holds_the_picture_changes_nothing(window, model, tmp_path):
    files = write_scene(tmp_path, "a")
    predict(model, files, tmp_path / "whole", certainty=True)
    predict(model, files, tmp_path / "windows", certainty=True, windows=Windows(window))
    for file in (tmp_path / "whole").iterdir():
        assert file.read_bytes() == (tmp_path / "windows" / file.name).read_bytes()


def test_frames_are_predicted_in_windows_as_their_files_are(model, tmp_path):
    files = write_scene(tmp_path, "a", (30, 70))
    predict(model, files, tmp_path / "out", certainty=True, windows=Windows((24, 32)))
    frames = {name: np.array(Image.open(file)) for name, file in files.items()}
    with pytest.raises(ConfigError, match="--window: expected a height and a width above 0, got 24"):
        Predictor(model, window=24)
    found = Predictor(model, window=(24, 32), certainty=True)(**frames)
    for name in ("rgb", "depth", "ensemble"):
        assert np.array_equal(found.arrays[name]["labels"], read(tmp_path / "out", f"a_{name}"))
        assert np.array_equal(np.array(found.shown(name)), read(tmp_path / "out", f"a_{name}_overlay"))
        grey = read(tmp_path / "out", f"a_{name}_entropy") / 65535
        assert np.allclose(grey, found.arrays[name]["entropy"], atol=1e-5)
    alone = Predictor(model, window=(24, 32))(rgb=frames["rgb"])
    assert set(alone.arrays) == {"rgb", "ensemble"}
    assert alone["colors"].shape == (30, 70, 3)
    with pytest.raises(ConfigError, match=r"confidence: .*certainty=True"):
        alone["confidence"]
    sure = Predictor(model, window=(24, 32), certainty=True)(rgb=frames["rgb"])
    for one in (sure, Predictor(model)(rgb=frames["rgb"])):  # not the advice to ask for what was asked for
        with pytest.raises(ConfigError, match=r"disagreement: .* needs two modalities .* There are labels"):
            one["disagreement"]
        with pytest.raises(ConfigError, match=r"label: there is no such array of this frame\. There are labels"):
            one["label"]
    assert Predictor(model, window=(24, 32))(**{name: frame[:20] for name, frame in frames.items()}).arrays
    small = {name: frame[:20, :20] for name, frame in frames.items()}
    assert np.array_equal(Predictor(model, window=(24, 32))(**small)["labels"], Predictor(model)(**small)["labels"])


def test_each_window_is_resized_as_the_pictures_of_the_training_were(tmp_path):
    """If this breaks, a large picture as a whole is shrunk to the size of the training."""
    save(tmp_path / "model", size=(12, 16))
    files = write_scene(tmp_path, "a", (24, 64))
    predict(tmp_path / "model", files, tmp_path / "windows", windows=Windows((24, 32), (24, 32)))
    for left in (0, 32):
        place = tmp_path / str(left)
        place.mkdir()
        parts = {name: place / file.name for name, file in files.items() if not (place / name).mkdir()}
        for name in parts:
            parts[name] = place / name / "a.png"
            Image.open(files[name]).crop((left, 0, left + 32, 24)).save(parts[name])
        predict(tmp_path / "model", parts, place / "out")
        whole = read(tmp_path / "windows", "a_ensemble")
        assert np.array_equal(whole[:, left : left + 32], read(place / "out", "a_ensemble"))


def test_predicted_images_are_the_mean_of_their_windows(tmp_path):
    data = Described()
    target = TargetSpec("depth", "depth", scale=0.001, unit="m", invalid=0, range=(0.0, 4.0), channels=1)
    net = fuse(models.create("rooms-unet", classes=1), {"depth": 1, "rgb": 3}).eval()
    described = SimpleNamespace(inputs=data.inputs, targets={"target": target}, size=None)
    save_model(net, "rooms-unet", {"classes": 1}, described, {"output": "images"}, tmp_path / "model")
    files = write_scene(tmp_path, "a", (24, 48))
    windows = Windows((24, 32))
    written = predict(tmp_path / "model", files, tmp_path / "out", windows=windows)
    assert len(written) == 6
    one, other = (
        Predictor(tmp_path / "model")(
            **{name: np.array(Image.open(file))[:, left : left + 32] for name, file in files.items()}
        )["values"][..., 0]
        for left in (0, 16)
    )
    assert np.allclose(read(tmp_path / "out", "a_ensemble")[:, :16], one[:, :16] * 1000, atol=1)
    assert np.allclose(read(tmp_path / "out", "a_ensemble")[:, 32:], other[:, 16:] * 1000, atol=1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--stride", "8,8"], "--stride: there is no window"),
        (["--window", "8,8", "--stride", "9,8"], "--stride: expected at most the window"),
        (["--window", "8,8", "--stride", "0,8"], "--stride: expected a height and a width above 0"),
        (["--window", "8"], "--window: expected a height and a width"),
        (["--window", "1,1"], "--window 1,1: the network takes no such part"),
        (["--scale", "depth=0.001,0.01"], "--scale depth: expected one number, got '0.001,0.01'"),
    ],
)
def test_windows_that_cannot_work_are_refused_before_anything_is_written(words, message, tmp_path, capsys):
    class Large(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.plain = models.create("rooms-unet", classes=3)

        def forward(self, x):
            if min(x.shape[-2:]) < 8:
                raise RuntimeError("too small")
            return self.plain(x)

    save(tmp_path / "model")
    files = write_scene(tmp_path, "a")
    arguments = ["predict", "--model", tmp_path / "model", "--input", *(f"{m}={f}" for m, f in files.items())]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("polymodal.runs.opened.trained", lambda _: fuse(Large(), {"depth": 1, "rgb": 3}).eval())
        assert main([str(word) for word in [*arguments, "--out", tmp_path / "out", *words]]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


LARGE = """
import sys
from pathlib import Path
from polymodal.runs.predict import predict
from polymodal.tasks.windows import Windows

def resident(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024

def of(folder):
    return {name: folder / name / "a.png" for name in ("rgb", "depth")}

model, small, large, out = map(Path, sys.argv[1:])
windows = Windows((480, 640))
predict(model, of(small), out / "small", windows=windows)  # what libraries take is there now
before = resident("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
predict(model, of(large), out / "large", windows=windows)
print(resident("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="another system does not tell the peak")
def test_a_picture_of_24_million_pixels_takes_less_than_a_gigabyte(tmp_path):
    """Of two modalities, in a process of its own; windows are shrunk, so that the network takes no time."""
    save(tmp_path / "model", size=(24, 32), classes=8)
    write_scene(tmp_path / "small", "a", (481, 641))
    for name, mode, value in (("rgb", "RGB", (9, 90, 200)), ("depth", "I;16", 90)):
        (tmp_path / "large" / name).mkdir(parents=True)
        Image.new(mode, (6000, 4000), value).save(tmp_path / "large" / name / "a.png", compress_level=1)
    folders = [tmp_path / name for name in ("model", "small", "large", "out")]
    child = subprocess.run([sys.executable, "-c", LARGE, *folders], check=True, capture_output=True, text=True)
    needed = int(child.stdout.split()[-1])
    assert 2e8 < needed < 1e9  # the decoded files are there
    assert Image.open(tmp_path / "out" / "large" / "a_ensemble.png").size == (6000, 4000)
