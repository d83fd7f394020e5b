"""Contrastive objectives without noise: with exact probabilities as weights, gradients vanish at the truth and only there."""

from __future__ import annotations

import math
from typing import NamedTuple

import pytest
import torch
from energies_for_tests import Plain, Quadratic, exact_law, generator, gradient, moved, small_ising
from torch.nn.functional import softplus

from abduce.fit import noise
from abduce.fit.contrastive import (
    NCE,
    ContrastiveDivergence,
    MinimumProbabilityFlow,
    PseudoLikelihood,
    RatioMatching,
)
from abduce.fit.noise import MixtureNoise
from abduce.inference.energy import Diverged
from abduce.inference.flips import states
from abduce.inference.gibbs import BlockGibbs
from abduce.models.boltzmann import IsingEnergy, RBMEnergy

FLIPS = [MinimumProbabilityFlow(), PseudoLikelihood(), RatioMatching()]


def names(objective) -> str:
    return type(objective).__name__


# --- flips ---


@pytest.mark.parametrize("objective", FLIPS, ids=names)
def test_the_gradient_vanishes_at_the_truth_and_only_there(objective):
    model = small_ising()
    x, p = exact_law(model)
    loss = objective.start(model, x, generator())
    assert gradient((p * loss(x)).sum(), model).abs().max() < 1e-12
    moved(model)
    assert gradient((p * loss(x)).sum(), model).abs().max() > 0.01


@pytest.mark.parametrize("objective", FLIPS, ids=names)
def test_it_is_its_formula_by_brute_force(objective):
    model = small_ising(3)
    x, _ = exact_law(model)
    formula = {
        "MinimumProbabilityFlow": lambda e, other: math.exp((e - other) / 2),
        "PseudoLikelihood": lambda e, other: -math.log(math.exp(-e) / (math.exp(-e) + math.exp(-other))),
        "RatioMatching": lambda e, other: (math.exp(-other) / (math.exp(-e) + math.exp(-other))) ** 2,
    }[names(objective)]
    loss = objective.start(model, x, generator())(x)
    for row, value in zip(x, loss, strict=True):
        total = 0.0
        for i in range(3):
            other = row.clone()
            other[i] = 1 - other[i]
            total += formula(float(model.energy(row).detach()), float(model.energy(other).detach()))
        assert float(value.detach()) == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize("objective", [MinimumProbabilityFlow(), PseudoLikelihood()], ids=names)
def test_it_is_convex_for_an_ising_model(objective):
    """The Hessian in J and b has no negative eigenvalue, anywhere."""
    x, p = exact_law(small_ising(3))
    model = IsingEnergy(3).double()
    loss = objective.start(model, x, generator())
    sizes = [q.numel() for q in model.parameters()]

    def value(theta):
        parts = dict(zip(("model.weight", "model.bias"), theta.split(sizes), strict=True))
        parts["model.weight"] = parts["model.weight"].view(3, 3)
        return (p * torch.func.functional_call(loss, parts, (x,))).sum()

    for seed in range(5):
        theta = 2 * torch.randn(sum(sizes), generator=generator(seed), dtype=torch.float64)
        eigenvalues = torch.linalg.eigvalsh(torch.func.hessian(value)(theta))
        assert eigenvalues.min() > -1e-10
        assert (
            eigenvalues > 1e-6
        ).sum() == 6  # three couplings and three fields; the rest of the matrix is free


def test_probability_flow_keeps_neighbours_that_are_data():
    """Were they dropped, data that have every state would give no loss, and no gradient, at any parameters."""
    model = moved(small_ising(3))
    x, p = exact_law(small_ising(3))
    loss = MinimumProbabilityFlow().start(model, x, generator())
    assert (loss(x) > 0.5).all()
    assert gradient((p * loss(x)).sum(), model).abs().max() > 0.01


def test_probability_flow_does_not_overflow():
    model = IsingEnergy.of(torch.zeros(2, 2), torch.tensor([200.0, -1.0]))
    loss = MinimumProbabilityFlow().start(model, torch.zeros(1, 2), generator())
    value = loss(torch.zeros(1, 2)).sum()
    assert float(value.detach()) == pytest.approx(
        math.exp(20) * 81 + math.exp(-0.5), rel=1e-5
    )  # the tangent at 20
    (slope,) = torch.autograd.grad(value, model.bias)
    assert float(slope[0]) == pytest.approx(0.5 * math.exp(20), rel=1e-5)


# --- noise-contrastive estimation ---


def test_nce_vanishes_at_the_truth_with_the_noise_summed_out():
    model = small_ising()
    x, p = exact_law(model)
    loss = NCE(ratio=3).start(model, x, generator())
    noisy = loss.noise.log_prob(x).exp()
    assert float(noisy.sum()) == pytest.approx(1.0, abs=1e-12)

    def expected():
        odds = loss.log_odds(x)
        return (p * softplus(-odds)).sum() + 3 * (noisy * softplus(odds)).sum()

    with torch.no_grad():
        loss.c.copy_(torch.logsumexp(-model.energy(x), 0))
    assert gradient(expected(), loss).abs().max() < 1e-12
    moved(model)
    assert gradient(expected(), loss).abs().max() > 0.01


