"""What `fuse` and its networks accept, and what they refuse with which words."""

import copy
import re

import pytest
import torch
from torch import nn

from core_tools import (
    NAMES,
    assert_same_state,
    fused,
    images,
    randomize_norms,
    small,
)
from polymodal import DataError, Exchange, FusionError, fuse, inspect, models
from polymodal.fusion import Alignment
from polymodal.settings import FuseSettings
from reference.plain import SITES, plain_segmenter


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "at least one"),
        ({}, "at least one"),
        (["rgb", "rgb"], "'rgb' is named twice"),
        (["rgb", "depth.raw"], r"'depth\.raw'"),
        (["rgb", ""], "''"),
        (["rgb", 3], "3"),
        ("rgb", r"\['rgb'\]|\[\"rgb\"\]"),
        ({"rgb"}, "expected a list"),  # a set has another order in every process
        (2, "expected a list"),
        ({"rgb": 3, "depth": 0}, "'depth'.*0"),
        ({"rgb": 3, "depth": True}, "'depth'.*True"),
        ({"rgb": 3, "bands": 4}, "'bands' has 4 channels.*private"),
    ],
)
def test_bad_modalities_are_refused_by_name(names, message):
    """If this breaks, a mistake in the list of modalities shows as a shape error somewhere deep in the network."""
    with pytest.raises(FusionError, match=message):
        fuse(small(), names, sites="4")


@pytest.mark.parametrize("name", ["type", "keys", "pop", "forward", "training", "depth map", "深度"])
def test_any_name_without_a_dot_works(name):
    """If this breaks, a modality whose name a container happens to use as a method cannot have a stem of its own."""
    net = fuse(small(), {"rgb": 3, name: 1}, None, stems="private").eval()
    inputs = images(["rgb"], 1, 3, 9, 9) | images([name], 1, 1, 9, 9)
    assert list(net(inputs).per_modality) == ["rgb", name]
    copy.deepcopy(net).load_state_dict(net.state_dict())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sites": "encoder.*"}, r"'encoder\.\*' matches no.*1, 4"),
        ({"sites": ["4", "nothing"]}, "'nothing' matches no.*1, 4"),
        ({"sites": []}, "1, 4"),
        ({"sites": [4]}, "sites: expected patterns of layer names, got 4"),
        ({"sites": "3"}, "'3' matches no.*1, 4"),  # a convolution
        ({"sites": lambda name, module: False}, "1, 4"),
        ({}, "auto.*1, 4"),  # a plain chain of layers has no residual block
        ({"fusion": "blending"}, "'blending'.*exchange"),
        ({"sites": None}, "sites: expected.*None"),
        ({"sites": "4", "stems": None}, "stems: expected.*None"),
        ({"sites": "4", "statistics": None}, "statistics: expected.*None"),
        ({"sites": "4", "stems": "tile"}, "'tile'"),
        ({"sites": "4", "stems": {"lidar": "private"}}, "'lidar'.*rgb, depth"),
        ({"sites": "4", "norms": "group"}, "'group'"),
        ({"sites": "4", "norms": "shared"}, "shared"),
        ({"sites": "4", "statistics": "running"}, "'running'"),
        ({"sites": "4", "statistics": ["encoder.*"]}, r"'encoder\.\*'"),
    ],
)
def test_bad_settings_are_refused_with_what_was_expected(settings, message):
    """If this breaks, a misspelt setting is ignored in silence and a whole training compares nothing."""
    model = small()
    before = copy.deepcopy(model)
    with pytest.raises(FusionError, match=message):
        fuse(model, NAMES[:2], **({"fusion": "exchange"} | settings), inplace=True)
    assert_same_state(model, before)


@pytest.mark.parametrize(
    "settings",
    [
        {"threshold": -0.1},
        {"threshold": float("nan")},
        {"penalty": -1.0},
        {"penalty": float("nan")},
        {"within": "half"},
        {"share": 1.5},
        {"share": -0.1},
        {"share": float("nan")},
    ],
)
def test_exchange_refuses_values_out_of_range(settings):
    """If this breaks, a nonsensical threshold or share trains without a word."""
    with pytest.raises(FusionError, match=next(iter(settings))):
        Exchange(**settings)


def test_sites_by_pattern_list_and_predicate_are_the_same():
    """If this breaks, one of the three ways to say where to exchange chooses other layers."""
    for sites in ("layer*.bn2", ["layer1.*.bn2", "layer2.*.bn2"], lambda n, m: n.endswith("bn2")):
        net = fuse(plain_segmenter(0), NAMES[:2], sites=sites)
        assert net.sites == SITES
        assert tuple(net.scales()) == tuple(net.exchanged()) == tuple(net.exchange_state()) == SITES


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lidar": (2, 3, 9, 9)}, "'lidar'.*rgb, depth"),
        ({"depth": None}, "depth.*subset"),
        ({"depth": (2, 3, 9, 8)}, r"(?=.*'rgb')(?=.*'depth').*\(2, 3, 9, 9\).*\(2, 3, 9, 8\)"),
        ({"depth": (1, 3, 9, 9)}, r"(?=.*'rgb')(?=.*'depth').*\(2, 3, 9, 9\).*\(1, 3, 9, 9\)"),
        ({"depth": (2, 4, 9, 9)}, r"'depth'.*3.*\(2, 4, 9, 9\)"),
        ({"depth": (3, 9, 9)}, r"'depth'.*\(3, 9, 9\)"),
    ],
)
def test_bad_inputs_name_the_modality_and_both_shapes(change, message):
    """If this breaks, a user sees a convolution's shape error instead of which modality is wrong."""
    net = fused(2, Exchange(0.6))
    shapes = {"rgb": (2, 3, 9, 9), "depth": (2, 3, 9, 9)} | change
    inputs = {name: torch.zeros(shape).double() for name, shape in shapes.items() if shape is not None}
    with pytest.raises(DataError, match=message):
        net(inputs)


