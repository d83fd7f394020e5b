"""Coverage of the 95 % interval of a regression coefficient where cells are blank: which fills may be analysed, and how.

python benchmarks/multiple_imputation.py [--seeds 200] [--draws 20] [--workers 1]

    y = 1 + 1·x1 + 1·x2 + e,    x1 = ½ x2 + √¾ u,    x2, u ~ N(0, 1),   e ~ N(0, 1.5²)

A seed is a data set.  x2 is always observed, and about half of the rows are complete.

    MCAR   y and x1 blank with probability 0.3 each, whatever the values
    MAR    y blank with probability σ(x2 − 1.1); of the other rows, x1 blank with probability σ(0.8 (y − 1) − 0.8)

The model is one Gaussian of the three columns, ``GaussianMixture(components=1)`` fitted by EM, of which the regression is a
part: imputer and analysis agree.  Each completed table is analysed by least squares, and the draws are pooled by Rubin's
rules with n − 3 degrees of freedom of the whole data.
"""

from __future__ import annotations

import os
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import numpy as np
from common import Report, arguments, parse, say
from scipy import stats
from scipy.special import expit

from abduce import GaussianMixture, pool

SLOPE = 1.0
SIZES = (50, 100, 500)
METHODS = (
    "no blanks (the truth)",
    "complete rows",
    "mean of the column",
    "one fill, the best",
    "draws, parameters fixed",
    "draws, parameters bootstrap",
)


def whole_table(n: int, rng: np.random.Generator) -> np.ndarray:
    """Columns y, x1, x2."""
    x2 = rng.normal(size=n)
    x1 = 0.5 * x2 + np.sqrt(0.75) * rng.normal(size=n)
    return np.column_stack([1 + SLOPE * x1 + x2 + 1.5 * rng.normal(size=n), x1, x2])


def with_blanks(table: np.ndarray, mechanism: str, rng: np.random.Generator) -> np.ndarray:
    y, _, x2 = table.T
    u = rng.random((len(table), 2))
    if mechanism == "MCAR":
        no_y, no_x1 = (u < 0.3).T
    else:
        no_y = u[:, 0] < expit(x2 - 1.1)
        no_x1 = ~no_y & (u[:, 1] < expit(0.8 * (y - 1) - 0.8))
    out = table.copy()
    out[no_y, 0] = np.nan
    out[no_x1, 1] = np.nan
    return out


def slope(table: np.ndarray) -> tuple[float, float]:
    """Least squares of y on x1 and x2: the coefficient of x1 and its squared standard error."""
    y, design = table[:, 0], np.column_stack([np.ones(len(table)), table[:, 1:]])
    inverse = np.linalg.inv(design.T @ design)
    b = inverse @ design.T @ y
    noise = np.square(y - design @ b).sum() / (len(y) - 3)
    return b[1], noise * inverse[1, 1]


def interval(table: np.ndarray) -> tuple[float, float, float]:
    b, variance = slope(table)
    half = stats.t.ppf(0.975, len(table) - 3) * np.sqrt(variance)
    return b, b - half, b + half


def repetition(n: int, mechanism: str, draws: int, seed: int) -> list[tuple[float, float, float]]:
    """Estimate and interval by each method, on one data set."""
    rng = np.random.default_rng([seed, n, mechanism == "MAR"])
    whole = whole_table(n, rng)
    X = with_blanks(whole, mechanism, rng)
    model = GaussianMixture(components=1, reg_covar=0.0, kinds="real", random_state=seed).fit(X)
    found = [
        interval(whole),
        interval(X[~np.isnan(X).any(1)]),
        interval(np.where(np.isnan(X), np.nanmean(X, 0), X)),
        interval(model.fill(X)),
    ]
    for parameters in ("fixed", "bootstrap"):
        copies = model.fill(X, draws=draws, random_state=seed, parameters=parameters)
        b, variance = zip(*map(slope, copies), strict=True)
        pooled = pool(b, variance, df=n - 3)
        found.append((pooled.estimate, pooled.low, pooled.high))
    return found


def one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def main() -> None:
    parser = arguments(__doc__, seeds=200)
    parser.add_argument("--draws", type=int, default=20, help="completed copies (default %(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="processes (default %(default)s)")
    args = parse(parser)
    os.environ["OMP_NUM_THREADS"] = "1"
    report = Report("multiple_imputation", "Multiple imputation: coverage of 95 % intervals", args)
    rows = defaultdict(list)
    settings = [(n, mechanism) for mechanism in ("MAR", "MCAR") for n in SIZES]
    with ProcessPoolExecutor(args.workers, get_context("spawn"), one_thread) as workers:
        for n, mechanism in settings[:1] if args.quick else settings:
            run = partial(repetition, n, mechanism, args.draws)
            found = np.array(list(workers.map(run, range(args.seeds), chunksize=2)))  # (seeds, methods, 3)
            estimate, low, high = np.moveaxis(found, 2, 0)
            covered = ((low <= SLOPE) & (high >= SLOPE)).mean(0)
            say(n, mechanism, covered)
            rows["coverage"].append([f"{100 * c:.1f}" for c in covered])
            rows["bias"].append([f"{b:+.3f}" for b in (estimate - SLOPE).mean(0)])
            rows["width"].append([f"{w:.3f}" for w in (high - low).mean(0)])
            report.keep(f"{mechanism} | {n}", dict(zip(METHODS, found.swapaxes(0, 1).tolist(), strict=True)))
    report.remark((__doc__ or "").split("\n\n", 2)[2])
    header = ["", *(f"{mechanism}, n = {n}" for n, mechanism in settings[: len(rows["bias"])])]
    error = 100 * np.sqrt(0.95 * 0.05 / args.seeds)
    titles = {
        "coverage": f"Coverage of b1 by its 95 % interval, % (standard error {error:.1f} where it is 95)",
        "bias": "Bias of b1, which is 1",
        "width": "Mean width of the interval",
    }
    for key, title in titles.items():
        cells = zip(*rows[key], strict=True)
        report.table(title, header, [[name, *row] for name, row in zip(METHODS, cells, strict=True)])
    report.save()


if __name__ == "__main__":
    main()