def test_nces_loss_is_that_expectation_on_average():
    model = small_ising()
    x, p = exact_law(model)
    loss = NCE(ratio=4).start(model, x, generator())
    with torch.no_grad():
        rows = x[torch.multinomial(p, 50_000, replacement=True, generator=generator())]
        odds = loss.log_odds(x)
        expected = (p * softplus(-odds)).sum() + 4 * (loss.noise.log_prob(x).exp() * softplus(odds)).sum()
        assert float(loss(rows, generator(1)).mean()) == pytest.approx(float(expected), abs=0.02)


@pytest.mark.parametrize("name", ["normal", "mixture"])
def test_nces_constant_becomes_log_z(name):
    """A Gaussian's log Z is ½ log det 2πΣ, and its parameters come out with it."""
    covariance = torch.tensor([[1.0, 0.5], [0.5, 0.7]], dtype=torch.float64)
    root = torch.linalg.cholesky(covariance)
    x = torch.randn(20_000, 2, generator=generator(), dtype=torch.float64) @ root.T
    model = Quadratic(torch.eye(2, dtype=torch.float64))
    loss = NCE(name).start(model, x, generator())
    optimiser = torch.optim.LBFGS(loss.parameters(), max_iter=60, line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        value = loss(x, generator(7)).mean()
        value.backward()
        return value

    optimiser.step(closure)
    expected = 0.5 * float(torch.logdet(2 * math.pi * covariance))
    assert float(loss.c.detach()) == pytest.approx(expected, abs=0.03)
    torch.testing.assert_close(torch.linalg.inv(model.precision.detach()), covariance, atol=0.04, rtol=0)


def test_nce_starts_its_constant_near_log_z():
    covariance = torch.tensor([[1.0, 0.5], [0.5, 0.7]], dtype=torch.float64)
    x = torch.randn(2000, 2, generator=generator(), dtype=torch.float64) @ torch.linalg.cholesky(covariance).T
    loss = NCE("normal").start(Quadratic(torch.linalg.inv(covariance)), x, generator())
    assert float(loss.c.detach()) == pytest.approx(
        0.5 * float(torch.logdet(2 * math.pi * covariance)), abs=0.1
    )


def test_the_mixture_noise_is_a_density_that_fits_and_draws_from_itself():
    g = generator()
    x = torch.cat(
        [torch.randn(400, 1, generator=g) * 0.2 - 2, torch.randn(400, 1, generator=g) * 0.3 + 1]
    ).double()
    fitted = MixtureNoise.fit(x, g, components=2)
    grid = torch.linspace(-15, 15, 6001, dtype=torch.float64).unsqueeze(-1)
    density = fitted.log_prob(grid).exp()
    assert float(density.sum()) * 0.005 == pytest.approx(1.0, abs=1e-6)
    narrow = fitted.means[:2].flatten().sort().values
    torch.testing.assert_close(narrow, torch.tensor([-2.0, 1.0], dtype=torch.float64), atol=0.06, rtol=0)
    draws = fitted.sample(50_000, g)
    for power in (1, 2):
        expected = float((grid[:, 0] ** power * density).sum() * 0.005)
        assert float(draws.pow(power).mean()) == pytest.approx(expected, abs=0.05)
    # most of it is where the data are, some is far from them
    below = noise.NormalBase.fit(x).log_prob(x).mean()
    assert fitted.log_prob(x).mean() > below + 0.2
    assert fitted.log_prob(torch.tensor([[6.0]]).double()) > -8


# --- contrastive divergence ---


class State(NamedTuple):
    x: torch.Tensor


class Jump:
    """A kernel that goes where it is told."""

    def __init__(self, to: torch.Tensor):
        self.to = to

    def init(self, x):
        return State(x)

    def step(self, state, generator):
        return State(self.to), None


def block_gibbs(model: RBMEnergy, x: torch.Tensor) -> torch.Tensor:
    """Transition probabilities v → h → v' between all states, by enumeration."""

    def bernoulli(logits, values):
        return (values * logits - softplus(logits)).sum(-1).exp()

    h = states(model.weight.shape[1], x)
    up = bernoulli((x @ model.weight + model.hidden_bias).unsqueeze(1), h)
    down = bernoulli((h @ model.weight.T + model.bias).unsqueeze(1), x)
    return (up @ down).detach()


def test_cd_vanishes_at_the_truth_under_the_exact_transition():
    torch.manual_seed(0)
    model = RBMEnergy(4, 2).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator(3), dtype=torch.float64))
    x, p = exact_law(model)
    start, end = x.repeat_interleave(16, 0), x.repeat(16, 1)

    def expected():
        weight = (p.unsqueeze(1) * block_gibbs(model, x)).flatten()
        assert float(weight.sum()) == pytest.approx(1.0, abs=1e-12)
        loss = ContrastiveDivergence().start(model, x, generator(), Jump(end))
        return (weight * loss(start, generator())).sum()

    assert gradient(expected(), model).abs().max() < 1e-12
    moved(model, 0.3)
    assert gradient(expected(), model).abs().max() > 0.01


