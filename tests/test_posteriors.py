"""Posteriors: densities against scipy, draws against moments."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch.distributions import Independent, Normal, kl_divergence

from abduce.distributions.posteriors import DiagonalNormal, MixtureNormal


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_diagonal_normal_against_torch():
    q = DiagonalNormal(normal(4, 3), normal(4, 3, seed=1))
    law = Independent(Normal(q.mean, q.log_scale.exp()), 1)
    z = normal(7, 4, 3, seed=2)
    torch.testing.assert_close(q.log_prob(z), law.log_prob(z))
    kl = kl_divergence(Normal(q.mean, q.log_scale.exp()), Normal(torch.zeros(()).double(), 1.0))
    torch.testing.assert_close(q.kl_to_standard_normal(), kl)
    torch.testing.assert_close(q.transport(z), q.mean + q.log_scale.exp() * z)


def test_diagonal_normal_keeps_its_scales_in_range():
    q = DiagonalNormal.from_parameters(torch.tensor([[1.0, 2.0, -100.0, 100.0]]))
    assert q.mean.tolist() == [[1.0, 2.0]]
    assert q.log_scale.tolist() == [[-7.0, 3.0]]


def mixture(batch: int, components: int, k: int, shared: bool, moved: bool, seed: int = 0) -> MixtureNormal:
    roots = normal(1 if shared else batch, components, k, k, seed=seed)
    chol = torch.linalg.cholesky(roots @ roots.mT + 0.5 * torch.eye(k).double())
    log_r = torch.log_softmax(normal(batch, components, seed=seed + 1), -1)
    shift = normal(batch, k, seed=seed + 2) if moved else torch.zeros(batch, k).double()
    stretch = 0.3 * normal(batch, k, seed=seed + 3) if moved else torch.zeros(batch, k).double()
    return MixtureNormal(log_r, 2 * normal(batch, components, k, seed=seed + 4), chol, shift, stretch)


def components_of(q: MixtureNormal, b: int) -> list[tuple[float, np.ndarray, np.ndarray]]:
    """Weight, mean and covariance of each component of row b: z = m + shift + L⁻ᵀ exp(stretch) e."""
    chol = q.chol.expand(len(q.means), -1, -1, -1)
    out = []
    for c in range(q.means.shape[1]):
        root = torch.linalg.inv(chol[b, c]).T @ torch.diag(q.log_stretch[b].exp())
        out.append(
            (float(q.log_r[b, c].exp()), (q.means[b, c] + q.shift[b]).numpy(), (root @ root.T).numpy())
        )
    return out


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("components", [1, 3])
@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("batch", [1, 4])
def test_mixture_density_against_scipy(shared, components, moved, batch):
    q = mixture(batch, components, 2, shared, moved)
    z = 2 * normal(5, batch, 2, seed=9)
    value = q.log_prob(z)
    assert value.shape == (5, batch)
    for b in range(batch):
        parts = [
            np.log(w) + stats.multivariate_normal(m, S).logpdf(z[:, b].numpy())
            for w, m, S in components_of(q, b)
        ]
        np.testing.assert_allclose(value[:, b], np.logaddexp.reduce(parts), atol=1e-9)
    torch.testing.assert_close(q.log_prob(z[0]), value[0])


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("components", [1, 3])
def test_mixture_draws_have_its_moments(shared, components):
    q = mixture(3, components, 2, shared, moved=True)
    z = q.transport(normal(100_000, 3, 3, seed=9))
    for b in range(3):
        parts = components_of(q, b)
        mean = sum(w * m for w, m, _ in parts)
        cov = sum(w * (S + np.outer(m - mean, m - mean)) for w, m, S in parts)
        np.testing.assert_allclose(q.mean[b], mean, atol=1e-9)
        scale = np.sqrt(np.diag(cov))
        np.testing.assert_allclose(z[:, b].mean(0).numpy() / scale, mean / scale, atol=0.02)
        np.testing.assert_allclose(
            np.cov(z[:, b].numpy().T) / np.outer(scale, scale), cov / np.outer(scale, scale), atol=0.03
        )


@settings(max_examples=25)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 3), st.integers(0, 10_000), st.booleans())
def test_shared_and_own_factors_are_one_law(components, batch, k, seed, shared_noise):
    q = mixture(batch, components, k, shared=True, moved=True, seed=seed)
    own = MixtureNormal(q.log_r, q.means, q.chol.repeat(batch, 1, 1, 1), q.shift, q.log_stretch)
    noise = normal(6, 1 if shared_noise else batch, k + 1, seed=seed + 7)
    z = q.transport(noise)
    assert z.shape == (6, batch, k)
    torch.testing.assert_close(own.transport(noise), z, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(own.log_prob(z), q.log_prob(z), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(q.transport(noise[0]), z[0], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("shared", [False, True])
def test_gradients_reach_the_network_and_stop_where_detached(shared):
    q = mixture(3, 2, 2, shared, moved=True)
    q.shift.requires_grad_()
    q.log_stretch.requires_grad_()
    noise = normal(4, 3, 3, seed=5)

    def check(shift: torch.Tensor, stretch: torch.Tensor) -> torch.Tensor:
        law = MixtureNormal(q.log_r, q.means, q.chol, shift, stretch)
        z = law.transport(noise)
        return law.log_prob(z).sum() + z.square().sum()

    assert torch.autograd.gradcheck(check, (q.shift, q.log_stretch))
    assert not q.detach().transport(noise).requires_grad
