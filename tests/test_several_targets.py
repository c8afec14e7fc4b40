"""A model of several targets: each is scored, shown and written as it would be alone, also where scenes lack one.

The page docs/own-task.md has a task of two targets, which its own test trains, scores, compares and predicts with.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from fixtures_data import edit, make_folder
from polymodal import models
from polymodal.data import FolderData, FolderDataset, TargetSpec
from polymodal.data.check import check
from polymodal.data.transforms import Augment
from polymodal.errors import CheckpointError, ConfigError, DataError, ExportError
from polymodal.fusion import Exchange
from polymodal.report import write_report
from polymodal.run_folder import images_file
from polymodal.runs.calibrate import calibrate
from polymodal.runs.evaluation import save_model, score_split, write_scenes
from polymodal.runs.export import export_model
from polymodal.runs.predict import predict
from polymodal.runs.predictor import Predictor
from polymodal.runs.tested import Tested
from polymodal.runs.validate import validate
from polymodal.scores import classes_of, from_plain, leading
from polymodal.surgery import fuse
from polymodal.tasks import Segmentation
from polymodal.tasks.outputs import Images, Labels
from polymodal.tasks.protocol import Protocol
from polymodal.tasks.several import Several, output_of
from polymodal.tasks.start import _why_others
from polymodal.tasks.windows import Windows

INPUTS = ["rgb", "grey"]
BOTH = ["labels", "far"]
LABELS = TargetSpec("label", "label", ignore=255, colors=((9, 9, 9), (200, 0, 0)), classes=("a", "b"), name="labels")
FAR = TargetSpec("depth", "depth", scale=0.001, unit="m", range=(0.0, 6.0), channels=1, name="far")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Labels and depth as targets; of three scenes for validation one has both, one labels alone, one depth alone."""
    folder = make_folder(
        tmp_path_factory.mktemp("data") / "set",
        size=(32, 32),
        splits={"train": 2, "val": 3, "test": 1},
        modalities=(*INPUTS, "depth"),
    )

    def both(content):
        far = {**content["modalities"].pop("depth"), "range": [0, 6], "optional": True}
        content["targets"] = {"labels": {**content.pop("target"), "optional": ["0003"]}, "far": far}

    edit(folder, both)
    (folder / "label/0003.png").unlink()
    (folder / "depth/0004.png").unlink()
    return folder


@pytest.fixture(scope="module")
def data(root):
    data = FolderData(str(root), INPUTS, target=BOTH, eval_batch_size=2)
    data.setup()
    return data


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """A run folder with an untrained network of three channels, scored."""
    folder = tmp_path_factory.mktemp("run") / "both"
    arguments = {"out_channels": 3, "depth": 3, "filters": 2}
    torch.manual_seed(0)
    net = fuse(models.create("translation-unet", **arguments), data.channels, Exchange()).eval()
    facts = {"seconds": 1.0, "epochs": 1, "seed": 0, "output": ["labels", "images"]}
    save_model(net, "translation-unet", arguments, data, facts, folder / "model")
    score_split(Tested(folder / "model", data, "val"), folder)
    write_scenes(Tested(folder / "model", data, "val"), folder)
    return folder


