"""Mixtures of Gaussians against textbook formulas, one row at a time, and against quadrature."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from models_for_tests import generator, some_seen
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from views_for_tests import through

from abduce.data.seen import Seen
from abduce.gaussians import gaussian_law, mixture
from abduce.gaussians.gaussian_law import GaussianMixtureLaw

K, D = 3, 4


def some_law(k: int = K, d: int = D, seed: int = 0) -> GaussianMixtureLaw:
    g = generator(seed)
    roots = torch.randn(k, d, d + 2, generator=g, dtype=torch.float64) / 2
    return GaussianMixtureLaw(
        torch.randn(k, generator=g, dtype=torch.float64),
        2 * torch.randn(k, d, generator=g, dtype=torch.float64),
        roots @ roots.mT + 0.05 * torch.eye(d, dtype=torch.float64),
    )


def some_rows(law: GaussianMixtureLaw, n: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows with blanks that hold nothing."""
    x = law.sample(n, generator(1))
    observed = some_seen(x)
    return torch.where(observed, x, torch.nan), observed


def by_hand(law, x, o):
    """log π_k N(x_o), E[x | x_o, k] and cov[x | x_o, k] of one row."""
    parts = []
    for log_weight, mean, covariance in zip(law.log_weights, law.means, law.covariances, strict=True):
        mean, covariance, x, o = (np.asarray(t) for t in (mean, covariance, x, o))
        inner = covariance[np.ix_(o, o)]
        gain = covariance[:, o] @ np.linalg.inv(inner)
        log_p = multivariate_normal(mean[o], inner).logpdf(x[o]) if o.any() else 0.0
        parts.append(
            (float(log_weight) + log_p, mean + gain @ (x[o] - mean[o]), covariance - gain @ covariance[o])
        )
    return [np.array(part) for part in zip(*parts, strict=True)]


@pytest.mark.parametrize("budget", [2**22, 60])  # 60: blocks of a pattern or two, and groups that are split
def test_marginals_and_conditional_means_are_the_textbooks(monkeypatch, budget):
    for module in (gaussian_law, mixture):
        monkeypatch.setattr(module, "BUDGET", budget)
    law = some_law()
    x, observed = some_rows(law)
    log_p, r, mean = (
        law.log_prob(Seen(x, observed)),
        law.responsibilities(Seen(x, observed)),
        law.mean(Seen(x, observed)),
    )
    for i in range(len(x)):
        log_joint, means, _ = by_hand(law, x[i], observed[i])
        assert log_p[i].item() == pytest.approx(logsumexp(log_joint), abs=1e-9)
        weights = np.exp(log_joint - logsumexp(log_joint))
        np.testing.assert_allclose(r[i], weights, atol=1e-10)
        np.testing.assert_allclose(mean[i], weights @ means, atol=1e-9)
    assert torch.equal(mean[observed], x[observed])
    assert log_p[1].item() == pytest.approx(0, abs=1e-12)  # nothing observed


def test_whole_rows_are_scipys_mixture():
    law = some_law()
    x = law.sample(50, generator(3))
    each = [multivariate_normal(m, c).logpdf(x) for m, c in zip(law.means, law.covariances, strict=True)]
    expected = logsumexp(law.log_weights.numpy()[:, None] + np.array(each), axis=0)
    np.testing.assert_allclose(law.log_prob(Seen.whole(x)), expected, atol=1e-10)


def test_a_marginal_is_the_integral_over_the_blank():
    law = some_law(d=2)
    grid = torch.linspace(-25, 25, 20001, dtype=torch.float64)
    x = torch.stack([torch.full_like(grid, 0.7), grid], 1)
    integral = torch.logsumexp(law.log_prob(Seen.whole(x)), 0) + (grid[1] - grid[0]).log()
    marginal = law.log_prob(Seen(x[:1], torch.tensor([[True, False]])))
    assert marginal.item() == pytest.approx(integral.item(), abs=1e-9)


def test_draws_have_the_moments_of_the_mixture():
    law = some_law()
    draws = law.sample(200_000, generator(2))
    weights = law.log_weights.exp()
    mean = weights @ law.means
    moved = law.means - mean
    covariance = torch.einsum("k,kij->ij", weights, law.covariances) + (weights * moved.T) @ moved
    torch.testing.assert_close(draws.mean(0), mean, rtol=0, atol=0.03)
    torch.testing.assert_close(torch.cov(draws.T), covariance, rtol=0.02, atol=0.05)


def test_conditional_draws_have_the_moments_of_the_conditional():
    law = some_law()
    x, observed = some_rows(law, 6)
    draws = law.draws(Seen(x, observed), 50_000, generator(2))
    assert torch.equal(draws[:, observed], x[observed].expand(50_000, -1))
    for i in range(len(x)):
        log_joint, means, covariances = by_hand(law, x[i], observed[i])
        weights = np.exp(log_joint - logsumexp(log_joint))
        moved = means - weights @ means
        covariance = np.einsum("k,kij->ij", weights, covariances) + (weights * moved.T) @ moved
        np.testing.assert_allclose(draws[:, i].mean(0), weights @ means, atol=0.05)
        np.testing.assert_allclose(np.cov(draws[:, i].numpy().T), covariance, rtol=0.05, atol=0.06)


