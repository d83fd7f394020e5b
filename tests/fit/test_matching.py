"""Score matching and its kinds on Gaussians, where every optimum is known."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from energies_for_tests import Plain, Quadratic, generator, gradient, small_ising
from test_maximum_likelihood import minimise, rows

from abduce.fit.matching import (
    DenoisingScoreMatching,
    ScoreMatching,
    SlicedScoreMatching,
    denoising_score_matching,
    sliced_score_matching,
)


def score_matching(model, x):
    return ScoreMatching().loss(model, x, None)


def wavy(d: int = 3) -> Plain:
    """An energy with a Hessian that changes from place to place, and a parameter in all of it."""
    model = Plain(lambda x: 0.0, d)
    torch.nn.init.normal_(model.matrix, generator=generator(4))
    model.function = lambda x: torch.tanh(x @ model.matrix).sum(-1) + (x**4).sum(-1) / 4
    return model


def test_it_is_its_formula_with_the_trace_of_all_cells():
    model, x = wavy(), rows(5, 3)
    for row, value in zip(x, score_matching(model, x), strict=True):
        slope = torch.autograd.functional.jacobian(model.energy, row)
        trace = torch.autograd.functional.hessian(model.energy, row).trace()
        assert float(value.detach()) == pytest.approx(float(0.5 * slope.square().sum() - trace), abs=1e-12)
    with torch.no_grad():
        assert not score_matching(model, x).requires_grad
        torch.testing.assert_close(score_matching(model, x), value_of(model, x))


def value_of(model, x):
    with torch.enable_grad():
        return score_matching(model, x).detach()


def test_the_gradient_with_respect_to_parameters_is_that_of_finite_differences():
    model, x = wavy(), rows(20, 3)
    found = gradient(score_matching(model, x).mean(), model)[:9].view(3, 3)
    step = 1e-5
    for i, j in itertools.product(range(3), range(3)):
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                model.matrix[i, j] += sign * step
                values.append(float(score_matching(model, x).mean()))
                model.matrix[i, j] -= sign * step
        assert float(found[i, j]) == pytest.approx((values[0] - values[1]) / (2 * step), abs=1e-7)


def test_a_gaussians_precision_is_recovered():
    x = rows(300, 3)
    model = Quadratic(torch.eye(3, dtype=torch.float64))
    value = minimise(ScoreMatching().start(model, x, generator()), x)
    precision = torch.linalg.inv(torch.cov(x.T, correction=0))
    torch.testing.assert_close(model.precision.detach(), precision, atol=1e-6, rtol=0)
    torch.testing.assert_close(model.mean.detach(), x.mean(0), atol=1e-6, rtol=0)
    assert value == pytest.approx(-0.5 * float(precision.trace()), abs=1e-9)


@pytest.mark.parametrize("variance_reduced", [True, False])
def test_sliced_over_all_signs_is_score_matching(variance_reduced):
    model, x = wavy(), rows(20, 3)
    signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=3)), dtype=torch.float64)
    found = sliced_score_matching(model, x, signs.unsqueeze(1).expand(-1, 20, -1), variance_reduced)
    torch.testing.assert_close(found, score_matching(model, x))
    torch.testing.assert_close(
        gradient(found.sum(), model), gradient(score_matching(model, x).sum(), model), atol=1e-9, rtol=1e-9
    )


@pytest.mark.parametrize("law", ["rademacher", "normal"])
def test_sliced_draws_directions_of_unit_covariance(law):
    model, x = wavy(), rows(4, 3)
    loss = SlicedScoreMatching(projections=20_000, law=law).start(model, x, generator())
    torch.testing.assert_close(loss(x, generator(1)), score_matching(model, x), rtol=0.05, atol=0.3)
    assert torch.equal(loss(x, generator(1)), loss(x, generator(1)))


def cubature(n: int) -> torch.Tensor:
    """2n equally likely points with the mean and covariance of N(0, I): exact for quadratic functions."""
    eye = math.sqrt(n) * torch.eye(n, dtype=torch.float64)
    return torch.cat([eye, -eye])


def test_denoising_finds_the_noisy_densitys_precision():
    """E over x ~ N(0, S) and the noise is exact by cubature; the best precision is (S + σ²I)⁻¹."""
    S, sigma = torch.tensor([[1.0, 0.6], [0.6, 0.8]], dtype=torch.float64), 0.4
    points = cubature(4)
    x, noise = points[:, :2] @ torch.linalg.cholesky(S).T, points[:, 2:]
    truth = torch.linalg.inv(S + sigma**2 * torch.eye(2, dtype=torch.float64))
    model = Quadratic(truth)
    assert gradient(denoising_score_matching(model, x, sigma, noise).mean(), model).abs().max() < 1e-12
    noiseless = Quadratic(torch.linalg.inv(S))
    assert gradient(denoising_score_matching(noiseless, x, sigma, noise).mean(), noiseless).abs().max() > 0.01


def test_denoising_with_many_noises_averages_scores_by_their_density_and_variance():
    """At the mean-zero 1-D optimum −∇E = Σ_σ σ² p_σ ∇log p_σ / Σ_σ σ² p_σ, the loss is stationary in every direction."""
    sigmas = torch.tensor([0.3, 1.0], dtype=torch.float64)
    variance = 1 + sigmas.square()

    def best(y):  # ∇E
        weight = sigmas.square() * torch.exp(-0.5 * y.unsqueeze(-1).square() / variance) / variance.sqrt()
        return y * (weight / variance).sum(-1) / weight.sum(-1)

    grid = torch.linspace(-9, 9, 721, dtype=torch.float64)
    x, e = torch.cartesian_prod(grid, grid).unbind(-1)
    p = torch.exp(-0.5 * (x.square() + e.square()))
    slopes = [lambda y: torch.ones_like(y), lambda y: y, lambda y: torch.sin(2 * y), lambda y: y**3]
    for direction in slopes:
        change = sum(
            (p * (s * best(x + s * e) - e) * s * direction(x + s * e)).sum() / p.sum() for s in sigmas
        )
        assert abs(float(change)) < 1e-5


def test_denoising_with_both_signs_has_no_odd_noise():
    """The gradient in a Gaussian's mean is σ² P²(m − x) whatever the noise; one sign would add σ P (I − σ²P) ε."""
    model, x = Quadratic(torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=torch.float64)), rows(5, 2)[:1]
    loss = DenoisingScoreMatching(0.01).start(model, x, generator())
    P = model.precision.detach()
    (found,) = torch.autograd.grad(loss(x, generator(3)).sum(), model.mean)
    torch.testing.assert_close(found, 1e-4 * (P @ P @ (model.mean.detach() - x[0])), atol=1e-15, rtol=1e-9)


