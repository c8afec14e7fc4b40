"""The family of exchanges: every p-th channel or column, whole layers, by stage, the largest of the others."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from core_tools import NAMES, assert_equal, images, plain_of, randomize_norms
from polymodal import Exchange, FusionError, Multimodal, checkpoint, functional, fuse
from polymodal.export import absorb
from polymodal.fusion import RandomExchange, make_fusion
from reference.decode_once import TwoScales
from reference.lists import exchange, own_channels
from reference.plain import SITES, plain_segmenter
from test_core_reference import both, compare

AXES = ["column", "channel"]


def fused(m: int, fusion: Exchange, sites: str = "auto", plain: nn.Module | None = None) -> Multimodal:
    return randomize_norms(fuse(plain or plain_segmenter(0), NAMES[:m], fusion, sites=sites)).eval()


def outputs(net: Multimodal, inputs: dict[str, Tensor], **arguments: bool) -> list[Tensor]:
    with torch.no_grad():
        return list(net(inputs, **arguments).per_modality.values())


def others_mean(xs: list[Tensor], m: int) -> Tensor:
    others = [x for i, x in enumerate(xs) if i != m]
    return sum(others) / len(others)


def columns(xs: list[Tensor], period: int) -> list[Tensor]:
    """Every p-th column of `(B, C, H, W)` becomes the mean of the others' column."""
    out = [x.clone() for x in xs]
    for m, x in enumerate(out):
        x[..., ::period] = others_mean(xs, m)[..., ::period]
    return out


@pytest.mark.parametrize("within", ["part", "all"])
@pytest.mark.parametrize(("modalities", "every"), [(1, 2), (2, 2), (3, 3), (4, 1)])
def test_a_training_step_with_every_pth_channel_equals_the_lists(modalities, every, within):
    """If this breaks, users train something else than the exchange that they asked for, or its gradients are wrong."""

    def rule(scales: list[Tensor]) -> list[list[int]]:
        count = len(scales[0])
        own = [own_channels(m, modalities, count) if within == "part" else range(count) for m in range(modalities)]
        return [[c for c in channels if c % every == 0] for channels in own]

    net, reference = both(modalities, "train", Exchange(every=every, within=within), rule)
    reference.penalty = lambda: 0.0
    compare(net, reference, "train")


@pytest.mark.parametrize("modalities", [2, 3])
def test_a_schedule_by_stage_equals_the_lists(modalities):
    """If this breaks, ChangerEx exchanges columns where channels were asked for, or at other places."""
    net = fused(modalities, Exchange(every=2, within="all", axis=AXES), "all")
    assert net.sites == ("layer1.1", "layer2.1")
    nets = [plain_of(net, plain_segmenter(0), m).eval() for m in range(modalities)]
    inputs = images(net.modalities, 2, 3, 18, 22)
    with torch.no_grad():
        xs = [n.maxpool(n.relu(n.bn1(n.conv1(x)))) for n, x in zip(nets, inputs.values(), strict=True)]
        xs = columns([n.layer1(x) for n, x in zip(nets, xs, strict=True)], 2)
        xs = [n.layer2(x) for n, x in zip(nets, xs, strict=True)]
        xs = exchange(xs, [list(range(0, xs[0].shape[1], 2))] * modalities)
        xs = [
            F.interpolate(n.classifier(n.decoder(x)), (18, 22), mode="bilinear") for n, x in zip(nets, xs, strict=True)
        ]
    assert_equal(outputs(net, inputs), xs, 1e-12)


def test_layers_are_exchanged_for_the_decoder_alone():
    """If this breaks, whole layers change places inside the encoder, too, or at scales that were to stay."""
    net = fused(3, Exchange(every=1, within="all", axis=["none", "channel"]), "encoder", TwoScales().double())
    nets = [plain_of(net, TwoScales().double(), m).eval() for m in range(3)]
    inputs = images(net.modalities, 2, 3, 16, 20)
    with torch.no_grad():
        maps = [n.encoder(x)[1:] for n, x in zip(nets, inputs.values(), strict=True)]
        coarse = [others_mean([pair[1] for pair in maps], m) for m in range(3)]
        expected = [n.decoder(pair[0], x) for n, pair, x in zip(nets, maps, coarse, strict=True)]
    assert_equal(outputs(net, inputs), expected, 1e-12)