def test_through_is_the_regression_on_what_was_seen():
    """E[x | y] is the conditional mean of the mixture over (x, y) together."""
    law = some_law()
    g = generator(4)
    A = torch.randn(3, D, generator=g, dtype=torch.float64)
    noise = torch.tensor([0.1, 0.5, 0.0], dtype=torch.float64)
    cross = law.covariances @ A.T
    joint = GaussianMixtureLaw(
        law.log_weights,
        torch.cat([law.means, law.means @ A.T], 1),
        torch.cat(
            [
                torch.cat([law.covariances, cross], 2),
                torch.cat([cross.mT, A @ cross + torch.diag(noise**2) + 1e-12 * torch.eye(3)], 2),
            ],
            1,
        ),
    )
    y = joint.sample(20, g)[:, D:]
    known = some_seen(y)
    blank = torch.full((20, D), torch.nan, dtype=torch.float64)
    observed = torch.cat([torch.zeros(20, D, dtype=torch.bool), known], 1)
    expected = joint.mean(Seen(torch.cat([blank, y], 1), observed))[:, :D]
    y = torch.where(known, y, torch.nan)
    found = law.mean(through(lambda x: x @ A.T, noise, y, known))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    draws = law.draws(through(lambda x: x @ A.T, noise, y[:5], known[:5]), 40_000, generator(5))
    torch.testing.assert_close(draws.mean(0), expected[:5], rtol=0, atol=0.06)


def test_shared_noise_makes_draws_of_rows_independent_of_their_company():
    law = some_law()
    x, observed = some_rows(law, 5)
    noise = torch.full((D,), 0.3, dtype=torch.float64)
    pair = torch.tensor([3, 2])
    for seen in (through(lambda v: v, noise, x, observed), Seen(x, observed)):
        every = law.draws(seen, 7, generator(6), shared=True)
        few = law.draws(seen.rows(pair), 7, generator(6), shared=True)
        torch.testing.assert_close(few, every[:, pair], rtol=1e-10, atol=1e-10)


def test_statistics_of_whole_rows_are_weighted_sums_and_of_none_the_laws_moments():
    law = some_law()
    x = law.sample(30, generator(7))
    r = law.responsibilities(Seen.whole(x))
    whole = law.statistics(Seen.whole(x))
    torch.testing.assert_close(whole.size, r.sum(0))
    torch.testing.assert_close(whole.first, r.T @ x)
    torch.testing.assert_close(whole.second, torch.einsum("nk,ni,nj->kij", r, x, x))
    torch.testing.assert_close(whole.log_prob, law.log_prob(Seen.whole(x)))
    nothing = law.statistics(Seen(x, torch.zeros_like(x, dtype=torch.bool)))
    weights = 30 * law.log_weights.exp()
    torch.testing.assert_close(nothing.size, weights)
    raw = law.covariances + law.means.unsqueeze(2) * law.means.unsqueeze(1)
    torch.testing.assert_close(nothing.second, weights[:, None, None] * raw)


def test_statistics_with_blanks_are_fishers_identity():
    """The gradient of log p in the parameters is that of the expected complete-data log likelihood."""
    law = some_law()
    x, observed = some_rows(law)
    found = law.statistics(Seen(x, observed))
    means = law.means.clone().requires_grad_()
    covariances = law.covariances.clone().requires_grad_()
    value = GaussianMixtureLaw(law.log_weights, means, covariances).log_prob(Seen(x, observed)).sum()
    to_means, to_covariances = torch.autograd.grad(value, [means, covariances])
    precision = torch.linalg.inv(law.covariances)
    moved = found.first - found.size.unsqueeze(1) * law.means
    expected = (precision @ moved.unsqueeze(2)).squeeze(2)
    torch.testing.assert_close(to_means, expected, rtol=1e-8, atol=1e-8)
    outer = found.first.unsqueeze(2) * law.means.unsqueeze(1)
    scatter = found.second - outer - outer.mT
    scatter = scatter + found.size[:, None, None] * law.means.unsqueeze(2) * law.means.unsqueeze(1)
    expected = 0.5 * (precision @ scatter @ precision - found.size[:, None, None] * precision)
    to_covariances = 0.5 * (to_covariances + to_covariances.mT)
    torch.testing.assert_close(to_covariances, expected, rtol=1e-7, atol=1e-7)


def test_what_it_refuses():
    eye = torch.eye(2).repeat(2, 1, 1)
    with pytest.raises(ValueError, match=r"components \[1\] are singular"):
        GaussianMixtureLaw(torch.zeros(2), torch.zeros(2, 2), eye * torch.tensor([1.0, 0.0])[:, None, None])
    law = GaussianMixtureLaw.gaussian(torch.zeros(2), torch.eye(2))
    y = torch.zeros(1, 2)
    with pytest.raises(ValueError, match="noise must be positive where cells of y repeat"):
        law.mean(through(lambda x: x[..., [0, 0]], torch.zeros(2), y, y == 0))
    with pytest.raises(ValueError, match=r"must have shapes \(2,\) and \(2, 2, 2\)"):
        GaussianMixtureLaw(torch.zeros(2), torch.zeros(2, 2), eye[0])