def test_a_tensor_instead_of_a_dict_is_refused():
    """If this breaks, all of its values are printed as the name of a modality."""
    with pytest.raises(DataError, match=r"Expected a dict of images by modality \(rgb, depth\), got a Tensor"):
        fused(2, Exchange(0.6))(torch.zeros(2, 3, 9, 9))


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda y: (y, y.mean()), "returned a scalar, such as a loss"),
        (lambda y: y.movedim(1, -1).reshape(-1, 4), r"of shape \(100, 4\), where 4 rows"),
        (lambda y: (y, torch.zeros(6, 2)), r"of shape \(6, 2\), where 4 rows"),
        (lambda y: {"out": y, "labels": y.argmax(1)}, "of torch.int64, such as class numbers"),
        (lambda y: {"out": y, "sure": y > 0}, "of torch.bool"),
    ],
)
def test_outputs_that_belong_to_no_modality_or_have_no_mean_are_refused(returned, message):
    """If this breaks, a modality is given pixels of the others, an ensemble is 0, or it fails deep inside PyTorch."""

    class Returning(nn.Sequential):
        def forward(self, x):
            return returned(super().forward(x))

    net = fuse(Returning(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), NAMES[:2], None)
    with pytest.raises(FusionError, match=message):
        net(images(NAMES[:2], 2, 3, 5, 5, dtype=torch.float32))


def test_a_batch_of_no_samples_has_no_predictions():
    """If this breaks, a pipeline that filters its samples dies inside PyTorch when none is left."""
    prediction = fused(2, Exchange(0.6))(images(NAMES[:2], 0, 3, 9, 9))
    assert prediction.ensemble.shape == prediction.per_modality["rgb"].shape == (0, 2, 5, 5)


def test_subset_of_nothing_or_of_the_unknown_is_refused():
    """If this breaks, a typo in a modality's name counts as its absence."""
    net = fused(2, Exchange(0.6))
    with pytest.raises(DataError, match="rgb, depth"):
        net({}, subset=True)
    with pytest.raises(DataError, match="'dpeth'"):
        net(images(["rgb", "dpeth"], 1, 3, 9, 9), subset=True)


def test_batch_of_one_value_per_channel_is_refused_with_the_remedy():
    """If this breaks, batch size 1 on a pooled feature trains on a variance of zero, or ends in a riddle."""
    plain = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)).double()
    inputs = images(NAMES[:2], 1, 3, 6, 6)
    with pytest.raises(FusionError, match=re.compile("'2'.*frozen", re.DOTALL)):
        fuse(plain, NAMES[:2], fusion=None).train()(inputs)
    fuse(plain, NAMES[:2], fusion=None, statistics="frozen").train()(inputs)
    fuse(plain, NAMES[:2], fusion=None).eval()(inputs)


def test_frozen_statistics_by_pattern():
    """If this breaks, "freeze the encoder's statistics" freezes other norms or none."""
    net = fuse(plain_segmenter(0), NAMES[:2], statistics=["layer1.*"]).train()
    before = copy.deepcopy(net.state_dict())
    net(images(net.modalities, 2, 3, 16, 16))
    for key, value in net.state_dict().items():
        if "running" in key:
            assert torch.equal(value, before[key]) == ("layer1" in key), key


def test_inspect_tells_what_would_be_and_what_is():
    """If this breaks, a user cannot see where channels are exchanged before and after."""
    plain = plain_segmenter(0)
    before = str(inspect(plain))
    net = randomize_norms(fuse(plain, NAMES[:2], Exchange(0.6)))
    after = str(inspect(net))
    for site in SITES:
        assert site in before
        assert site in after
    assert all(name in after for name in net.modalities)
    assert inspect(fuse(plain, NAMES[:2], Alignment())).norms == inspect(plain).norms
    refused = str(inspect(nn.Sequential(nn.Conv2d(3, 4, 1), nn.LocalResponseNorm(2))))
    assert "LocalResponseNorm" in refused
    assert "is multimodal already" in str(inspect(net.network))


def test_the_settings_that_a_network_holds_make_it_again():
    """If this breaks, a saved model is another network than the one that was trained."""
    plain = models.create("rooms-unet", classes=2, stem=4, widths=(4, 4), decoder=4)
    net = fuse(plain, {"rgb": 3, "depth": 1}, stems={"depth": "private"}, convolutions="private", statistics="frozen")
    again = fuse(plain, **vars(net.settings))
    assert again.settings == net.settings == FuseSettings.from_config(net.config())
    assert_same_state(again, net)
