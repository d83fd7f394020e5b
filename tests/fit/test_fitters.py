"""Fitters against scikit-learn, closed forms of the maximum, and sources that are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from models_for_tests import factor_rows, generator, some_seen
from scipy.stats import multivariate_normal
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture as Peer
from torch import Tensor

from abduce.data.seen import Seen
from abduce.fit import classical as fitters
from abduce.gaussians.sums import MixtureSums
from abduce.models.gaussian import IndependentComponentsEnergy


def table(n: int = 300, d: int = 5, k: int = 2, seed: int = 0) -> Tensor:
    return torch.from_numpy(factor_rows(n, d, k, seed))


def clusters(n: int = 400, seed: int = 0) -> Tensor:
    """Three stretched clusters in the plane."""
    rng = np.random.default_rng(seed)
    centres = np.array([[-3.0, 0.0], [2.0, 2.0], [2.0, -2.0]])
    roots = np.array([[[1.0, 0.6], [0.0, 0.4]], [[0.3, 0.0], [0.0, 1.0]], [[0.7, -0.5], [0.0, 0.3]]])
    which = rng.integers(0, 3, n)
    return torch.from_numpy(centres[which] + np.einsum("ni,nij->nj", rng.normal(size=(n, 2)), roots[which]))


# --- principal components


def test_noise_is_the_mean_of_the_eigenvalues_left_out():
    x = table()
    model = fitters.principal_components(x, None, 2)
    values = torch.linalg.eigvalsh(torch.cov(x.T)).flip(0)
    torch.testing.assert_close(model.variances, values[:2])
    assert model.noise.item() == pytest.approx(values[2:].mean().item(), rel=1e-10)


@pytest.mark.parametrize("components", [1, 3, 5])
def test_probabilistic_principal_components_score_as_scikit_learns(components):
    x = table()
    model = fitters.principal_components(x, torch.ones_like(x, dtype=torch.bool), components)
    log_p = -model.energy(x) - model.log_z()
    np.testing.assert_allclose(log_p, PCA(components).fit(x.numpy()).score_samples(x.numpy()), atol=1e-8)
    law = multivariate_normal(model.mean.numpy(), model.covariance.numpy())
    np.testing.assert_allclose(log_p, law.logpdf(x), atol=1e-8)


def test_reconstruction_finds_the_same_subspace():
    x = table()
    model = fitters.principal_components(x, None, 2, "reconstruction")
    peer = PCA(2).fit(x.numpy())
    back = peer.inverse_transform(peer.transform(x.numpy()))
    np.testing.assert_allclose(model.energy(x), ((x.numpy() - back) ** 2).sum(1), atol=1e-10)


def test_em_over_no_blanks_to_speak_of_is_the_closed_form():
    """One empty row tells nothing, so EM must end where the eigenvectors are."""
    x = table()
    blank = torch.cat([x, torch.full((1, 5), torch.nan, dtype=torch.float64)])
    observed = torch.isfinite(blank)
    found = fitters.principal_components(blank, observed, 2)
    exact = fitters.principal_components(x, None, 2)
    unbiased = (len(x) - 1) / len(x)
    torch.testing.assert_close(found.mean, exact.mean, rtol=0, atol=1e-3)
    torch.testing.assert_close(found.covariance, exact.covariance * unbiased, rtol=0, atol=2e-3)


def test_blanks_are_integrated_out():
    """The covariance that made the data comes back, at a maximum of the likelihood of what was seen."""
    truth = fitters.principal_components(table(), None, 2)
    x = truth.law().sample(1200, generator(1))
    observed = some_seen(x, 0.7)
    model = fitters.principal_components(torch.where(observed, x, torch.nan), observed, 2)
    torch.testing.assert_close(model.covariance, truth.covariance, rtol=0, atol=0.1)
    parts = [part.requires_grad_() for part in (model.mean, model.variances, model.noise)]
    slopes = torch.autograd.grad(model.law().log_prob(Seen(x, observed)).mean(), parts)
    assert max(slope.abs().max().item() for slope in slopes) < 2e-3


def test_one_direction_left_out_and_all_components():
    x = table()
    every = fitters.principal_components(x, None, 5)
    torch.testing.assert_close(every.covariance, torch.cov(x.T))
    torch.testing.assert_close(fitters.principal_components(x, None, 4).covariance, torch.cov(x.T))


def test_refusals_of_principal_components():
    x = table()
    with pytest.raises(ValueError, match="at most the number of columns, 5, got 6"):
        fitters.principal_components(x, None, 6)
    flat = x.clone()
    flat[:, 1], flat[:, 3] = 2.0, x[:, 0]
    with pytest.raises(ValueError, match=r"covariance is singular.*fewer components.*repeated"):
        fitters.principal_components(flat, None, 3)
    assert fitters.principal_components(flat, None, 3, "reconstruction").energy(flat).abs().max() < 1e-20


# --- independent components


def amari(product: Tensor) -> float:
    """Amari's index of W A: 0 for a permutation with scales, at most 1."""
    p = product.abs()
    d = len(p)
    rows = (p.sum(1) / p.amax(1) - 1).sum()
    columns = (p.sum(0) / p.amax(0) - 1).sum()
    return float(rows + columns) / (2 * d * (d - 1))


