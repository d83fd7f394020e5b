"""What forests are worth beside a model: weights in closed form, and tables on which trees do and don't pay."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from abduce import Auto, load
from abduce.fit.forests import DOUBT, PULL, Revisions, affordable_rows, fit_forests, lean


def revisions(cell, model, forest, truth):
    return Revisions(np.asarray(cell), *(np.asarray(v, float) for v in (model, forest, truth)))


def test_a_forest_that_is_right_gets_all_of_a_cell_and_one_that_is_noise_nothing():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=8000)
    cell = np.repeat([0, 1], 4000)
    model = truth + rng.normal(size=8000)
    forest = np.where(cell == 0, truth, model + rng.normal(size=8000))
    weights = lean(revisions(cell, model, forest, truth), (0, 0, 0))
    assert weights[0] > 0.95
    assert weights[1] < 0.1
    assert weights[2] == 0.0  # nothing hidden


def test_weights_of_numbers_minimise_squared_errors_with_their_pull():
    rng = np.random.default_rng(1)
    truth, model, forest = rng.normal(size=(3, 500))
    (found,) = lean(revisions(np.zeros(500, int), model, forest, truth), (0,))
    off, left = forest - model, truth - model
    usual = np.mean(off**2)
    every = (off @ left) / (off @ off + DOUBT * usual)
    grid = np.linspace(0, 1, 20001)
    cost = ((left[:, None] - off[:, None] * grid) ** 2).sum(0) + PULL * usual * (grid - every) ** 2
    assert found == pytest.approx(grid[cost.argmin()], abs=1e-4)


def test_weights_of_classes_go_by_log_loss():
    rng = np.random.default_rng(2)
    sure, unsure = np.full(4000, 0.9), rng.uniform(0.2, 0.4, 4000)
    gone = np.full(4000, np.nan)
    good, bad = (lean(revisions(np.zeros(4000, int), *pair, gone), (3,))[0] for pair in
                 ((unsure, sure), (sure, unsure)))  # fmt: skip
    assert good > 0.95
    assert bad == 0.0


def test_wide_tables_take_fewer_rows():
    assert affordable_rows(5000, (0,) * 20) == 5000
    assert 50 < affordable_rows(5000, (0,) * 200) < 500


def test_what_cannot_be_learnt_is_left_out():
    x = torch.randn(100, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    seen = torch.ones(100, 3).bool()
    seen[20:, 0] = False  # too few
    x[:, 1] = 1.0  # always the same
    zero, one = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    assert fit_forests((0, 0, 0), x, seen, zero, one, [0, 1, 2], 0).cells == [2]
    assert fit_forests((0, 0, 0), x, seen, zero, one, [0, 1], 0) is None


@pytest.fixture(scope="module")
def terraced():
    """A table whose last column is a terrace over two of nine others, a height for each of 16 squares."""
    rng = np.random.default_rng(3)
    X = rng.uniform(-2, 2, size=(900, 10))
    height = rng.normal(0, 3, size=(4, 4))
    X[:, 9] = height[tuple(np.floor(X[:, :2] + 2).astype(int).T)] + 0.2 * rng.normal(size=900)
    hidden = rng.random(900) < 0.2
    Y = X.copy()
    Y[hidden, 9] = np.nan
    return X, Y, hidden


@pytest.fixture(scope="module")
def revising(terraced):
    return Auto(random_state=0).fit(terraced[1])


def test_columns_that_split_are_revised(terraced, revising):
    X, Y, hidden = terraced
    with_trees, without = revising, Auto(trees=False, random_state=0).fit(Y)
    assert revising.revised().iloc[9] > 0.5
    assert not without.revised().any()

    def error(model):
        return np.sqrt(np.mean((model.fill(Y) - X)[hidden, 9] ** 2))

    assert error(with_trees) < 0.75 * error(without)
    ends = [np.subtract(*model.fill_interval(Y)[::-1])[hidden, 9].mean() for model in (with_trees, without)]
    assert ends[0] < ends[1]
    low, high = with_trees.fill_interval(Y, level=0.9)
    assert ((low <= X) & (high >= X))[hidden, 9].mean() > 0.85
    seen = ~np.isnan(Y)
    np.testing.assert_array_equal(with_trees.fill(Y)[seen], Y[seen])
    # densities are those of the members
    np.testing.assert_array_equal(with_trees.score_samples(Y[:50]), without.score_samples(Y[:50]))


def test_draws_move_along_with_the_means(terraced, revising):
    _, Y, hidden = terraced
    model = revising
    rows = Y[hidden][:40]
    drawn = model.fill(rows, draws=400, random_state=1)
    off = np.mean(drawn, 0)[:, 9] - model.fill(rows)[:, 9]
    assert np.abs(off).mean() < 0.2 * np.std(drawn, 0)[:, 9].mean()


def test_it_is_kept_with_the_model(terraced, revising, tmp_path):
    Y, model = terraced[1], revising
    model.save(tmp_path / "model")
    again = load(tmp_path / "model")
    np.testing.assert_array_equal(again.fill(Y[:60]), model.fill(Y[:60]))
    np.testing.assert_array_equal(
        again.fill(Y[:20], draws=3, random_state=2), model.fill(Y[:20], draws=3, random_state=2)
    )


def test_straight_tables_are_left_to_the_members():
    rng = np.random.default_rng(4)
    X = rng.normal(size=(800, 3)) @ rng.normal(size=(3, 6)) + 0.3 * rng.normal(size=(800, 6))
    X[rng.random(X.shape) < 0.2] = np.nan
    model = Auto(random_state=0).fit(X)
    assert model.revised().max() < 0.35


@pytest.mark.parametrize("seed", range(4))
def test_small_tables_hide_other_cells_in_each_turn(seed):
    """What the first turn hid nothing of may lean all the same; too few rows have no trees."""
    rng = np.random.default_rng(seed)
    X = rng.uniform(-2, 2, size=(70, 3))
    X[:, 2] = np.sign(X[:, 0]) * 3 + 0.1 * rng.normal(size=70)
    X[rng.random(X.shape) < 0.1] = np.nan
    X[31:, 1] = np.nan  # seldom seen, so seldom hidden
    model = Auto(components=(1,), random_state=seed).fit(X)
    assert np.isfinite(model.fill(X)).all()
    assert np.isfinite(np.asarray(model.fill(X, draws=2, random_state=0))).all()
