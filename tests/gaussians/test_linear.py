"""The linear path: factor analysis and its mixture against scikit-learn, closed forms and brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg, stats
from sklearn.decomposition import FactorAnalysis

from abduce.data.seen import Seen
from abduce.gaussians.linear import LinearPath, _step, choose, fit


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def factor_data(n: int = 800, d: int = 6, k: int = 2, noise: float = 0.4, seed: int = 0) -> torch.Tensor:
    g = generator(seed)
    W = torch.randn(d, k, generator=g, dtype=torch.float64)
    z = torch.randn(n, k, generator=g, dtype=torch.float64)
    scales = noise * (0.5 + torch.rand(d, generator=g, dtype=torch.float64))
    return z @ W.T + 1.5 + scales * torch.randn(n, d, generator=g, dtype=torch.float64)


def a_path(components: int, d: int = 5, k: int = 2, seed: int = 0) -> LinearPath:
    g = generator(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    roots = normal(components, k, k)
    covariances = roots @ roots.mT + 0.3 * torch.eye(k).double()
    weights = torch.softmax(normal(components), 0)
    noise = 0.2 + torch.rand(d, generator=g, dtype=torch.float64)
    return LinearPath(normal(d, k), normal(d), noise, weights, 2 * normal(components, k), covariances)


def brute(path: LinearPath, y: np.ndarray, o: np.ndarray) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
    """log p(y_o), responsibilities, means and covariances of z for one row, by dense conditioning."""
    W, b, D = path.W.numpy()[o], path.b.numpy()[o], np.diag(path.noise.numpy()[o])
    log_joint, means, covs = [], [], []
    for pi, m, S in zip(path.weights.numpy(), path.means.numpy(), path.covariances.numpy(), strict=True):
        if o.any():
            cov = W @ S @ W.T + D
            centre = W @ m + b
            log_joint.append(np.log(pi) + stats.multivariate_normal(centre, cov).logpdf(y[o]))
            gain = S @ W.T @ np.linalg.inv(cov)
            means.append(m + gain @ (y[o] - centre))
            covs.append(S - gain @ W @ S)
        else:
            log_joint.append(np.log(pi))
            means.append(m)
            covs.append(S)
    log_p = np.logaddexp.reduce(log_joint)
    return log_p, np.array(log_joint) - log_p, np.array(means), np.array(covs)


@pytest.mark.parametrize("components", [1, 3])
def test_posterior_with_blanks_equals_brute_force(components):
    path = a_path(components)
    y = torch.randn(8, 5, generator=generator(1), dtype=torch.float64)
    seen = torch.rand(8, 5, generator=generator(2)) < 0.6
    seen[0], seen[1] = True, False
    log_r, mean, chol, log_p = path.posterior(torch.where(seen, y, 0.0), seen)
    for i in range(8):
        value, responsibilities, means, covs = brute(path, y[i].numpy(), seen[i].numpy())
        assert log_p[i].item() == pytest.approx(value, abs=1e-9)
        np.testing.assert_allclose(log_r[i], responsibilities, atol=1e-8)
        np.testing.assert_allclose(mean[i], means, atol=1e-8)
        np.testing.assert_allclose(torch.cholesky_inverse(chol[i]), covs, atol=1e-8)


@settings(max_examples=20)
@given(st.integers(1, 4), st.integers(0, 10_000))
def test_complete_rows_take_the_shared_path_to_the_same_numbers(components, seed):
    path = a_path(components, seed=seed)
    y = torch.randn(6, 5, generator=generator(seed), dtype=torch.float64)
    every = torch.ones(6, 5, dtype=torch.bool)
    shared, own = path.posterior(y, None), path.posterior(y, every)
    assert len(shared[2]) == 1
    for a, b in zip(shared, own, strict=True):
        torch.testing.assert_close(a.expand_as(b), b, rtol=1e-8, atol=1e-8)


def test_mixture_density_equals_scipy_over_chunks():
    path = a_path(3)
    y = 3 * torch.randn(700, 5, generator=generator(3), dtype=torch.float64)
    W, b, D = path.W.numpy(), path.b.numpy(), np.diag(path.noise.numpy())
    parts = [
        np.log(pi) + stats.multivariate_normal(W @ m + b, W @ S @ W.T + D).logpdf(y.numpy())
        for pi, m, S in zip(path.weights.numpy(), path.means.numpy(), path.covariances.numpy(), strict=True)
    ]
    np.testing.assert_allclose(path.log_prob(y, None), np.logaddexp.reduce(parts), atol=1e-9)


def test_written_out_it_is_the_same_law():
    path = a_path(3)
    y = torch.randn(20, 5, generator=generator(4), dtype=torch.float64)
    seen = torch.rand(20, 5, generator=generator(5)) < 0.7
    torch.testing.assert_close(path.dense().log_prob(Seen(y, seen)), path.log_prob(y, seen))


@pytest.mark.parametrize("components", [1, 4])
def test_canonical_is_the_same_model_with_standard_latents(components):
    path = a_path(components, d=6, k=3)
    same = path.canonical()
    y = torch.randn(20, 6, generator=generator(4), dtype=torch.float64)
    seen = torch.rand(20, 6, generator=generator(5)) < 0.7
    torch.testing.assert_close(same.log_prob(y, None), path.log_prob(y, None))
    torch.testing.assert_close(same.log_prob(y, seen), path.log_prob(y, seen))
    torch.testing.assert_close(same.weights @ same.means, torch.zeros(3).double(), atol=1e-10, rtol=0)
    spread = same.covariances + same.means.unsqueeze(-1) * same.means.unsqueeze(-2)
    total = torch.einsum("c,cij->ij", same.weights, spread)
    torch.testing.assert_close(total, torch.eye(3).double(), atol=1e-10, rtol=0)
    gram = same.W.T @ same.W
    torch.testing.assert_close(gram, torch.diag(torch.diagonal(gram)), atol=1e-9, rtol=0)
    strength = torch.diagonal(gram)
    assert (strength[:-1] >= strength[1:]).all()


def test_factor_analysis_reaches_scikit_learns_optimum():
    y = factor_data(2000)  # enough rows that the ridge of one pseudo-row does not show
    ours = fit(y, None, 2, 1, generator(), floor=1e-3, iterations=60)
    theirs = FactorAnalysis(2, tol=1e-8, max_iter=3000, svd_method="lapack").fit(y.numpy())
    assert ours.log_prob(y, None).mean().item() == pytest.approx(theirs.score(y.numpy()), abs=5e-4)
    covariance = ours.W @ ours.W.T + torch.diag(ours.noise)
    np.testing.assert_allclose(covariance, theirs.get_covariance(), rtol=0.05, atol=0.05)


def test_shared_noise_is_ppca_in_closed_form():
    y, k = factor_data(), 2
    path = fit(y, None, k, 1, generator(), floor=1e-3, shared_noise=True, iterations=150)
    values, vectors = np.linalg.eigh(np.cov(y.numpy().T, bias=True))
    assert path.noise.unique().numel() == 1
    assert path.noise[0].item() == pytest.approx(values[:-k].mean(), rel=1e-6)  # Tipping & Bishop 1999, eq. 8
    angles = linalg.subspace_angles(path.W.numpy(), vectors[:, -k:])
    assert angles.max() < 1e-4
    strength = np.sort((path.W.T @ path.W).diagonal().numpy())
    np.testing.assert_allclose(strength, values[-k:] - values[:-k].mean(), rtol=1e-4)
    np.testing.assert_allclose(path.b, y.mean(0), atol=1e-6)


@pytest.mark.parametrize("holes", [0.0, 0.3])
@pytest.mark.parametrize("shared", [False, True])
def test_em_never_lowers_the_likelihood(holes, shared):
    y = factor_data(300)
    seen = None
    if holes:
        seen = torch.rand(y.shape, generator=generator(6)) >= holes
        y = y * seen
    path = a_path(1, d=6)  # a poor start, with the standard prior that one component keeps
    one = torch.ones(6, dtype=torch.float64)
    path = LinearPath(
        path.W, path.b, one, path.weights, torch.zeros(1, 2).double(), torch.eye(2).double()[None]
    )
    values = []
    for _ in range(30):
        values.append(path.log_prob(y, seen).sum().item())
        path, value = _step(path, y, seen, 1e-4, shared)
        assert value * len(y) == pytest.approx(values[-1], rel=1e-12)
    rises = np.diff(values)
    # near the optimum the ridge of one pseudo-row and the pseudo-count of noise may cost a little
    assert (rises >= (-1e-7 if shared else -0.1)).all()
    assert (rises[:5] > 0).all()
    assert values[-1] > values[0] + 100


def test_blanks_at_random_hardly_move_the_fit():
    y = factor_data(1500)
    seen = torch.rand(y.shape, generator=generator(7)) >= 0.2
    whole = fit(y, None, 2, 1, generator(), iterations=120)
    holes = fit(y * seen, seen, 2, 1, generator(), iterations=120)
    a = whole.W @ whole.W.T + torch.diag(whole.noise)
    b = holes.W @ holes.W.T + torch.diag(holes.noise)
    assert (a - b).norm() / a.norm() < 0.05
    assert (whole.b - holes.b).abs().max() < 0.1


def clusters(n: int = 900) -> torch.Tensor:
    """Three clusters of a plane, seen in five cells."""
    g = generator(8)
    centres = torch.tensor([[0.0, 4.0], [-4.0, -2.0], [4.0, -2.0]], dtype=torch.float64)
    z = centres[torch.arange(n) % 3] + 0.5 * torch.randn(n, 2, generator=g, dtype=torch.float64)
    W = torch.randn(5, 2, generator=g, dtype=torch.float64)
    y = z @ W.T + 0.3 * torch.randn(n, 5, generator=g, dtype=torch.float64)
    return (y - y.mean(0)) / y.std(0)


def test_choose_keeps_what_the_held_out_rows_prefer():
    y = clusters()
    best = choose(y[:600], None, (y[600:], None), 2, generator())
    one = fit(y[:600], None, 2, 1, generator())
    assert len(best.weights) > 1
    assert best.log_prob(y[600:], None).mean() > one.log_prob(y[600:], None).mean() + 0.5
    plain = factor_data(600)
    assert len(choose(plain[:450], None, (plain[450:], None), 2, generator()).weights) == 1
    few = choose(y[:100], None, (y[600:], None), 2, generator())  # too few rows for a mixture
    assert len(few.weights) == 1


def test_a_mixture_fits_through_blanks():
    y = clusters()
    seen = torch.rand(y.shape, generator=generator(9)) >= 0.2
    mixture = fit(y * seen, seen, 2, 6, generator())
    one = fit(y * seen, seen, 2, 1, generator())
    assert mixture.log_prob(y, None).mean() > one.log_prob(y, None).mean() + 0.5
    assert mixture.weights.sum().item() == pytest.approx(1)
    assert (torch.linalg.eigvalsh(mixture.covariances) > 0).all()


def test_degenerate_columns_stay_finite():
    y = factor_data(60)
    y[:, 2] = 0.0  # constant
    seen = torch.ones(60, 6, dtype=torch.bool)
    seen[:, 4] = False  # never observed
    path = fit(y * seen, seen, 3, 1, generator())
    for t in (path.W, path.b, path.noise):
        assert torch.isfinite(t).all()
    assert (path.noise >= 0.05**2 - 1e-12).all()
    assert (path.W[4] == 0).all()
    assert torch.isfinite(path.log_prob(y, seen)).all()
