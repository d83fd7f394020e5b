"""Observations against dense Gaussian conditioning and enumeration."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy import stats

from abduce.answers.views import Flips, Linear
from abduce.data.operators import IDENTITY, Dense, Operator, convolution, gaussian_blur, shrink
from abduce.data.seen import Blanks, Seen
from abduce.distributions.continuous import Gaussian
from abduce.distributions.discrete import Bernoulli
from abduce.distributions.likelihoods import Product
from abduce.gaussians.gaussian_law import GaussianMixtureLaw
from abduce.gaussians.linear import LinearPath


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian_rows(d: int, batch: int = 3) -> Product:
    law = Gaussian(normal(batch, d), 0.3 + normal(batch, d, seed=2).square())
    return Product([(slice(None), law)], d)


def dense(law: Product, i: int) -> tuple[np.ndarray, np.ndarray]:
    g = law.gaussian()
    return g.mean[i].numpy(), np.diag(g.scale.expand_as(g.mean)[i].numpy() ** 2)


def matrix(operator: Operator, d: int) -> np.ndarray:
    """A, one unit vector at a time."""
    return np.stack([operator.apply(e).numpy() for e in torch.eye(d, dtype=torch.float64)], 1)


CASES = {
    "noise": ((6,), IDENTITY),
    "box": ((4, 4), shrink((4, 4), 2)),
    "colour box": ((2, 4, 2), shrink((2, 4, 2), 2)),
    "bicubic": ((4, 4), shrink((4, 4), 2, "bicubic")),
    "blur": ((3, 4), gaussian_blur((3, 4), 0.8)),
    "colour blur": ((2, 3, 2), gaussian_blur((2, 3, 2), 0.6, "zero")),
    "kernel": ((3, 3), convolution((3, 3), np.array([[0.2, -0.1, 0.0], [0.3, 0.9, 0.1], [0.0, 0.0, 0.4]]))),
    "any": ((5,), Dense(normal(3, 5, seed=9))),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("noise", ["one", "each"])
def test_linear_observation_against_dense_conditioning(case, noise):
    shape, operator = CASES[case]
    d = int(np.prod(shape))
    A = matrix(operator, d)
    m = len(A)
    sigma = (
        0.5 if noise == "one" else 0.2 + torch.rand(m, generator=torch.Generator().manual_seed(4)).double()
    )
    law, observation = gaussian_rows(d), Linear(sigma, operator)
    y = normal(3, m, seed=5)
    seen = torch.rand(3, m, generator=torch.Generator().manual_seed(6)) < 0.7
    value, clean = observation.log_prob(law, y, seen), observation.clean(law, y, seen)
    R = np.diag(np.broadcast_to(np.asarray(sigma) ** 2, m))
    for i in range(3):
        o = seen[i].numpy()
        mean, cov = dense(law, i)
        S = (A @ cov @ A.T + R)[np.ix_(o, o)]
        r = y[i].numpy()[o] - (A @ mean)[o]
        expected = stats.multivariate_normal(np.zeros(o.sum()), S).logpdf(r) if o.any() else 0.0
        assert value[i].item() == pytest.approx(expected, abs=1e-8)
        gain = cov @ A[o].T @ np.linalg.inv(S)
        np.testing.assert_allclose(clean.moments()[0][i, :, 0], mean + gain @ r, atol=1e-8)


@pytest.mark.parametrize("case", ["box", "blur", "any"])
def test_draws_have_the_conditional_covariance(case):
    shape, operator = CASES[case]
    d, n = int(np.prod(shape)), 60_000
    one = gaussian_rows(d, 1)
    g = one.gaussian()
    A = matrix(operator, d)
    law = Product([(slice(None), Gaussian(g.mean.expand(n, d), g.scale.expand(n, d)))], d)
    y, seen = normal(1, len(A), seed=5), torch.ones(1, len(A)) > 0
    seen[0, 1] = False
    observation = Linear(0.4, operator)
    if not operator.disjoint:  # one factor for all draws: a row each would be a system each
        law = Product([(slice(None), Gaussian(g.mean, g.scale))], d)
        observation = observation.hold(law, seen)
        law = Product([(slice(None), Gaussian(g.mean.expand(n, 1, d), g.scale.expand(n, 1, d)))], d)
        one = Product([(slice(None), Gaussian(g.mean, g.scale))], d)
    drawn = observation.clean(law, y, seen).sample(torch.Generator().manual_seed(0)).reshape(n, d).numpy()
    mean, cov = dense(one, 0)
    o = seen[0].numpy()
    gain = cov @ A[o].T @ np.linalg.inv(A[o] @ cov @ A[o].T + 0.16 * np.eye(o.sum()))
    np.testing.assert_allclose(drawn.mean(0), mean + gain @ (y[0].numpy() - A @ mean)[o], atol=0.04)
    np.testing.assert_allclose(np.cov(drawn.T), cov - gain @ A[o] @ cov, atol=0.06 * np.abs(cov).max())


def test_held_variances_change_nothing_where_they_are_no_function_of_z():
    shape, operator = CASES["blur"]
    d = int(np.prod(shape))
    scale = 0.3 + normal(3, d, seed=2).square()
    law = Product([(slice(None), Gaussian(normal(7, 3, d), scale))], d)
    y, seen = normal(3, d, seed=5), torch.rand(3, d, generator=torch.Generator().manual_seed(6)) < 0.7
    exact = Linear(0.3, operator)
    held = exact.hold(law, seen)
    assert held.held is not None
    wide = Product([(slice(None), Gaussian(law.gaussian().mean, scale.expand(7, 3, d)))], d)
    torch.testing.assert_close(held.log_prob(law, y, seen), exact.log_prob(wide, y, seen))
    torch.testing.assert_close(held.clean(law, y, seen).moments()[0], exact.clean(wide, y, seen).moments()[0])
    index = torch.tensor([2, 0])
    some = Product([(slice(None), Gaussian(law.gaussian().mean[:, index], scale[index]))], d)
    torch.testing.assert_close(
        held.rows(index).log_prob(some, y[index], seen[index]), held.log_prob(law, y, seen)[:, index]
    )
    assert Linear(0.3).hold(law, seen).held is None  # where S is diagonal nothing is held


def test_holding_takes_the_mean_variance():
    law = Product([(slice(None), Gaussian(normal(5, 2, 5), 0.5 + normal(5, 2, 5, seed=1).square()))], 5)
    variance, root = Linear(0.3, CASES["any"][1]).hold(law, torch.ones(2, 3) > 0).held
    torch.testing.assert_close(variance, law.gaussian().scale.square().mean(0))
    A = CASES["any"][1].matrix
    torch.testing.assert_close(
        root @ root.mT, (A * variance.unsqueeze(1)) @ A.mT + 0.09 * torch.eye(3).double()
    )


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("components", [1, 2])
def test_linear_path_of_what_is_seen(case, components):
    """p(z | y) and the mixture's weights against dense Gaussians, with blanks in y."""
    shape, operator = CASES[case]
    d, k = int(np.prod(shape)), 2
    root = normal(components, k, k, seed=3)
    path = LinearPath(
        normal(d, k, seed=1),
        normal(d, seed=2),
        0.2 + normal(d, seed=4).square(),
        torch.softmax(normal(components), 0),
        normal(components, k, seed=5),
        root @ root.mT + torch.eye(k).double(),
    )
    A = matrix(operator, d)
    m = len(A)
    y, seen = normal(5, m, seed=6), torch.rand(5, m, generator=torch.Generator().manual_seed(7)) < 0.7
    log_r, means, chol = Linear(0.4, operator).path_posterior(path, y, seen)
    W, b, D = path.W.numpy(), path.b.numpy(), np.diag(path.noise.numpy())
    for i in range(5):
        o = seen[i].numpy()
        weights = []
        for c in range(components):
            S, m0 = path.covariances[c].numpy(), path.means[c].numpy()
            V = (A @ (W @ S @ W.T + D) @ A.T + 0.16 * np.eye(m))[np.ix_(o, o)]
            r = y[i].numpy()[o] - (A @ (W @ m0 + b))[o]
            gain = S @ (A @ W)[o].T @ np.linalg.inv(V)
            np.testing.assert_allclose(means[i, c], m0 + gain @ r, atol=1e-8)
            P = (chol[i] if len(chol) > 1 else chol[0])[c].numpy()
            np.testing.assert_allclose(np.linalg.inv(P @ P.T), S - gain @ (A @ W)[o] @ S, atol=1e-8)
            density = stats.multivariate_normal(np.zeros(o.sum()), V).logpdf(r) if o.any() else 0.0
            weights.append(np.log(path.weights[c].item()) + density)
        expected = np.array(weights) - np.logaddexp.reduce(weights)
        np.testing.assert_allclose(log_r[i], expected, atol=1e-8)


