"""Base measures against SciPy, and their conditionals against regression by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from abduce.distributions.bases import BoxBase, NormalBase, RatesBase

MEAN = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
A = torch.tensor([[1.0, 0.0, 0.0], [0.7, 0.8, 0.0], [-0.4, 0.3, 0.5]], dtype=torch.float64)
COVARIANCE = A @ A.T


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal() -> NormalBase:
    return NormalBase(MEAN, COVARIANCE)


def test_normal_is_scipys():
    x = torch.randn(4, 5, 3, generator=generator(), dtype=torch.float64)
    expected = stats.multivariate_normal(MEAN.numpy(), COVARIANCE.numpy()).logpdf(x.numpy())
    np.testing.assert_allclose(normal().log_prob(x), expected)
    draws = normal().sample(200_000, generator())
    np.testing.assert_allclose(draws.mean(0), MEAN, atol=0.01)
    np.testing.assert_allclose(np.cov(draws.numpy().T), COVARIANCE, atol=0.02)
    torch.testing.assert_close(normal().scale, COVARIANCE.diagonal().sqrt())


def test_normal_given_some_cells():
    x = torch.tensor(
        [[1.0, 0.0, 0.0], [0.3, 9.0, -1.0], [0.0, 0.0, 0.0], [1.0, 2.0, 3.0]], dtype=torch.float64
    )
    seen = torch.tensor([[True, False, False], [True, False, True], [False] * 3, [True] * 3])
    given = normal().condition(x, seen)
    draws = given.draw(100_000, generator())
    assert torch.equal(draws[:, seen], x[seen].expand(100_000, -1))
    for r in range(4):
        o, m = seen[r].nonzero().squeeze(1), (~seen[r]).nonzero().squeeze(1)
        if len(o):
            law = stats.multivariate_normal(MEAN[o].numpy(), COVARIANCE[o][:, o].numpy())
            assert given.log_marginal[r].item() == pytest.approx(law.logpdf(x[r, o].numpy()))
            gain = COVARIANCE[m][:, o] @ torch.linalg.inv(COVARIANCE[o][:, o])
            mean = MEAN[m] + gain @ (x[r, o] - MEAN[o])
            spread = COVARIANCE[m][:, m] - gain @ COVARIANCE[o][:, m]
        else:
            assert given.log_marginal[r].item() == 0
            mean, spread = MEAN, COVARIANCE
        if len(m):
            np.testing.assert_allclose(draws[:, r, m].mean(0), mean, atol=0.02)
            np.testing.assert_allclose(torch.cov(draws[:, r, m].T).view(len(m), -1), spread, atol=0.02)


def test_a_fit_holds_the_datas_moments():
    x = normal().sample(5000, generator(1))
    fitted = NormalBase.fit(x, widen=2.0)
    np.testing.assert_allclose(fitted.mean, x.mean(0))
    np.testing.assert_allclose(fitted.covariance, 4 * np.cov(x.numpy().T, bias=True), atol=0.1)
    constant = torch.cat([x, torch.zeros(5000, 1, dtype=torch.float64)], 1)
    assert NormalBase.fit(constant).scale[-1] > 0.01  # a constant cell does not make it singular


def test_rates():
    base = RatesBase.fit(torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 1.0]], dtype=torch.float64), pseudo=1.0)
    p = torch.tensor([3.5 / 4, 1.5 / 4], dtype=torch.float64)
    states = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    expected = (states * p.log() + (1 - states) * (1 - p).log()).sum(1)
    torch.testing.assert_close(base.log_prob(states), expected)
    torch.testing.assert_close(base.sample(100_000, generator()).mean(0), p, atol=0.01, rtol=0)
    seen = torch.tensor([[True, False]] * 4)
    given = base.condition(states, seen)
    torch.testing.assert_close(given.log_marginal, torch.where(states[:, 0] == 1, p[0], 1 - p[0]).log())
    draws = given.draw(50_000, generator())
    assert (draws[..., 0] == states[:, 0]).all()
    torch.testing.assert_close(draws[..., 1].mean(0), p[1].expand(4), atol=0.01, rtol=0)


def test_boxes():
    base = BoxBase(torch.tensor([0.0, -1.0]), torch.tensor([2.0, 1.0]))
    x = torch.tensor([[1.0, 0.0], [3.0, 0.0]])
    torch.testing.assert_close(base.log_prob(x), torch.tensor([-np.log(4.0), -np.inf], dtype=torch.float32))
    draws = base.sample(10_000, generator())
    assert ((draws > base.low) & (draws < base.high)).all()
    torch.testing.assert_close(draws.std(0), base.scale, atol=0.02, rtol=0)
    given = base.condition(x, torch.tensor([[True, False], [True, False]]))
    torch.testing.assert_close(given.log_marginal, torch.tensor([-np.log(2.0), -np.inf], dtype=torch.float32))
    with pytest.raises(ValueError, match="low must be below high"):
        BoxBase(torch.zeros(1), torch.zeros(1))
