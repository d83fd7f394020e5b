"""Posteriors: densities against scipy, draws against moments."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from abduce.distributions.posteriors import (
    DiagonalHead,
    DiagonalNormal,
    FullHead,
    FullNormal,
    MixtureNormal,
    MovesHead,
    unit_triangle,
)


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


def full(batch: int = 4, k: int = 3) -> FullNormal:
    root = torch.tril(normal(batch, k, k, seed=1), -1) + torch.diag_embed(normal(batch, k, seed=2).exp())
    return FullNormal(normal(batch, k), root)


@pytest.mark.parametrize("k", [1, 3])
def test_full_normal_against_torch(k):
    q = full(k=k)
    law = MultivariateNormal(q.mean, scale_tril=q.root)
    z = normal(7, 4, k, seed=3)
    torch.testing.assert_close(q.log_prob(z), law.log_prob(z))
    torch.testing.assert_close(q.log_prob(z[0]), law.log_prob(z[0]))
    many = z.view(7, 1, 4, k)
    torch.testing.assert_close(q.log_prob(many), law.log_prob(many))
    swapped = normal(4, 7, k, seed=3).transpose(0, 1)  # not contiguous
    torch.testing.assert_close(q.log_prob(swapped), law.log_prob(swapped))


def test_full_normal_draws_have_its_moments():
    q = full()
    z = q.transport(normal(100_000, 4, 3, seed=4))
    for b in range(4):
        cov = (q.root[b] @ q.root[b].T).numpy()
        scale = np.sqrt(np.diag(cov))
        np.testing.assert_allclose(z[:, b].mean(0).numpy() / scale, q.mean[b].numpy() / scale, atol=0.02)
        found = np.cov(z[:, b].numpy().T) / np.outer(scale, scale)
        np.testing.assert_allclose(found, cov / np.outer(scale, scale), atol=0.02)


def test_full_normal_as_a_mixture_is_the_same_law():
    q = full()
    other = q.mixture()
    z = normal(7, 4, 3, seed=3)
    torch.testing.assert_close(other.log_prob(z), q.log_prob(z))
    torch.testing.assert_close(other.mean, q.mean)
    # its noise has one more column; its root is another one of the same covariance
    draws = other.transport(torch.cat([normal(100_000, 4, 3, seed=4), normal(100_000, 4, 1, seed=5)], -1))
    found = torch.stack([torch.cov(draws[:, b].T) for b in range(4)])
    cov = q.root @ q.root.mT
    scale = torch.diagonal(cov, dim1=-2, dim2=-1).sqrt()
    size = scale.unsqueeze(-1) * scale.unsqueeze(-2)
    torch.testing.assert_close(found / size, cov / size, atol=0.02, rtol=0)


LAWS = [
    lambda: DiagonalNormal(normal(4, 3), normal(4, 3, seed=1)),
    full,
    lambda: mixture(4, 3, 3, False, True),
    lambda: mixture(4, 3, 3, True, True),
]


@pytest.mark.parametrize("make", LAWS)
@pytest.mark.parametrize("shape", [(5, 4), (5, 1)])
def test_a_draw_comes_with_its_density(make, shape):
    q = make()
    dim = 3 + isinstance(q, MixtureNormal)
    noise = normal(*shape, dim, seed=6)
    z, log_q = q.draw(noise)
    assert z.shape == (5, 4, 3)
    torch.testing.assert_close(q.transport(noise), z)
    torch.testing.assert_close(log_q, q.log_prob(z))
    if isinstance(q, MixtureNormal):
        return  # the others also take one draw for each row
    torch.testing.assert_close(q.transport(noise[0].expand(4, -1)), z[0])


@pytest.mark.parametrize("kind", ["diagonal", "full"])
def test_detach_stops_at_the_parameters_and_not_at_z(kind):
    mean, log_scale = normal(4, 3).requires_grad_(), normal(4, 3, seed=1).requires_grad_()
    q = (
        DiagonalNormal(mean, log_scale)
        if kind == "diagonal"
        else FullNormal(mean, torch.diag_embed(log_scale.exp()))
    )
    z = normal(5, 4, 3, seed=2).requires_grad_()
    q.detach().log_prob(z).sum().backward()
    assert mean.grad is None
    assert log_scale.grad is None
    torch.testing.assert_close(z.grad, (-(z - mean) * torch.exp(-2 * log_scale)).detach())
    torch.testing.assert_close(q.detach().log_prob(z), q.log_prob(z))


def test_heads_read_what_they_say_and_keep_scales_in_range():
    q = DiagonalHead(2)(torch.tensor([[1.0, 2.0, -100.0, 100.0]]))
    assert q.mean.tolist() == [[1.0, 2.0]]
    assert q.log_scale.tolist() == [[-7.0, 3.0]]
    head = FullHead(3)
    assert (head.noise_dim, head.n_parameters) == (3, 9)
    h = torch.tensor([[1.0, 2.0, 3.0, -100.0, 0.5, 100.0, 0.1, 0.2, 0.3]], dtype=torch.float64)
    q = head(h)
    assert q.mean.tolist() == [[1.0, 2.0, 3.0]]
    a, b, c = math.exp(-7), math.exp(0.5), math.exp(3)
    expected = [[a, 0, 0], [0.1 * b, b, 0], [0.2 * c, 0.3 * c, c]]
    torch.testing.assert_close(q.root[0], torch.tensor(expected, dtype=torch.float64))
    assert not list(head.parameters())
    assert not head.state_dict()


def mixture(
    batch: int, components: int, k: int, shared: bool, moved: bool | str, seed: int = 0
) -> MixtureNormal:
    roots = normal(1 if shared else batch, components, k, k, seed=seed)
    chol = torch.linalg.cholesky(roots @ roots.mT + 0.5 * torch.eye(k).double())
    log_r = torch.log_softmax(normal(batch, components, seed=seed + 1), -1)
    shift = normal(batch, k, seed=seed + 2) if moved else torch.zeros(batch, k).double()
    stretch = 0.3 * normal(batch, k, seed=seed + 3) if moved else torch.zeros(batch, k).double()
    ties = unit_triangle(normal(batch, k * (k - 1) // 2, seed=seed + 5), k).mT if moved == "tied" else None
    return MixtureNormal(log_r, 2 * normal(batch, components, k, seed=seed + 4), chol, shift, stretch, ties)


def components_of(q: MixtureNormal, b: int) -> list[tuple[float, np.ndarray, np.ndarray]]:
    """Weight, mean and covariance of each component of row b: z = m + shift + L⁻ᵀ U⁻¹ exp(stretch) e."""
    ties = torch.eye(q.shift.shape[1]).double().expand(len(q.means), -1, -1) if q.ties is None else q.ties
    chol = q.chol.expand(len(q.means), -1, -1, -1)
    out = []
    for c in range(q.means.shape[1]):
        root = torch.linalg.inv(ties[b] @ chol[b, c].T) @ torch.diag(q.log_stretch[b].exp())
        out.append(
            (float(q.log_r[b, c].exp()), (q.means[b, c] + q.shift[b]).numpy(), (root @ root.T).numpy())
        )
    return out


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("components", [1, 3])
@pytest.mark.parametrize("moved", [False, True, "tied"])
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
@pytest.mark.parametrize("moved", [True, "tied"])
def test_mixture_draws_have_its_moments(shared, components, moved):
    q = mixture(3, components, 2, shared, moved)
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
    q = mixture(batch, components, k, shared=True, moved="tied" if seed % 2 else True, seed=seed)
    own = MixtureNormal(q.log_r, q.means, q.chol.repeat(batch, 1, 1, 1), q.shift, q.log_stretch, q.ties)
    noise = normal(6, 1 if shared_noise else batch, k + 1, seed=seed + 7)
    z = q.transport(noise)
    assert z.shape == (6, batch, k)
    torch.testing.assert_close(own.transport(noise), z, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(own.log_prob(z), q.log_prob(z), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(q.transport(noise[0]), z[0], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("shared", [False, True])
def test_gradients_reach_the_network_and_stop_where_detached(shared):
    q = mixture(3, 2, 2, shared, moved="tied")
    q.shift.requires_grad_()
    q.log_stretch.requires_grad_()
    noise, below = normal(4, 3, 3, seed=5), normal(3, 1, seed=6).requires_grad_()

    def check(shift: torch.Tensor, stretch: torch.Tensor, below: torch.Tensor) -> torch.Tensor:
        law = MixtureNormal(q.log_r, q.means, q.chol, shift, stretch, unit_triangle(below, 2).mT)
        z = law.transport(noise)
        return law.log_prob(z).sum() + z.square().sum()

    assert torch.autograd.gradcheck(check, (q.shift, q.log_stretch, below))
    assert not q.detach().transport(noise).requires_grad


@pytest.mark.parametrize("tied", [False, True])
def test_moves_of_zero_move_nothing(tied):
    head = MovesHead(3, tied)
    shift, log_stretch, ties = head(torch.zeros(2, head.n_parameters))
    assert not shift.any()
    assert not log_stretch.any()
    assert (ties is None) != tied
    assert ties is None or torch.equal(ties, torch.eye(3).expand(2, 3, 3))
