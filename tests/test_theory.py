"""Theorem 1 and corollary 1 of CEN: what docs/theory.md claims about scales at zero, and where it says it breaks."""

import copy
import itertools
import math
from pathlib import Path
from statistics import NormalDist
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from polymodal import Exchange, fuse
from polymodal.functional import zero_probability

TOOLS = Path(__file__).parents[1] / "tools"
DRAWS = 200_000


def monte_carlo_error(probability: float) -> float:
    """Five standard deviations of a share counted over DRAWS draws: by chance missed once in two million."""
    return 5 * math.sqrt(probability * (1 - probability) / DRAWS)


@given(st.floats(1e-6, 1e6), st.floats(0, 1e6))
def test_probability_is_the_formula_of_the_theorem(norm, penalty):
    expected = 2 * NormalDist().cdf(penalty / norm) - 1
    found = zero_probability(torch.tensor(norm, dtype=torch.float64), penalty).item()
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_probability_keeps_its_precision_where_it_is_small():
    """2Φ(z) - 1 written as it stands gives 0 for z = 1e-17, and a float32 answer would be off in the eighth digit."""
    found = zero_probability(torch.tensor(1e17, dtype=torch.float64), 1.0)
    assert found.dtype == torch.float64
    assert found.item() == pytest.approx(1e-17 * math.sqrt(2 / math.pi), rel=1e-12)


@pytest.mark.parametrize("penalty", [0.0, 1e-300, 1.0])
def test_probability_of_a_channel_without_gradient_is_one(penalty):
    """A redundant channel gives up its place; 0/0 must not make it nan."""
    assert zero_probability(torch.zeros(2, 3), penalty).equal(torch.ones(2, 3))


def test_probability_takes_many_gradients_and_many_penalties():
    norms, penalties = torch.tensor([[0.0], [0.1], [0.5]]), torch.tensor([0.0, 0.2])
    found = zero_probability(norms, penalties)
    assert found.shape == (3, 2)
    one_by_one = [[zero_probability(norm, penalty).item() for penalty in penalties] for norm in norms[:, 0]]
    assert found.tolist() == one_by_one


@pytest.mark.parametrize("gradient", [0.1, -0.5, 1.0])
def test_probability_agrees_with_drawn_activations(gradient):
    """γ = 0 is a local minimum of L + λ|γ| where |g x̂| < λ: counted for one value."""
    activation = torch.randn(DRAWS, dtype=torch.float64)
    share = (gradient * activation).abs().lt(0.2).double().mean().item()
    expected = zero_probability(torch.tensor(gradient, dtype=torch.float64).abs(), 0.2).item()
    assert abs(share - expected) < monte_carlo_error(expected)


@pytest.mark.parametrize("penalty", [0.1, 0.5, 2.0])
def test_probability_of_a_map_takes_the_euclidean_norm(penalty):
    """Counted for Σ_i g_i x̂_i over 64 positions; the mean, largest or summed |g| would all miss it."""
    gradient = torch.randn(64, dtype=torch.float64) * torch.linspace(0.01, 0.3, 64, dtype=torch.float64)
    activation = torch.randn(DRAWS, 64, dtype=torch.float64)
    share = (activation @ gradient).abs().lt(penalty).double().mean().item()
    expected = zero_probability(gradient.norm(), penalty).item()
    assert abs(share - expected) < monte_carlo_error(expected)
    for norm in (gradient.abs().mean(), gradient.abs().max(), gradient.abs().sum()):
        assert abs(share - zero_probability(norm, penalty).item()) > monte_carlo_error(expected)


