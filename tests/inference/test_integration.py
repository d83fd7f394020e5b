"""log Z by sums and grids, against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from energies_for_tests import Plain, Quadratic, exact_law, generator, gradient, small_ising

from abduce.distributions.bases import BoxBase, NormalBase, RatesBase
from abduce.inference import flips, integration
from abduce.inference.integration import log_z_by_enumeration, log_z_by_quadrature, log_z_on_grid
from abduce.models.boltzmann import IsingEnergy

LOG_2PI = math.log(2 * math.pi)


def spread(d: int, seed: int = 0) -> torch.Tensor:
    """A covariance of unit size."""
    root = torch.randn(d, d + 2, generator=generator(seed), dtype=torch.float64) / math.sqrt(d + 2)
    return root @ root.T + 0.05 * torch.eye(d)


def gaussian_log_z(covariance: torch.Tensor, beta: float = 1.0) -> float:
    d = len(covariance)
    return 0.5 * (d * (LOG_2PI - math.log(beta)) + float(torch.logdet(covariance)))


def test_enumeration_of_independent_cells():
    bias = torch.linspace(-2, 1, 17, dtype=torch.float64)
    model = IsingEnergy.of(torch.zeros(17, 17, dtype=torch.float64), bias)
    expected = torch.nn.functional.softplus(0.7 * bias).sum()
    assert float(log_z_by_enumeration(model, 0.7).detach()) == pytest.approx(float(expected), abs=1e-10)
    base = RatesBase(torch.linspace(0, 1, 17, dtype=torch.float64))
    expected = (
        torch.nn.functional.softplus(bias + base.logits).sum()
        - torch.nn.functional.softplus(base.logits).sum()
    )
    with torch.no_grad():
        assert float(log_z_by_enumeration(model, base=base)) == pytest.approx(float(expected), abs=1e-10)


def test_the_gradient_of_log_z_is_minus_the_mean_of_the_energys(monkeypatch):
    model = small_ising(6)
    x, p = exact_law(model)
    expected = gradient(-(p * model.energy(x)).sum(), model)
    torch.testing.assert_close(gradient(log_z_by_enumeration(model), model), expected, atol=1e-12, rtol=0)
    monkeypatch.setattr(flips, "CHUNK", 1 << 9)  # several chunks, each computed again on the way back
    torch.testing.assert_close(gradient(log_z_by_enumeration(model), model), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("beta", [1.0, 0.3])
def test_quadrature_of_a_gaussian(d, beta):
    covariance = spread(d)
    model = Quadratic(torch.linalg.inv(covariance), torch.full((d,), 0.7, dtype=torch.float64))
    found = log_z_by_quadrature(model, beta=beta)
    assert found.kind == "quadrature"
    truth = gaussian_log_z(covariance, beta)
    assert found.value == pytest.approx(truth, abs=1e-4 if d == 3 else 1e-5)
    assert found.low - 1e-8 <= truth <= found.high + 1e-8 < found.low + (2e-3 if d == 3 else 1e-3)


def test_quadrature_with_a_base():
    """exp(−½ xᵀPx) N(x; m, C) integrates to N(m; 0, S + C) √det 2πS, S = P⁻¹."""
    S, mean = spread(2), torch.tensor([1.0, -2.0], dtype=torch.float64)
    base = NormalBase(mean, torch.tensor([[2.0, 0.3], [0.3, 0.5]], dtype=torch.float64))
    joint = torch.distributions.MultivariateNormal(torch.zeros(2, dtype=torch.float64), S + base.covariance)
    expected = float(joint.log_prob(mean)) + gaussian_log_z(S)
    found = log_z_by_quadrature(Quadratic(torch.linalg.inv(S)), base)
    assert found.value == pytest.approx(expected, abs=2e-5)


def test_quadrature_in_a_box_ends_at_the_box():
    model = Quadratic(torch.eye(2, dtype=torch.float64))
    box = BoxBase(torch.tensor([0.0, -1.0]).double(), torch.tensor([2.0, 1.0]).double())
    side = [math.erf(2 / math.sqrt(2)) / 2, math.erf(1 / math.sqrt(2))]
    found = log_z_by_quadrature(model, box)
    assert found.value == pytest.approx(math.log(side[0] * side[1] * 2 * math.pi / 4), abs=1e-5)


def test_quadrature_follows_heavy_tails_and_its_interval_holds_the_truth():
    heavy = Plain(lambda x: 1.5 * torch.log1p(x[..., 0].square()), 1)  # ∫ (1 + x²)^−1.5 = 2
    found = log_z_by_quadrature(heavy)
    assert found.low <= math.log(2) <= found.high
    assert found.value == pytest.approx(math.log(2), abs=1e-3)
    kinks = Plain(lambda x: x.abs().sum(-1), 2)  # ∫ exp(−|x|) = 2 a cell
    found = log_z_by_quadrature(kinks)
    assert found.value == pytest.approx(2 * math.log(2), abs=1e-4)
    assert found.low <= 2 * math.log(2) + 1e-9
    assert found.high >= 2 * math.log(2) - 1e-9


def test_quadrature_sees_two_far_and_unequal_modes():
    def energy(x):
        left = -0.5 * ((x[..., 0] + 20) / 0.5).square() + math.log(0.3 / 0.5)
        right = -0.5 * (x[..., 0] - 9).square() + math.log(0.7)
        return -torch.logaddexp(left, right) + 0.5 * LOG_2PI

    assert log_z_by_quadrature(Plain(energy, 1)).value == pytest.approx(0.0, abs=1e-4)


@pytest.mark.parametrize(
    "energy",
    [
        lambda x: x[..., 0].square(),  # a valley along one axis
        lambda x: (x[..., 0] - 0.6 * x[..., 1]).square(),  # along a slope
        lambda x: torch.tanh(x.square().sum(-1)),  # flat far away
        lambda x: torch.log1p(x.square().sum(-1)),  # mass that grows with the log of the box
    ],
)
def test_an_infinite_integral_is_refused_and_finite_with_a_base(energy):
    model = Plain(energy, 2)
    with pytest.raises(ValueError, match=r"keeps growing with the box.*base"):
        log_z_by_quadrature(model)
    box = BoxBase(torch.full((2,), -1.0).double(), torch.full((2,), 1.0).double())
    assert -3 < log_z_by_quadrature(model, box).value < 0


def test_an_improper_energy_is_refused_without_looking():
    with pytest.raises(ValueError, match="infinite"):
        log_z_by_quadrature(Plain(lambda x: x.square().sum(-1), 2, proper=False))


def test_a_grid_has_the_gradient_of_log_z(monkeypatch):
    covariance = spread(2)
    model = Quadratic(torch.linalg.inv(covariance))
    low, high = torch.full((2,), -9.0), torch.full((2,), 9.0)
    expected = gradient(-0.5 * torch.logdet(model.precision), model)
    for chunk in (integration.CHUNK, 1000):
        monkeypatch.setattr(integration, "CHUNK", chunk)
        value = log_z_on_grid(model, low, high, 160)
        assert float(value.detach()) == pytest.approx(gaussian_log_z(covariance), abs=1e-9)
        torch.testing.assert_close(gradient(value, model), expected, atol=1e-8, rtol=0)


def test_a_shifted_grid_and_a_hollow_one():
    model = Quadratic(torch.eye(2, dtype=torch.float64))
    low, high = torch.full((2,), -8.0), torch.full((2,), 8.0)
    with torch.no_grad():
        shifted = log_z_on_grid(model, low, high, 64, shift=torch.tensor([0.3, -0.4]))
        assert float(shifted) == pytest.approx(LOG_2PI, abs=1e-9)
        whole = log_z_on_grid(model, low / 2, high / 2, 32).exp()
        ring = log_z_on_grid(model, low, high, 64, hollow=True).exp()
        assert float(whole + ring) == pytest.approx(2 * math.pi, abs=1e-9)


def test_what_is_too_large_is_refused():
    with pytest.raises(ValueError, match="at most 20 binary cells, got 21"):
        log_z_by_enumeration(IsingEnergy(21))
    with pytest.raises(ValueError, match="at most 3 real cells, got 4"):
        log_z_by_quadrature(Quadratic(torch.eye(4)))
