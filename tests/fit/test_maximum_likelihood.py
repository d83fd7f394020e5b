"""Maximum likelihood with an exact log Z: zero gradient at the truth, closed-form optima, legal pairs."""

from __future__ import annotations

import math

import pytest
import torch
from energies_for_tests import (
    Normalised,
    Plain,
    Quadratic,
    exact_law,
    generator,
    gradient,
    moved,
    small_ising,
)

from abduce.fit.loss import MeanEnergy
from abduce.fit.maximum_likelihood import MaximumLikelihood
from abduce.models.boltzmann import IsingEnergy, RBMEnergy


def rows(n: int = 500, d: int = 2, seed: int = 0) -> torch.Tensor:
    g = generator(seed)
    root = torch.eye(d) + 0.4 * torch.randn(d, d, generator=g, dtype=torch.float64)
    x = torch.randn(n, d, generator=g, dtype=torch.float64) @ root.T
    return (x - x.mean(0)) / x.std(0) + 0.3


def minimise(loss, x: torch.Tensor, weight: torch.Tensor | None = None) -> float:
    """Full-batch L-BFGS on the mean over rows, each of some weight; gives the loss at the end."""
    optimiser = torch.optim.LBFGS(
        loss.parameters(),
        max_iter=300,
        tolerance_grad=1e-10,
        tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )

    def closure():
        optimiser.zero_grad()
        value = loss(x).mean() if weight is None else (weight * loss(x)).sum()
        value.backward()
        return value

    optimiser.step(closure)
    return float(closure().detach())


def test_the_gradient_vanishes_at_the_truth():
    model = small_ising()
    x, p = exact_law(model)
    loss = MaximumLikelihood().start(model, x, generator())
    value = (p * loss(x)).sum()
    assert float(value.detach()) == pytest.approx(float(-(p * p.log()).sum()), abs=1e-12)  # the entropy
    assert gradient(value, model).abs().max() < 1e-10
    moved(model)
    assert gradient((p * loss(x)).sum(), model).abs().max() > 0.01


def test_it_is_the_log_likelihood_of_a_small_rbm():
    torch.manual_seed(0)
    model = moved(RBMEnergy(5, 3).double(), 0.4)
    x, p = exact_law(model)
    loss = MaximumLikelihood().start(model, x, generator())
    torch.testing.assert_close(loss(x), -p.log())


@pytest.mark.parametrize("family", [Normalised, Quadratic])
def test_a_gaussians_optimum_is_the_datas_moments(family):
    """By the closed form, and by a grid that covers the data's box."""
    x = rows()
    model = family(torch.eye(2, dtype=torch.float64))
    loss = MaximumLikelihood(margin=1.0).start(model, x, generator())
    value = minimise(loss, x)
    covariance = torch.cov(x.T, correction=0)
    atol = 1e-6 if family is Normalised else 2e-3  # the grid ends somewhere
    torch.testing.assert_close(model.mean.detach(), x.mean(0), atol=atol, rtol=0)
    torch.testing.assert_close(torch.linalg.inv(model.precision.detach()), covariance, atol=atol, rtol=0)
    expected = 0.5 * (2 * math.log(2 * math.pi) + float(torch.logdet(covariance)) + 2)
    assert value == pytest.approx(expected, abs=atol)


def test_the_grid_moves_in_training_only():
    x = rows()
    model = Quadratic(torch.linalg.inv(torch.cov(x.T)), x.mean(0))
    loss = MaximumLikelihood(points=6, margin=0.5).start(model, x, generator())
    first, second = (float(loss(x, generator(s)).mean().detach()) for s in (0, 1))
    assert first != second
    assert float(loss(x).mean().detach()) == float(loss.eval()(x, generator(1)).mean().detach())
    again = MaximumLikelihood(points=6, margin=2.0).start(model, x, generator())
    again.load_state_dict(loss.state_dict())
    assert torch.equal(again(x), loss(x))


def test_an_ising_model_is_learnt_from_its_own_law():
    model = small_ising(5, seed=2)
    x, p = exact_law(model)
    learnt = IsingEnergy(5).double()
    loss = MaximumLikelihood().start(learnt, x, generator())
    minimise(loss, x, p)
    torch.testing.assert_close(learnt.coupling, model.coupling, atol=1e-5, rtol=0)
    torch.testing.assert_close(learnt.bias, model.bias, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("model", "missing"),
    [
        (IsingEnergy(21), "at most 20 binary cells.*21 binary ones"),
        (Quadratic(torch.eye(3)), "differentiable log Z.*3 real ones"),
        (Plain(lambda x: x.square().sum(-1), 2, proper=False), "finite log Z"),
    ],
)
def test_without_a_log_z_it_is_refused(model, missing):
    with pytest.raises(ValueError, match=f"MaximumLikelihood cannot train {type(model).__name__}.*{missing}"):
        MaximumLikelihood().start(model, torch.zeros(4, model.n_cells), generator())


def test_mean_energy_is_the_familys_loss_and_needs_a_bounded_volume():
    bounded = Plain(lambda x: x.square().sum(-1), 2, bounded_volume=True)
    x = rows()
    torch.testing.assert_close(MeanEnergy().start(bounded, x, generator())(x), x.square().sum(-1))

    class Penalised(Plain):
        def training_loss(self, x, generator):
            return self.energy(x) + torch.rand(len(x), generator=generator)

    model = Penalised(lambda x: x.square().sum(-1), 2, bounded_volume=True)
    got = MeanEnergy().start(model, x, generator())(x, generator(5))
    torch.testing.assert_close(got, x.square().sum(-1) + torch.rand(len(x), generator=generator(5)))
    with pytest.raises(ValueError, match=r"MeanEnergy cannot train Quadratic.*bounded volume.*collapses"):
        MeanEnergy().start(Quadratic(torch.eye(2)), x, generator())


def test_rows_of_another_width_are_refused():
    with pytest.raises(ValueError, match=r"rows of 2 cells, \(n, 2\), got \(5, 3\)"):
        MaximumLikelihood().start(Quadratic(torch.eye(2)), torch.zeros(5, 3), generator())


def test_a_grid_without_points_is_refused():
    with pytest.raises(ValueError, match="points must be an int >= 1, got 0"):
        MaximumLikelihood(points=0)