def test_cds_gradient_is_the_one_of_its_draws():
    """No gradient passes through the sampler; pushes down at x and up at x_k."""
    model = Quadratic(torch.eye(2, dtype=torch.float64))
    x, far = torch.ones(3, 2).double(), torch.full((3, 2), 2.0).double()
    loss = ContrastiveDivergence(k=4).start(model, x, generator(), Jump(far))
    assert not loss.comparable
    torch.testing.assert_close(loss(x, generator()), model.energy(x) - model.energy(far))


def test_pcd_goes_on_from_its_chains_and_trains_a_small_rbm():
    """With many chains the gradient at the truth is zero but for sampling noise, and the chains follow the model's law."""
    torch.manual_seed(1)
    model = moved(RBMEnergy(5, 2).double(), 0.3)
    x, p = exact_law(model)
    objective = ContrastiveDivergence(k=2, persistent=True, chains=20_000)
    loss = objective.start(model, x, generator(), BlockGibbs(model))
    before = loss.chains.clone()
    g = generator(2)
    for _ in range(10):
        value = (p * loss(x, g)).sum()
    assert not torch.equal(before, loss.chains)
    assert gradient(value, model).abs().max() < 0.02
    code = (loss.chains @ torch.tensor([1.0, 2, 4, 8, 16]).double()).long()
    torch.testing.assert_close(
        torch.bincount(code, minlength=32) / 20_000, p, atol=0.012, rtol=0, check_dtype=False
    )
    held = loss.chains.clone()
    loss.eval()(x, g)
    assert torch.equal(held, loss.chains)  # evaluation leaves them
    again = objective.start(model, x, generator(5), BlockGibbs(model))
    again.load_state_dict(loss.state_dict())
    assert torch.equal(again.chains, loss.chains)


def test_pcds_chains_restart_from_the_noise():
    model = Quadratic(torch.eye(1, dtype=torch.float64))
    x = torch.randn(500, 1, generator=generator()).double()

    class Stay(Jump):
        def step(self, state, generator):
            return state, None

    loss = ContrastiveDivergence(persistent=True, chains=2000, restart=0.25).start(
        model, x, generator(), Stay(x)
    )
    before = loss.chains.clone()
    loss(x, generator())
    assert float((before != loss.chains).double().mean()) == pytest.approx(0.25, abs=0.03)
    assert float(loss.chains[before != loss.chains].std()) == pytest.approx(1.5 * float(x.std()), abs=0.15)


@pytest.mark.parametrize("place", [torch.inf, torch.nan, -1e5])
def test_chains_that_ran_away_are_told(place):
    model = Quadratic(torch.eye(1))
    loss = ContrastiveDivergence().start(
        model, torch.zeros(2, 1), generator(), Jump(torch.tensor([[1.0], [place]]))
    )
    with pytest.raises(Diverged, match="lower the learning rate or the step size"):
        loss(torch.zeros(2, 1), generator())


# --- legal pairs ---


@pytest.mark.parametrize("objective", FLIPS, ids=names)
def test_flips_need_binary_cells(objective):
    with pytest.raises(ValueError, match=f"{names(objective)} cannot train Quadratic: it needs binary cells"):
        objective.start(Quadratic(torch.eye(2)), torch.zeros(3, 2), generator())


@pytest.mark.parametrize(
    ("objective", "model", "missing"),
    [
        (ContrastiveDivergence(), small_ising(), "a sampler for its binary cells; pass kernel="),
        (
            NCE("rates"),
            Quadratic(torch.eye(4)),
            "a noise with a density for real cells: noise='mixture' or 'normal'",
        ),
        (
            NCE("normal"),
            small_ising(),
            "a noise with a density for binary cells: noise='rates', got 'normal'",
        ),
        (NCE(), Plain(lambda x: x.sum(-1), 4, support="mixed"), "a noise with a density for mixed cells"),
    ],
)
def test_what_is_missing_is_named(objective, model, missing):
    with pytest.raises(
        ValueError, match=f"{names(objective)} cannot train {names(model)}: it needs {missing}"
    ):
        objective.start(model, torch.zeros(3, 4), generator())


def test_a_kernel_of_another_model_is_refused():
    model = RBMEnergy(4, 2)
    with pytest.raises(ValueError, match="a kernel bound to it, and this one is bound to another RBM"):
        ContrastiveDivergence().start(model, torch.zeros(3, 4), generator(), BlockGibbs(RBMEnergy(4, 2)))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ContrastiveDivergence(k=0), "k must be an int >= 1, got 0"),
        (
            lambda: ContrastiveDivergence(persistent=True, restart=1.5),
            r"restart must be in \[0, 1\], got 1.5",
        ),
        (lambda: ContrastiveDivergence(chains=10), "need persistent=True, got chains=10"),
        (
            lambda: NCE("uniform"),
            r"noise must be one of \['auto', 'normal', 'mixture', 'rates'\], got 'uniform'",
        ),
        (lambda: NCE(ratio=0), "ratio must be an int >= 1, got 0"),
    ],
)
def test_arguments_are_checked(make, words):
    with pytest.raises(ValueError, match=words):
        make()