def test_each_target_is_scored_as_it_is_alone():
    """If this breaks, two tasks that one network learns cannot be compared with a network for each."""
    prediction, far = torch.randn(2, 3, 16, 16), torch.rand(2, 1, 16, 16)
    labels = torch.randint(0, 2, (2, 16, 16))
    labels[0, :4] = 255
    valid = torch.rand(2, 1, 16, 16) > 0.2
    both = Several({"labels": Labels(LABELS), "far": Images(FAR)})
    counts = both.scores(["ensemble"])
    counts.keep_samples()
    counts.update("ensemble", torch.randn(2, 3, 16, 16), (labels,), (far, valid))
    counts.reset()
    counts.keep_samples()
    counts.update("ensemble", prediction, (labels,), (far, valid))
    found, sums = counts.compute()["ensemble"], counts.of_samples()
    for name, output, own, truth in (
        ("labels", Labels(LABELS), prediction[:, :2], (labels,)),
        ("far", Images(FAR), prediction[:, 2:], (far, valid)),
    ):
        alone = output.scores(["ensemble"])
        alone.keep_samples()
        alone.update("ensemble", own, *truth)
        for key, value in alone.compute()["ensemble"].items():
            assert found.pop(f"{name}/{key}") == value
        for (key, of), (above, below) in alone.of_samples().items():
            assert torch.equal(sums[f"{name}/{key}", of][0], above)
            assert torch.equal(sums[f"{name}/{key}", of][1], below)
    assert not found
    assert [score.key for score in counts.scored][:5:4] == ["labels/mean_iou", "far/MAE"]
    assert counts.scored[0].per_class == "labels/iou"
    counts.reset()
    counts.update("ensemble", prediction, (torch.full_like(labels, 255),), (far, valid))
    with pytest.raises(DataError, match="labels: no labelled pixel"):
        counts.compute()


def test_a_scene_without_a_target_is_scored_on_the_others(run):
    """If this breaks, a data set whose scenes were labelled by halves can be scored on what all of them have alone."""
    scores = json.loads((run / "scores.val.json").read_text())
    assert scores["samples"] == 3
    assert scores["classes"] == {"labels": ["class 0", "class 1"], "far": []}
    assert {"labels/mean_iou", "labels/iou", "far/MAE"} <= scores["predictions"]["ensemble"].keys()
    assert [one["name"] for one in scores["scores"]][:5:4] == ["labels: mean IoU", "far: MAE"]
    with np.load(run / images_file("scores.val.json")) as images:
        counted = {key: images[f"below:{key}/ensemble"].sum(1) > 0 for key in ("labels/pixel_accuracy", "far/MAE")}
        assert images["keys"].tolist() == ["0002", "0003", "0004"]
    assert counted["labels/pixel_accuracy"].tolist() == [True, False, True]
    assert counted["far/MAE"].tolist() == [True, True, False]


def test_the_page_has_truth_and_predictions_of_each_target(run, tmp_path):
    """If this breaks, of a network of two targets nobody sees the second."""
    text = write_report([run], tmp_path / "report.html").read_text()
    for target in BOTH:
        assert f'alt="0002: truth of {target}"' in text
        assert f'alt="0002: prediction of {target} of grey"' in text
        assert f"{target}: ensemble says" in text
    assert "ensemble labels: mean IoU" in text
    assert "ensemble far: MAE" in text
    assert "Classes of labels" in text
    assert "Classes of far" not in text
    with np.load(run / "samples.npz") as arrays:
        kept = dict(arrays)
    assert kept["labels/prediction:ensemble"].shape == (3, 32, 32)
    assert kept["far/prediction:ensemble"].shape == (3, 32, 32, 3)
    assert not kept["far/target_valid"][2].any()
    assert (kept["labels/target"][1] == 255).all()
    del kept["far/target"]
    (tmp_path / "run").mkdir()
    (tmp_path / "run/scores.val.json").write_bytes((run / "scores.val.json").read_bytes())
    np.savez(tmp_path / "run" / "samples.npz", **{**kept, "far/target": kept["labels/target"][:1]})
    with pytest.raises(ConfigError, match=r"samples\.npz cannot be read"):
        write_report([tmp_path / "run"], tmp_path / "other.html")


