"""A fusion of a user's own: the file of docs/own-fusion.md is trained, saved, loaded, scored and predicted with."""

import json
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import nn

from fixtures_data import make_folder
from polymodal import Exchange, Fusion, fuse, load, models
from polymodal.cli import main
from polymodal.errors import CheckpointError, ExportError, FusionError
from polymodal.export import absorb
from polymodal.fusion import NormFusion, base, make_fusion
from polymodal.runs.training import recipe

PAGE = (Path(__file__).parents[1] / "docs" / "own-fusion.md").read_text(encoding="utf-8")
TINY = [
    *("--trainer.max_epochs", "1", "--trainer.check_val_every_n_epoch", "1", "--trainer.precision", "32-true"),
    *("--trainer.limit_train_batches", "1", "--trainer.limit_val_batches", "1", "--trainer.accelerator", "cpu"),
    *("--data.batch_size", "2", "--data.augment.crop", "[16,16]"),
]


def forget(monkeypatch):
    """As a new process: the module is not imported, and its class is not known."""
    monkeypatch.delitem(sys.modules, "my_fusion", raising=False)
    known = base.known_fusions()
    monkeypatch.setattr("polymodal.fusion.known_fusions", lambda: [k for k in known if k.__module__ != "my_fusion"])


def test_the_file_of_the_page_is_trained_loaded_scored_and_predicted_with(tmp_path, monkeypatch, capsys):
    """If this breaks, a training with a fusion of one's own ends in a model that cannot be loaded."""
    code = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)[1]
    (tmp_path / "my_fusion.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(tmp_path))])
    root = make_folder(tmp_path / "set", size=(16, 24), splits={"train": 2, "val": 2}, modalities=["rgb", "depth"])
    words = ["fit", "--config", str(recipe("rooms")), *TINY, "--data.root", str(root)]
    assert main([*words, "--trainer.default_root_dir", "run", "--model.fusion", "my_fusion.Blend"]) == 0
    saved = json.loads(Path("run/model/config.json").read_text())["fuse"]["fusion"]
    assert saved == {"name": "blend", "class_path": "my_fusion.Blend", "share": 0.1}
    trained = json.loads(Path("run/scores.val.json").read_text())["predictions"]

    inputs = [f"{name}={next((root / name).iterdir())}" for name in ("rgb", "depth")]
    predict = ["predict", "--model", "run", "--input", *inputs, "--out", "out"]
    with monkeypatch.context() as fresh:
        forget(fresh)
        with pytest.raises(CheckpointError, match="import my_fusion before"):
            load("run/model")
        for command in (["validate", "run"], predict, ["inspect", "run"], ["export", "run", "a.onnx"]):
            assert main(command) == 2
            assert "--import my_fusion" in capsys.readouterr().err
        assert "my_fusion" not in sys.modules
    assert not Path("out").exists()
    assert not Path("a.onnx").exists()

    assert main(["validate", "run", "--import", "my_fusion"]) == 0
    assert json.loads(Path("run/scores.val.json").read_text())["predictions"] == trained
    assert main(["--import=my_fusion", *predict]) == 0
    assert any(Path("out").iterdir())
    assert main(["--import", "no_such_module", *predict]) == 2
    assert "no_such_module" in capsys.readouterr().err

    net = load("run/model")
    images = {name: torch.randn(2, count, 16, 24) for name, count in net.channels.items()}
    with torch.no_grad():
        assert torch.allclose(absorb(net)(images).ensemble, net(images).ensemble, atol=1e-4)


def test_meet_sees_the_modalities_that_are_present_and_settings_come_back(tmp_path):
    """If this breaks, an absent modality takes part in a user's fusion."""
    seen = []

    @dataclass(frozen=True)
    class Halve(NormFusion):
        share: float = 0.5

        def meet(self, x):
            seen.append(x.shape[1])
            return x * self.share

    net = fuse(models.create("rooms-unet", classes=2), {"rgb": 3, "depth": 1}, Halve(0.25), stems="private").eval()
    image = {"rgb": torch.zeros(1, 3, 16, 16), "depth": torch.zeros(1, 1, 16, 16)}
    net(image)
    assert set(seen) == {2}
    seen.clear()
    net({"rgb": image["rgb"]}, subset=True)
    assert set(seen) == {1}
    with net.fusion_disabled():
        seen.clear()
        net(image)
    assert not seen


def test_what_has_no_static_form_is_refused_by_name():
    """If this breaks, a device is given a network in which the modalities do not meet."""

    class Scale(nn.Module):
        def __init__(self, roster):
            super().__init__()
            self.roster = roster

        def forward(self, x, scale):
            return x * scale.mean()

    class Installs(NormFusion):
        def install(self, network, sites, roster):
            for name in sites:
                network.get_submodule(name).fusion = Scale(roster)

    net = fuse(models.create("rooms-unet", classes=2), ["rgb", "depth"], Installs()).eval()
    with pytest.raises(ExportError, match="a Scale makes the modalities meet in a way that has no static form"):
        absorb(net)


def test_names_of_the_package_and_settings_that_cannot_be_saved_are_refused():
    """If this breaks, a model is saved under the name of another fusion, or without its settings."""
    with pytest.raises(FusionError, match=r"polymodal\.fusion\.exchange\.Exchange"):
        type("Exchange", (Exchange,), {})
    assert make_fusion("exchange") == Exchange()  # the refused class, which is still in memory, is not known

    class Mine(Exchange):
        pass

    assert Mine().as_config()["class_path"].endswith("Mine")
    assert Mine().as_config()["name"] == "mine"
    assert "class_path" not in Exchange().as_config()

    class Loose(NormFusion):
        def __init__(self):
            self.share = 0.5

        def meet(self, x):
            return x

    network = models.create("rooms-unet", classes=2)
    with pytest.raises(FusionError, match="dataclass"):
        fuse(network, ["rgb", "depth"], Loose())

    @dataclass(frozen=True)
    class Holding(NormFusion):
        rule: object = torch.relu

        def meet(self, x):
            return x

    with pytest.raises(FusionError, match="cannot be saved"):
        fuse(network, ["rgb", "depth"], Holding())
    assert issubclass(Mine, Fusion)

    @dataclass(frozen=True)
    class Table(NormFusion):
        weights: dict = field(default_factory=dict)

        def meet(self, x):
            return x

    for weights in ({1: 0.5}, {"of": [{2: 0.5}]}, {"name": "exchange"}):
        with pytest.raises(FusionError, match="'weights' would not come back from a file"):
            fuse(network, ["rgb", "depth"], Table(weights))
    assert fuse(network, ["rgb", "depth"], Table({"rgb": [0.5, 1]})).fusion.weights == {"rgb": [0.5, 1]}


def test_what_meet_returns_is_checked():
    """If this breaks, a fusion that forgets an axis fails deep inside the next layer."""

    class Forgets(NormFusion):
        def meet(self, x):
            return x.mean(1)

    net = fuse(models.create("rooms-unet", classes=2), ["rgb", "depth"], Forgets())
    image = torch.zeros(2, 3, 16, 16)
    with pytest.raises(FusionError, match=r"Forgets\.meet: expected a tensor of shape"):
        net({"rgb": image, "depth": image})
