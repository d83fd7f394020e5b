"""The demonstration's series: blanks filled and the future told, beside straight lines and the last week."""

from __future__ import annotations

import numpy as np
import pandas as pd

from abduce.estimators.series import Series
from abduce.showcase import plots
from abduce.showcase.demo.questions import Finding, Findings
from abduce.showcase.report import Picture

WEEKS, AHEAD = 30, 28
GAP, BLANKED = 10, 0.08  # days of one long gap, and share of the others that are blank
LEVEL = 0.9
SERIES_TASKS = ("fill a series", "forecast four weeks")


class Sales:
    """Two years' end of a shop, made up: a level that wanders, a week, noise; ``seen`` has blanks, ``after`` comes next."""

    def __init__(self, seed: int):
        rng = np.random.default_rng(seed)
        days = pd.date_range("2024-01-01", periods=7 * WEEKS + AHEAD, freq="D", name="day")
        week = np.array([0.0, -4.0, -2.0, 1.0, 9.0, 16.0, -12.0])[days.day_of_week]
        values = 100 + np.cumsum(rng.normal(0, 1.2, len(days))) + week + rng.normal(0, 3.0, len(days))
        self.before, self.after = values[:-AHEAD, None], values[-AHEAD:, None]
        blank = rng.random(len(self.before)) < BLANKED
        start = len(blank) - 50
        blank[start : start + GAP] = True
        blank[[0, -1]] = False
        self.blank, self.last = blank, str(days[-AHEAD - 1])[:10]
        cells = np.where(blank[:, None], np.nan, self.before)
        self.seen = pd.DataFrame(cells, index=days[:-AHEAD], columns=["sales"])


def infer_times(seed: int) -> Findings:
    """Fill a series' blanks and go on, from one fit."""
    sales = Sales(seed)
    model = Series(horizon=AHEAD, random_state=seed).fit(sales.seen)
    filled, ahead = (np.asarray(said) for said in (model.fill(sales.seen), model.forecast(AHEAD)))
    low, high = (np.asarray(end) for end in model.forecast_interval(AHEAD, level=LEVEL))

    def error(said: np.ndarray, truth: np.ndarray, where: slice | np.ndarray = slice(None)) -> float:
        return float(np.abs(said[where] - truth[where]).mean())

    completed = sales.seen.interpolate().to_numpy()
    last_week = np.tile(completed[-7:], (AHEAD // 7, 1))
    last_value = np.repeat(completed[-1:], AHEAD, 0)
    gaps, future = SERIES_TASKS
    findings = [
        Finding(
            gaps,
            "mean error",
            error(filled, sales.before, sales.blank),
            {"straight lines": error(completed, sales.before, sales.blank)},
            "low",
        ),
        Finding(
            future,
            "mean error",
            error(ahead, sales.after),
            {"last week": error(last_week, sales.after), "last value": error(last_value, sales.after)},
            "low",
        ),
    ]
    picture = Picture(
        "series",
        "A series with blanks, and what comes next",
        f"Sales of a made-up shop: what was seen, the blanks as they were filled, and {AHEAD} days ahead with "
        f"{LEVEL:.0%} intervals, all of one fit. A future is a row of blanks at the end.",
        lambda: plots.fan(
            sales.seen.to_numpy(),
            ahead,
            low,
            high,
            ["sales"],
            LEVEL,
            f", {sales.last}",
            filled=filled,
        ),
    )
    return findings, [picture]