@pytest.mark.parametrize("case", CASES)
def test_laws_of_gaussians_under_any_operator(case):
    """Posterior mean, draws and log p(y) of a Gaussian against Kalman's formula from A's dense matrix."""
    shape, operator = CASES[case]
    d = int(np.prod(shape))
    root, mean = normal(d, d, seed=1), normal(d, seed=2)
    cov = root @ root.mT + 0.1 * torch.eye(d).double()
    law, A = GaussianMixtureLaw.gaussian(mean, cov), matrix(operator, d)
    m = len(A)
    sigma = torch.full((m,), 0.4, dtype=torch.float64)
    y, seen = normal(4, m, seed=5), torch.rand(4, m, generator=torch.Generator().manual_seed(6)) < 0.7
    looked = Seen(y, seen, Linear(sigma, operator))
    found, density = law.mean(looked), law.log_prob(looked)
    drawn = law.draws(looked, 20_000, torch.Generator().manual_seed(0))
    for i in range(4):
        o = seen[i].numpy()
        S = A[o] @ cov.numpy() @ A[o].T + 0.16 * np.eye(o.sum())
        gain = cov.numpy() @ A[o].T @ np.linalg.inv(S)
        r = y[i].numpy()[o] - (A @ mean.numpy())[o]
        expected = mean.numpy() + gain @ r
        np.testing.assert_allclose(found[i], expected, atol=1e-8)
        left = cov.numpy() - gain @ A[o] @ cov.numpy()
        np.testing.assert_allclose(drawn[:, i].mean(0), expected, atol=0.08 * np.sqrt(np.diag(cov)).max())
        np.testing.assert_allclose(np.cov(drawn[:, i].numpy().T), left, atol=0.08 * float(cov.max()))
        value = stats.multivariate_normal(np.zeros(o.sum()), S).logpdf(r) if o.any() else 0.0
        assert density[i].item() == pytest.approx(value, abs=1e-8)


