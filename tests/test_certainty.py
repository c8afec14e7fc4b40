"""If these break, a user trusts a pixel that the network got wrong, or is told that a confidence can be believed."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchmetrics.functional.classification import binary_auroc, multiclass_calibration_error

from fixtures_data import Described, make_folder
from fixtures_run import write_run
from polymodal import Predictor, checkpoint, fuse, models
from polymodal.cli import main
from polymodal.data import FolderData, TargetSpec
from polymodal.errors import CheckpointError, ConfigError, DataError
from polymodal.metrics import Reliability
from polymodal.metrics.certainty import confidence, disagreement, doubt, entropy, log_probabilities
from polymodal.report import write_report
from polymodal.runs.calibrate import LARGEST, calibrate, fitted_temperature
from polymodal.runs.evaluation import describe, save_model
from polymodal.runs.predict import predict
from polymodal.runs.tested import Tested
from polymodal.runs.validate import validate
from polymodal.tasks.protocol import Protocol
from predict_tools import write_scene

NAMES = ["rgb", "depth"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "set"
    return make_folder(folder, modalities=NAMES, splits={"train": 1, "val": 3}, size=(16, 16))


@pytest.fixture
def model(root, tmp_path):
    data = FolderData(str(root), NAMES)
    data.setup("validate")
    net = fuse(models.create("rooms-unet", classes=2), data.channels, None).eval()
    for parameter in net.parameters():  # one that does not say the same everywhere, and is sure of it
        torch.nn.init.normal_(parameter, 0.0, 0.2)
    net.network.head.weight.data *= 20
    net.network.head.bias.data.zero_()
    save_model(net, "rooms-unet", {"classes": 2}, data, {"epochs": 1}, tmp_path / "m")
    return tmp_path / "m"


def test_sure_and_unsure_pixels_have_the_certainty_that_the_formulas_say():
    sure, even = torch.tensor([100.0, 0.0, 0.0, 0.0]), torch.zeros(4)
    found = log_probabilities(torch.stack([sure, even], 1)[None])
    assert torch.allclose(confidence(found), torch.tensor([[1.0, 0.25]]))
    assert torch.allclose(entropy(found), torch.tensor([[0.0, 1.0]]), atol=1e-6)
    other = log_probabilities(torch.stack([sure.roll(1), even], 1)[None])
    assert torch.allclose(disagreement([found, other]), torch.tensor([[1.0, 0.0]]), atol=1e-6)
    assert torch.equal(entropy(torch.zeros(1, 1, 2)), torch.zeros(1, 2))  # of one class nobody is in doubt
    impossible = torch.tensor([[[0.0], [-math.inf]]])  # as a network says that masks classes
    for value in (confidence(impossible), entropy(impossible), disagreement([impossible, impossible])):
        assert value.isfinite().all()


@settings(max_examples=20)
@given(st.integers(2, 6), st.integers(2, 4), st.floats(0.1, 10.0), st.integers(0, 1000))
def test_certainty_stays_within_its_bounds_and_a_temperature_keeps_the_class(classes, modalities, temperature, seed):
    draw = torch.Generator().manual_seed(seed)
    logits = [10 * torch.randn(2, classes, 3, 3, generator=draw) for _ in range(modalities)]
    found = [log_probabilities(values, temperature) for values in logits]
    for value in (entropy(found[0]), disagreement(found), confidence(found[0]), doubt(found[0])):
        assert value.min() >= 0
        assert value.max() <= 1
    assert torch.allclose(confidence(found[0]) + doubt(found[0]), torch.ones(()), atol=1e-6)
    plain = confidence(log_probabilities(logits[0]))
    assert (
        (confidence(found[0]) <= plain + 1e-6) if temperature >= 1 else (confidence(found[0]) >= plain - 1e-6)
    ).all()


def test_binned_figures_are_those_of_every_pixel_and_batches_add_up():
    logits = {name: 4 * torch.randn(4, 5, 24, 24) for name in ("rgb", "depth")}
    logits["ensemble"] = (logits["rgb"] + logits["depth"]) / 2
    target = torch.distributions.Categorical(logits=logits["ensemble"].movedim(1, -1) / 2).sample()
    target[0, :4] = 255
    counts = Reliability(list(logits), 5, 255, {"rgb": 2.0})
    for part in (slice(0, 1), slice(1, 4)):
        counts.update({name: values[part] for name, values in logits.items()}, target[part])
    known, found = target != 255, counts.compute()
    apart = disagreement([log_probabilities(logits["rgb"], 2.0), log_probabilities(logits["depth"])])
    for name, temperature in (("rgb", 2.0), ("depth", 1.0), ("ensemble", 1.0)):
        values, figures = log_probabilities(logits[name], temperature), found[name]
        error = multiclass_calibration_error(values.exp().movedim(1, -1)[known], target[known], 5, n_bins=15)
        assert figures["ece"] == pytest.approx(100 * error.item(), abs=1e-3)
        wrong = (logits[name].argmax(1) != target)[known].int()
        for sign, value in (("confidence", doubt(values)), ("entropy", entropy(values)), ("disagreement", apart)):
            exact = 100 * binary_auroc(value[known].double(), wrong).item()
            assert figures[f"auroc_{sign}"] == pytest.approx(exact, abs=0.05)
        assert sum(pixels for pixels, _, _ in figures["bins"]) == known.sum()


def test_where_nothing_is_wrong_or_labelled_no_figure_is_made_up():
    target = torch.zeros(1, 2, 2, dtype=torch.long)
    counts = Reliability(["ensemble"], 2, 255)
    counts.update({"ensemble": torch.tensor([3.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 2, 2)}, target + 255)
    assert counts.compute()["ensemble"]["ece"] is None
    counts.update({"ensemble": torch.tensor([3.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 2, 2)}, target)
    figures = counts.compute()["ensemble"]
    assert figures["auroc_confidence"] is None
    assert figures["auroc_disagreement"] is None
    assert figures["ece"] == pytest.approx(100 - 100 / (1 + math.exp(-3)), abs=1e-3)


def test_the_temperature_that_spoilt_the_logits_is_found_again_and_bounded_where_there_is_none():
    true = 2 * torch.randn(20_000, 4)
    target = torch.distributions.Categorical(logits=true).sample()
    assert fitted_temperature(true * 3, target) == pytest.approx(3, rel=0.03)
    assert fitted_temperature(true / 3, target) == pytest.approx(1 / 3, rel=0.03)
    always_right, never_right = torch.eye(2).repeat(4, 1), torch.eye(2).flip(1).repeat(4, 1)
    truth = torch.tensor([0, 1]).repeat(4)
    assert 1 / LARGEST <= fitted_temperature(always_right, truth) < 0.1
    assert 10 < fitted_temperature(never_right, truth) <= LARGEST


def test_calibrating_changes_the_confidence_everywhere_and_no_class(model, root, tmp_path, capsys):
    files = write_scene(tmp_path, "a", size=(16, 16))
    frames = {name: np.array(Image.open(file)) for name, file in files.items()}
    before, scores = Predictor(model)(**frames), validate(model, "val", str(root))
    assert main(["calibrate", str(model), "--root", str(root)]) == 0
    assert "NLL after" in capsys.readouterr().out
    kept = checkpoint.read_config(model)["metadata"]["temperatures"]
    assert set(kept) == {*NAMES, "ensemble"}
    after, calibrated = Predictor(model)(**frames), validate(model, "val", str(root))
    assert calibrated["predictions"] == scores["predictions"]
    for name, temperature in kept.items():
        assert np.array_equal(after.arrays[name]["labels"], before.arrays[name]["labels"])
        expected = (after.scores[name] / temperature).softmax(0).max(0).values
        assert np.allclose(after.arrays[name]["confidence"], expected, atol=1e-6)
        assert not np.allclose(after.arrays[name]["confidence"], before.arrays[name]["confidence"], atol=1e-3)
        figures = calibrated["reliability"][name]
        assert figures["temperature"] == temperature
        assert figures["ece"] != scores["reliability"][name]["ece"]
    checkpoint.load(model)  # the weights still belong to their description
    assert "reliability" not in validate(model, "val", str(root), Protocol(flip=True))


def test_maps_of_certainty_are_those_of_the_predictor(model, tmp_path):
    files = write_scene(tmp_path, "a", size=(16, 16))
    checkpoint.annotate(model, temperatures={"depth": 2.0})
    predict(model, files, tmp_path / "out", certainty=True)
    found = Predictor(model)(**{name: np.array(Image.open(file)) for name, file in files.items()})
    kinds = {name: ["confidence", "entropy"] for name in NAMES} | {
        "ensemble": ["confidence", "entropy", "disagreement"]
    }
    for name, maps in kinds.items():
        for what in maps:
            grey = np.array(Image.open(tmp_path / "out" / f"a_{name}_{what}.png"))
            assert grey.dtype == np.uint16
            assert np.allclose(grey / 65535, found.arrays[name][what], atol=1e-5)
    assert len(list((tmp_path / "out").glob("*_disagreement.png"))) == 1
    predict(model, {"rgb": files["rgb"]}, tmp_path / "alone", subset=True, certainty=True)
    assert not list((tmp_path / "alone").glob("*_disagreement.png"))  # nobody to disagree with


def test_what_is_no_temperature_or_has_none_is_named(model, root):
    for damaged in ({"depth": 0}, {"depth": "hot"}, {"ir": 1.0}, {"depth": math.inf}, [1.0], {"depth": True}):
        checkpoint.annotate(model, temperatures=damaged)
        with pytest.raises(CheckpointError, match="temperatures: expected numbers above 0 for"):
            Predictor(model)
    calibrate(model, str(root))  # as the message says
    Predictor(model)
    with pytest.raises(ConfigError, match="types that JSON knows"):
        checkpoint.annotate(model, temperatures={"depth": torch.ones(1)})
    with pytest.raises(CheckpointError, match="no model folder"):
        checkpoint.annotate(root, temperatures={})


def test_no_temperature_is_kept_of_what_cannot_be_fitted(model, root, monkeypatch):
    """If this breaks, one NaN in a scene leaves a model that nobody can open."""
    before = checkpoint.read_config(model)
    predict = Tested.predict
    spoilt = lambda *given, **named: {name: x.log() for name, x in predict(*given, **named).items()}  # noqa: E731
    monkeypatch.setattr(Tested, "predict", spoilt)
    with pytest.raises(DataError, match=r"\d+: rgb: the prediction holds NaN"):
        calibrate(model, str(root))
    assert checkpoint.read_config(model) == before


def test_the_page_shows_how_far_to_trust_and_names_what_nothing_wrote(tmp_path):
    run = write_run(tmp_path / "run", splits=["val"])
    file = run / "scores.val.json"
    scores = json.loads(file.read_text())
    bins = [[0, None, None], [90, 81.0, 60.0], [10, 40.0, 45.0]]
    figures = {"temperature": 1.25, "ece": 19.4, "auroc_confidence": 88.1, "auroc_entropy": 87.2}
    trust = {"ensemble": {**figures, "auroc_disagreement": None, "bins": bins}}
    file.write_text(json.dumps(scores | {"reliability": trust}))
    page = write_report([run], tmp_path / "report.html").read_text()
    section = page[page.index("How far to trust it") :]
    for text in ("1.25", "19.4", "88.1", "60 % right at 81 %"):
        assert text in section
    assert "Measured before the model was calibrated" not in section
    # If this breaks, a calibrated model's page shows the confidence that it had before.
    (run / "model").mkdir(exist_ok=True)
    for temperature, said in ((1.25, False), (2.5, True)):
        content = {"metadata": {"temperatures": {"ensemble": temperature}}}
        (run / "model" / "config.json").write_text(json.dumps(content))
        page = write_report([run], tmp_path / "report.html").read_text()
        assert ("Measured before the model was calibrated as it is now" in page) is said
    for spoilt in ({"ece": 190.0}, {"temperature": 0}, {"bins": [[1, 2]]}, {"bins": [["a", None, None]]}, {"ece": "x"}):
        file.write_text(json.dumps(scores | {"reliability": {"ensemble": trust["ensemble"] | spoilt}}))
        with pytest.raises(ConfigError, match=r"scores\.val\.json"):
            write_report([run], tmp_path / "report.html")


def test_a_model_that_predicts_images_is_refused_before_anything_is_written(tmp_path):
    arguments = {"filters": 2, "depth": 3, "in_channels": 3, "out_channels": 3}
    net = fuse(models.create("translation-unet", **arguments), {"depth": 1, "rgb": 3}).eval()
    image = TargetSpec("image", "shaded", channels=3, range=(0.0, 1.0))
    checkpoint.save(net, tmp_path / "m", metadata={**describe(Described()), "target": image.as_dict()})
    with pytest.raises(ConfigError, match="--certainty: the model predicts images"):
        predict(tmp_path / "m", write_scene(tmp_path, "a"), tmp_path / "out", certainty=True)
    assert not (tmp_path / "out").exists()
