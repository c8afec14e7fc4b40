"""Where an image enters a network: private stems and tiling stand on it, and layers may be held in any order."""

import copy
from typing import NamedTuple

import pytest
import torch
from torch import nn

from core_tools import NAMES, assert_equal, assert_same_state, images
from polymodal import FusionError, cost, fuse
from polymodal.anatomy import Anatomy, ghost
from polymodal.models import create


class HeadFirst(nn.Module):
    """Holds its head before its stem, as nothing forbids."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(8, 2, 1)
        self.stem = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x):
        return self.head(self.norm(self.stem(x)))


class Rearranged(nn.Module):
    """Begins with space to depth, so that its first convolution sees four times the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.PixelUnshuffle(2)
        self.stem = nn.Conv2d(12, 8, 3)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x):
        return self.norm(self.stem(self.first(x)))


class TwoBranches(nn.Module):
    """Gives the image to two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 8, 1)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x):
        return self.norm(self.one(x) + self.other(x))


class LooksInside(nn.Module):
    """Asks its first layer for what only a convolution has."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x):
        return self.norm(self.stem(x.to(self.stem.weight.dtype)))


class NotWithoutValues(nn.Module):
    """Does not run on tensors without values."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x):
        return self.norm(self.stem(x * float(x.abs().max() >= 0)))


@pytest.mark.parametrize(
    ("network", "name", "channels", "direct", "others"),
    [
        (HeadFirst, "stem", 3, True, []),
        (Rearranged, "stem", 3, False, []),
        (TwoBranches, "one", 3, True, ["other"]),
        (NotWithoutValues, "stem", 3, True, []),
    ],
)
def test_the_first_convolution_is_the_one_that_runs_first(network, name, channels, direct, others):
    plain = network()
    before = copy.deepcopy(plain)
    anatomy = Anatomy(plain)
    found = anatomy.entrance
    assert (found.name, found.channels, found.direct) == (name, channels, direct)
    assert found.conv is plain.get_submodule(name)
    if direct:
        assert anatomy.run.beside(found.name) == others
    assert_same_state(plain, before)


@pytest.mark.parametrize("network", [HeadFirst, NotWithoutValues])
def test_a_private_stem_stands_where_the_image_enters(network):
    """If this breaks, the head is replaced in the stem's place, and every prediction reads a part of the features."""
    plain = network().eval()
    net = fuse(plain, {"rgb": 3, "depth": 1}, None, stems="private")
    inputs = images(["rgb"], 2, 3, 9, 9, dtype=torch.float32) | images(["depth"], 2, 1, 9, 9, dtype=torch.float32)
    predictions = net(inputs).per_modality
    assert_equal(predictions["rgb"], plain(inputs["rgb"]), 1e-6)
    assert_equal(predictions["depth"], plain(inputs["depth"].expand(-1, 3, -1, -1)), 1e-5)


def test_tiling_counts_the_images_channels_not_those_of_the_first_convolution():
    """If this breaks, a network that begins with space to depth is given sixteen times the channels it takes."""
    plain = Rearranged().eval()
    net = fuse(plain, {"rgb": 3, "depth": 1}, None)
    inputs = images(["rgb"], 2, 3, 16, 16, dtype=torch.float32) | images(["depth"], 2, 1, 16, 16, dtype=torch.float32)
    assert_equal(net(inputs).per_modality["depth"], plain(inputs["depth"].expand(-1, 3, -1, -1)), 1e-5)
    assert cost(net, (16, 16)).macs > 0


@pytest.mark.parametrize(
    ("network", "settings", "message"),
    [
        (Rearranged, {"stems": "private"}, "'stem' does not see the image's 3 channels"),
        (TwoBranches, {"stems": "private"}, "read by 'other', too"),
        (LooksInside, {"stems": "private"}, "would not run.*no attribute 'weight'.*stems=\"repeat\""),
        (LooksInside, {"convolutions": "private"}, "would not run.*no attribute 'weight'"),
    ],
)
def test_what_cannot_have_layers_of_its_own_is_refused_before_anything_changes(network, settings, message):
    """If this breaks, a stem reads one of four rows of the image, or the first forward pass ends in a riddle."""
    plain = network()
    before = copy.deepcopy(plain)
    with pytest.raises(FusionError, match=message):
        fuse(plain, {"rgb": 3, "depth": 1}, None, inplace=True, **settings)
    assert_same_state(plain, before)


