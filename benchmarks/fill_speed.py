"""Seconds to fit and fill: 5,000 x 20 beside chained trees, 100,000 x 50 alone, and one row.

python benchmarks/fill_speed.py [--quick]
"""

from __future__ import annotations

import time
import warnings

import numpy as np
import torch
from common import Report, arguments, parse, say, timed
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.experimental import enable_iterative_imputer  # noqa: F401  (makes the next import work)
from sklearn.impute import IterativeImputer

from abduce import Auto

SHARE = 0.5


def curved(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """Columns that are smooth functions of five hidden causes, with a tenth of noise."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(rows, 5))
    hidden = np.tanh(z @ rng.normal(size=(5, 30)) + rng.normal(size=30))
    return hidden @ rng.normal(size=(30, columns)) / 5 + 0.3 * rng.normal(size=(rows, columns))


def measure(name: str, fill, X: np.ndarray, truth: np.ndarray) -> list:
    filled, seconds = timed(fill, X)
    blank = np.isnan(X)
    rmse = float(np.sqrt(np.mean((((filled - truth) / truth.std(0))[blank]) ** 2)))
    say(f"{name}: {seconds:.1f} s, RMSE {rmse:.3f}")
    return [name, f"{len(X):,} x {X.shape[1]}", f"{seconds:.1f}", f"{rmse:.3f}"]


def chained(X: np.ndarray, trees: int, rounds: int) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = ExtraTreesRegressor(trees, random_state=0, n_jobs=torch.get_num_threads())
        return np.asarray(IterativeImputer(model, max_iter=rounds, random_state=0).fit_transform(X))


def main() -> None:
    parser = arguments(__doc__, seeds=1)
    args = parse(parser)
    report = Report("fill_speed", "Fill: seconds", args)
    rows = []
    for n, d in ((500, 8), (2000, 10)) if args.quick else ((5000, 20), (100_000, 50)):
        truth = curved(n, d)
        X = np.where(np.random.default_rng(1).random(truth.shape) < SHARE, np.nan, truth)
        rows.append(
            measure("abduce Auto, fit and fill", lambda X: Auto(random_state=0).fit(X).fill(X), X, truth)
        )
        if n <= 5000:
            rows.append(
                measure(
                    "IterativeImputer, ExtraTrees-100, ten rounds", lambda X: chained(X, 100, 10), X, truth
                )
            )
            model = Auto(random_state=0).fit(X)
            one = X[:1]
            times = []
            for _ in range(20):
                start = time.perf_counter()
                model.fill(one)
                times.append(time.perf_counter() - start)
            rows.append(
                ["abduce Auto, fill one row, median of 20", f"1 x {d}", f"{np.median(times):.4f}", "–"]
            )
    report.table("Half of the cells blank", ["", "table", "seconds", "normalised RMSE"], rows)
    report.keep("speed", rows)
    report.save()


if __name__ == "__main__":
    main()
