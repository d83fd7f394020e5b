"""Fit a pool within about so many seconds: fits of more and more rows, each planned by what the one before took.

    seconds(rows) = seconds(before) (rows / before) (2 + turns(rows)) / (2 + turns(before))

First one Gaussian of a few rows, which is always there to be had; then all members and trees of a few rows; then of as many as
the time left allows.  A fit that comes late all the same does without what is left to do: more hidden cells to weigh members
by, the last fit to all cells, the trees.  So what is fitted hangs on the clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from abduce.models.pool import Pool

GAUSSIAN_ROWS = 1000  # of the first fit
TRIAL_ROWS = 500  # of the first fit of all members
DEARER = 8.0  # times what the first fit took: what that of all members may take
SAFE = 0.7  # share of the time left that a plan may take
WORTH = 1.5  # times the rows of the fit before: fewer are not worth another fit
LATE = 0.9  # share of the budget after which the rest is left out
AFTER = 0.1  # share of the budget that is kept for what follows the pool


class FitPlan(NamedTuple):
    """What to fit: ``rows`` of the table, whether ``every`` member or one Gaussian alone, and how often cells are hidden, at
    most."""

    rows: int
    every: bool
    turns: int | None = None


class Clock:
    """Seconds of a budget, counted from now; none without one."""

    def __init__(self, budget: float | None, now: Callable[[], float] = time.perf_counter):
        self.budget, self.now = budget, now
        self.start = now()
        self.skipped: list[str] = []

    @property
    def passed(self) -> float:
        """Seconds since the start."""
        return self.now() - self.start

    def late(self, what: str) -> bool:
        """Whether what is to be done next is to be left out, which is then noted."""
        if self.budget is None or self.passed <= LATE * self.budget:
            return False
        self.skipped.append(what)
        return True


def fit_within(
    clock: Clock, rows: int, turns: Callable[[int], int], fit: Callable[[FitPlan], Pool]
) -> tuple[Pool, FitPlan]:
    """The pool of the largest plan that there is time for, of at most so many ``rows``; ``turns`` (of a number of rows) is how
    often a fit hides cells."""
    assert clock.budget is not None
    most = (1 - AFTER) * clock.budget
    plan = FitPlan(min(rows, GAUSSIAN_ROWS), False, 1)
    before = clock.passed
    pool = fit(plan)
    took = clock.passed - before
    if clock.passed + DEARER * took > most:
        return pool, plan
    plan = FitPlan(min(rows, TRIAL_ROWS), True, 1)
    while True:
        before = clock.passed
        pool = fit(plan)
        took = clock.passed - before
        turned = min(plan.turns or turns(plan.rows), turns(plan.rows))
        left = SAFE * max(0.0, most - clock.passed)
        per_row = took / (plan.rows * (2 + turned))

        def seconds(n: int, per_row: float = per_row) -> float:
            return per_row * n * (2 + turns(n))

        # of as many rows as there is time for; of no more where more cells are to be hidden only
        sizes = [n for n in _sizes(plan.rows, rows) if seconds(n) <= left]
        more = sizes and (sizes[-1] >= min(rows, WORTH * plan.rows))
        known = sizes and (sizes[-1] > plan.rows or turns(plan.rows) > turned)
        if not more or not known or clock.skipped:
            return pool, plan
        plan = FitPlan(sizes[-1], True)


def _sizes(least: int, most: int) -> list[int]:
    """Numbers of rows that may be planned, each a twentieth more than the one before."""
    out = [least]
    while out[-1] < most:
        out.append(min(most, int(1.05 * out[-1]) + 1))
    return out