def test_probability_under_batch_statistics_takes_the_gradient_without_its_mean():
    """A batch norm makes x̂ sum to zero, so a constant in g, however large, moves nothing."""
    gradient = 1.0 + 0.1 * torch.randn(64, dtype=torch.float64)
    activation = torch.randn(DRAWS, 64, dtype=torch.float64)
    activation = activation - activation.mean(1, keepdim=True)
    activation = activation / activation.std(1, correction=0, keepdim=True)
    share = (activation @ gradient).abs().lt(0.5).double().mean().item()
    expected = zero_probability((gradient - gradient.mean()).norm(), 0.5).item()
    # With 63 of 64 degrees of freedom left, the variance is 64/63 of the formula's: the bound allows for it.
    assert abs(share - expected) < monte_carlo_error(expected) + 0.01
    assert zero_probability(gradient.norm(), 0.5).item() < 0.1 < share


# --- What tools/theory.py does to networks.


@pytest.fixture(scope="module")
def theory():
    """The parts of the tool that makes the page."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TOOLS))
        patch.setattr("sys.dont_write_bytecode", True)
        from theorems import channels, summary, switching, training
    return SimpleNamespace(channels=channels, summary=summary, switching=switching, training=training)


def fused(theory, convolutions, threshold):
    torch.manual_seed(0)
    fusion = Exchange(threshold=threshold, penalty=0.02)
    net = fuse(theory.switching.toy(4, width=8), {"a": 3, "b": 3}, fusion, sites=["1", "4"], convolutions=convolutions)
    return net.double()


@pytest.fixture(scope="module")
def batch():
    """Two images of which each knows one of the two bits of a class."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 6, 3, 10, 10, generator=generator, dtype=torch.float64)
    bits = images.mean(2) > 0
    return dict(zip("ab", images, strict=True)), 2 * bits[0].long() + bits[1].long()


@pytest.fixture(scope="module")
def trained(theory, batch):
    """By convolutions: a network trained without exchange by proximal steps, so that some scales are exactly 0."""
    nets = {}
    for convolutions in ("private", "shared"):
        net = fused(theory, convolutions, threshold=1e-12)
        with net.fusion_disabled():
            list(theory.training.train(net, itertools.repeat(batch, 60), 60, schedule="constant"))
        nets[convolutions] = net
    return nets


def loss(theory, net, batch):
    with torch.no_grad():
        return theory.training.loss_of(net(batch[0]), batch[1]).item()


def loss_without_exchange(theory, net, batch):
    with net.fusion_disabled():
        return loss(theory, net, batch)


def test_a_proximal_step_makes_exact_zeros_in_the_own_part_alone(theory, trained):
    for net in trained.values():
        shares = [share for state in net.exchange_state().values() for share in state.share()]
        assert 0 < sum(shares) / len(shares) < 1
        for site, state in net.exchange_state().items():
            assert ((net.scales()[site] == 0) <= state.part).all()


def test_corollary_exchange_can_be_switched_on_without_a_change_of_the_loss(theory, trained, batch):
    """Corollary 1: unshared, γ exactly 0, the next layer compensating. Without compensating, the loss does change."""
    before = loss_without_exchange(theory, trained["private"], batch)
    net = copy.deepcopy(trained["private"])
    assert abs(loss(theory, net, batch) - before) > 1e-3
    theory.switching.compensate(net)
    assert loss(theory, net, batch) == pytest.approx(before, rel=1e-12)


def test_corollary_the_loss_is_not_larger_after_further_training(theory, trained, batch):
    before = loss_without_exchange(theory, trained["private"], batch)
    found = theory.switching.switch_on(trained["private"], batch, 30)
    assert found["after with"] < before
    assert found["after with"] < found["after without"]


def test_corollary_breaks_with_shared_convolutions(theory, trained, batch):
    """What one modality's next layer forgets, the other modality needed."""
    before = loss_without_exchange(theory, trained["shared"], batch)
    net = copy.deepcopy(trained["shared"])
    theory.switching.compensate(net)
    assert abs(loss(theory, net, batch) - before) > 1e-2


