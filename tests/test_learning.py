"""What the modalities share stays as it was trained, while each learns what it lacks when it is alone."""

import json
from pathlib import Path

import pytest
import torch

from core_tools import randomize_norms
from fixtures_data import make_folder
from polymodal import ConfigError, fuse, load
from polymodal.models import create
from polymodal.run_folder import START
from polymodal.runs.training import fit, recipe
from polymodal.tasks import Segmentation
from polymodal.tasks.learning import keep_shared, own_parameters
from polymodal.transfer import parts_of, take_over

ROOMS = {"classes": 3, "stem": 4, "widths": [6, 8], "decoder": 5}


def rooms(fusion: str | None = "exchange", classes: int = 3, **settings):
    plain = create("rooms-unet", **(ROOMS | {"classes": classes}))
    return randomize_norms(fuse(plain, {"rgb": 3, "depth": 1}, fusion, **settings))


def valued(parts: dict) -> dict:
    """Without the counts of batches, of which nothing depends."""
    return {part: value.clone() for part, value in parts.items() if not part[0].endswith("num_batches_tracked")}


def shared(parts: dict) -> dict:
    return {part: value for part, value in valued(parts).items() if part[1] is None}


def test_a_training_leaves_what_is_shared_and_its_network_as_they_were(tmp_path):
    """If this breaks, a network for one sensor moves the convolutions of the one that it is to stand beside."""
    few = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--data.batch_size=2"]
    data = make_folder(tmp_path / "data")

    def run(name: str, *more: str) -> Path:
        where = [
            f"--trainer.default_root_dir={tmp_path / name}",
            f"--data.root={data}",
            "--data.modalities=[rgb, grey]",
        ]
        return fit([f"--config={recipe('folder')}", *where, *few, *more])

    both = run("both")
    own = ["--model.fusion=null", "--model.convolutions={rank: 2}", "--model.optimiser.decay=all"]
    alone = run("alone", f"--model.start_from={both}", "--model.learns=private", *own)
    before, after = parts_of(load(both)), parts_of(load(alone))
    assert shared(before)
    assert all(after[part].equal(value) for part, value in shared(before).items())
    learned = [part for part, value in valued(after).items() if part not in before or not before[part].equal(value)]
    assert {name for _, name in learned} == {"rgb", "grey"}
    assert any(name.endswith(":up") for name, _ in learned)
    assert json.loads((alone / START).read_text())["from"] == str(both)


@pytest.mark.parametrize("way", [{"convolutions": {"rank": 2}}, {"stems": "private"}, {"fusion": "exchange"}], ids=str)
def test_each_modality_learns_all_that_is_its_own(way):
    """If this breaks, norms, first convolutions or parts of low rank of a modality stay what they were, in silence."""
    net = rooms(**({"fusion": None} | way))
    take_over(net, rooms(**({"fusion": None} | way)))
    keep_shared(net)
    own = sum(value.numel() for (key, name), value in parts_of(net).items() if name and "running" not in key)
    assert sum(p.numel() for p in net.parameters() if p.requires_grad) == own
    assert {id(p) for p in own_parameters(net)} == {id(p) for p in net.parameters() if p.requires_grad}


def test_a_norm_of_all_modalities_is_frozen_or_refused():
    """If this breaks, statistics that both networks use move while only one of them is trained."""
    net = rooms("decode-once")
    take_over(net, rooms("decode-once"))
    with pytest.raises(ConfigError, match=r"the norm 'decoder.*which all of them share.*--model\.statistics"):
        keep_shared(net)
    frozen = rooms("decode-once", statistics=["decoder.*"])
    take_over(frozen, rooms("decode-once"))
    keep_shared(frozen)
    given = {"rgb": torch.randn(2, 3, 24, 20), "depth": torch.randn(2, 1, 24, 20)}
    before = shared(parts_of(frozen))
    frozen.train()(given).ensemble.sum().backward()
    assert all(parts_of(frozen)[part].equal(value) for part, value in before.items())


def test_a_shared_layer_that_starts_anew_is_no_trained_one():
    """If this breaks, a last layer for other classes keeps its random values through a whole training."""
    net = rooms(classes=4)
    take_over(net, rooms(), anew={"head.weight": "4 classes", "head.bias": "4 classes"})
    with pytest.raises(ConfigError, match=r"head\.\w+ starts anew \(4 classes\)"):
        keep_shared(net)


def test_there_must_be_something_to_keep():
    """If this breaks, a training from nothing leaves random convolutions as they are."""
    with pytest.raises(ConfigError, match=r"learns: private keeps .* Give --model\.start_from"):
        Segmentation(learns="private")
