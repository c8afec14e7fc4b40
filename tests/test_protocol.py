"""Test protocols: each view, window and average against the same thing written out by hand."""

import json

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from fixtures_data import make_folder, target_of
from polymodal import fuse, models
from polymodal.cli import main
from polymodal.data import FolderData, InputSpec
from polymodal.errors import ConfigError
from polymodal.report import write_report
from polymodal.runs.evaluation import save_model
from polymodal.runs.tested import name_of_split
from polymodal.tasks.protocol import Protocol, in_windows, resized, view
from polymodal.tasks.windows import Windows

RGB = InputSpec("image", 3)
SPECS = {"rgb": RGB, "depth": InputSpec("depth", 1)}


def inputs(height=32, width=64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        "rgb": torch.rand(2, 3, height, width, generator=generator),
        "depth": torch.rand(2, 1, height, width, generator=generator),
    }


def local(given_inputs):
    """A network that sees one pixel at a time."""
    rgb, depth = given_inputs["rgb"], given_inputs["depth"]
    return {"rgb": torch.cat([rgb, rgb.prod(1, keepdim=True)], 1) * 3, "ensemble": torch.cat([depth, rgb], 1)}


def neighbours(given_inputs):
    """A network that sees three by three pixels, in which left and right differ, at half the resolution."""
    kernel = torch.arange(36.0).view(4, 1, 3, 3) / 36
    return {"ensemble": F.conv2d(given_inputs["depth"], kernel, padding=1, stride=2)}


def test_the_default_is_the_network_itself_to_the_last_bit():
    seen = []

    def predict(shown):
        seen.append(shown)
        return neighbours(shown)

    given_inputs = inputs()
    (scores,) = Protocol()(predict, given_inputs, SPECS, (32, 64)).values()
    logits = neighbours(given_inputs)["ensemble"]
    assert torch.equal(scores, F.interpolate(logits, size=(32, 64), mode="bilinear"))
    assert len(seen) == 1
    assert all(seen[0][name] is image for name, image in given_inputs.items())


def test_multi_scale_and_flip_average_the_softmax_at_the_resolution_of_the_labels():
    given_inputs = inputs()
    protocol = Protocol(scales=(0.5, 1.0, 2.0), flip=True)
    scores = protocol(neighbours, given_inputs, SPECS, (40, 80))["ensemble"]
    views = []
    for height, width in ((32, 32), (32, 64), (64, 128)):  # half of 32 is no multiple of 32, so it stays at 32
        depth = given_inputs["depth"]
        if (height, width) != (32, 64):
            depth = F.interpolate(depth, size=(height, width), mode="nearest-exact")
        for mirrored in (False, True):
            shown = torch.flip(depth, [3]) if mirrored else depth
            logits = F.interpolate(neighbours({"depth": shown})["ensemble"], size=(40, 80), mode="bilinear")
            probabilities = torch.exp(logits) / torch.exp(logits).sum(1, keepdim=True)
            views.append(torch.flip(probabilities, [3]) if mirrored else probabilities)
    expected = sum(views) / 6
    torch.testing.assert_close(scores, expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(scores.sum(1), torch.ones(2, 40, 80))


def test_mean_of_softmax_is_not_mean_of_logits():
    """Two views that disagree: the surer one does not outvote the other by the size of its logits."""
    views = iter(([0.0, 9.0, 1.0], [2.0, 0.0, 1.9]))

    def predict(shown):
        return {"a": torch.tensor(next(views)).view(1, 3, 1, 1).expand(1, 3, 4, 4)}

    scores = Protocol(flip=True)(predict, {"rgb": torch.rand(1, 3, 4, 4)}, SPECS, (4, 4))["a"][0, :, 0, 0]
    expected = (torch.tensor([0.0, 9.0, 1.0]).softmax(0) + torch.tensor([2.0, 0.0, 1.9]).softmax(0)) / 2
    torch.testing.assert_close(scores, expected)


def test_views_keep_the_divisibility_that_the_network_needs_and_no_other():
    sizes = {(480, 640): (352, 480), (425, 560): (319, 416), (426, 561): (320, 421)}
    for (height, width), expected in sizes.items():
        shown = view({"rgb": torch.zeros(1, 3, height, width)}, {"rgb": RGB}, 0.75, False)["rgb"].shape[-2:]
        assert tuple(shown) == expected


def test_depth_and_classes_are_not_interpolated_and_images_are():
    values = torch.tensor([[[[0.0, 8.0]] * 2]])
    specs = {"depth": InputSpec("depth", 1), "grey": InputSpec("image", 1)}
    shown = view({"depth": values, "grey": values}, specs, 2.0, False)
    assert set(shown["depth"].unique().tolist()) == {0.0, 8.0}
    assert shown["grey"][0, 0, 0].tolist() == [0.0, 2.0, 6.0, 8.0]


def test_mirrored_normals_point_the_other_way():
    spec = InputSpec("normal", 3, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0))
    normals = torch.nn.functional.normalize(torch.randn(1, 3, 4, 6, generator=torch.Generator().manual_seed(0)), dim=1)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (spec.mean, spec.std))
    stored = (normals - mean) / std
    stored[..., 0] = 0  # not measured
    shown = view({"normal": stored}, {"normal": spec}, 1.0, True)["normal"]
    mirrored = normals.flip(3) * torch.tensor([-1.0, 1.0, 1.0]).view(1, 3, 1, 1)
    torch.testing.assert_close((shown * std + mean)[..., :-1], mirrored[..., :-1])
    assert (shown[..., -1] == 0).all()


