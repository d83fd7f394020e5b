"""Kalman recursions against the dense Gaussian of all steps at once, under any mask."""

import math

import numpy as np
import pytest
import torch

from abduce.sequences import kalman
from abduce.sequences.kalman import StateSpace


def space_of(seed, states=4, seen=2, noiseless=False):
    g = torch.Generator().manual_seed(seed)
    a = torch.randn(states, states, generator=g, dtype=torch.float64)
    a = 0.9 * a / torch.linalg.eigvals(a).abs().max()
    q = torch.randn(states, states, generator=g, dtype=torch.float64)
    p = torch.randn(states, states, generator=g, dtype=torch.float64)
    r = torch.rand(seen, generator=g, dtype=torch.float64) * (0.0 if noiseless else 1.0)
    return StateSpace(a, q @ q.mT, p @ p.mT, r)


def dense(space, steps):
    """Covariance of what is seen at all steps, (T F, T F)."""
    f, s = len(space.spread), len(space.transition)
    blocks = [[None] * steps for _ in range(steps)]
    p = space.first
    for t in range(steps):
        blocks[t][t] = p
        for later in range(t + 1, steps):
            blocks[later][t] = space.transition @ blocks[later - 1][t]
            blocks[t][later] = blocks[later][t].mT
        p = space.transition @ p @ space.transition.mT + space.noise
    assert blocks[0][0].shape == (s, s)
    clean = torch.cat([torch.cat([b[:f, :f] for b in row], 1) for row in blocks])
    return clean, clean + torch.diag(space.spread.repeat(steps))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("noiseless", [False, True])
def test_equals_the_dense_gaussian_under_any_mask(seed, noiseless):
    space, steps, f = space_of(seed, noiseless=noiseless), 7, 2
    g = torch.Generator().manual_seed(10 + seed)
    y = torch.randn(6, steps, f, generator=g, dtype=torch.float64)
    mask = torch.rand(6, steps, f, generator=g) < torch.tensor([0.0, 0.3, 0.5, 0.7, 1.0, 0.5])[:, None, None]
    mask[5] = mask[3]  # two with the same blanks
    found = kalman.smoothed(space, torch.where(mask, y, torch.nan), mask)
    clean, c = dense(space, steps)
    for i in range(6):
        o = mask[i].flatten()
        y_o, c_oo = y[i].flatten()[o], c[o][:, o]
        gain = torch.linalg.solve(c_oo, clean[o]).mT
        mean = gain @ y_o
        variance = clean.diagonal() - (gain * clean[:, o]).sum(1)
        assert torch.allclose(found.mean[i, :, :f].flatten(), mean, atol=1e-9)
        assert torch.allclose(found.variance[i].flatten(), variance, atol=1e-9)
        log_p = (
            torch.distributions.MultivariateNormal(torch.zeros(len(y_o)).double(), c_oo).log_prob(y_o)
            if o.any()
            else 0.0
        )
        assert float(found.log_prob[i].sum() - log_p) == pytest.approx(0, abs=1e-9)
        precision = torch.linalg.inv(c_oo)
        left_variance = 1 / precision.diagonal()
        assert torch.allclose(found.left_out_variance[i].flatten()[o], left_variance, rtol=1e-8)
        assert torch.allclose(
            found.left_out[i].flatten()[o], y_o - left_variance * (precision @ y_o), atol=1e-8
        )


