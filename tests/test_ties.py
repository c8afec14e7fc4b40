"""Layers that share a tensor go on sharing it, for each modality, or the network is refused."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from core_tools import NAMES, images, plain_of
from polymodal import FusionError, fuse, load, save
from polymodal.fusion import Aggregation
from polymodal.models.unet import RoomsUNet
from polymodal.tasks.optim import Optimiser


class Plain(nn.Module):
    """Two convolutions and two norms of one shape, so that anything of theirs can be tied."""

    def __init__(self, tie: Callable[["Plain"], None] = lambda plain: None) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.one = nn.Conv2d(4, 4, 3, padding=1)
        self.other = nn.Conv2d(4, 4, 3, padding=1)
        self.last_norm = nn.BatchNorm2d(4)
        self.double()
        tie(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x)).relu()
        return self.last_norm(self.other(self.one(x).relu()))


def tie_weights(plain: Plain) -> None:
    plain.other.weight = plain.one.weight


def tie_biases(plain: Plain) -> None:
    plain.first.bias = plain.other.bias = plain.one.bias


def tie_scales(plain: Plain) -> None:
    plain.last_norm.weight = plain.norm.weight


def tie_statistics(plain: Plain) -> None:
    plain.last_norm.running_mean = plain.norm.running_mean
    plain.last_norm.num_batches_tracked = plain.norm.num_batches_tracked


def tie_memory(plain: Plain) -> None:
    plain.other.weight.data = plain.one.weight.data


TIES = [tie_weights, tie_biases, tie_scales, tie_statistics]


def trained(net: nn.Module, batch: object) -> nn.Module:
    """A step of gradient descent, which tells apart what only started equal."""
    net.train()
    optimiser = torch.optim.SGD({id(p): p for p in net.parameters()}.values(), lr=0.1)
    output = net(batch)
    outputs = [output] if isinstance(output, Tensor) else list(output.per_modality.values())
    sum(x.square().sum() for x in outputs).backward()
    optimiser.step()
    return net


@pytest.mark.parametrize("convolutions", ["private", "shared"])
@pytest.mark.parametrize("tie", TIES)
def test_independent_networks_train_as_plain_ones_with_the_same_ties(tie, convolutions):
    """If this breaks, tied layers drift apart in the fused network, which has more parameters than was meant."""
    torch.manual_seed(0)
    plain = Plain(tie)
    net = fuse(plain, NAMES[:2], None, convolutions=convolutions)
    tied = sum(p.numel() for p in plain.parameters())
    if convolutions == "private":
        assert sum(p.numel() for p in net.network.parameters()) == 2 * tied
        batch = images(NAMES[:2], 2, 3, 6, 6)
        trained(net, batch)
        for m, name in enumerate(NAMES[:2]):
            alone = trained(copy.deepcopy(plain), batch[name])
            x = torch.randn(2, 3, 6, 6).double()
            inputs = dict.fromkeys(NAMES[:2], x)
            assert torch.allclose(net.eval()(inputs).per_modality[name], alone.eval()(x), rtol=1e-9), m
    else:
        assert sum(p.numel() for p in plain_of(net, plain, 0).parameters()) >= tied
        assert (net.network.last_norm.weight is net.network.norm.weight) == (tie is tie_scales)
        assert (net.network.last_norm.running_mean is net.network.norm.running_mean) == (tie is tie_statistics)
        assert (net.network.one.weight is net.network.other.weight) == (tie is tie_weights)


@pytest.mark.parametrize("convolutions", ["private", "shared"])
def test_memory_that_two_parameters_share_is_refused(convolutions):
    """If this breaks, a tie that was made through `.data` is lost, as it is in every copy."""
    with pytest.raises(FusionError, match=r"'one.weight' and 'other.weight' are two tensors that share their memory"):
        fuse(Plain(tie_memory), NAMES[:2], None, convolutions=convolutions)


@pytest.mark.parametrize(
    ("tie", "settings"),
    [
        (lambda p: setattr(p.norm, "bias", p.one.bias), {}),
        (lambda p: setattr(p.norm, "bias", p.one.bias), {"convolutions": "private"}),
        (lambda p: setattr(p.norm, "bias", p.one.bias), {"norms": "shared"}),
        (tie_biases, {"stems": {"rgb": "private"}}),
        (tie_biases, {"modalities": {"rgb": 3, "x": 5}, "stems": "private", "convolutions": "private"}),
    ],
)
def test_ties_that_would_be_lost_are_refused_before_anything_changes(tie, settings):
    """If this breaks, a tie between layers that are treated differently is lost without a word."""
    plain = Plain(tie)
    before = copy.deepcopy(plain)
    with pytest.raises(FusionError, match=r"'\w+\.bias' and '\w+\.bias' share their values.*Give each"):
        fuse(plain, **({"modalities": NAMES[:2], "fusion": None, "inplace": True} | settings))
    assert [type(m) for m in plain.modules()] == [type(m) for m in before.modules()]


def test_a_tie_across_the_place_where_streams_become_one_is_refused():
    """If this breaks, an encoder's layers and the decoder's are no longer tied, as one of them exists once."""

    plain = RoomsUNet(3, stem=4, widths=(5, 8), decoder=5)
    first, *_, last = [m for m in plain.modules() if isinstance(m, nn.BatchNorm2d) and m.num_features == 5]
    last.bias = first.bias
    with pytest.raises(FusionError, match=r"'encoder.*bias' and 'decoder.*bias' share.* a norm of all modalities"):
        fuse(plain, NAMES[:2], Aggregation(), sites="late")
    last.bias = nn.Parameter(first.bias.detach().clone())
    fuse(plain, NAMES[:2], Aggregation(), sites="late")


def test_a_tied_network_is_optimised_once_and_comes_back(tmp_path):
    """If this breaks, training fails on a parameter in two groups, or a saved network loses its ties."""
    plain = Plain(tie_weights)
    tie_scales(plain)
    net = fuse(plain, NAMES[:2], "exchange", sites="*norm", convolutions="private")
    grouped = [id(p) for group in Optimiser().groups(net) for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in net.parameters())
    loaded = load(save(net, tmp_path / "model"), network=plain)
    assert loaded.network.norm.weight is loaded.network.last_norm.weight
    assert [k for k, p in loaded.named_parameters()] == [k for k, p in net.named_parameters()]
