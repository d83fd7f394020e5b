"""Hamiltonian Monte Carlo on densities that are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from abduce.inference import hmc
from abduce.inference.kernels import start

MEAN = torch.tensor([1.0, -2.0], dtype=torch.float64)
COVARIANCE = torch.tensor([[1.0, 0.6], [0.6, 0.8]], dtype=torch.float64)
PRECISION = torch.linalg.inv(COVARIANCE)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def log_density(z: torch.Tensor) -> torch.Tensor:
    r = z - MEAN
    return -0.5 * (r @ PRECISION * r).sum(-1)


@pytest.mark.parametrize("shared", [False, True])
def test_it_samples_a_gaussian(shared):
    z = torch.zeros(4000, 2, 2, dtype=torch.float64)
    state, acceptance = hmc.run(z, log_density, 60, seed=0, step_size=0.3, shared=shared)
    for row in range(2):
        draws = state.x[:, row].numpy()
        np.testing.assert_allclose(draws.mean(0), MEAN, atol=0.08)
        np.testing.assert_allclose(np.cov(draws.T), COVARIANCE, atol=0.08)
    assert ((acceptance > 0.6) & (acceptance <= 1)).all()  # adapted to about 0.75


def test_a_step_leaves_the_target_as_it_is():
    """Chains that start in the target stay in it, however coarse the step."""
    root = torch.linalg.cholesky(COVARIANCE)
    z = MEAN + torch.randn(40_000, 1, 2, generator=generator(), dtype=torch.float64) @ root.T
    state = start(z, log_density)
    size = torch.full((1, 1, 1), 0.9, dtype=torch.float64)
    g = generator(1)
    rates = []
    for _ in range(5):
        state, acceptance = hmc.step(state, log_density, size, g)
        rates.append(acceptance.mean().item())
    assert 0.2 < np.mean(rates) < 0.98  # the test of acceptance is at work
    np.testing.assert_allclose(state.x[:, 0].mean(0), MEAN, atol=0.03)
    np.testing.assert_allclose(np.cov(state.x[:, 0].numpy().T), COVARIANCE, atol=0.04)


def test_energy_is_kept_to_second_order():
    z = torch.randn(500, 1, 2, generator=generator(), dtype=torch.float64)
    state = start(z, log_density)

    def lost(size: float) -> float:
        """Mean −log acceptance over one unit of time."""
        step = torch.full((1, 1, 1), size, dtype=torch.float64)
        _, acceptance = hmc.step(state, log_density, step, generator(1), leapfrogs=round(1 / size))
        return -acceptance.log().mean().item()

    assert lost(0.01) < 1e-3
    assert lost(0.2) / lost(0.05) == pytest.approx(16, rel=0.4)  # the error of the leapfrog is O(step²)


def test_runs_repeat_and_rows_do_not_mix():
    z = torch.randn(8, 5, 2, generator=generator(), dtype=torch.float64)
    centre = torch.arange(5.0, dtype=torch.float64).unsqueeze(-1)

    def rows(index):
        return lambda v: -0.5 * (v - centre[index]).square().sum(-1)

    every, rate = hmc.run(z, rows(torch.arange(5)), 15, seed=3)
    again, _ = hmc.run(z, rows(torch.arange(5)), 15, seed=3)
    assert torch.equal(every.x, again.x)
    other, _ = hmc.run(z, rows(torch.arange(5)), 15, seed=4)
    assert not torch.equal(every.x, other.x)
    pair = torch.tensor([3, 1])
    few, own = hmc.run(z[:, pair], rows(pair), 15, seed=3)
    torch.testing.assert_close(few.x, every.x[:, pair], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(own, rate[pair], rtol=1e-12, atol=1e-12)


def test_state_keeps_value_and_gradient_of_where_it_is():
    z = torch.randn(6, 3, 2, generator=generator(), dtype=torch.float64)
    state, _ = hmc.run(z, log_density, 9, seed=0)
    fresh = start(state.x, log_density)
    torch.testing.assert_close(state.log_density, fresh.log_density)
    torch.testing.assert_close(state.gradient, fresh.gradient)
    torch.testing.assert_close(fresh.gradient, -(state.x - MEAN) @ PRECISION)


def test_a_proposal_that_leaves_the_support_is_refused():
    def half_line(z):
        return torch.where(z[..., 0] > 0, -z[..., 0], -math.inf)

    z = torch.full((2000, 1, 1), 0.5, dtype=torch.float64)
    state, acceptance = hmc.run(z, half_line, 60, seed=0, step_size=0.3)
    assert (state.x > 0).all()
    assert 0 < acceptance.item() < 1
    assert state.x.mean().item() == pytest.approx(1.0, abs=0.15)  # an exponential
