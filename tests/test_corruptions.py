"""If these break, figures of robustness are of other faults than those that are named, or differ from run to run."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fixtures_data import make_folder
from polymodal import fuse, models
from polymodal.data import FolderData, InputSpec
from polymodal.data.corruptions import CORRUPTIONS, Corruption, chosen_corruptions, strengths
from polymodal.errors import ConfigError
from polymodal.runs.corrupted import show_corruptions
from polymodal.runs.evaluation import save_model, score_split
from polymodal.runs.tested import Tested
from polymodal.runs.validate import validate

SPECS = {
    "image": InputSpec("image", channels=3, mean=(0.4, 0.5, 0.6), std=(0.2, 0.2, 0.3)),
    "depth": InputSpec("depth", channels=1, unit="m", mean=(2.0,), std=(1.0,)),
    "raw": InputSpec("raw", channels=2, mean=(300.0, 10.0), std=(5.0, 2.0)),
    "normal": InputSpec("normal", channels=3, mean=(0.0, 0.0, 0.5), std=(0.5, 0.5, 0.5)),
    "label": InputSpec("label", channels=4, classes=("a", "b", "c", "d")),
}
EVERY = [(kind, name) for kind in SPECS for name in CORRUPTIONS[kind]]


def image(kind, size=(96, 224)):
    spec = SPECS[kind]
    draw = torch.Generator().manual_seed(0)
    rows, columns = torch.meshgrid(*(torch.linspace(0, 1, side) for side in size), indexing="ij")
    values = torch.stack([(rows + columns) / 2] * spec.channels) + 0.1 * torch.rand(
        spec.channels, *size, generator=draw
    )
    values[:, 20:60, 40:80] = 0.1
    valid = torch.ones(1, *size, dtype=torch.bool)
    valid[:, :4, :4] = False
    if kind == "depth":
        values = 1 + 4 * values
    mean, std = (torch.tensor(part)[:, None, None] for part in (spec.mean, spec.std))
    return ((values - mean) / std).masked_fill(~valid, 0.0), valid


def natural(kind, x):
    return natural_of(SPECS[kind], x)


def natural_of(spec, x):
    return x * torch.tensor(spec.std)[:, None, None] + torch.tensor(spec.mean)[:, None, None]


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_a_fault_is_the_same_for_the_same_scene_and_another_for_another(kind, name):
    x, valid = image(kind)
    for strength in strengths(SPECS[kind], name):
        fault = Corruption("m", name, strength)
        found = fault(x, valid, SPECS[kind], "a")
        assert found.shape == x.shape
        assert found.isfinite().all()
        assert torch.equal(found, fault(x, valid, SPECS[kind], "a"))
        assert not torch.equal(found, x)
    drawn = {"noise", "holes", "lines", "range-noise", "bleeding", "shifted"}
    if name in drawn:
        assert not torch.equal(found, fault(x, valid, SPECS[kind], "b"))


@pytest.mark.parametrize(("kind", "name"), [pair for pair in EVERY if pair[1] not in ("black", "shifted")])
def test_more_strength_is_more_harm(kind, name):
    x, valid = image(kind)
    harm = [(Corruption("m", name, s)(x, valid, SPECS[kind], "a") - x).abs().mean() for s in (1, 3, 5)]
    assert harm[0] < harm[1] < harm[2]


def test_amounts_are_those_that_are_said():
    x, valid = image("image")
    seen = natural("image", x)
    dark = natural("image", Corruption("rgb", "dark", 3)(x, valid, SPECS["image"], "a"))
    assert torch.allclose(dark[:, 5:], 0.25 * seen[:, 5:], atol=1e-6)
    d, known = image("depth", (100, 64))
    all_known = torch.ones_like(known)
    for strength, part in zip((1, 5), (0.1, 0.6), strict=True):
        holes = Corruption("depth", "holes", strength)(d, all_known, SPECS["depth"], "a")
        assert abs((holes == 0).float().mean() - part) < 0.01
        lines = Corruption("depth", "lines", strength)(d, all_known, SPECS["depth"], "a")
        assert ((lines == 0).all(-1).sum() / 100).item() == pytest.approx(part)
    steps = Corruption("depth", "quantised", 5)(d, all_known, SPECS["depth"], "a")
    assert len(natural("depth", steps).mul(1e4).round().unique()) <= 4
    noise = natural("depth", Corruption("depth", "range-noise", 3)(d, all_known, SPECS["depth"], "a")) - natural(
        "depth", d
    )
    true = natural("depth", d)
    far, near = (noise / (0.04 * true**2 / true.median()))[:, 25:], noise
    assert far.std().item() == pytest.approx(1.0, abs=0.1)
    assert near[true > true.median()].std() > near[true < true.median()].std()


def test_what_is_not_measured_stays_so():
    d, known = image("depth")
    for name in ("quantised", "range-noise", "bleeding", "holes"):
        assert (Corruption("depth", name, 2)(d, known, SPECS["depth"], "a")[~known] == 0).all()
    assert (Corruption("depth", "black", 1)(d, known, SPECS["depth"], "a") == 0).all()


def test_faults_make_no_values_between_what_was_measured_and_nothing():
    """If this breaks, a thermal image that is turned has edges halfway to 0 K, which is another fault by far."""
    x = torch.rand(2, 64, 64)
    known = torch.ones(1, 64, 64, dtype=torch.bool)
    known[:, 20:40, 20:40] = False
    x = x.add(1).masked_fill(~known, 0.0)  # between 1 and 2 deviations wherever something was measured
    for kind, name in (("raw", "rotated"), ("raw", "shifted"), ("raw", "blur"), ("normal", "rotated")):
        spec = SPECS[kind]
        image = x[:1].expand(spec.channels, -1, -1)
        for strength in (1, 3, 5):
            found = Corruption("m", name, strength)(image, known, spec, "a")
            measured = found[:, (found != 0).any(0)]
            assert 0.99 < measured.min() <= measured.max() < 2.01
            assert measured.shape[1] < 64 * 64


def test_a_hole_in_a_picture_moves_with_it():
    x, known = torch.ones(3, 64, 64), torch.ones(1, 64, 64, dtype=torch.bool)
    known[:, 24:40, 24:40] = False
    found = Corruption("rgb", "shifted", 5)(x.masked_fill(~known, 0.0), known, SPECS["image"], "a")
    hole = (found == 0).all(0)
    assert hole.sum() == 16 * 16
    assert not hole[24:40, 24:40].all()


def test_each_channel_of_raw_values_has_its_own_steps():
    """If this breaks, a band of small numbers beside one of large ones becomes a constant."""
    spec = InputSpec("raw", channels=2, mean=(300.0, 0.5), std=(5.0, 0.1))
    found = Corruption("m", "quantised", 5)(torch.randn(2, 32, 32), torch.ones(1, 32, 32).bool(), spec, "a")
    assert [len(natural_of(spec, found)[c].mul(1e3).round().unique()) for c in (0, 1)] == [4, 4]


@given(st.integers(8, 40), st.integers(8, 40), st.sampled_from(EVERY))
def test_every_size_is_taken(height, width, pair):
    kind, name = pair
    spec = SPECS[kind]
    x = torch.rand(spec.channels, height, width)
    for valid in (torch.ones(1, height, width, dtype=torch.bool), torch.zeros(1, height, width, dtype=torch.bool)):
        found = Corruption("m", name, len(strengths(spec, name)))(x, valid, spec, "a")
        assert found.isfinite().all()


def test_faults_are_chosen_by_name_modality_and_strength():
    inputs = {"rgb": SPECS["image"], "left": SPECS["image"], "depth": SPECS["depth"]}
    assert chosen_corruptions("rgb/dark:2", inputs) == [Corruption("rgb", "dark", 2)]
    assert [str(fault) for fault in chosen_corruptions("black", inputs)] == [
        "rgb/black:1",
        "left/black:1",
        "depth/black:1",
    ]
    assert len(chosen_corruptions("depth/holes", inputs)) == 5
    assert len(chosen_corruptions("all", inputs)) == 3 * (5 * 5 + 1 + 2 * 5)
    refused = {
        "ir/dark": "no modality 'ir'",
        "depth/dark": "no 'dark' here: depth has holes",
        "fog": "no 'fog' here: rgb has dark",
        "dark:6": "strength from 1 to 5, got '6'",
        "dark:": "got ''",
        "black:2": "from 1 to 1",
        "rgb/dark,dark": "rgb/dark:1 is named twice",
    }
    for words, said in refused.items():
        with pytest.raises(ConfigError, match=said):
            chosen_corruptions(words, inputs)


def test_a_model_is_scored_under_each_fault_and_without(tmp_path, capsys):
    names = ["rgb", "depth"]
    root = make_folder(tmp_path / "set", modalities=names, splits={"train": 1, "val": 2}, size=(16, 16))
    data = FolderData(str(root), names)
    data.setup("validate")
    torch.manual_seed(0)
    net = fuse(models.create("rooms-unet", classes=2), data.channels, None).eval()
    for parameter in net.parameters():  # one that does not say the same everywhere
        torch.nn.init.normal_(parameter, 0.0, 0.5)
    save_model(net, "rooms-unet", {"classes": 2}, data, {"epochs": 1}, tmp_path / "m")
    clean = score_split(Tested(tmp_path / "m", data, "val"), tmp_path)["predictions"]
    scores = validate(tmp_path / "m", "val", str(root), corrupt="dark,depth/black")
    assert scores["predictions"] == clean
    assert [fault["strength"] for fault in scores["corruptions"]] == [1, 2, 3, 4, 5, 1]
    black = scores["corruptions"][-1]["predictions"]
    assert black["rgb"] == clean["rgb"]  # nothing is exchanged here
    assert black["depth"] != clean["depth"]
    assert "depth/black" in capsys.readouterr().out
    (file,) = (tmp_path / "m").glob("scores.*.json")
    assert file.name.endswith(".corruptions.json")
    assert len(json.loads(file.read_text())["corruptions"]) == 6
    with pytest.raises(ConfigError, match="expected one of them"):
        validate(tmp_path / "m", "val", str(root), subsets="all", corrupt="all")


def test_the_table_has_a_column_for_each_strength_that_was_asked_for(capsys):
    """If this breaks, whoever scores one strength sees an empty column called 1."""
    figures = {"predictions": {"ensemble": {"mean_iou": 40.0}}}
    fault = {"modality": "rgb", "name": "dark", "strength": 3, "predictions": {"ensemble": {"mean_iou": 30.0}}}
    show_corruptions({**figures, "corruptions": [fault], "samples": 2, "split": "val"})
    header, row = [line.split() for line in capsys.readouterr().out.splitlines()[-2:]]
    assert header == ["fault", "3", "mean", "ensemble"]
    assert row == ["rgb/dark", "30.0", "30.0", "75", "%"]