def test_the_first_guess_goes_back_to_where_it_came_from():
    observation = Linear(0.1, shrink((4, 6, 3), 2))
    y = normal(5, 18, seed=1)
    guess, observed = observation.guess(y, y > 0)
    assert guess.shape == observed.shape == (5, 72)
    back = observation.apply(guess)
    torch.testing.assert_close(back[y > 0], y[y > 0])
    assert torch.equal(observation.apply(observed.double()) == 1, y > 0)


def test_a_clean_look_is_believed_and_a_noisy_one_is_not():
    law, y = gaussian_rows(4), normal(3, 4, seed=5)
    seen = torch.ones(3, 4, dtype=torch.bool)
    sure = Linear(1e-4).clean(law, y, seen)
    torch.testing.assert_close(sure.moments()[0].squeeze(-1), y, atol=1e-4, rtol=0)
    doubtful = Linear(1e4).clean(law, y, seen)
    torch.testing.assert_close(doubtful.moments()[0].squeeze(-1), law.gaussian().mean, atol=1e-4, rtol=0)


def test_blanks_are_the_likelihood_itself():
    law, y = gaussian_rows(5), normal(3, 5, seed=5)
    seen = torch.rand(3, 5, generator=torch.Generator().manual_seed(6)) < 0.6
    observation = Blanks()
    assert observation.guess(y, seen) == (y, seen)
    assert torch.equal(observation.log_prob(law, y, seen), law.log_prob(y, seen))
    assert observation.clean(law, y, seen) is law


@pytest.mark.parametrize("rate", [0.05, 0.3, 1e-9])
def test_flips_against_enumeration(rate):
    law = Product([(slice(None), Bernoulli(2 * normal(2, 3)))], 3)
    p = torch.sigmoid(law.parts[0][1].logits).numpy()
    y = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]]).double()
    seen = torch.tensor([[True, True, False], [True, True, True]])
    observation = Flips(rate)
    value = observation.log_prob(law, y, seen)
    clean = observation.clean(law, y, seen).moments()[0].squeeze(-1)
    for i in range(2):
        total, mean = 0.0, np.zeros(3)
        for x in itertools.product([0, 1], repeat=3):
            weight = np.prod(np.where(x, p[i], 1 - p[i]))
            for j in range(3):
                if seen[i, j]:
                    weight *= 1 - rate if x[j] == y[i, j] else rate
            total += weight
            mean += weight * np.array(x)
        assert value[i].item() == pytest.approx(np.log(total), abs=1e-6)
        np.testing.assert_allclose(clean[i], mean / total, atol=1e-6)


def test_flips_leave_other_kinds_exact():
    law = Product(
        [
            (torch.tensor([0]), Bernoulli(normal(2, 1))),
            (torch.tensor([1, 2]), Gaussian(normal(2, 2), torch.ones(2, 2).double())),
        ],
        3,
    )
    y = torch.tensor([[1.0, 0.3, -0.5], [0.0, 1.0, 2.0]]).double()
    seen = torch.tensor([[True, True, False], [False, True, True]])
    clean = Flips(0.1).clean(law, y, seen)
    assert clean.parts[1][1] is law.parts[1][1]