def test_a_scene_has_a_file_for_each_target(run, root, tmp_path):
    """If this breaks, one target's file takes the place of another's, or holds another's channels."""
    files = {"rgb": root / "rgb/0002.jpg", "grey": root / "grey/0002.png"}
    written = predict(run, files, tmp_path / "out", certainty=True)
    names = {file.name.removeprefix("0002_ensemble_") for file in written if "ensemble" in file.name}
    assert names == {
        "labels.png", "labels_overlay.png", "far.png", "far_picture.png", "labels_confidence.png", "labels_entropy.png",
        "labels_disagreement.png",
    }  # fmt: skip
    predictor = Predictor(str(run))
    found = predictor.read(**files)
    scores = found.scores["ensemble"]
    assert np.array_equal(np.array(Image.open(tmp_path / "out/0002_ensemble_labels.png")), scores[:2].argmax(0).numpy())
    metres = (scores[2].clamp(-1, 1).numpy() + 1) * 3
    assert np.abs(np.array(Image.open(tmp_path / "out/0002_ensemble_far.png")) * 0.001 - metres).max() < 0.001
    assert np.allclose(found["far_values"][..., 0], metres, atol=1e-5)
    assert found["labels_confidence"].shape == (32, 32)
    assert found.shown(target="far").size == (32, 32)
    assert list(predictor.targets) == BOTH
    with pytest.raises(ConfigError, match="the model predicts labels, far: each has classes of its own"):
        predictor.classes  # noqa: B018
    for wrong in ("", "near"):
        with pytest.raises(ConfigError, match="target: expected labels or far"):
            found.shown(target=wrong)


@pytest.mark.slow
def test_a_large_scene_has_a_file_for_each_target(run, root, tmp_path):
    """If this breaks, the parts of a large scene are put together with another target's."""
    files = {"rgb": root / "rgb/0002.jpg", "grey": root / "grey/0002.png"}
    in_windows = Predictor(str(run), window=(16, 16)).read(**files)
    assert in_windows["far_values"].shape == (32, 32, 1)
    assert in_windows.shown(target="labels").width >= 32
    assert len(predict(run, files, tmp_path / "parts", windows=Windows((16, 16), (16, 16)))) == 12


def test_what_averages_are_blended_of_several_targets():
    """If this breaks, the parts of a large scene are averaged with another target's channels."""
    both = Several({"far": Images(FAR), "labels": Labels(LABELS)})
    scores = torch.randn(3, 4, 4)
    blended = both.from_blend(both.to_blend(scores))
    assert torch.equal(blended[:1], scores[:1])
    assert torch.allclose(blended[1:].softmax(0), scores[1:].softmax(0))
    assert both.nodata("_labels", np.zeros((2, 2), np.uint8)) == 255
    assert both.legend_of("_labels")[1] == ("a", "b")
    assert both.legend_of("_far")[1] == ()
    assert [ending for ending in both.endings if both.exact(ending)] == ["_far", "_labels"]


def test_what_a_model_of_several_targets_cannot_do_is_said(run, root, tmp_path):
    """If this breaks, one target of two is calibrated or exported in silence."""
    with pytest.raises(ConfigError, match=r"its model predicts labels, far, and temperatures are fitted"):
        calibrate(run / "model", root=str(root))
    with pytest.raises(ConfigError, match="--scales, --flip: the model predicts labels, far together"):
        validate(run / "model", "val", root=str(root), protocol=Protocol(flip=True))
    with pytest.raises(ExportError, match="raw: class numbers are returned, and the model predicts labels, far"):
        export_model(run / "model", tmp_path / "model.onnx", "onnx", absorbed=False, raw=True)


def test_a_model_is_validated_on_the_targets_that_it_learned(run, root, tmp_path):
    """If this breaks, a model of two targets is scored against the truth of others, or not at all on another set."""
    scores = validate(run / "model", "val", root=str(root), subsets="all")
    assert scores["predictions"].keys() == {"rgb", "grey", "rgb + grey"}
    known = from_plain(scores["scores"])
    assert [score.key for score in leading(known, scores["classes"])] == ["labels/mean_iou", "far/MAE"]
    assert classes_of(known[0], scores["classes"]) == ["class 0", "class 1"]
    other = make_folder(tmp_path / "other", size=(32, 32), modalities=INPUTS)
    with pytest.raises(DataError, match="has no modality 'labels'"):
        validate(run / "model", "val", root=str(other))