@settings(deadline=None, max_examples=40)
@given(
    size=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    window=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    step=st.tuples(st.floats(0.1, 1), st.floats(0.1, 1)),
)
def test_windows_over_a_local_network_are_the_whole_however_they_overlap(size, window, step):
    stride = tuple(max(1, int(share * length)) for share, length in zip(step, window, strict=True))
    given_inputs = inputs(*size)
    scores = Protocol(window=window, stride=stride)(local, given_inputs, SPECS, size)
    for name, whole in local(given_inputs).items():
        torch.testing.assert_close(scores[name], whole, atol=1e-5, rtol=1e-5)


def test_windows_average_their_logits_where_they_overlap():
    given_inputs = inputs(5, 7)
    seen = []

    def numbered(shown):
        seen.append(tuple(shown["depth"].shape[-2:]))
        return {"a": torch.full((2, 1, 1, 1), float(len(seen)))}

    logits = in_windows(numbered, Windows((5, 4), (5, 2)))(given_inputs)["a"]
    assert seen == [(5, 4)] * 3  # columns 0-3, 2-5, and 3-6, where the last one ends with the image
    assert logits[0, 0, 0].tolist() == [1.0, 1.0, 1.5, 2.0, 2.5, 2.5, 3.0]


def test_windows_and_scales_go_together():
    sizes = []

    def predict(shown):
        sizes.append(tuple(shown["rgb"].shape[-2:]))
        return local(shown)

    scores = Protocol(scales=(1.0, 2.0), window=(32, 64))(predict, inputs(), SPECS, (32, 64))
    assert set(sizes) == {(32, 64)}
    assert len(sizes) == 1 + 3 * 3  # 43 rows and columns from one to the next, the last at the end
    assert scores["ensemble"].shape == (2, 4, 32, 64)


def test_cubic_is_the_kernel_of_the_released_code():
    """cv2.INTER_CUBIC: the kernel with a = -0.75 at the centres of pixels, borders repeated."""
    row = torch.rand(9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def kernel(x):
        x, a = abs(x), -0.75
        return (a + 2) * x**3 - (a + 3) * x**2 + 1 if x <= 1 else (a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0)

    expected = []
    for target in range(24):
        centre = (target + 0.5) * 9 / 24 - 0.5
        taps = range(int(np.floor(centre)) - 1, int(np.floor(centre)) + 3)
        expected.append(sum(row[min(max(tap, 0), 8)].item() * kernel(centre - tap) for tap in taps))
    shown = resized(row.expand(1, 1, 1, 9), (1, 24), "cubic")[0, 0, 0]
    np.testing.assert_allclose(shown.numpy(), expected, atol=1e-12)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scales": ()}, "--scales: expected factors above 0, got none"),
        ({"scales": (1.0, -1.0)}, "--scales: expected factors above 0, got 1,-1"),
        ({"scales": (1.0, 1.0)}, "--scales: expected different factors"),
        ({"window": (0, 3)}, "--window: expected a height and a width"),
        ({"window": (3,)}, "--window: expected a height and a width"),
        ({"stride": (3, 3)}, "--stride: there is no window"),
        ({"window": (3, 3), "stride": (4, 1)}, "--stride: expected at most the window"),
        ({"resize": "nearest"}, "--resize: expected bilinear or cubic"),
    ],
)
def test_settings_that_cannot_work_are_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        Protocol(**settings)


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path):
    root = make_folder(
        tmp_path / "set", size=(32, 32), splits={"train": 2, "val": 2, "test": 2}, modalities=["rgb", "depth"]
    )
    data = FolderData(str(root), modalities=["rgb", "depth"])
    data.setup()
    torch.manual_seed(0)
    net = fuse(models.create("rooms-unet", classes=2), data.channels).eval()
    with torch.no_grad():
        for parameter in net.parameters():  # so that it predicts more than one class
            parameter.copy_(torch.randn_like(parameter) * parameter.abs().mean().clamp(min=0.1))
    facts = {"seconds": 1.0, "epochs": 1, "seed": 0, "selected_on": name_of_split(data, "val")}
    folder = tmp_path / "run"
    save_model(net, "rooms-unet", {"classes": data.num_classes}, data, facts, folder / "model")
    chosen = {"class_path": "polymodal.data.FolderData", "init_args": {"root": str(root), "eval_batch_size": 2}}
    (folder / "config.yaml").write_text(yaml.safe_dump({"data": chosen}))
    return folder