def test_denoising_draws_its_noise():
    x = rows(40_000, 2)
    S = torch.cov(x.T, correction=0)
    model = Quadratic(torch.linalg.inv(S + 0.25 * torch.eye(2)), x.mean(0))
    loss = DenoisingScoreMatching(0.5).start(model, x, generator())
    # at the optimum ½ E‖σ P r − ε‖² = ½ (D − σ² tr P)
    expected = 0.5 * (2 - 0.25 * float(model.precision.detach().trace()))
    assert float(loss(x, generator()).mean().detach()) == pytest.approx(expected, abs=0.02)
    wide = DenoisingScoreMatching((0.5, 0.5)).start(model, x, generator())
    assert torch.allclose(wide(x, generator()), loss(x, generator()))
    assert not torch.equal(wide(x, generator(1)), loss(x, generator()))


@pytest.mark.parametrize("objective", [ScoreMatching(), SlicedScoreMatching(), DenoisingScoreMatching()])
def test_binary_cells_are_refused(objective):
    with pytest.raises(
        ValueError, match=f"{type(objective).__name__} cannot train IsingEnergy: it needs real cells"
    ):
        objective.start(small_ising(), torch.zeros(3, 4), generator())


@pytest.mark.parametrize("objective", [ScoreMatching(), SlicedScoreMatching()])
def test_kinks_are_refused(objective):
    model = Plain(lambda x: x.abs().sum(-1), 2, smooth=False)
    with pytest.raises(ValueError, match="cannot train Plain: it needs two derivatives"):
        objective.start(model, torch.zeros(3, 2), generator())
    DenoisingScoreMatching().start(model, torch.zeros(3, 2), generator())  # one is enough


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: SlicedScoreMatching(projections=0), "projections must be an int >= 1, got 0"),
        (lambda: DenoisingScoreMatching(0.0), "sigma must be > 0, got 0.0"),
        (lambda: DenoisingScoreMatching((1.0, 0.1)), "the higher sigma must be >= 1, got 0.1"),
        (lambda: DenoisingScoreMatching((1.0, 2.0, 3.0)), r"a number or a pair \(low, high\)"),
    ],
)
def test_arguments_are_checked(make, words):
    with pytest.raises(ValueError, match=words):
        make()
