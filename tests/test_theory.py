"""Theorem 1 and corollary 1 of CEN: what docs/theory.md claims about scales at zero, and where it says it breaks."""

import math
from statistics import NormalDist

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from polymodal.functional import zero_probability

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
