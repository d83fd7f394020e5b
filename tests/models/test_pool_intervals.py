"""Intervals of a pool: of values that repeat, which trees revise, and of numbers that don't."""

import numpy as np
import pytest
import torch

from abduce import Auto


@pytest.fixture(scope="module")
def bent():
    """Counts that jump with other numbers: trees revise what the other members say of them."""
    rng = np.random.default_rng(0)
    others = rng.uniform(-2, 2, (1200, 4))
    mean = np.where((others[:, 0] > 0.5) & (others[:, 1] > -0.5), 9.0, np.where(others[:, 3] > 1, 4.0, 0.3))
    X = np.column_stack([others[:, :2], rng.poisson(mean), others[:, 2:]]).astype(float)
    model = Auto(random_state=0).fit(X[:900])
    return model, X[900:]


@pytest.fixture(scope="module")
def blank(bent):
    out = bent[1].copy()
    out[:, 2] = np.nan
    return out


def test_trees_revise_them(bent):
    assert bent[0].model_.forests.lean[2] > 0.2


def test_most_ends_of_intervals_are_values_that_repeat_and_they_hold_what_they_say(bent, blank):
    model, X = bent
    low, high = (side[:, 2] for side in model.fill_interval(blank, level=0.9))
    for end in (low, high):
        assert (np.abs(end - np.round(end)) < 1e-6).mean() > 0.7
    inside = ((low - 1e-9 <= X[:, 2]) & (X[:, 2] <= high + 1e-9)).mean()
    strictly = ((low + 1e-9 < X[:, 2]) & (X[:, 2] < high - 1e-9)).mean()
    assert strictly <= 0.92
    assert inside >= 0.88


def test_draws_of_a_cell_have_the_mean_that_fills_it(bent, blank):
    model, _ = bent
    seen = model._encode(blank)
    drawn = model.model_.answer(seen).draws(400, torch.Generator().manual_seed(0), "cells")[..., 2]
    said = model.model_.answer(seen).mean()[:, 2]
    assert float((drawn.mean(0) - said).abs().max()) < 0.15 * float(drawn.std())


def test_a_few_draws_are_some_of_many(bent, blank):
    seen = bent[0]._encode(blank)

    def few(n: int) -> torch.Tensor:
        return bent[0].model_.answer(seen).draws(n, torch.Generator().manual_seed(0), "cells")

    assert torch.equal(few(3), few(20)[:3])
    assert float(few(2).std(0)[:, 2].mean()) > 0.2


def test_numbers_that_do_not_repeat_hold_what_they_say():
    """Deviations of hidden cells set the spread: 100 draws and 1,000 give the same intervals."""
    rng = np.random.default_rng(1)
    held = []
    for _ in range(2):
        X = rng.standard_t(3, (700, 4)) @ rng.normal(size=(4, 4))
        X[rng.random(X.shape) < 0.3] = np.nan
        train, test = X[:500], X[500:]
        model = Auto(random_state=0).fit(train)
        hidden = np.isfinite(test) & (rng.random(test.shape) < 0.3)
        low, high = model.fill_interval(np.where(hidden, np.nan, test), level=0.9)
        held.append(((low <= test) & (test <= high))[hidden])
    assert 0.86 <= np.concatenate(held).mean() <= 0.94
