"""Budgets: plans by a clock that tests wind on themselves, and fits that have too little or plenty of time."""

from __future__ import annotations

import numpy as np
import pytest

from abduce import Auto
from abduce.data.schema import Schema
from abduce.fit.budget import TRIAL_ROWS, Clock, FitPlan, fit_within
from abduce.fit.pool import fit_pool
from abduce.fit.table_members import table_families
from abduce.models.pool import Pool


class Wound:
    """A time that passes when it is told to."""

    def __init__(self):
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def planned(budget: float, rows: int, per_row: float = 0.01) -> tuple[list[FitPlan], FitPlan, float, Pool]:
    """All plans, the one that was kept, how long it took, and its pool, where rows take so many seconds each."""
    time, plans = Wound(), []
    clock = Clock(budget, time)
    X = np.random.default_rng(0).normal(size=(60, 2))
    schema = Schema.infer(X)
    values, observed = schema.encode(X)

    def fit(plan: FitPlan) -> Pool:
        plans.append(plan)
        time.seconds += plan.rows * per_row * (1.0 if plan.every else 0.05)
        return fit_pool(schema, values, observed, table_families(schema, values, observed, (1,), 0, False), 0)

    pool, plan = fit_within(clock, rows, lambda n: 1, fit)
    return plans, plan, clock.passed, pool


@pytest.mark.parametrize("budget", [0.01, 3.0, 10.0, 30.0, 100.0, 1000.0])
def test_a_budget_is_kept_where_fits_take_what_they_did(budget):
    plans, plan, seconds, _ = planned(budget, 20_000)
    least = 0.05 * 0.01 * plans[0].rows
    assert plan == plans[-1]
    assert seconds <= max(1.0 * budget, least + 1e-9)


def test_more_seconds_buy_more_rows():
    rows = [planned(budget, 20_000)[1].rows for budget in (10.0, 50.0, 200.0, 1000.0)]
    assert rows[0] == TRIAL_ROWS
    assert rows == sorted(set(rows))
    assert rows[-1] == 20_000


def test_too_few_seconds_leave_one_gaussian():
    plans, plan, _, _ = planned(1.0, 20_000)
    assert plans == [plan]
    assert not plan.every


def table(n: int = 400) -> np.ndarray:
    rng = np.random.default_rng(1)
    z = rng.normal(size=(n, 1))
    X = np.concatenate([z, np.sin(2 * z), z**2, 0.5 * z], 1) + 0.1 * rng.normal(size=(n, 4))
    return np.where(rng.random(X.shape) < 0.2, np.nan, X)


def test_a_tiny_budget_gives_the_gaussian():
    X = table()
    model = Auto(random_state=0, budget=1e-3).fit(X)
    members = model.members()
    assert members.index.tolist() == ["Gaussian of numbers", "all others"]
    assert members["left_out"].tolist() == ["", "the budget, 0.001 s"]
    assert members["weight"].tolist() == [1.0, 0.0]
    filled = model.fill(X)
    assert np.isfinite(filled).all()
    assert (filled[~np.isnan(X)] == X[~np.isnan(X)]).all()
    assert model.plan_["members"] == "one Gaussian"


def test_with_time_for_all_a_budget_changes_nothing():
    X = table()
    plain = Auto(random_state=0).fit(X)
    given = Auto(random_state=0, budget=1e5).fit(X)
    assert given.plan_["skipped"] == []
    assert given.plan_["rows"] == len(X)
    assert np.array_equal(plain.fill(X), given.fill(X))


@pytest.mark.parametrize("budget", [0, -1, "x", True, float("nan")])
def test_a_bad_budget_is_refused(budget):
    with pytest.raises(ValueError, match=r"budget must be .*seconds, or None, got"):
        Auto(budget=budget).fit(table(20))