def test_where_nothing_can_be_foreseen_a_private_stem_refuses_what_is_no_image():
    """If this breaks, it drops the channels that it was not made for."""

    class Surprise(Rearranged):
        def forward(self, x):
            return super().forward(x * float(x.abs().max() >= 0))

    net = fuse(Surprise(), {"rgb": 12, "depth": 3}, None, stems="private").eval()
    inputs = images(["rgb"], 1, 12, 16, 16, dtype=torch.float32) | images(["depth"], 1, 3, 16, 16, dtype=torch.float32)
    with pytest.raises(FusionError, match=r"12 channels, and was given 48.*repeat"):
        net(inputs)


def test_a_ghost_takes_no_memory_and_shares_nothing():
    plain = HeadFirst().train()
    plain.tied = nn.Conv2d(3, 8, 3)
    plain.tied.weight = plain.stem.weight
    copied = ghost(plain)
    assert {p.device.type for p in [*copied.parameters(), *copied.buffers()]} == {"meta"}
    assert copied.tied.weight is copied.stem.weight
    assert not any(module.training for module in copied.modules())
    assert plain.training
    assert copied(torch.empty(1, 3, 9, 9, device="meta")).shape == (1, 2, 7, 7)


def test_names_alone_do_not_say_how_many_channels_but_beside_a_number_none_means_the_networks():
    """If this breaks, {"rgb": 3, "depth": None} fails in the stem with a shape error."""
    assert fuse(HeadFirst(), NAMES[:2], None).channels == {"rgb": None, "depth": None}
    assert fuse(HeadFirst(), {"rgb": 1, "depth": None}, None).channels == {"rgb": 1, "depth": 3}


class Maps(NamedTuple):
    """What an encoder returns by name."""

    fine: torch.Tensor
    coarse: torch.Tensor


class ByName(nn.Module):
    """Reads what its encoder returns by name, and one of the two maps alone."""

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.norm, self.two = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3)

        def forward(self, x):
            fine = self.norm(self.one(x))
            return Maps(fine, self.two(fine))

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head = self.Encoder(), nn.Conv2d(4, 2, 1)

    def forward(self, x):
        return self.head(self.encoder(x).coarse.relu_())


def test_a_dry_run_changes_nothing_of_what_a_network_sees_and_is_made_once():
    """If this breaks, a network that reads its encoder's maps by name has no private stems, or `fuse` takes minutes."""
    anatomy = Anatomy(ByName().requires_grad_(False))
    assert anatomy.run.problem is None
    assert (anatomy.run.encoder, anatomy.run.read) == ("encoder", {1})
    assert anatomy.run.finished["encoder.two"] < anatomy.run.finished["encoder"] < anatomy.run.finished["head"]
    assert anatomy.run is anatomy.run
    fuse(anatomy.network, {"rgb": 3, "depth": 1}, None, stems="private")


@pytest.mark.parametrize(("fusion", "most"), [("exchange", 1), ("aggregation", 3)])
def test_a_network_is_looked_at_as_seldom_as_can_be(fusion, most, monkeypatch):
    """If this breaks, fusing a large network takes several times as long: the entrance, one run, and a rehearsal."""
    looks = []
    monkeypatch.setattr("polymodal.anatomy.meta.ghost", lambda network: looks.append(network) or ghost(network))
    monkeypatch.setattr("polymodal.surgery.ghost", lambda network: looks.append(network) or ghost(network))
    fuse(create("rooms-unet", classes=2, stem=4, widths=(4, 4), decoder=4), ["rgb", "depth"], fusion)
    assert len(looks) <= most