def test_corollary_breaks_where_scales_are_small_instead_of_zero(theory, trained, batch):
    """θ = 0.02 and scales of half of it: the next layer can absorb β, but not what was left of the channel."""
    net = fused(theory, "private", threshold=0.02)
    net.load_state_dict(trained["private"].state_dict())
    with torch.no_grad():
        for site, state in net.exchange_state().items():
            net.scales()[site][~state.keep] = 0.01
            # A channel that the ReLU cuts off carries nothing that could be lost.
            net.network.get_submodule(site).bias[~state.keep] = 0.1
    before = loss_without_exchange(theory, net, batch)
    theory.switching.compensate(net)
    assert abs(loss(theory, net, batch) - before) > 1e-6


def test_corollary_breaks_at_the_border_of_images_that_end_in_zeros(theory, trained, batch):
    """A constant channel in front of a zero-padded convolution is no constant: a bias cannot absorb it."""
    net = copy.deepcopy(trained["private"])
    with torch.no_grad():
        for site, state in net.exchange_state().items():
            net.network.get_submodule(site).bias[~state.keep] = 0.5
    for padding, equal in (("replicate", True), ("zeros", False)):
        twin = copy.deepcopy(net)
        for module in twin.modules():
            if isinstance(module, nn.Conv2d):
                module.padding_mode = padding
        before = loss_without_exchange(theory, twin, batch)
        theory.switching.compensate(twin)
        assert (abs(loss(theory, twin, batch) - before) < 1e-10) == equal


@pytest.mark.parametrize("statistics", ["batch", "frozen"])
def test_slopes_are_measured_at_zero_and_leave_the_network_alone(theory, batch, statistics):
    """∂L/∂γ put together from maps g and x̂ is what autograd says it is, for each scale with that one set to 0."""
    fusion = Exchange(threshold=0.0)
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3, padding=2))
    net = fuse(plain, {"a": 3, "b": 3}, fusion, sites="1", statistics=statistics).double()
    with torch.no_grad():
        net.network[1].weight.uniform_(0.5, 1.5)
        net.network[1].bias.uniform_(0.1, 0.5)
    before = copy.deepcopy(net.state_dict())
    found = theory.channels.measure(net, [batch])
    # In the order of `measure`: channel by channel of the part, modality by modality. Parts are 0, 1 and 2, 3.
    for index, (m, c) in enumerate([(0, 0), (1, 2), (0, 1), (1, 3)]):
        twin = copy.deepcopy(net)
        twin.load_state_dict(before)
        with torch.no_grad():
            twin.network[1].weight[m, c] = 0
        theory.training.loss_of(twin(batch[0]), batch[1]).backward()
        assert found.slope[index, 0].item() == pytest.approx(twin.network[1].weight.grad[m, c].item(), rel=1e-9)
        assert found.modality[index] == m
        assert found.bias[index].item() == pytest.approx(before["network.1.bias"][m, c].item())
    for name in ("network.1.weight", "network.1.bias", "network.0.weight"):
        assert net.state_dict()[name].equal(before[name])
    assert (found.norm > 0).all()


def test_scales_are_listed_in_the_order_in_which_they_are_measured(theory, trained, batch):
    net = trained["shared"]
    values = theory.channels.penalised_scales(net)
    modality = theory.channels.measure(net, [batch]).modality
    expected = []
    for site, state in net.exchange_state().items():
        first, second = (row.nonzero().flatten().tolist() for row in state.part)
        for c, d in zip(first, second, strict=True):
            expected += [net.scales()[site][0, c].item(), net.scales()[site][1, d].item()]
    assert values.tolist() == expected
    assert modality.tolist() == [0, 1] * (len(expected) // 2)


def test_ranking_counts_pairs(theory):
    """Against counting by hand: three of four pairs in order, one tied."""
    score = torch.tensor([3.0, 2.0, 2.0, 1.0])
    assert theory.summary.ranked_right(score, torch.tensor([True, True, False, False])) == (3 + 0.5) / 4
