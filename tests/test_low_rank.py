"""Shared convolutions with a private part of low rank."""

import copy

import pytest
import torch
from torch import nn

from core_tools import NAMES, assert_equal, assert_kept, images, randomize_norms
from polymodal import Exchange, FusionError, cost, fuse, models
from polymodal.export import absorb
from polymodal.fusion import Asymmetric, DecodeOnce
from polymodal.nn import LowRankConv2d, Roster


def rooms(fusion=None, modalities=("rgb", "depth"), **settings):
    torch.manual_seed(0)
    plain = models.create("rooms-unet", classes=3, stem=6, widths=(5, 8), decoder=6).double()
    net = fuse(plain, modalities, fusion, **settings)
    torch.manual_seed(1)  # whatever was drawn before
    return plain, randomize_norms(net)


def drawn(net):
    """Private parts that are no longer zero."""
    for module in net.modules():
        if isinstance(module, LowRankConv2d):
            nn.init.normal_(module.up, std=0.2)
    return net


@pytest.mark.parametrize("settings", [{}, {"stride": 2, "padding": 1}, {"dilation": 2}, {"kernel_size": (1, 4)}])
def test_each_modality_has_the_shared_weights_and_a_thin_product_in_the_middle(settings):
    """If this breaks, the private part is another one than the formula's."""
    torch.manual_seed(0)
    conv = nn.Conv2d(5, 7, **{"kernel_size": 3, **settings}).double()
    roster = Roster(NAMES[:3])
    layer = LowRankConv2d(conv, roster, 2)
    nn.init.normal_(layer.up)
    x = torch.randn(2 * 3, 5, 9, 11, dtype=torch.float64)
    out = layer(x)
    for m in range(3):
        own = copy.deepcopy(conv)
        height, width = conv.kernel_size
        for i in range(7):
            for j in range(5):
                product = sum(layer.up[m, i, r] * layer.down[m, r, j] for r in range(2))
                own.weight.data[i, j, (height - 1) // 2, (width - 1) // 2] += product.detach()
        assert_equal(out[m::3], own(x[m::3]), 1e-12)
    assert_equal(layer.absorbed()(x), out, 1e-12)


@pytest.mark.parametrize(
    "fusion",
    [
        Exchange(0.6),
        *(pytest.param(rule, marks=pytest.mark.slow) for rule in (None, DecodeOnce(Exchange(0.6)), Asymmetric())),
    ],
    ids=str,
)
def test_starts_as_the_shared_network_and_is_saved_and_folded(fusion, tmp_path):
    """If this breaks, pretrained weights are lost at the start, or what is deployed is not what was trained."""
    plain, shared = rooms(fusion)
    _, net = rooms(fusion, convolutions={"rank": 4})
    inputs = images(net.modalities, 2, 3, 32, 48)
    assert_equal(net.eval()(inputs).ensemble, shared.eval()(inputs).ensemble, 1e-12)
    drawn(net)
    assert (net(inputs).ensemble - shared(inputs).ensemble).abs().max() > 1e-3
    assert_kept(net, plain, inputs, tmp_path, 1e-9)


def test_gradients_reach_the_private_parts_of_those_present_alone():
    """If this breaks, private parts stay zero, or an absent modality's are trained."""
    _, net = rooms(Exchange(0.6), convolutions={"rank": 4})
    net.train()(images(["depth"], 2, 3, 32, 48), subset=True).per_modality["depth"].square().mean().backward()
    parts = [module for module in net.modules() if isinstance(module, LowRankConv2d)]
    assert len(parts) > 5
    for part in parts:
        assert part.up.grad[1].abs().max() > 0
        assert part.up.grad[0].abs().max() == 0


def test_costs_few_parameters_and_nothing_at_inference():
    """If this breaks, low rank is a second network."""
    plain = models.create("rooms-unet", classes=13)
    shared = fuse(plain, ["rgb", "depth"])
    thin = fuse(plain, ["rgb", "depth"], convolutions={"rank": 8})
    assert 1.03 < cost(thin, (96, 128)).parameters / cost(shared, (96, 128)).parameters < 1.08
    small = [rooms(convolutions=convolutions)[1].eval() for convolutions in ("shared", {"rank": 4})]
    assert len({cost(absorb(net, size=(32, 48)), (32, 48)).macs for net in small}) == 1


@pytest.mark.parametrize(
    ("convolutions", "said"),
    [
        ({"rank": 0}, "rank: expected a whole number of 1 or more, got 0"),
        ({"rank": True}, "rank: expected a whole number of 1 or more, got True"),
        ({}, "rank: expected a whole number of 1 or more, got None"),
        ({"rank": 8, "bias": 1}, "expected a rank, and sites if need be, got 'bias'"),
        ({"rank": 64}, "rank 64 is above the channels of every convolution that modalities share, at most 8"),
        ({"rank": 6, "sites": "encoder.conv1"}, "above the 3 channels of 'encoder.conv1'"),
        ({"rank": 2, "sites": "nowhere"}, "'nowhere' matches no layer"),
        ("unshared", 'expected "private" or "shared", or a rank'),
    ],
)
def test_what_cannot_be_is_refused(convolutions, said):
    """If this breaks, it fails hours later, or another network is trained than was asked for."""
    with pytest.raises(FusionError, match=said):
        rooms(convolutions=convolutions)


@pytest.mark.parametrize("compute", [nn.utils.spectral_norm, nn.utils.parametrizations.weight_norm])
def test_convolutions_that_compute_their_weights_are_left_out(compute):
    """If this breaks, they are computed anew in every pass, and the private part that is trained does nothing."""
    plain = nn.Sequential(compute(nn.Conv2d(3, 8, 3)), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1))
    net = fuse(plain, NAMES[:2], None, convolutions={"rank": 2})
    assert net.settings.low_rank == (2, ("2",))
    with pytest.raises(FusionError, match="'0' matches no layer"):
        fuse(plain, NAMES[:2], None, convolutions={"rank": 2, "sites": "0"})
    with pytest.raises(FusionError, match=r"'0' computes its weights.*stems=\"repeat\""):
        fuse(plain, NAMES[:2], None, stems="private")


def test_a_network_without_such_convolutions_is_told_so():
    """If this breaks, somebody with volumes tries one rank after the other."""
    plain = nn.Sequential(nn.Conv3d(3, 8, 3), nn.BatchNorm3d(8))
    with pytest.raises(FusionError, match=r"no convolution of images.*convolutions=\"shared\""):
        fuse(plain, NAMES[:2], None, convolutions={"rank": 2})
