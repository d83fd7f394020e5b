"""The Gaussian mixture and k-means, and the hard mixture that k-means stands for."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from models_for_tests import generator, some_seen
from scipy.stats import kstest, multivariate_normal, norm
from views_for_tests import through

from abduce.data.seen import Seen, Unanswerable
from abduce.distributions.bases import NormalBase
from abduce.models.hard_mixture_law import HardMixtureLaw
from abduce.models.mixture import GaussianMixtureEnergy, KMeansEnergy

CENTRES = torch.tensor([[-1.0, 0.2], [0.9, 0.5], [0.1, -1.3]], dtype=torch.float64)
BETA = 1.4


def rows(n: int = 30, d: int = 2, seed: int = 2) -> torch.Tensor:
    return 1.5 * torch.randn(n, d, generator=generator(seed), dtype=torch.float64)


def plane(half: float = 7.0, points: int = 701) -> tuple[torch.Tensor, torch.Tensor]:
    """Points of a square (points, points, 2), and the log of a cell's area."""
    axis = torch.linspace(-half, half, points, dtype=torch.float64)
    return torch.cartesian_prod(axis, axis).view(points, points, 2), 2 * (axis[1] - axis[0]).log()


def mixture() -> GaussianMixtureEnergy:
    root = torch.randn(3, 2, 4, generator=generator(), dtype=torch.float64) / 2
    weights = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).log()
    return GaussianMixtureEnergy.of(weights, CENTRES, root @ root.mT)


def test_energy_of_a_mixture_is_minus_its_log_density():
    model, x = mixture(), rows()
    law = model.law()
    each = [
        math.exp(w) * multivariate_normal(m, c).pdf(x)
        for w, m, c in zip(law.log_weights, law.means, law.covariances, strict=True)
    ]
    np.testing.assert_allclose(model.energy(x), -np.log(sum(each)), atol=1e-10)
    np.testing.assert_allclose(model.represent(x), np.array(each).T / sum(each)[:, None], atol=1e-10)
    assert model.log_z() == 0
    assert torch.equal(model.energy(x.view(5, 6, 2)), model.energy(x).view(5, 6))
    observed = some_seen(x)
    torch.testing.assert_close(model.energy(x, observed), -law.log_prob(Seen(x, observed)))
    assert model.log_z(0.5) is None
    assert model.law(0.5) is None
    assert model.log_z(1.0, NormalBase.fit(x)) is None