def mixed(n: int, d: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(d, d))
    return torch.from_numpy(rng.laplace(size=(n, d)) @ A.T + rng.normal(size=d)), torch.from_numpy(A)


def test_amari_index_falls_on_mixed_laplace_sources():
    index = []
    for n in (500, 20_000):
        x, A = mixed(n)
        index.append(amari(fitters.independent_components(x).unmixing.detach() @ A))
    assert index[1] < 0.02
    assert index[1] < index[0] < 0.12


def test_unmixing_is_a_maximum_of_the_likelihood():
    """mean tanh(u) (y−μ)ᵀ = W⁻ᵀ and mean tanh(u) = 0, where scales count too."""
    x, _ = mixed(2000)
    model = fitters.independent_components(x, seed=3)
    value = model.energy(x).mean() + model.log_z()
    slopes = torch.autograd.grad(value, list(model.parameters()))
    assert max(slope.abs().max().item() for slope in slopes) < 1e-6
    with torch.no_grad():
        u = model.represent(x)
        torch.testing.assert_close(
            torch.tanh(u).T @ u / len(u), torch.eye(4, dtype=torch.float64), rtol=0, atol=1e-6
        )


def test_independent_components_recover_what_they_drew():
    g = generator(1)
    W = torch.randn(3, 3, generator=g, dtype=torch.float64)
    truth = IndependentComponentsEnergy.of(torch.tensor([1.0, -2.0, 5.0], dtype=torch.float64), W)
    x = truth.sample(20_000, g)
    model = fitters.independent_components(x)
    product = model.unmixing.detach() @ torch.linalg.inv(W)
    torch.testing.assert_close(product.abs().amax(1), torch.ones(3, dtype=torch.float64), rtol=0, atol=0.03)
    assert amari(product) < 0.02
    spread = torch.linalg.inv(W).norm(dim=1)
    assert ((model.mean - truth.mean).abs() / spread < 0.03).all()


def test_refusals_of_independent_components():
    x, _ = mixed(50)
    with pytest.raises(ValueError, match="3 rows of 4 columns"):
        fitters.independent_components(x[:3])
    x[:, 2] = 1.0
    with pytest.raises(ValueError, match=r"vary in 3 directions \(columns \[2\] are constant\)"):
        fitters.independent_components(x)


# --- mixtures


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "spherical"])
def test_mixture_scores_as_scikit_learns(covariance_type):
    x = clusters()
    model = fitters.gaussian_mixture(x, None, 3, covariance_type, seed=1)
    peer = Peer(3, covariance_type=covariance_type, random_state=1).fit(x.numpy())
    np.testing.assert_allclose(-model.energy(x), peer.score_samples(x.numpy()), atol=1e-8)
    np.testing.assert_allclose(model.represent(x), peer.predict_proba(x.numpy()), atol=1e-8)


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "spherical"])
def test_one_component_is_the_moments(covariance_type):
    x = clusters()
    model = fitters.gaussian_mixture(x, None, 1, covariance_type, reg_covar=0.0)
    covariance = torch.cov(x.T, correction=0)
    if covariance_type in ("diag", "spherical"):
        covariance = torch.diag(torch.diagonal(covariance))
    if covariance_type == "spherical":
        covariance = torch.diagonal(covariance).mean() * torch.eye(2, dtype=torch.float64)
    torch.testing.assert_close(model.law().covariances[0], covariance)
    torch.testing.assert_close(model.means[0], x.mean(0))


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "spherical"])
def test_em_over_observed_cells_climbs_and_stops_at_a_maximum(covariance_type):
    x = clusters(600)
    observed = some_seen(x, 0.7)
    start = fitters.gaussian_mixture(fitters.completed(x, observed, 0), None, 3, covariance_type).law()
    law, last = start, -math.inf
    for _ in range(25):
        expected = MixtureSums.zero(law).add(law, Seen(x, observed))
        value = expected.value
        assert value > last - 1e-12  # EM never falls
        law, last = expected.solve(covariance_type, 0.0), value
    model = fitters.gaussian_mixture(torch.where(observed, x, torch.nan), observed, 3, covariance_type)
    assert -model.energy(x, observed).mean().item() == pytest.approx(last, abs=5e-3)
    assert last > start.log_prob(Seen(x, observed)).mean().item()


