"""Two dates are two modalities, and what has changed is predicted from the difference of their maps."""

import sys
from pathlib import Path

import pytest
import torch

from core_tools import assert_equal, images, randomize_norms
from polymodal import FusionError, fuse, load, save
from polymodal.export import absorb
from polymodal.fusion import Difference, NoFusion
from polymodal.models import create
from polymodal.runs.training import fit, recipe

sys.path.append(str(Path(__file__).parents[1] / "tools"))
from make_changes import make_changes

NETWORK = {"name": "rooms-unet", "arguments": {"classes": 2, "stem": 4, "widths": [6, 8], "decoder": 5}}
DATES = {"before": 3, "after": 3}


def network(within=None, **settings):
    plain = create(NETWORK["name"], **NETWORK["arguments"])
    fusion = Difference() if within is None else Difference(within)
    return randomize_norms(fuse(plain, DATES, fusion, **settings)).double().eval()


def test_the_decoder_reads_the_absolute_difference_of_what_the_encoder_returns():
    """If this breaks, changes are predicted from something else than the difference of the dates."""
    net = network(NoFusion(), norms="shared")
    given = images(DATES, 2, 3, 24, 20)
    seen = []
    encoder = net.network.encoder
    encoder.layer.register_forward_hook(lambda _, __, out: seen.append(out))
    encoder.register_forward_hook(lambda _, __, out: seen.append(out))
    prediction = net(given)
    folded, read = seen
    for two, one in zip(folded, read, strict=True):
        if two.shape != one.shape:
            assert_equal(one, (two[0::2] - two[1::2]).abs(), 0.0)
    assert sum(two.shape != one.shape for two, one in zip(folded, read, strict=True)) > 1
    assert prediction.per_modality == {}
    assert_equal(net({"before": given["after"], "after": given["before"]}).ensemble, prediction.ensemble, 1e-12)


def test_it_is_saved_and_absorbed(tmp_path):
    """If this breaks, a trained change detector cannot be kept or deployed."""
    net = network()
    given = images(DATES, 2, 3, 24, 20)
    again = load(save(net, tmp_path / "model", network=NETWORK))
    assert again.fusion == net.fusion
    assert_equal(again(given).ensemble, net(given).ensemble, 0.0)
    assert_equal(absorb(net, size=(24, 20))(given).ensemble, net(given).ensemble, 1e-10)


def test_other_than_two_dates_are_refused():
    """If this breaks, a third date is left out in silence, or one date alone has "changes"."""
    plain = create(NETWORK["name"], **NETWORK["arguments"])
    for dates in (["a"], ["a", "b", "c"]):
        with pytest.raises(FusionError, match="takes two dates"):
            fuse(plain, dates, "difference")
    with pytest.raises(FusionError, match="two dates"):
        network()({"before": torch.zeros(1, 3, 16, 16).double()}, subset=True)


@pytest.mark.slow
def test_the_recipe_learns_what_has_changed(tmp_path):
    """If this breaks, the recipe for change detection, or the data that it names, does not run."""
    root = make_changes(tmp_path / "changes", train=8, val=4, size=32)
    where = [f"--data.root={root}", f"--trainer.default_root_dir={tmp_path / 'run'}"]
    few = ["--trainer.max_epochs=1", "--trainer.check_val_every_n_epoch=1", "--data.batch_size=4"]
    run = fit([f"--config={recipe('change')}", *where, *few])
    assert load(run).modalities == ("before", "after")
    assert (run / "scores.val.json").is_file()