@given(st.integers(2, 4), st.integers(1, 5), st.integers(0, 999))
def test_what_stays_is_untouched_and_the_rest_is_of_the_others_alone(m, period, seed):
    """If this breaks, a modality's own values leak into what it gave up, or columns are taken for rows."""
    torch.manual_seed(seed)
    x = torch.randn(2, m, 3, 4, 7, dtype=torch.float64)
    keep = functional.keep_but_every(7, period)
    assert (~keep).nonzero().flatten().tolist() == list(range(0, 7, period))
    others = torch.stack([x[:, [i for i in range(m) if i != own]].amax(1) for own in range(m)], 1)
    for name, expected in (("max", others), ("mean", (x.sum(1, keepdim=True) - x) / (m - 1))):
        out = functional.exchange_columns(x, keep, name)
        assert torch.equal(out[..., keep], x[..., keep])
        assert torch.allclose(out[..., ~keep], expected[..., ~keep], rtol=0, atol=1e-12)
        channels = functional.exchange(x, torch.zeros(m, 3, dtype=torch.bool), name)
        assert torch.allclose(channels, expected, rtol=0, atol=1e-12)


def test_of_two_modalities_the_largest_other_is_the_other():
    """If this breaks, figures of two modalities change by a setting that is for three."""
    inputs = images(NAMES[:2], 1, 3, 18, 22)
    torch.manual_seed(0)
    one = fused(2, Exchange(0.6))
    two = fuse(plain_segmenter(0), NAMES[:2], Exchange(0.6, others="max")).eval()
    two.load_state_dict(one.state_dict())
    assert_equal(outputs(two, inputs), outputs(one, inputs), 0)


@pytest.mark.parametrize(
    ("fusion", "sites"),
    [
        (Exchange(0.6, others="max"), "auto"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                (RandomExchange(0.5, others="max"), "auto"),
                (Exchange(every=2), "auto"),
                (Exchange(every=2, within="all", axis=AXES), "all"),
            )
        ),
    ],
)
def test_saved_absorbed_and_on_a_subset(fusion, sites, tmp_path):
    """If this breaks, a trained model predicts otherwise when it is loaded, exported, or lacks a sensor."""
    net = fused(3, fusion, sites)
    inputs = images(net.modalities, 1, 3, 18, 22)
    checkpoint.save(net, tmp_path / "model")
    loaded = checkpoint.load(tmp_path / "model", network=plain_segmenter(1))
    assert loaded.settings == net.settings
    assert_equal(outputs(loaded, inputs), outputs(net, inputs), 0)
    assert_equal(list(absorb(net)(inputs).per_modality.values()), outputs(net, inputs), 1e-10)
    alone = outputs(net, {"depth": inputs["depth"]}, subset=True)
    assert_equal(alone, [plain_of(net, plain_segmenter(0), 1).eval()(inputs["depth"])], 1e-12)


def test_norms_without_scales_exchange_every_pth_channel():
    """If this breaks, an exchange that needs no scales is refused where there are none."""
    plain = nn.Sequential(nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6, affine=False), nn.Conv2d(6, 2, 1)).double().eval()
    net = fuse(plain, NAMES[:2], Exchange(every=3, within="all"), sites="1")
    inputs = images(net.modalities, 1, 3, 8, 8)
    with torch.no_grad():
        xs = exchange([plain[1](plain[0](x)) for x in inputs.values()], [[0, 3], [0, 3]])
        assert_equal(outputs(net, inputs), [plain[2](x) for x in xs], 1e-12)
    assert_equal(list(absorb(net)(inputs).per_modality.values()), outputs(net, inputs), 1e-12)


def test_a_block_that_stands_in_two_places_exchanges_in_both():
    """If this breaks, what the last run of a shared block returns goes on without exchange, at a site that names it."""
    torch.manual_seed(0)
    plain = plain_segmenter(0).eval()
    block = plain.layer2[-1]
    plain.layer2.append(block)
    inputs = images(NAMES[:2], 1, 3, 16, 16)
    once = fuse(plain, NAMES[:2], Exchange(every=1, within="all"), sites="late")
    assert_equal(outputs(once, inputs), outputs(fuse(plain, NAMES[:2], None), inputs), 1e-12)  # to and fro


