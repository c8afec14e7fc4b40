"""The control of channel exchanging: channels drawn by lot instead of chosen by their scales."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from core_tools import NAMES, assert_equal, difference, images, plain_of, randomize_norms
from polymodal import Exchange, FusionError, Multimodal, checkpoint, fuse
from polymodal.fusion import make_fusion
from polymodal.fusion.exchange import RandomExchange
from reference.lists import ListSegmenter, Rule, list_keys
from reference.plain import SITES, plain_segmenter

TOLERANCE = 1e-10


def fused(m: int, fusion: RandomExchange) -> Multimodal:
    torch.manual_seed(0)
    return randomize_norms(fuse(plain_segmenter(0), NAMES[:m], fusion)).eval()


def outputs(net: Multimodal, inputs: dict[str, Tensor], **arguments: bool) -> list[Tensor]:
    with torch.no_grad():
        return list(net(inputs, **arguments).per_modality.values())


def given_up(net: Multimodal) -> dict[str, list[list[int]]]:
    """By site, the channels that each modality exchanges."""
    return {
        site: [torch.nonzero(~keep).flatten().tolist() for keep in state.keep]
        for site, state in net.exchange_state().items()
    }


@pytest.mark.parametrize("within", ["part", "all"])
@pytest.mark.parametrize(("m", "share"), [(2, 0.6), (3, 0.6), (3, 1.0)])
def test_network_equals_the_lists(m, share, within):
    """If this breaks, the control differs from channel exchanging in more than the choice of channels."""
    net = fused(m, RandomExchange(share, within=within))
    reference = ListSegmenter(m, Rule()).double().eval()
    plain, ours = plain_segmenter(0), net.network.state_dict()
    theirs = {"alpha": net.ensemble.alpha.detach()}
    for key in plain.state_dict():
        names = list_keys(plain, key, m)
        rows = ours[key] if len(names) > 1 and ours[key].dim() else [ours[key]] * len(names)
        theirs |= dict(zip(names, rows, strict=True))
    reference.load_state_dict(theirs)
    for site, channels in given_up(net).items():
        block = reference.get_submodule(site.rpartition(".")[0])
        block.rule = lambda scales, channels=channels: channels
    inputs = images(net.modalities, 2, 3, 18, 22)
    with torch.no_grad():
        expected, _ = reference(list(inputs.values()))
    assert_equal(outputs(net, inputs), expected, TOLERANCE)
    assert difference(outputs(net, inputs)[0], plain_of(net, plain, 0).eval()(inputs["rgb"])) > 1e-3


@settings(max_examples=10)  # two networks each
@given(
    m=st.integers(2, 4), percent=st.integers(0, 100), within=st.sampled_from(["part", "all"]), seed=st.integers(0, 99)
)
def test_exchanges_exactly_the_share_that_was_asked_for(m, percent, within, seed):
    """If this breaks, the control exchanges more or less than the method that it is compared with, or elsewhere."""
    net = fused(m, RandomExchange(percent / 100, seed, within))
    by_scale = fuse(plain_segmenter(0), NAMES[:m], Exchange(share=percent / 100, within=within))
    assert net.sites == by_scale.sites == SITES
    assert net.exchanged() == by_scale.exchanged()
    for site, state in net.exchange_state().items():
        assert not bool((~state.keep & ~state.allowed).any()), site
        assert torch.equal(state.allowed, state.part if within == "part" else torch.ones_like(state.part))


def test_draws_differ_by_seed_and_site_and_are_spread_evenly():
    """If this breaks, seeds of the control are no repetitions, or it prefers some channels."""
    one, same, other = (fused(2, RandomExchange(0.5, seed, "all")) for seed in (0, 0, 1))
    assert given_up(one) == given_up(same)
    assert given_up(one) != given_up(other)
    first, second = SITES[:2]
    assert given_up(one)[first] != given_up(one)[second]
    part = torch.ones(2, 40, dtype=torch.bool)
    draws = torch.stack([RandomExchange(0.25, seed, "all").draw("layer", part) for seed in range(400)])
    often = (~draws).double().mean(0)
    assert float((often - 0.25).abs().max()) < 0.08  # nearly four standard deviations of 400 draws


def test_draw_is_fixed_while_training():
    """If this breaks, the control follows the scales after all, or is drawn again, or its scales are penalised."""
    net = fused(2, RandomExchange(0.5)).train()
    before = given_up(net)
    prediction = net(images(net.modalities, 2, 3, 18, 22))
    loss = sum(x.square().mean() for x in prediction.per_modality.values()) + net.fusion_loss()
    loss.backward()
    with torch.no_grad():
        for parameter in net.network.parameters():
            parameter -= parameter.grad
    assert given_up(net) == before
    assert float(net.fusion_loss()) == 0
    assert net.scales() == {}


def test_saved_network_keeps_its_channels(tmp_path, monkeypatch):
    """If this breaks, a saved control exchanges other channels when it is loaded where numbers are drawn otherwise."""
    net = fused(3, RandomExchange(0.5, seed=7, within="all"))
    inputs = images(net.modalities, 1, 3, 18, 22)
    checkpoint.save(net, tmp_path / "model")
    monkeypatch.setattr(RandomExchange, "draw", lambda self, site, part: torch.ones_like(part))
    loaded = checkpoint.load(tmp_path / "model", network=plain_segmenter(1))
    assert loaded.fusion == net.fusion
    assert given_up(loaded) == given_up(net)
    assert_equal(outputs(loaded, inputs), outputs(net, inputs), 0)
    assert_equal(outputs(copy.deepcopy(net), inputs), outputs(net, inputs), 0)


def test_a_subset_exchanges_its_own_rows():
    """If this breaks, an absent modality's channels are exchanged instead of those of a present one."""
    net = fused(3, RandomExchange(0.5, within="all"))
    inputs = images(("rgb", "normal"), 1, 3, 18, 22)
    two = fuse(plain_segmenter(0), ["rgb", "normal"], net.fusion).eval()
    shapes = {key: value.shape for key, value in two.state_dict().items()}
    state = net.state_dict()
    two.load_state_dict({key: v if v.shape == shapes[key] else v[[0, 2]] for key, v in state.items()})
    assert_equal(outputs(net, inputs, subset=True), outputs(two, inputs), 1e-12)
    alone = outputs(net, {"normal": inputs["normal"]}, subset=True)
    assert_equal(alone, [plain_of(net, plain_segmenter(0), 2).eval()(inputs["normal"])], 1e-12)


def test_disabled_or_share_zero_is_each_modality_alone():
    """If this breaks, the comparison with and without fusion measures something else."""
    net = fused(2, RandomExchange(0.5))
    inputs = images(net.modalities, 1, 3, 18, 22)
    alone = [plain_of(net, plain_segmenter(0), m).eval()(x) for m, x in enumerate(inputs.values())]
    with net.fusion_disabled():
        assert_equal(outputs(net, inputs), alone, 1e-12)
    none = fuse(plain_segmenter(0), net.modalities, RandomExchange(0.0)).eval()
    none.load_state_dict(net.state_dict())
    assert_equal(outputs(none, inputs), alone, 1e-12)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "share"),
        ({"share": -0.1}, r"share: expected a share from 0 to 1, got -0\.1"),
        ({"share": 1.5}, r"share: expected a share from 0 to 1, got 1\.5"),
        ({"share": float("nan")}, "share: expected"),
        ({"share": 0.5, "within": "half"}, r'within: expected "part" or "all", got \'half\''),
        ({"share": 0.5, "threshold": 0.1}, "threshold"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    """If this breaks, a control runs with a share that means nothing."""
    with pytest.raises(FusionError, match=message):
        make_fusion("random", settings)
