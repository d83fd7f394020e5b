"""Principal and independent components against closed forms, scipy and quadrature."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from models_for_tests import generator, some_seen
from scipy.stats import kstest, multivariate_normal

from abduce.data.seen import Seen
from abduce.distributions.bases import BoxBase, NormalBase
from abduce.models.gaussian import IndependentComponentsEnergy, PrincipalComponentsEnergy

D, Q = 4, 2
KINDS = ["probabilistic", "reconstruction"]


def principal(energy="probabilistic", d: int = D, q: int = Q, seed: int = 0) -> PrincipalComponentsEnergy:
    g = generator(seed)
    directions = torch.linalg.qr(torch.randn(d, d, generator=g, dtype=torch.float64))[0][:, :q]
    return PrincipalComponentsEnergy.of(
        torch.randn(d, generator=g, dtype=torch.float64),
        directions,
        1 + torch.rand(q, generator=g, dtype=torch.float64),
        torch.tensor(0.3, dtype=torch.float64),
        energy,
    )


def some_base(d: int = D, seed: int = 1) -> NormalBase:
    g = generator(seed)
    root = torch.randn(d, d + 2, generator=g, dtype=torch.float64) / 2
    return NormalBase(torch.randn(d, generator=g, dtype=torch.float64), root @ root.T)


def rows(n: int = 20, d: int = D, seed: int = 2) -> torch.Tensor:
    return 2 * torch.randn(n, d, generator=generator(seed), dtype=torch.float64)


def grid_sum(log_f, half: float = 12.0, points: int = 1201) -> float:
    """log ∫ exp(log_f) over the plane."""
    axis = torch.linspace(-half, half, points, dtype=torch.float64)
    values = log_f(torch.cartesian_prod(axis, axis))
    return (torch.logsumexp(values, 0) + 2 * (axis[1] - axis[0]).log()).item()


def test_probabilistic_is_the_gaussian():
    model, x = principal(), rows()
    law = multivariate_normal(model.mean.numpy(), model.covariance.numpy())
    np.testing.assert_allclose(-model.energy(x) - model.log_z(), law.logpdf(x), atol=1e-10)
    assert torch.equal(model.energy(x.view(4, 5, D)), model.energy(x).view(4, 5))
    for beta in (0.5, 2.0):
        law = multivariate_normal(model.mean.numpy(), model.covariance.numpy() / beta)
        np.testing.assert_allclose(-beta * model.energy(x) - model.log_z(beta), law.logpdf(x), atol=1e-10)
        np.testing.assert_allclose(model.law(beta).log_prob(Seen.whole(x)), law.logpdf(x), atol=1e-10)


def test_a_row_with_blanks_has_the_energy_of_its_marginal():
    model, x = principal(), rows()
    observed = some_seen(x)
    energy = model.energy(x, observed) + model.log_z()
    for i, o in enumerate(observed.numpy()):
        inner = model.covariance.numpy()[np.ix_(o, o)]
        expected = (
            multivariate_normal(model.mean.numpy()[o], inner).logpdf(x[i].numpy()[o]) if o.any() else 0.0
        )
        assert -energy[i].item() == pytest.approx(expected, abs=1e-9)
    with pytest.raises(ValueError, match="complete the row first"):
        principal("reconstruction").energy(x, observed)


def test_reconstruction_is_the_distance_to_the_subspace():
    model, x = principal("reconstruction"), rows()
    z = model.represent(x)
    assert model.energy(model.mean + z @ model.directions.T).abs().max() < 1e-20
    np.testing.assert_allclose(model.energy(x), (x - model.mean - z @ model.directions.T).square().sum(1))
    whole = (x - model.mean).square().sum(1)
    np.testing.assert_allclose(model.energy(x) + z.square().sum(1), whole)  # Pythagoras


def test_representation_is_the_posterior_mean_of_the_latents():
    model, x = principal(), rows()
    W = model.directions * (model.variances - model.noise).sqrt()
    torch.testing.assert_close(W @ W.T + model.noise * torch.eye(D), model.covariance)
    expected = (x - model.mean) @ torch.linalg.solve(model.covariance, W)  # Wᵀ C⁻¹ (y − μ)
    torch.testing.assert_close(model.represent(x), expected)


@pytest.mark.parametrize("beta", [0.3, 1.0, 7.0])
def test_log_z_with_a_round_base(beta):
    """−½ (D − q) log(1 + 2 β s²) for N(0, s² I) and a subspace through its mean."""
    model = principal("reconstruction")
    model.mean.zero_()
    s = 1.7
    base = NormalBase(torch.zeros(D, dtype=torch.float64), s**2 * torch.eye(D, dtype=torch.float64))
    expected = -0.5 * (D - Q) * math.log(1 + 2 * beta * s**2)
    assert model.log_z(beta, base).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("energy", KINDS)
@pytest.mark.parametrize("beta", [0.4, 2.0])
def test_log_z_and_law_with_any_gaussian_base(energy, beta):
    model, base = principal(energy, d=2, q=1), some_base(d=2)

    def log_f(x):
        return -beta * model.energy(x) + base.log_prob(x)

    log_z = model.log_z(beta, base)
    assert log_z.item() == pytest.approx(grid_sum(log_f), abs=1e-6)
    x = rows(d=2)
    torch.testing.assert_close(model.law(beta, base).log_prob(Seen.whole(x)), log_f(x) - log_z)


@pytest.mark.parametrize("energy", KINDS)
def test_law_with_a_base_in_more_cells(energy):
    model, base, x = principal(energy), some_base(), rows()
    expected = -3.0 * model.energy(x) + base.log_prob(x) - model.log_z(3.0, base)
    torch.testing.assert_close(model.law(3.0, base).log_prob(Seen.whole(x)), expected)


def test_what_has_no_closed_form_and_what_is_infinite():
    x = rows()
    for energy in KINDS:
        model = principal(energy)
        assert model.log_z(1.0, BoxBase.fit(x)) is None
        assert model.law(1.0, BoxBase.fit(x)) is None
    assert (model.proper, model.in_nats, principal().proper) == (False, False, True)
    for ask in (model.log_z, model.law):
        with pytest.raises(ValueError, match="infinite; give a base measure"):
            ask()


def test_all_components():
    model = principal(q=D)
    law = multivariate_normal(model.mean.numpy(), model.covariance.numpy())
    np.testing.assert_allclose(-model.energy(rows()) - model.log_z(), law.logpdf(rows()), atol=1e-10)
    flat = principal("reconstruction", q=D)
    assert flat.energy(rows()).abs().max() < 1e-20
    assert flat.log_z(2.0, some_base()).item() == pytest.approx(0, abs=1e-10)


def test_refusals_of_principal_components():
    with pytest.raises(ValueError, match="between 1 and the number of cells, 3, got 4"):
        PrincipalComponentsEnergy(3, 4)
    with pytest.raises(ValueError, match="energy must be one of"):
        PrincipalComponentsEnergy(3, 1, energy="squared")  # pyright: ignore
    with pytest.raises(ValueError, match="singular; use fewer components"):
        PrincipalComponentsEnergy.of(torch.zeros(2), torch.eye(2)[:, :1], torch.ones(1), torch.zeros(()))


def independent(d: int = 2, seed: int = 0) -> IndependentComponentsEnergy:
    g = generator(seed)
    W = torch.eye(d, dtype=torch.float64) + 0.4 * torch.randn(d, d, generator=g, dtype=torch.float64)
    return IndependentComponentsEnergy.of(torch.randn(d, generator=g, dtype=torch.float64), W)


@pytest.mark.parametrize("beta", [0.7, 1.0, 3.0])
def test_log_z_of_independent_components_by_quadrature(beta):
    model = independent()
    with torch.no_grad():
        integral = grid_sum(lambda x: -beta * model.energy(x), half=90.0, points=1801)
    assert model.log_z(beta).item() == pytest.approx(integral, abs=1e-6)
    assert model.law(beta) is None
    assert model.log_z(beta, some_base(2)) is None


def test_log_z_at_one_and_its_gradient():
    model = independent(3)
    log_z = model.log_z()
    expected = 3 * math.log(math.pi) - torch.linalg.slogdet(model.unmixing)[1]
    assert log_z.item() == pytest.approx(expected.item(), abs=1e-12)
    (gradient,) = torch.autograd.grad(log_z, model.unmixing)
    torch.testing.assert_close(gradient, -torch.linalg.inv(model.unmixing.detach()).T)


def test_energy_of_independent_components_near_and_far():
    model = IndependentComponentsEnergy(1)
    x = torch.tensor([[0.0], [0.3], [400.0]], dtype=torch.float64, requires_grad=True)
    energy = model.double().energy(x)
    expected = [0.0, math.log(math.cosh(0.3)), 400 - math.log(2)]
    np.testing.assert_allclose(energy.detach(), expected, atol=1e-12)
    (slope,) = torch.autograd.grad(energy.sum(), x, create_graph=True)
    (bend,) = torch.autograd.grad(slope.sum(), x)
    np.testing.assert_allclose(slope.detach()[:, 0], np.tanh([0.0, 0.3, 400.0]), atol=1e-12)
    np.testing.assert_allclose(bend[:, 0], 1 - np.tanh([0.0, 0.3, 400.0]) ** 2, atol=1e-12)  # 1 at the middle


def test_draws_of_independent_components():
    model = independent(3)
    u = model.represent(model.sample(20_000, generator(1))).detach().numpy()
    for source in u.T:
        assert kstest(source, lambda t: 2 / np.pi * np.arctan(np.exp(t))).pvalue > 0.01
    np.testing.assert_allclose(np.cov(u.T), np.pi**2 / 4 * np.eye(3), atol=0.12)  # variance of the secant law


@pytest.mark.parametrize("model", [principal(), principal("reconstruction"), independent(4)])
def test_rebuilt_from_its_configuration(model):
    twin = type(model)(**model.config).double()
    twin.load_state_dict(model.state_dict())
    assert torch.equal(twin.energy(rows()), model.energy(rows()))
    single = twin.float().energy(rows().float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single, model.energy(rows()).float(), rtol=1e-4, atol=1e-4)