def test_a_penalty_on_frozen_scales_is_refused():
    """If this breaks, an encoder with frozen norms is trained by a penalty that moves no scale, and never exchanges."""
    net = fused(2, Exchange(0.5, penalty=1e-3))
    for scale in net.scales().values():
        scale.requires_grad_(False)
    with pytest.raises(FusionError, match=r"penalty: 0\.001 would change nothing, .* are frozen"):
        net.fusion_loss()
    with torch.no_grad():
        assert net.fusion_loss() > 0


def test_norms_with_scales_over_several_axes_are_no_sites():
    """If this breaks, columns are exchanged where channels were asked for: such a norm does not tell them."""
    plain = nn.Sequential(nn.Conv2d(3, 6, 1), nn.LayerNorm((6, 64, 64)), nn.Conv2d(6, 4, 1), nn.BatchNorm2d(4))
    with pytest.raises(FusionError, match=r"'1' matches no layer.*: 3\."):
        fuse(plain, NAMES[:2], Exchange(every=2), sites="1")


def test_models_of_before_and_after_can_be_read_by_each_other(tmp_path):
    """If this breaks, saved models are refused for settings that did not exist when they were saved."""
    checkpoint.save(fused(2, Exchange(0.6)), tmp_path / "model")
    written = json.loads((tmp_path / "model" / "config.json").read_text())["fuse"]["fusion"]
    assert written.keys() == {"name", "threshold", "penalty", "within", "share"}
    assert RandomExchange(0.5).as_config().keys() == {"name", "share", "seed", "within"}
    assert make_fusion("exchange", {"every": 2, "within": "all", "axis": AXES}).as_config()["axis"] == tuple(AXES)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"every": 0}, "every: expected a whole number"),
        ({"every": 1.5}, "every: expected a whole number"),
        ({"every": 2, "share": 0.5}, r"every: expected no share .* got share=0\.5"),
        ({"every": 2, "penalty": 1e-3}, "every: expected no .* penalty"),
        ({"axis": "column"}, "axis: expected every=p"),
        ({"every": 2, "axis": "column"}, "within: expected"),
        ({"every": 2, "axis": "row"}, "axis: expected channel or column"),
        ({"every": 2, "axis": []}, "axis: expected"),
        ({"every": 2, "axis": 5}, "axis: expected"),
        ({"others": "sum"}, "others: expected"),
    ],
)
def test_settings_that_exclude_each_other_are_refused(settings, message):
    """If this breaks, a setting is dropped in silence."""
    with pytest.raises(FusionError, match=message):
        make_fusion("exchange", settings)


@pytest.mark.parametrize(
    ("axis", "sites", "message"),
    [
        (["none", "channel", "channel"], "auto", r"each of the 2 stages of the encoder \(layer1, layer2\), got 3"),
        (["none", "none"], "auto", "leave no layer"),
        (AXES, "bn1", "'bn1' is in none of the stages"),
        ("channel", "layer1.0.conv1", "matches no layer"),
        ("channel", "encoder", "no child called encoder"),
    ],
)
def test_sites_at_which_it_cannot_act_are_refused(axis, sites, message):
    """If this breaks, a schedule is applied to other stages than the user thinks."""
    with pytest.raises(FusionError, match=message):
        fuse(plain_segmenter(0), NAMES[:2], Exchange(every=2, within="all", axis=axis), sites=sites)


def test_columns_of_tokens_are_refused_and_stages_without_exchange_are_no_sites():
    """If this breaks, places of a flat list of tokens are taken for columns."""
    from reference.tokens import transformer

    with pytest.raises(FusionError, match=r"'stage1\.0\.norm1' returns features of shape .* no rows and columns"):
        fuse(transformer(0), NAMES[:2], Exchange(every=2, within="all", axis="column"))
    assert fused(2, Exchange(every=2, axis=["none", "channel"])).sites == SITES[2:]