def test_as_many_outputs_as_targets():
    """If this breaks, a task of two targets learns the first alone where a recipe names one, and nobody is told."""

    class Both(Segmentation):
        predicts = (Labels, Images)

    task = Both()
    task.targets = {"labels": LABELS, "far": FAR}
    assert task.output_settings == {"output": ["labels", "images"]}
    assert task.output.channels == 3
    task.target = LABELS
    with pytest.raises(ConfigError, match=r"Both learns 2 target\(s\) and is given labels"):
        task.output  # noqa: B018
    with pytest.raises(CheckpointError, match=r"has 2 targets \(labels, far\) and says how 1 of them"):
        output_of({"labels": LABELS, "far": FAR}, {"output": "labels"})


def test_names_of_files_that_would_be_one_are_refused():
    """If this breaks, the overlay of one target and the map of another are one file."""
    with pytest.raises(ConfigError, match=r"two files of a prediction would end in _a_overlay"):
        Several({"a": Labels(LABELS), "a_overlay": Labels(LABELS)})


def test_a_start_from_other_targets_has_fresh_last_layers():
    """If this breaks, the last layers of depth and labels go on as those of labels and depth."""
    saved = {"labels": LABELS.as_dict(), "far": FAR.as_dict()}
    assert not _why_others(saved, {"labels": LABELS, "far": FAR})
    other = _why_others(saved, {"far": FAR, "labels": LABELS})
    assert other == "the targets are far, labels, and the model's were labels, far"
    assert "labels: 3 classes" in _why_others(saved, {"labels": replace(LABELS, classes=("a", "b", "c")), "far": FAR})


@pytest.mark.parametrize("augment", [None, Augment(scale=(0.7, 1.3), crop=(24, 24), photometric=0.3)])
def test_nothing_counts_of_a_target_that_a_scene_lacks(root, augment):
    """If this breaks, a scene without labels teaches a class that nobody has drawn."""
    scenes = FolderDataset(root, "val", INPUTS, target=BOTH, augment=augment)
    no_labels, no_depth = scenes[1], scenes[2]
    assert list(no_labels["targets"]) == BOTH
    assert (no_labels["targets"]["labels"] == 255).all()
    assert no_labels["targets_valid"]["far"].any()
    assert not no_depth["targets_valid"]["far"].any()
    assert not no_depth["targets"]["far"].any()
    assert (no_depth["targets"]["labels"] < 255).any()
    assert scenes.has_truth()


def test_scenes_without_any_target_are_told(root, tmp_path):
    """If this breaks, a folder of labels that was moved away looks like scenes that nobody labelled."""
    with pytest.raises(DataError, match="the sample '0003' has no labels, so nothing can be scored"):
        FolderDataset(root, "val", INPUTS, target="labels")
    notes = [defect.problem for defect in check(root) if defect.note]
    assert "1 of 3 samples lack labels: 0003" in notes
    assert "1 of 3 samples lack far: 0004" in notes
    folder = make_folder(tmp_path / "set", size=(16, 16), modalities=("rgb",))

    def optional(content):
        content["targets"] = {"labels": {**content.pop("target"), "optional": ["0006"]}}

    edit(folder, optional)
    (folder / "label/0006.png").unlink()
    assert [str(defect.problem) for defect in check(folder) if not defect.note] == ["0006 has none of the targets."]
    edit(folder, lambda content: content["targets"]["labels"].update(optional=["nobody"]))
    with pytest.raises(DataError, match=r"targets\.labels\.optional: no split lists 'nobody'"):
        FolderDataset(folder, "train")
    edit(folder, lambda content: content.update(target=content.pop("targets")["labels"]))
    with pytest.raises(DataError, match=r"target\.optional|target: unknown key"):
        FolderDataset(folder, "train")
