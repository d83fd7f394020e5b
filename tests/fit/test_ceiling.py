"""The most that log p of rows can be by a few states: never below what log p is, and close where an energy ran away."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import norm

from abduce.fit.ceiling import independent_log_prob, most_log_prob
from abduce.inference.flips import log_sum_states
from abduce.models.boltzmann import GaussianRBMEnergy, RBMEnergy


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def binary(size: float) -> tuple[RBMEnergy, torch.Tensor, float]:
    """A machine of weights of a size, rows, and their mean log p by a sum over all states."""
    x = (torch.rand(200, 8, generator=generator()) < 0.4).double()
    model = RBMEnergy.start(x, 5, generator()).double()
    with torch.no_grad():
        model.weight.copy_(size * torch.randn(8, 5, generator=generator()))
        log_z = log_sum_states(lambda s: -model.energy(s), 8, 40, x)
        return model, x, float((-model.energy(x)).mean() - log_z)


@pytest.mark.parametrize("size", [0.0, 0.1, 1.0, 10.0, 1000.0])
def test_bounds_log_p_of_binary_rows(size):
    model, x, exact = binary(size)
    most = most_log_prob(model, x, x[:20], generator())
    assert most >= exact - 1e-9
    every = torch.from_numpy(np.unravel_index(np.arange(256), (2,) * 8)[0]).double()  # any states will do
    assert most_log_prob(model, x, every[:0].reshape(0, 8), generator()) >= exact - 1e-9
    everything = torch.cartesian_prod(*[torch.tensor([0.0, 1.0]).double()] * 8)
    assert most_log_prob(model, x, everything, generator()) == pytest.approx(exact, abs=1e-9)


def test_repeated_states_count_once():
    model, x, _ = binary(1.0)
    assert most_log_prob(model, x, x, generator()) == pytest.approx(
        most_log_prob(model, x, x[:1], generator()), abs=1e-12
    )


@pytest.mark.parametrize("size", [0.0, 0.1, 1.0, 10.0])
def test_bounds_log_p_of_real_rows(size):
    x = torch.randn(300, 3, generator=generator()).double()
    model = GaussianRBMEnergy.start(x, 4, generator()).double()
    with torch.no_grad():
        model.weight.copy_(size * torch.randn(3, 4, generator=generator()))
        exact = float(-model.energy(x).mean() - model.log_z())
    most = most_log_prob(model, x, x[:50], generator())
    assert most >= exact - 0.1
    if size <= 0.1:
        assert most == pytest.approx(exact, abs=0.2)


def test_columns_of_their_own():
    x = torch.tensor([[0.0, 1.0, 5.0], [2.0, 1.0, 9.0]]).double()
    model = GaussianRBMEnergy.start(torch.randn(9, 3).double(), 2, generator())
    expected = norm(0, 1).logpdf(1) - 0.5 * np.log(2 * np.pi) - 0.5 + norm(7, 2).logpdf(9)
    assert independent_log_prob(model, x) == pytest.approx(
        expected
    )  # a constant column counts as standardised
