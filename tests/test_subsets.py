"""If these break, a user takes a model out without one of its sensors on scores that are not those of what is left."""

import json

import pytest
import torch

from fixtures_data import make_folder, target_of
from fixtures_run import write_run
from polymodal import Exchange, checkpoint, fuse, models
from polymodal.cli import main
from polymodal.data import FolderData
from polymodal.errors import ConfigError, FusionError
from polymodal.fusion import Aggregation
from polymodal.metrics import SegmentationScores
from polymodal.report import write_report
from polymodal.runs.evaluation import save_model
from polymodal.runs.subsets import chosen_subsets
from polymodal.runs.validate import validate

INPUTS = ["rgb", "depth", "grey"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "set"
    return make_folder(folder, modalities=INPUTS, splits={"train": 1, "val": 3}, size=(16, 16))


def model(root, folder, fusion):
    data = FolderData(str(root), INPUTS)
    data.setup("validate")
    torch.manual_seed(0)
    net = fuse(models.create("rooms-unet", classes=2), data.channels, fusion).eval()
    for parameter in net.parameters():  # one that does not say the same everywhere, nor from every set
        torch.nn.init.normal_(parameter, 0.0, 0.5)
    save_model(net, "rooms-unet", {"classes": 2}, data, {"epochs": 1}, folder)
    return data


def test_every_set_is_scored_as_if_the_others_had_never_been_there(root, tmp_path, capsys):
    data = model(root, tmp_path, Exchange(threshold=0.3))
    scores = validate(tmp_path, "val", str(root), subsets="all")
    assert list(scores["subsets"].values()) == [
        ["rgb"], ["depth"], ["grey"], ["rgb", "depth"], ["rgb", "grey"], ["depth", "grey"], INPUTS,
    ]  # fmt: skip
    net = checkpoint.load(tmp_path)
    for name, present in scores["subsets"].items():
        counts = SegmentationScores([name], 2)
        for scene in data.val_dataloader().dataset:
            with torch.no_grad():
                said = net({m: scene["inputs"][m][None] for m in present}, subset=True)
            counts.update(name, said.ensemble, target_of(scene)[None])
        assert scores["predictions"][name]["mean_iou"] == pytest.approx(counts.compute()[name]["mean_iou"], abs=0.3)
    values = [figures["mean_iou"] for figures in scores["predictions"].values()]
    chances = [0.1**2 * 0.9] * 3 + [0.1 * 0.9**2] * 3 + [0.9**3]  # of one, two and three that are there
    expected = sum(chance * value for chance, value in zip(chances, values, strict=True)) / (1 - 0.1**3)
    assert scores["entire_missing"]["p=0.1"] == pytest.approx(expected)
    assert scores["entire_missing"]["average"] == pytest.approx(sum(values) / 7)
    assert len({round(figures["mean_iou"]) for figures in scores["predictions"].values()}) > 3
    said = capsys.readouterr().out
    assert "rgb + depth" in said
    assert f"p=0.1 {expected:.1f}" in said
    (file,) = tmp_path.glob("scores.*.json")
    assert file.name.endswith(".subsets.json")
    assert json.loads(file.read_text())["predictions"] == scores["predictions"]


def test_sets_are_chosen_by_name(root, tmp_path):
    assert chosen_subsets("grey+rgb,depth", INPUTS) == [("depth",), ("rgb", "grey")]
    for wrong, said in {
        "rgb,ir": "no modality 'ir'",
        "rgb,rgb": "twice",
        "rgb+rgb": "twice",
        "": "no modality",
    }.items():
        with pytest.raises(ConfigError, match=said):
            chosen_subsets(wrong, INPUTS)


def test_a_fusion_that_needs_everyone_is_named_before_anything_is_written(root, tmp_path):
    model(root, tmp_path, Aggregation("concat"))
    with pytest.raises(FusionError, match="needs every modality"):
        validate(tmp_path, "val", str(root), subsets="all")
    assert not list(tmp_path.glob("scores.*"))


def test_the_command_refuses_what_it_does_not_know_in_one_line(root, tmp_path, capsys):
    model(root, tmp_path, None)
    assert main(["validate", str(tmp_path), "--root", str(root), "--subsets", "thermal"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_page_shows_who_matters(tmp_path):
    run = write_run(tmp_path / "run", modalities=["rgb", "depth"])
    scores = json.loads((run / "scores.val.json").read_text())
    figures = {name: scores["predictions"]["rgb"] | {"mean_iou": value} for name, value in
               {"rgb": 31.25, "depth": 42.5, "rgb + depth": 50.0}.items()}  # fmt: skip
    (run / "scores.val.subsets.json").write_text(json.dumps(scores | {"predictions": figures}))
    page = write_report([run], tmp_path / "report.html").read_text()
    section = page[page.index("Without some of the modalities") :]
    assert "-18.8" in section or "−18.8" in section
    assert "The ensemble on val, 150 scenes" in section
    assert 'class="stat"><dt>p=0.2</dt><dd>' in section
    del figures["rgb"]
    (run / "scores.val.subsets.json").write_text(json.dumps(scores | {"predictions": figures}))
    assert "p=0.2" not in write_report([run], tmp_path / "report.html").read_text()  # of some sets, nothing is expected