def test_each_step_is_scored_given_those_before():
    space = space_of(3)
    y = torch.randn(1, 6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mask = torch.ones(1, 6, 2, dtype=torch.bool)
    whole = kalman.smoothed(space, y, mask).log_prob.cumsum(1)
    for t in (1, 3, 5):
        assert float(kalman.smoothed(space, y[:, :t], mask[:, :t]).log_prob.sum()) == pytest.approx(
            float(whole[0, t - 1])
        )


def test_draws_have_the_posterior_of_the_dense_gaussian():
    space, steps, f = space_of(1), 5, 2
    g = torch.Generator().manual_seed(0)
    y = torch.randn(2, steps, f, generator=g, dtype=torch.float64)
    mask = torch.rand(2, steps, f, generator=g) < 0.5
    drawn = kalman.draws(space, y, mask, 20000, g)
    assert torch.equal(drawn[:, mask], y[mask].expand(20000, -1))
    _, c = dense(space, steps)
    for i in range(2):
        o = mask[i].flatten()
        gain = torch.linalg.solve(c[o][:, o], c[o]).mT
        b = ~o
        covariance = c[b][:, b] - gain[b] @ c[o][:, b]
        own = drawn[:, i].flatten(1)[:, b]
        scale = covariance.diagonal().sqrt()
        assert torch.allclose(own.mean(0) / scale, (gain @ y[i].flatten()[o])[b] / scale, atol=0.04)
        assert torch.allclose(
            torch.cov(own.mT) / scale / scale[:, None], covariance / scale / scale[:, None], atol=0.06
        )


def test_moments_are_those_of_the_dense_gaussian():
    space = space_of(2, states=2, seen=2)
    g = torch.Generator().manual_seed(5)
    y = torch.randn(3, 4, 2, generator=g, dtype=torch.float64)
    mask = torch.rand(3, 4, 2, generator=g) < 0.6
    got = kalman.moments(space, y, mask)
    clean, c = dense(space, 4)
    total = torch.zeros(8, 8, dtype=torch.float64)
    errors = torch.zeros(2, dtype=torch.float64)
    for i in range(3):
        o = mask[i].flatten()
        gain = torch.linalg.solve(c[o][:, o], clean[o]).mT
        mean = gain @ y[i].flatten()[o]
        covariance = clean - gain @ clean[o]
        total += torch.outer(mean, mean) + covariance
        error = (y[i].flatten() - mean).square() + covariance.diagonal()
        errors += torch.where(mask[i], error.view(4, 2), 0.0).sum(0)
    blocks = total.view(4, 2, 4, 2).transpose(1, 2)
    assert torch.allclose(got.first, blocks[0, 0], atol=1e-9)
    assert torch.allclose(got.after, sum(blocks[t, t] for t in (1, 2, 3)), atol=1e-9)
    assert torch.allclose(got.before, sum(blocks[t, t] for t in (0, 1, 2)), atol=1e-9)
    assert torch.allclose(got.cross, sum(blocks[t + 1, t] for t in range(3)), atol=1e-9)
    assert torch.allclose(got.errors, errors, atol=1e-9)


def test_ar1_is_forecast_in_closed_form():
    """ρ^h x, and σ² (1 − ρ^{2h}) / (1 − ρ²)."""
    rho, sigma = 0.8, 0.5
    one = torch.ones(1, 1, dtype=torch.float64)
    q = sigma**2 * one
    space = StateSpace(rho * one, q, kalman.stationary(rho * one, q), torch.zeros(1, dtype=torch.float64))
    y = torch.zeros(1, 12, 1, dtype=torch.float64)
    y[0, :4, 0] = torch.tensor([0.3, -1.0, 0.2, 2.0])
    mask = torch.arange(12).view(1, 12, 1) < 4
    got = kalman.smoothed(space, y, mask)
    h = np.arange(1, 9)
    assert np.allclose(got.mean[0, 4:, 0], 2 * rho**h, atol=1e-12)
    assert np.allclose(got.variance[0, 4:, 0], sigma**2 * (1 - rho ** (2 * h)) / (1 - rho**2), atol=1e-12)
    assert math.isclose(float(space.first), sigma**2 / (1 - rho**2), rel_tol=1e-12)


@pytest.mark.parametrize("alike", [False, True])
def test_blocks_of_series_change_nothing(monkeypatch, alike):
    space = space_of(0)
    g = torch.Generator().manual_seed(0)
    y, mask = torch.randn(9, 5, 2, generator=g, dtype=torch.float64), torch.rand(9, 5, 2, generator=g) < 0.6
    if alike:  # one pattern, whose series are too many for a block
        mask = mask[:1].expand(9, -1, -1)
    whole = kalman.smoothed(space, y, mask), kalman.moments(space, y, mask)
    monkeypatch.setattr(kalman, "BUDGET", 5 * len(space.transition) * 2)
    assert len(list(kalman._blocks(mask, space))) >= 5
    parts = kalman.smoothed(space, y, mask), kalman.moments(space, y, mask)
    for a, b in zip(*(map(torch.as_tensor, (*s, *m)) for s, m in (whole, parts)), strict=True):
        assert torch.allclose(
            torch.where(torch.isfinite(a), a, 0.0), torch.where(torch.isfinite(b), b, 0.0), atol=1e-12
        )


def test_log_p_of_some_features_given_the_others_of_the_same_step():
    """log p of all features less that of those given, with the same steps before and nothing of the step but these."""
    space, steps, f = space_of(3, states=6, seen=3), 6, 3
    g = torch.Generator().manual_seed(4)
    y = torch.randn(5, steps, f, generator=g, dtype=torch.float64)
    mask = torch.rand(5, steps, f, generator=g) < 0.6
    given = torch.tensor([False, False, True])
    found = kalman.smoothed(space, y, mask, given).log_prob
    whole = kalman.smoothed(space, y, mask).log_prob
    for t in range(steps):
        some = mask.clone()
        some[:, t, :2] = False
        alone = kalman.smoothed(space, y, some).log_prob[:, t]
        torch.testing.assert_close(found[:, t], whole[:, t] - alone)