def scores_of(run, *words):
    assert main(["validate", str(run), *words]) == 0


def test_the_file_and_the_table_say_which_protocol_it_was_and_the_plain_scores_stay(run, capsys):
    scores_of(run)
    plain = (run / "scores.val.json").read_bytes()
    assert json.loads(plain)["protocol"] == {
        "scales": [1.0],
        "flip": False,
        "window": None,
        "stride": None,
        "resize": "bilinear",
    }
    assert "scale 1; logits resized bilinear" in capsys.readouterr().out
    scores_of(run, "--scales", "1,2", "--flip", "--window", "32,32", "--resize", "cubic")
    shown = " ".join(capsys.readouterr().out.split())
    assert (
        "scales 1, 2; mirrored, too; windows of 32x32 (height x width); mean of softmax; logits resized cubic" in shown
    )
    other = json.loads((run / "scores.val.multi-scale-flip-window-cubic.json").read_text())
    assert other["protocol"]["scales"] == [1.0, 2.0]
    assert other["predictions"].keys() == {"rgb", "depth", "ensemble"}
    assert (run / "scores.val.json").read_bytes() == plain


def test_scores_are_those_of_the_averaged_views(run):
    """The command against the network called by hand, twice a scene."""
    from polymodal import checkpoint
    from polymodal.metrics import SegmentationScores
    from polymodal.runs.validate import validate

    plain = validate(run, "val")["predictions"]["ensemble"]["iou"]
    written = validate(run, "val", protocol=Protocol(flip=True))["predictions"]["ensemble"]["iou"]
    data = FolderData(yaml.safe_load((run / "config.yaml").read_text())["data"]["init_args"]["root"])
    data.setup("validate")
    net, counts = checkpoint.load(run / "model"), SegmentationScores(["ensemble"], 2, 255)
    with torch.inference_mode():
        for batch in data.val_dataloader():
            mirrored = {name: image.flip(3) for name, image in batch["inputs"].items()}
            mean = net(batch["inputs"]).ensemble.softmax(1) + net(mirrored).ensemble.flip(3).softmax(1)
            counts.update("ensemble", mean, target_of(batch))
    assert written == pytest.approx(counts.compute()["ensemble"]["iou"])
    assert written != pytest.approx(plain)


def test_scores_on_the_split_that_chose_the_checkpoint_say_so(run, capsys):
    note = "the checkpoint was chosen on the split that is reported"
    scores_of(run, "--split", "test")
    assert note not in capsys.readouterr().out
    scores_of(run)
    assert note in capsys.readouterr().out
    scores = json.loads((run / "scores.val.json").read_text())
    assert scores["selected_on"] == scores["scored_on"] == "set/val"
    settings_file = yaml.safe_load((run / "config.yaml").read_text())
    settings_file["data"]["init_args"]["test_split"] = "val"
    (run / "config.yaml").write_text(yaml.safe_dump(settings_file))
    scores_of(run, "--split", "test")
    assert note in capsys.readouterr().out


def test_the_report_says_so_too(run, tmp_path):
    note = "chosen on the split that is reported"
    scores_of(run, "--split", "test")
    assert note not in write_report([run], tmp_path / "report.html").read_text()
    scores = json.loads((run / "scores.test.json").read_text())
    (run / "scores.test.json").write_text(json.dumps(scores | {"selected_on": scores["scored_on"]}))
    assert note in write_report([run], tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--scales", "1,two"], "--scales: expected numbers between commas, got '1,two'"),
        (["--window", "32"], "--window: expected a height and a width"),
        (["--window", "32,3.5"], "--window: expected numbers between commas"),
        (["--stride", "8,8"], "--stride: there is no window"),
        (["--resize", "lanczos"], "--resize: expected bilinear or cubic, got 'lanczos'"),
    ],
)
def test_wrong_words_end_before_anything_is_loaded(words, message, run, capsys):
    assert main(["validate", str(run), *words]) == 2
    assert message in capsys.readouterr().err
    assert not list(run.glob("scores*"))
