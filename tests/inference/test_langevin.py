"""Langevin kernels on Gaussians and a double well."""

from __future__ import annotations

import pytest
import torch

from abduce.inference.convergence import chain_sample_size, split_r_hat
from abduce.inference.langevin import Langevin
from abduce.models.gaussian import PrincipalComponentsEnergy


def model(noise: float = 1.0) -> PrincipalComponentsEnergy:
    """N(0, diag(4, 1)) in a turned frame."""
    turn = torch.linalg.qr(torch.tensor([[1.0, 1.0], [0.5, -1.0]], dtype=torch.float64))[0]
    return PrincipalComponentsEnergy.of(
        torch.zeros(2, dtype=torch.float64),
        turn[:, :1],
        torch.tensor([4.0], dtype=torch.float64),
        torch.tensor(noise, dtype=torch.float64),
    )


def run(kernel, n: int = 4000, steps: int = 150):
    g = torch.Generator().manual_seed(0)
    state = kernel.init(torch.zeros(n, 2, dtype=torch.float64))
    rates, trace = [], []
    for i in range(steps):
        state, acceptance = kernel.step(state, g)
        rates.append(acceptance.mean().item())
        if i >= steps // 3:
            trace.append(state.x[:50, 0])
    return state.x, sum(rates) / len(rates), torch.stack(trace)


@pytest.mark.parametrize(
    "kernel",
    [Langevin(model(), 0.9), Langevin(model(), 0.15, metropolis=False)],
    ids=["adjusted", "unadjusted"],
)
def test_kernels_sample_a_gaussian(kernel):
    x, rate, trace = run(kernel, steps=150 if kernel.step_size > 0.2 else 700)
    torch.testing.assert_close(x.mean(0), torch.zeros(2, dtype=torch.float64), atol=0.12, rtol=0)
    torch.testing.assert_close(torch.cov(x.T), model().covariance, atol=0.25, rtol=0)
    assert 0.5 < rate <= 1
    assert kernel.step_size < 0.2 or split_r_hat(trace) < 1.2  # small steps have hardly begun to mix


def test_adjustment_removes_what_a_coarse_step_adds():
    """Unadjusted, the variance of N(0, 1) settles at 1/(1 − ε²/4)."""
    tight = model()
    step = 1.2
    adjusted, _, _ = run(Langevin(tight, step), steps=200)
    crude, _, _ = run(Langevin(tight, step, metropolis=False), steps=200)
    across = tight.directions.new_tensor([[0, -1.0], [1, 0]]) @ tight.directions  # variance 1
    assert (adjusted @ across).var().item() == pytest.approx(1.0, abs=0.08)
    assert (crude @ across).var().item() == pytest.approx(1 / (1 - step**2 / 4), rel=0.08)


def test_sample_size_of_an_autoregression():
    """x_t = ρ x_{t−1} + noise is worth (1 − ρ)/(1 + ρ) of its draws."""
    g, rho, n, m = torch.Generator().manual_seed(0), 0.8, 4000, 8
    x = torch.zeros(n, m, dtype=torch.float64)
    noise = torch.randn(n, m, generator=g, dtype=torch.float64)
    for t in range(1, n):
        x[t] = rho * x[t - 1] + noise[t]
    assert chain_sample_size(x) == pytest.approx(n * m * (1 - rho) / (1 + rho), rel=0.15)
    assert split_r_hat(x) < 1.02
    drifting = x + torch.linspace(0, 5, n, dtype=torch.float64).unsqueeze(1)
    assert split_r_hat(drifting) > 1.2  # halves of one chain disagree
    assert split_r_hat(torch.ones(10, 2)) == 1.0
    assert chain_sample_size(torch.ones(2, 2)) != chain_sample_size(torch.ones(2, 2))  # NaN: too few