def test_score_of_a_mixture_is_the_responsible_pull():
    """∇E = Σ_k r_k C_k⁻¹ (y − μ_k); a blank cell pulls nothing."""
    model, x = mixture(), rows().requires_grad_()
    (slope,) = torch.autograd.grad(model.energy(x).sum(), x)
    law, y = model.law(), x.detach()
    pull = torch.linalg.solve(law.covariances, (y.unsqueeze(1) - CENTRES).unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(slope, (model.represent(y).unsqueeze(-1) * pull).sum(1))
    observed = torch.tensor([[True, False]]).expand_as(x)
    (slope,) = torch.autograd.grad(model.energy(x, observed).sum(), x)
    r = law.responsibilities(Seen(y, observed))
    expected = (r * (y[:, :1] - CENTRES[:, 0]) / law.covariances[:, 0, 0]).sum(1)
    torch.testing.assert_close(slope, torch.stack([expected, torch.zeros_like(expected)], 1))


def test_a_mixture_of_equal_round_components_tends_to_k_means():
    x = rows()
    hard = KMeansEnergy.of(CENTRES).energy(x).detach()
    gaps = []
    for beta in (10.0, 100.0, 1000.0):
        eye = torch.eye(2, dtype=torch.float64).repeat(3, 1, 1) / (2 * beta)
        soft = GaussianMixtureEnergy.of(torch.zeros(3, dtype=torch.float64), CENTRES, eye)
        offset = math.log(3) + math.log(math.pi / beta)
        gaps.append((hard - (soft.energy(x) - offset) / beta).max().item())
        assert (hard >= (soft.energy(x) - offset) / beta - 1e-12).all()  # Σ exp ≥ max exp
        assert gaps[-1] <= math.log(3) / beta
    assert gaps[2] < 1e-3


def test_k_means_is_the_squared_distance_to_the_nearest():
    model, x = KMeansEnergy.of(CENTRES), rows().requires_grad_()
    distance = (x.unsqueeze(1) - CENTRES).norm(dim=-1)
    energy = model.energy(x)
    torch.testing.assert_close(energy, distance.amin(1).square())
    torch.testing.assert_close(model.represent(x), distance)
    (slope,) = torch.autograd.grad(energy.sum(), x)
    torch.testing.assert_close(slope, 2 * (x - CENTRES[distance.argmin(1)]).detach())
    assert (model.energy(CENTRES) == 0).all()
    with pytest.raises(ValueError, match="KMeans has no exact energy"):
        model.energy(x, some_seen(x))


def test_one_centre_is_a_gaussian():
    model, x = KMeansEnergy.of(CENTRES[:1]), rows()
    expected = multivariate_normal(CENTRES[0], np.eye(2) / (2 * BETA)).logpdf(x)
    log_z = model.log_z(BETA)
    np.testing.assert_allclose((-BETA * model.energy(x) - log_z).detach(), expected, atol=1e-10)
    assert model.law(BETA).log_z().value == pytest.approx(log_z.item(), abs=1e-12)
    assert model.law(BETA).log_z().kind == "exact"
    assert KMeansEnergy.of(CENTRES).log_z(BETA) is None
    assert KMeansEnergy.of(CENTRES).law(BETA, NormalBase.fit(x)) is None


@pytest.mark.parametrize(("a", "beta"), [(1.0, 1.0), (0.3, 2.0), (2.0, 0.1)])
def test_log_z_of_two_centres_on_a_line(a, beta):
    """2 √(π/β) Φ(a √(2β))."""
    found = HardMixtureLaw(torch.tensor([[-a], [a]], dtype=torch.float64), beta).log_z()
    exact = math.log(2 * math.sqrt(math.pi / beta) * norm.cdf(a * math.sqrt(2 * beta)))
    assert found.value == pytest.approx(exact, abs=1e-4)
    assert found.low - 1e-9 <= exact <= found.high + 1e-9
    assert found.high - found.low < 1e-3


def test_log_z_of_many_centres_on_a_line_is_the_sum_over_voronoi_cells():
    w = torch.randn(7, 1, generator=generator(), dtype=torch.float64).sort(0).values
    edges = np.concatenate([[-np.inf], (w[1:] + w[:-1]).numpy()[:, 0] / 2, [np.inf]])
    scale = 1 / math.sqrt(2 * BETA)
    inside = norm.cdf(edges[1:], w[:, 0], scale) - norm.cdf(edges[:-1], w[:, 0], scale)
    exact = 0.5 * math.log(math.pi / BETA) + math.log(inside.sum())
    assert HardMixtureLaw(w, BETA).log_z().value == pytest.approx(exact, abs=3e-4)


def test_acceptance_is_bounded():
    law = HardMixtureLaw(CENTRES, BETA)
    rho = law.log_acceptance(rows(1000)).exp()
    assert (rho >= 1 / 3 - 1e-12).all()
    assert (rho <= 1).all()
    same = HardMixtureLaw(CENTRES[:1].repeat(3, 1), BETA)
    torch.testing.assert_close(
        same.log_acceptance(rows()).exp(), torch.full((30,), 1 / 3, dtype=torch.float64)
    )
    d = (rows().unsqueeze(1) - CENTRES).square().sum(-1)
    soft = -torch.logsumexp(-BETA * d, 1)
    torch.testing.assert_close(law.log_acceptance(rows()), soft - BETA * d.amin(1))


def test_hard_mixture_by_quadrature():
    """Density, marginal, conditional mean and the mean behind noise."""
    law = HardMixtureLaw(CENTRES, BETA)
    grid, log_area = plane()
    log_f = -BETA * (grid.unsqueeze(-2) - CENTRES).square().sum(-1).amin(-1)
    log_z = torch.logsumexp(log_f.flatten(), 0) + log_area
    assert law.log_z().value == pytest.approx(log_z.item(), abs=3e-4)
    index = torch.tensor([250, 330, 420])
    x = torch.stack([grid[index, 0, 0], torch.full((3,), torch.nan, dtype=torch.float64)], 1)
    observed = torch.tensor([[True, False]]).expand(3, 2)
    marginal = torch.logsumexp(log_f[index], 1) + 0.5 * log_area - log_z
    torch.testing.assert_close(law.log_prob(Seen(x, observed)), marginal, rtol=0, atol=2e-3)
    p = torch.softmax(log_f[index], 1)
    mean = law.mean(Seen(x, observed))
    torch.testing.assert_close(mean[:, 1], (p * grid[index, :, 1]).sum(1), rtol=0, atol=3e-3)
    assert torch.equal(mean[:, 0], x[:, 0])
    assert law.log_prob(Seen(x, torch.zeros_like(observed))).abs().max() < 2e-3  # nothing observed
    whole = grid[index, index]
    torch.testing.assert_close(law.log_prob(Seen.whole(whole)), log_f[index, index] - law.log_z().value)
    # y = x₁ + 2 x₂ + 0.4 ε, and a second cell that nobody read
    A = torch.tensor([[1.0, 2.0], [1.0, 0.0]], dtype=torch.float64)
    noise = torch.tensor([0.4, 0.1], dtype=torch.float64)
    y = torch.tensor([[0.3, torch.nan], [2.0, torch.nan]], dtype=torch.float64)
    known = torch.tensor([[True, False]]).expand(2, 2)
    found = law.mean(through(lambda v: v @ A.T, noise, y, known))
    for i in range(2):
        log_post = log_f - 0.5 * ((y[i, 0] - grid @ A[0]) / 0.4).square()
        p = torch.softmax(log_post.flatten(), 0)
        torch.testing.assert_close(found[i], p @ grid.flatten(0, 1), rtol=0, atol=0.04)


def test_draws_of_the_hard_mixture():
    law = HardMixtureLaw(CENTRES, BETA)
    grid, _ = plane()
    log_f = -BETA * (grid.unsqueeze(-2) - CENTRES).square().sum(-1).amin(-1)
    axis = grid[:, 0, 0].numpy()

    def cdf(p):
        return lambda t: np.interp(t, axis + (axis[1] - axis[0]) / 2, p.cumsum(0))

    draws = law.sample(20_000, generator(3))
    for cell in range(2):
        p = torch.softmax(log_f.flatten(), 0).view(log_f.shape).sum(1 - cell)
        assert kstest(draws[:, cell], cdf(p)).pvalue > 0.01
    x = torch.tensor([[axis[320], 0.0], [0.0, 0.0]], dtype=torch.float64)
    observed = torch.tensor([[True, False], [True, True]])
    filled = law.draws(Seen(x, observed), 20_000, generator(4))
    assert kstest(filled[:, 0, 1], cdf(torch.softmax(log_f[320], 0))).pvalue > 0.01
    assert (filled[:, 0, 0] == x[0, 0]).all()
    assert torch.equal(filled[:, 1], x[1].expand(20_000, 2))


def test_hard_mixture_repeats_and_rows_do_not_mix():
    law, twin, x = HardMixtureLaw(CENTRES, BETA), HardMixtureLaw(CENTRES, BETA), rows()
    law.n_draws = twin.n_draws = 64
    observed = some_seen(x)
    assert torch.equal(law.log_prob(Seen(x, observed)), twin.log_prob(Seen(x, observed)))
    pair = torch.tensor([7, 3])
    torch.testing.assert_close(
        law.log_prob(Seen(x, observed))[pair], law.log_prob(Seen(x[pair], observed[pair]))
    )
    torch.testing.assert_close(law.mean(Seen(x, observed))[pair], law.mean(Seen(x[pair], observed[pair])))
    seen = Seen(x, observed)
    every = law.draws(seen, 6, generator(5), shared=True)
    torch.testing.assert_close(law.draws(seen.rows(pair), 6, generator(5), shared=True), every[:, pair])


@pytest.mark.parametrize("model", [mixture(), KMeansEnergy.of(CENTRES)])
def test_rebuilt_from_its_configuration(model):
    twin = type(model)(**model.config).double()
    twin.load_state_dict(model.state_dict())
    assert torch.equal(twin.energy(rows()), model.energy(rows()))
    single = twin.float().energy(rows().float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single, model.energy(rows()).float(), rtol=1e-4, atol=1e-4)


def test_what_they_refuse():
    with pytest.raises(ValueError, match="components must be an int >= 1, got 0"):
        KMeansEnergy(2, 0)
    with pytest.raises(ValueError, match="beta must be positive"):
        HardMixtureLaw(CENTRES, 0.0)
    with pytest.raises(ValueError, match="are singular; use fewer components, a larger reg_covar"):
        GaussianMixtureEnergy.of(torch.zeros(1), torch.zeros(1, 2), torch.zeros(1, 2, 2))


def test_log_p_behind_noise_is_not_known_of_a_hard_mixture():
    y = rows()
    seen = through(lambda v: v, torch.ones(2, dtype=torch.float64), y, torch.ones_like(y, dtype=torch.bool))
    with pytest.raises(Unanswerable, match="not known for a hard mixture"):
        HardMixtureLaw(CENTRES, BETA).log_prob(seen)
