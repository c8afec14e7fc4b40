"""The papers' segmentation recipes: each is what the released code says, can be read and built; one of each trains."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from fixtures_data import make_folder
from polymodal import fuse, fusion, models
from polymodal.runs.training import fit, recipe

FOLDER = recipe("rooms").parent / "papers"
NETWORKS = {
    "refinenet101": ("refinenet", "resnet101"),
    "refinenet152": ("refinenet", "resnet152"),
    "pspnet152": ("smp/PSPNet", "resnet152"),
}
EPOCHS = {("refinenet101", "nyudv2"): 300, ("refinenet152", "nyudv2"): 450, ("pspnet152", "nyudv2"): 450}
RECIPES = sorted(path.stem for path in FOLDER.glob("*-*net1*-*.yaml"))


def settings(name: str) -> dict[str, Any]:
    return yaml.safe_load((FOLDER / f"{name}.yaml").read_text())


def test_the_papers_networks_and_data_sets_are_all_there():
    cen = {f"cen-{network}-{data}" for network in NETWORKS for data in ("nyudv2", "sunrgbd")}
    assert set(RECIPES) == cen | {"asymfusion-refinenet152-nyudv2", "asymfusion-refinenet101-cityscapes"}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_says_what_the_released_code_says(name):
    """A figure that slipped would be searched for in the network, for days."""
    method, network, data = name.split("-")
    content = settings(name)
    model, loader = content["model"]["init_args"], content["data"]["init_args"]
    assert content["seed_everything"] == 42
    assert content["trainer"]["check_val_every_n_epoch"] == 5
    assert content["trainer"]["max_epochs"] == EPOCHS.get((network, data), 90)
    assert (model["network"], model["network_args"]["encoder_name"]) == NETWORKS[network]
    assert model["statistics"] == (["encoder.*"] if network == "pspnet152" else "frozen")
    assert model["optimiser"] == {
        "name": "sgd",
        "stages": {"encoder": [5e-4, 2.5e-4, 1e-4], "decoder": [3e-3, 1.5e-3, 7e-4]},
        "for_batch": 6,
        "weight_decay": 1e-5,
        "decay": "all",
    }
    if method == "cen":
        assert model["fusion"]["init_args"] == {"threshold": 2e-2, "penalty": 6e-4, "within": "all"}
    else:
        assert model["fusion"] == {"class_path": "polymodal.fusion.Asymmetric"}
    assert (loader["batch_size"], loader["modalities"]) == (6, ["rgb", "depth"])
    crop = 768 if data == "cityscapes" else 500
    augment = {"scale": [0.5, 2.0], "min_side": 350, "crop": [crop, crop], "flip": True, "photometric": 0.0}
    assert loader["augment"] == augment


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_can_be_read(name, capsys):
    with pytest.raises(SystemExit) as ended:
        fit([f"--config={FOLDER / name}.yaml", "--print_config"])
    assert ended.value.code == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["model"]["init_args"]["network"] == settings(name)["model"]["init_args"]["network"]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if "refinenet152" in name else ()) for name in RECIPES]
)
def test_the_network_of_a_recipe_can_be_built(name):
    """Its settings fit the network, and the fusion finds where to act; without values, so that it takes no memory."""
    content = settings(name)
    model, modalities = content["model"]["init_args"], content["data"]["init_args"]["modalities"]
    cls = getattr(fusion, model["fusion"]["class_path"].rpartition(".")[2])
    with torch.device("meta"):
        plain = models.create(model["network"], classes=40, **model["network_args"])
        method = cls(**model["fusion"].get("init_args", {}))
        net = fuse(plain, modalities, method, statistics=model["statistics"], inplace=True)
    assert net.sites
    assert isinstance(net.fusion, cls)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["cen-refinenet101-nyudv2", "cen-pspnet152-sunrgbd", "asymfusion-refinenet101-cityscapes"]
)
def test_a_recipe_trains(name, tmp_path, monkeypatch):
    """With a small encoder, and of RefineNet the light decoder."""
    monkeypatch.setattr("polymodal.runs.training.finish", lambda cli: None)
    splits = {"train": 2, "test": 1, "val": 1}
    data = make_folder(tmp_path / "own", size=(40, 56), splits=splits, modalities=("rgb", "depth"))
    changes = {
        "trainer.max_epochs": 1,
        "trainer.enable_progress_bar": "false",
        "trainer.default_root_dir": tmp_path / "run",
        "model.weights": "null",
        "model.network_args.encoder_name": "resnet18",
        "data.root": data,
        "data.augment.crop": "[64,64]",
        "data.batch_size": 2,
    }
    if "refinenet" in name:
        changes["model.network_args.light"] = "true"
    run = fit([f"--config={FOLDER / name}.yaml", *(f"--{key}={value}" for key, value in changes.items())])
    assert (Path(run) / "checkpoints" / "best.ckpt").is_file()