def test_a_mixture_with_blanks_finds_the_clusters():
    x = clusters(1500)
    observed = some_seen(x, 0.75)
    model = fitters.gaussian_mixture(torch.where(observed, x, torch.nan), observed, 3)
    whole = fitters.gaussian_mixture(x, None, 3)
    nearest = torch.cdist(whole.means, model.means).min(1)
    assert nearest.values.max() < 0.2
    assert sorted(nearest.indices.tolist()) == [0, 1, 2]
    torch.testing.assert_close(
        model.law().covariances[nearest.indices], whole.law().covariances, rtol=0, atol=0.2
    )


def test_refusals_of_mixtures():
    x = clusters(20)
    with pytest.raises(ValueError, match="covariance_type must be one of"):
        fitters.gaussian_mixture(x, None, 2, "round")  # pyright: ignore
    x[:, 1] = 0.0
    with pytest.raises(
        ValueError, match=r"singular with components=2 and reg_covar=0.0 \(columns \[1\] are constant\)"
    ):
        fitters.gaussian_mixture(x, None, 2, reg_covar=0.0)


def test_k_means_is_a_fixed_point_of_lloyds_algorithm():
    x = clusters()
    model = fitters.k_means(x, 3, seed=0)
    nearest = model.represent(x).argmin(1)
    means = torch.stack([x[nearest == k].mean(0) for k in range(3)])
    torch.testing.assert_close(model.centres.detach(), means, rtol=0, atol=1e-6)
    assert torch.equal(model.centres, fitters.k_means(x, 3, seed=0).centres)


# --- completed rows


def test_completed_rows_keep_what_was_seen_and_the_covariance():
    x = table(4000)
    observed = some_seen(x, 0.6)
    whole = fitters.completed(torch.where(observed, x, torch.nan), observed, seed=0)
    assert torch.equal(whole[observed], x[observed])
    torch.testing.assert_close(whole.mean(0), x.mean(0), rtol=0, atol=0.06)
    torch.testing.assert_close(
        torch.cov(whole.T), torch.cov(x.T), rtol=0, atol=0.08
    )  # fills by means would shrink it
    assert torch.equal(whole, fitters.completed(x, observed, seed=0))
    assert fitters.completed(x, None) is x


def test_one_column_is_completed_too():
    x = table(300, 1, 1)
    observed = some_seen(x, 0.6)
    whole = fitters.completed(x, observed)
    assert whole.std().item() == pytest.approx(x[observed].std().item(), abs=0.12)


@pytest.mark.parametrize("constant", [False, True])
def test_many_rows_are_completed_by_a_gaussian_that_has_seen_each_column(monkeypatch, constant):
    """A column seen in 30 rows of 5,000, or the same in nearly all of them, is not drawn as if it were known."""
    monkeypatch.setattr(fitters, "COMPLETING", 200)
    g = torch.Generator().manual_seed(0)
    x = torch.randn(5000, 3, generator=g, dtype=torch.float64)
    observed = torch.rand(x.shape, generator=g) < 0.8
    if constant:
        x[30:, 2] = 0.0
    else:
        observed[:, 2] = torch.arange(5000) % 170 == 3
    drawn = fitters.completed(x, observed)
    assert torch.equal(drawn[observed], x[observed])
    spread = drawn[~observed[:, 2], 2].std()
    assert spread == pytest.approx(float(x[observed[:, 2], 2].std()), rel=0.4)


def test_rows_without_a_column_that_varies_are_completed():
    nan = float("nan")
    steady = torch.tensor([[1.5, nan]] * 30, dtype=torch.float64)
    other = torch.tensor([[5.0, nan], [5.0, 2.5], [nan, 2.5]] * 10, dtype=torch.float64)
    for x in (steady, other):
        observed = ~x.isnan()
        whole = fitters.completed(x, observed)
        assert bool(whole.isfinite().all())
        assert torch.equal(whole[observed], x[observed])
    assert float((fitters.completed(other, ~other.isnan()) - torch.tensor([5.0, 2.5])).abs().max()) < 0.1


def test_rows_are_completed_by_the_gaussian_that_they_are_of():
    """Correlations of completed rows against those of the truth, half of the cells blank."""
    g = generator(5)
    root = torch.randn(6, 6, generator=g, dtype=torch.float64)
    x = torch.randn(20_000, 6, generator=g, dtype=torch.float64) @ root
    observed = torch.rand(x.shape, generator=g) < 0.5
    whole = fitters.completed(x, observed)
    true = root.T @ root
    scale = true.diag().sqrt()
    error = (torch.cov(whole.T) - true) / torch.outer(scale, scale)
    assert float(error.abs().max()) < 0.05
