"""Priors against scipy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from abduce.distributions.priors import GaussianMixture, StandardNormal


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mixture(components: int = 3, k: int = 2) -> tuple[GaussianMixture, list]:
    g = generator()
    roots = torch.randn(components, k, k, generator=g, dtype=torch.float64)
    covariances = roots @ roots.mT + 0.3 * torch.eye(k).double()
    means = 3 * torch.randn(components, k, generator=g, dtype=torch.float64)
    weights = torch.softmax(torch.randn(components, generator=g, dtype=torch.float64), 0)
    parts = list(zip(weights.numpy(), means.numpy(), covariances.numpy(), strict=True))
    return GaussianMixture(weights, means, covariances).double(), parts


def test_standard_normal_against_scipy():
    prior = StandardNormal(3)
    z = torch.randn(5, 4, 3, generator=generator(), dtype=torch.float64)
    np.testing.assert_allclose(prior.log_prob(z), stats.norm.logpdf(z.numpy()).sum(-1))
    draws = prior.sample(50_000, generator())
    assert draws.shape == (50_000, 3)
    np.testing.assert_allclose(np.cov(draws.numpy().T), np.eye(3), atol=0.03)


@pytest.mark.parametrize("components", [1, 3])
@pytest.mark.parametrize("shape", [(7,), (5, 7)])
def test_mixture_density_against_scipy(components, shape):
    prior, parts = mixture(components)
    z = 3 * torch.randn(*shape, 2, generator=generator(1), dtype=torch.float64)
    flat = z.reshape(-1, 2).numpy()
    logs = [np.log(w) + stats.multivariate_normal(m, S).logpdf(flat) for w, m, S in parts]
    # the parameters are kept in single precision
    np.testing.assert_allclose(
        prior.log_prob(z), np.logaddexp.reduce(logs).reshape(shape), rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(
        prior.component_log_prob(z), np.stack(logs, -1).reshape(*shape, -1), rtol=1e-4, atol=1e-4
    )


def test_mixture_draws_have_its_moments():
    prior, parts = mixture()
    z = prior.sample(200_000, generator(2), dtype=torch.float64).numpy()
    mean = sum(w * m for w, m, _ in parts)
    cov = sum(w * (S + np.outer(m - mean, m - mean)) for w, m, S in parts)
    np.testing.assert_allclose(z.mean(0), mean, atol=0.03)
    np.testing.assert_allclose(np.cov(z.T), cov, rtol=0.02, atol=0.05)


def test_mixture_has_nothing_to_train_and_is_kept_with_the_model():
    prior, _ = mixture()
    assert not list(prior.parameters())
    other = GaussianMixture(torch.ones(3) / 3, torch.zeros(3, 2), torch.eye(2).repeat(3, 1, 1)).double()
    other.load_state_dict(prior.state_dict())
    z = torch.randn(4, 2, generator=generator(), dtype=torch.float64)
    assert torch.equal(other.log_prob(z), prior.log_prob(z))
    assert torch.equal(
        other.sample(3, generator(), dtype=torch.float64), prior.sample(3, generator(), dtype=torch.float64)
    )
