"""Draws tilted to another mean: their values, their weights against a root finder, means out of reach."""

from typing import Any

import numpy as np
import torch
from scipy.optimize import brentq

from abduce.models.tilting import tilted


def test_values_are_those_that_were_drawn_and_the_mean_is_the_one_asked_for():
    g = torch.Generator().manual_seed(0)
    draws = torch.poisson(torch.full((2000, 5), 3.0, dtype=torch.float64), generator=g)
    mean = torch.tensor([1.0, 2.0, 3.0, 4.0, 6.0]).double()
    out = tilted(draws, mean)
    for j in range(5):
        assert set(out[:, j].tolist()) <= set(draws[:, j].tolist())
    torch.testing.assert_close(out.mean(0), mean, atol=0.05, rtol=0)


def test_shares_of_values_are_exponential_weights_with_that_mean():
    x = np.repeat([0.0, 1.0, 5.0], [600, 300, 100])
    target = 1.6
    lam: Any = brentq(lambda s: np.average(x, weights=np.exp(s * x)) - target, -3, 3)
    weights = np.exp(lam * x) / np.exp(lam * x).sum()
    out = tilted(torch.from_numpy(x[:, None]), torch.tensor([target]).double()).numpy().ravel()
    for value in (0, 1, 5):
        assert abs(np.mean(out == value) - weights[x == value].sum()) < 0.003


def test_of_a_poisson_it_is_the_poisson_of_that_mean():
    g = torch.Generator().manual_seed(1)
    draws = torch.poisson(torch.full((100_000, 1), 4.0, dtype=torch.float64), generator=g)
    out = tilted(draws, torch.tensor([2.5]).double())
    assert abs(float(out.var()) - 2.5) < 0.06
    assert abs(float((out == 0).double().mean()) - np.exp(-2.5)) < 0.005


def test_a_mean_beyond_the_draws_is_brought_inside():
    draws = torch.randn(500, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    out = tilted(draws, torch.tensor([-100.0, 0.2, 100.0]).double())
    assert (out.min(0).values >= draws.min(0).values).all()
    assert (out.max(0).values <= draws.max(0).values).all()
    assert out[:, 0].mean() < -1.5
    assert out[:, 2].mean() > 1.5


def test_cells_do_not_depend_on_those_beside_them():
    g = torch.Generator().manual_seed(4)
    draws, mean = torch.randn(1000, 700, generator=g).double(), 0.5 * torch.randn(700, generator=g).double()
    together = tilted(draws, mean)
    torch.testing.assert_close(together.mean(0), mean, atol=0.08, rtol=0)
    assert torch.equal(tilted(draws[:, 300:301], mean[300:301]), together[:, 300:301])


def test_draws_that_are_all_alike_or_one_stay_as_they_are():
    alike = torch.full((10, 2), 7.0).double()
    assert torch.equal(tilted(alike, torch.tensor([1.0, 7.0]).double()), alike)
    one = torch.randn(1, 4, generator=torch.Generator().manual_seed(3)).double()
    assert torch.equal(tilted(one, torch.zeros(4).double()), one)
    assert tilted(torch.zeros(5, 0).double(), torch.zeros(0).double()).shape == (5, 0)
