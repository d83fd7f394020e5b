"""Observations against dense Gaussian conditioning and enumeration."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy import stats

from abduce.distributions.continuous import Gaussian
from abduce.distributions.discrete import Bernoulli
from abduce.distributions.likelihoods import Product
from abduce.tasks.observation import Blanks, Flips, Linear


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian_rows(d: int, rank: int, batch: int = 3) -> Product:
    factor = normal(batch, d, rank, seed=1) if rank else None
    law = Gaussian(normal(batch, d), 0.3 + normal(batch, d, seed=2).square(), factor)
    return Product([(slice(None), law)], d)


def dense(law: Product, i: int) -> tuple[np.ndarray, np.ndarray]:
    g = law.gaussian()
    cov = np.diag(g.scale.expand_as(g.mean)[i].numpy() ** 2)
    return g.mean[i].numpy(), cov if g.factor is None else cov + (g.factor[i] @ g.factor[i].T).numpy()


def averaging(shape: tuple[int, ...], factor: int) -> np.ndarray:
    """A of y = A x, by pooling one unit vector at a time."""
    h, w, c = (*shape, 1)[:3]
    eye = np.eye(h * w * c).reshape(-1, h // factor, factor, w // factor, factor, c)
    return eye.mean((2, 4)).reshape(h * w * c, -1).T


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize(("shape", "factor"), [((6,), 1), ((4, 4), 2), ((2, 4, 2), 2), ((4, 2), 1)])
@pytest.mark.parametrize("noise", ["one", "each"])
def test_linear_observation_against_dense_conditioning(rank, shape, factor, noise):
    d = int(np.prod(shape))
    A = np.eye(d) if factor == 1 else averaging(shape, factor)
    m = len(A)
    sigma = (
        0.5 if noise == "one" else 0.2 + torch.rand(m, generator=torch.Generator().manual_seed(4)).double()
    )
    law, observation = gaussian_rows(d, rank), Linear(sigma, factor, shape)
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
        g = clean.gaussian()
        np.testing.assert_allclose(g.mean[i], mean + gain @ r, atol=1e-8)
        if factor == 1:  # pooled cells are negatively tied given their block's mean, which no factor says
            np.testing.assert_allclose(dense(clean, i)[1], cov - gain @ A[o] @ cov, atol=1e-8)
        else:
            np.testing.assert_allclose(g.variance()[i], np.diag(cov - gain @ A[o] @ cov), atol=1e-8)


def test_pooling_and_spreading_are_transposes():
    observation = Linear(0.1, 2, (4, 6, 3))
    x, y = normal(5, 72), normal(5, 18, seed=1)
    a = (observation.apply(x) * y).sum(-1)
    b = (x * observation._spread(y)).sum(-1) / 4
    torch.testing.assert_close(a, b)
    torch.testing.assert_close(observation.apply(observation._spread(y)), y)
    guess, observed = observation.guess(y, y > 0)
    assert guess.shape == observed.shape == (5, 72)
    assert torch.equal(observation.apply(observed.double()) == 1, y > 0)


def test_a_clean_look_is_believed_and_a_noisy_one_is_not():
    law, y = gaussian_rows(4, 0), normal(3, 4, seed=5)
    seen = torch.ones(3, 4, dtype=torch.bool)
    sure = Linear(1e-4).clean(law, y, seen)
    torch.testing.assert_close(sure.gaussian().mean, y, atol=1e-4, rtol=0)
    doubtful = Linear(1e4).clean(law, y, seen)
    torch.testing.assert_close(doubtful.gaussian().mean, law.gaussian().mean, atol=1e-4, rtol=0)
    torch.testing.assert_close(doubtful.gaussian().scale, law.gaussian().scale, atol=1e-4, rtol=0)


def test_blanks_are_the_likelihood_itself():
    law, y = gaussian_rows(5, 2), normal(3, 5, seed=5)
    seen = torch.rand(3, 5, generator=torch.Generator().manual_seed(6)) < 0.6
    observation = Blanks()
    assert observation.guess(y, seen) == (y, seen)
    assert torch.equal(observation.log_prob(law, y, seen), law.log_prob(y, seen))
    torch.testing.assert_close(
        observation.clean(law, y, seen).gaussian().mean, law.condition(y, seen).gaussian().mean
    )


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
            (torch.tensor([1, 2]), Gaussian(normal(2, 2), torch.ones(2, 2).double(), normal(2, 2, 1))),
        ],
        3,
    )
    y = torch.tensor([[1.0, 0.3, -0.5], [0.0, 1.0, 2.0]]).double()
    seen = torch.tensor([[True, True, False], [False, True, True]])
    clean = Flips(0.1).clean(law, y, seen)
    expected = law.parts[1][1].condition(y[:, 1:], seen[:, 1:])
    torch.testing.assert_close(clean.parts[1][1].mean, expected.mean)
