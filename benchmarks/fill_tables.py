"""Filling blanks of numeric tables: twenty real ones, at two rates, or with blanks that are not at random.

The five tables of scikit-learn, the 14 of ABDUCE_DATA/adbench and wine quality, at most ``--rows`` random rows of each.  A
method is fitted to the incomplete table and fills it; errors are in standard deviations of the complete columns, constant
ones left out.

    python benchmarks/fill_tables.py [--quick] [--seeds 3] [--mechanisms] [--sets wine letter]

HyperImpute pins what clashes with ours: it runs in an environment of its own, whose Python ``--hyperimpute`` names.
"""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from common import Report, arguments, data_folder, parse, say, spread
from peers import Mixture, em_gaussian
from sklearn import datasets
from sklearn.ensemble import ExtraTreesRegressor, RandomForestRegressor
from sklearn.experimental import enable_iterative_imputer  # noqa: F401  (makes the next import work)
from sklearn.impute import IterativeImputer, KNNImputer
from sklearn.preprocessing import StandardScaler

from abduce import Auto
from abduce.data.examples import adbench, adbench_names

RATES = (0.5, 0.2)
OURS = "abduce Auto"
HYPERIMPUTE = ""  # the Python of its environment
HYPER_LIMIT = 600.0  # seconds by the clock
DRAWS = 100  # behind the CRPS


def tables(rows: int, names: list[str] | None = None) -> dict[str, np.ndarray]:
    """All sets by name; those of more rows cut to a random choice of them."""
    own = ("iris", "wine", "breast_cancer", "diabetes", "digits")
    found = {name: getattr(datasets, f"load_{name}")().data.astype(float) for name in own}
    found |= {name.split("_", 1)[1]: adbench(name)[0].astype(float) for name in adbench_names()}
    quality = pd.read_csv(data_folder() / "tables" / "wine_quality.csv").select_dtypes("number")
    found["wine_quality"] = quality.to_numpy(float)
    cut = {
        n: X if len(X) <= rows else X[np.random.default_rng(0).permutation(len(X))[:rows]]
        for n, X in found.items()
    }
    return {n: cut[n] for n in names} if names else cut


# ---------------------------------------------------------------- which cells are hidden


def hidden_cells(X: np.ndarray, mechanism: str, rate: float, seed: int) -> np.ndarray:
    """Mark the cells to hide, bool (n, d), about ``rate`` of them.

    "mcar": each on its own.  "blocks": a run of neighbouring columns of each row.  "mar": cells of all columns but the first
    hide with a probability that rises with the first, which is always seen.  "mnar": with the cell's own value.
    """
    rng = np.random.default_rng(2000 + seed)
    n, d = X.shape
    if mechanism == "mcar":
        return rng.random(X.shape) < rate
    if mechanism == "blocks":
        width = max(1, round(rate * d))
        start = rng.integers(0, d, n)
        return (np.arange(d) - start[:, None]) % d < width
    z = (X - X.mean(0)) / np.where(X.std(0) > 0, X.std(0), 1)
    drive = np.broadcast_to(z[:, :1], z.shape) if mechanism == "mar" else z
    odds = 2 * drive + _intercept(drive, rate)
    out = rng.random(X.shape) < 1 / (1 + np.exp(-odds))
    if mechanism == "mar":
        out[:, 0] = False
    return out


def _intercept(drive: np.ndarray, rate: float) -> float:
    """What makes the mean of a logistic curve of slope 2 the rate, by bisection."""
    low, high = -20.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if np.mean(1 / (1 + np.exp(-2 * drive - middle))) < rate else (low, middle)
    return low


# ---------------------------------------------------------------- methods: an incomplete table in, whole copies out


class TooLong(Exception):
    """A method ran past its limit."""


@contextmanager
def limit(seconds: int):
    """Stop what runs inside after so many seconds of processor, which a busy machine does not shorten."""

    def stop(*_):
        raise TooLong

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def quiet(function: Callable, *args):
    """Call without the convergence warnings of iterative imputers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*args)


def ours(X: np.ndarray, seed: int):
    """Fill, and draws."""
    model = Auto(random_state=seed).fit(X)
    return (
        model.fill(X),
        lambda: model.fill(X, draws=DRAWS, random_state=seed),
        lambda: model.fill_interval(X),
    )


def gaussians(components: int):
    """EM of one Gaussian, or clusters of rows it completed with a full covariance each, shrunk by their size."""

    def fill(X: np.ndarray, seed: int):
        scaler = StandardScaler().fit(X)
        Z = scaler.transform(X)
        model = em_gaussian(Z)
        if components > 1:
            model = Mixture.clusters(model.fill(Z), min(components, len(X) // 15), 1e-2, seed)
        return (
            scaler.inverse_transform(model.fill(Z)),
            None,
            lambda: [scaler.inverse_transform(e) for e in model.interval(Z)],
        )

    return fill


def point(make: Callable[[int], Any], scale: bool = False):
    """An imputer of scikit-learn: a point, no distribution."""

    def fill(X: np.ndarray, seed: int):
        if not scale:
            return quiet(make(seed).fit_transform, X), None, None
        scaler = StandardScaler().fit(X)
        return scaler.inverse_transform(quiet(make(seed).fit_transform, scaler.transform(X))), None, None

    return fill


def forest(trees: int, rounds: int):
    """Chained extra-trees."""
    return point(
        lambda seed: IterativeImputer(
            ExtraTreesRegressor(trees, random_state=seed), max_iter=rounds, random_state=seed
        )
    )


def miss_forest(seed: int) -> IterativeImputer:
    """Chained random forests as in MissForest (Stekhoven & Bühlmann 2012): 100 trees, √d columns a split, ten rounds."""
    trees = RandomForestRegressor(100, max_features="sqrt", random_state=seed)
    return IterativeImputer(trees, max_iter=10, initial_strategy="mean", random_state=seed)


def hyperimpute(X: np.ndarray, seed: int):
    """HyperImpute at its defaults, in another environment."""
    script = Path(__file__).with_name("hyperimpute_peer.py")
    with tempfile.TemporaryDirectory() as folder:
        table, filled = Path(folder, "in.npy"), Path(folder, "out.npy")
        np.save(table, X)
        command = [HYPERIMPUTE, str(script), str(table), str(filled), str(seed)]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=HYPER_LIMIT)
        except subprocess.TimeoutExpired:
            raise TooLong from None
        return np.load(filled), None, None


def mean(X: np.ndarray, seed: int):
    """The column's mean."""
    return np.where(np.isnan(X), np.nanmean(X, 0), X), None, None


METHODS: dict[str, Callable] = {
    OURS: ours,
    "EM Gaussian": gaussians(1),
    "GMM-20": gaussians(20),
    "IterativeImputer, ExtraTrees-100": forest(100, 10),
    "IterativeImputer, ExtraTrees-20": forest(20, 5),
    "MissForest": point(miss_forest),
    "HyperImpute": hyperimpute,
    "IterativeImputer, BayesianRidge": point(lambda seed: IterativeImputer(random_state=seed)),
    "KNN-5": point(lambda seed: KNNImputer(n_neighbors=5), scale=True),
    "mean": mean,
}


SLOW = ("IterativeImputer, ExtraTrees-100", "IterativeImputer, ExtraTrees-20", "MissForest", "HyperImpute")

# ---------------------------------------------------------------- measure


def processor() -> float:
    """Seconds of processor so far, of this process and of those that it waited for."""
    own, theirs = (resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + theirs.ru_utime + theirs.ru_stime


def measure(
    name: str, X: np.ndarray, hidden: np.ndarray, seed: int, seconds: int, whole: bool
) -> dict[str, float]:
    """RMSE in standard deviations, seconds, and for methods with a distribution coverage of 90 % and CRPS."""
    deviation = X.std(0)
    used = hidden & (deviation > 0)
    unit = np.where(deviation > 0, deviation, 1)
    incomplete = np.where(hidden, np.nan, X)
    try:
        with limit(seconds):
            start = processor()
            filled, draws, interval = METHODS[name](incomplete, seed)
            taken = processor() - start
    except TooLong:
        return {"seconds": float("inf")}
    out = {"rmse": float(np.sqrt(np.mean((((filled - X) / unit)[used]) ** 2))), "seconds": taken}
    if interval is not None and whole:
        low, high = interval()
        inside = (low - 1e-9 * unit <= X) & (high + 1e-9 * unit >= X)
        out["coverage"] = float(inside[used].mean())
        between = (low + 1e-9 * unit < X) & (high - 1e-9 * unit > X)
        out["between"] = float(between[used].mean())
        out["width"] = float(((high - low) / unit)[used].mean())
    if draws is not None and whole:
        drawn = np.sort(np.stack([(d / unit)[used] for d in draws()]), 0)
        m = len(drawn)
        rank = (2 * np.arange(1, m + 1) - m - 1)[:, None]
        out["crps"] = float((np.abs(drawn - (X / unit)[used]).mean(0) - (rank * drawn).sum(0) / m**2).mean())
    return out


def run(report: Report, args, mechanism: str, rate: float) -> None:
    """One table of results: methods by sets."""
    found: dict = defaultdict(list)
    if args.rest:
        earlier = json.loads(Path(args.rest).read_text())["results"][f"{mechanism} {rate}"]
        for key, runs in earlier.items():
            name, method = key.split(" | ")
            if args.go_on or method not in args.methods:
                found[name, method] = runs
    sets = tables(args.rows, args.sets)
    for name, X in sets.items():
        if args.quick:
            X = X[:150]
        for seed in range(args.seeds):
            hidden = hidden_cells(X, mechanism, rate, seed)
            for method in args.methods:
                if method in SLOW and seed >= args.tree_seeds:
                    continue
                if method == "HyperImpute" and not HYPERIMPUTE:
                    continue
                if seed < len(found[name, method]):
                    continue  # measured before
                if any(np.isinf(r["seconds"]) for r in found[name, method]):
                    continue  # it will not be faster with another seed
                seconds = args.long_limit if args.long_limit and method in SLOW else args.limit
                result = measure(method, X, hidden, seed, seconds, seed == 0)
                found[name, method].append(result)
                error = result.get("rmse", np.nan)
                report.keep(f"{mechanism} {rate}", {" | ".join(k): v for k, v in found.items()})
                report.save_figures()
                say(f"{mechanism} {rate:.0%} {name} {seed}: {method}: {error:.4f}, {result['seconds']:.1f} s")
    shown = [m for m in METHODS if any(found[n, m] for n in sets)]
    show(report, args, mechanism, rate, list(sets), found, shown)


def show(
    report: Report, args, mechanism: str, rate: float, sets: list[str], found: dict, methods: list[str]
) -> None:
    """Write the tables from what has been measured."""

    def error(name: str, method: str) -> float:
        values = [r["rmse"] for r in found[name, method] if "rmse" in r]
        return float(np.mean(values)) if values else np.nan

    grid = pd.DataFrame({m: {n: error(n, m) for n in sets} for m in methods})
    best_peer = grid.drop(columns=OURS).min(axis=1)
    rows = [
        [
            n,
            *(
                spread(r.get("rmse", np.nan) for r in found[n, m])
                if np.isfinite(grid.loc[n, m])
                else ("ran too long" if found[n, m] else "not run")
                for m in methods
            ),
        ]
        for n in sets
    ]
    complete = [m for m in methods if grid[m].notna().all()]
    rows.append(["**mean of all**", *(f"{grid[m].mean():.4f}" if m in complete else "–" for m in methods)])
    rows.append(
        [
            "ours over it, sets it finished",
            *(f"{grid.loc[grid[m].notna(), OURS].mean() / grid[m].mean():.3f}" for m in methods),
        ]
    )
    seconds = [
        [r["seconds"] for n in sets for r in found[n, m] if np.isfinite(r["seconds"])] for m in methods
    ]
    rows.append(["seconds a table, mean", *(f"{np.mean(s):.1f}" if s else "–" for s in seconds)])
    title = {
        "mcar": "cells hidden at random",
        "blocks": "runs of neighbouring columns hidden",
        "mar": "hidden by the first column",
        "mnar": "hidden by their own value",
    }[mechanism]
    report.table(f"{rate:.0%} {title}: normalised RMSE", ["", *methods], rows)
    near = (grid[OURS] <= 1.02 * best_peer).sum()
    first = (grid[OURS] <= best_peer).sum()
    report.remark(
        f"Ours is best on {first} of {len(sets)} sets and best or within 2 % of the best on {near}. Over the best peer "
        f"of each set it has a ratio of {(grid[OURS] / best_peer).mean():.3f} on average (below 1 is better)."
    )
    whole = [m for m in methods if any("coverage" in r for n in sets for r in found[n, m])]
    if whole:
        report.table(
            f"{rate:.0%} {title}: the distribution, seed 0",
            ["", "90 % intervals hold, %", "lowest set", "highest set", "without ends, %", "width", "CRPS"],
            [
                [
                    m,
                    *(
                        f"{f([100 * r['coverage'] for n in sets for r in found[n, m] if 'coverage' in r]):.1f}"
                        for f in (np.mean, np.min, np.max)
                    ),
                    spread(
                        [
                            np.mean(
                                [100 * r["between"] for n in sets for r in found[n, m] if "between" in r]
                                or [np.nan]
                            )
                        ],
                        1,
                    ),
                    spread([np.mean([r["width"] for n in sets for r in found[n, m] if "width" in r])]),
                    spread(
                        [np.mean([r["crps"] for n in sets for r in found[n, m] if "crps" in r] or [np.nan])],
                        4,
                    ),
                ]
                for m in whole
            ],
        )
    report.keep(f"{mechanism} {rate}", {" | ".join(k): v for k, v in found.items()})


def main() -> None:
    parser = arguments(__doc__, seeds=3)
    parser.add_argument("--sets", nargs="+", default=None)
    parser.add_argument("--rows", type=int, default=5000, help="of a set, at most")
    parser.add_argument("--name", default=None, help="of the result's files")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--rest", default=None, help="a result's JSON, for the methods that are not run now")
    parser.add_argument(
        "--go-on", action="store_true", help="with --rest: what that lacks of the methods, too"
    )
    parser.add_argument("--hyperimpute", default="", help="Python of the environment that has hyperimpute")
    parser.add_argument("--mechanisms", action="store_true", help="blocks, MAR and MNAR at 30 % instead")
    parser.add_argument(
        "--tree-seeds", type=int, default=1, help="seeds of chained trees and HyperImpute, which take longest"
    )
    parser.add_argument(
        "--limit", type=int, default=300, help="seconds of processor that a method may take for a table"
    )
    parser.add_argument(
        "--long-limit", type=int, default=None, help="those of chained trees and HyperImpute, if others"
    )
    parser.add_argument("--rates", nargs="+", type=float, default=list(RATES), help="shares of cells to hide")
    args = parse(parser)
    global HYPERIMPUTE, HYPER_LIMIT
    HYPERIMPUTE, HYPER_LIMIT = args.hyperimpute, float(args.long_limit or args.limit)
    if args.quick:
        args.sets = args.sets or ["wine", "glass"]
    name = "fill_mechanisms" if args.mechanisms else "fill_tables"
    if not args.mechanisms and len(args.rates) == 1:
        name += f"_{args.rates[0]:.0%}".rstrip("%")
    report = Report(args.name or name, "Fill: numeric tables", args)
    settings = (
        [(m, 0.3) for m in ("mcar", "blocks", "mar", "mnar")]
        if args.mechanisms
        else [("mcar", r) for r in args.rates]
    )
    for mechanism, rate in settings:
        run(report, args, mechanism, rate)
        report.save()
    report.remark(
        "All methods at one setting for all sets, ours at its defaults. EM Gaussian: one pseudo-row of unit covariance. "
        "GMM-20: k-means clusters of rows completed by it, covariances shrunk by their size. ExtraTrees-100: scikit-learn's "
        "ten rounds; -20: five rounds. MissForest: chained random forests, 100 trees, √d columns a split, ten rounds. "
        f"Limits: {args.limit} s of processor a table, chained trees and HyperImpute {args.long_limit or args.limit} s. "
        "A method has a mean where it finished all sets; the next line compares it with ours on those that it finished. "
        "Where values repeat, as counts do, no interval holds just 90 %: with its ends it should hold more, without them less."
    )
    report.save()


if __name__ == "__main__":
    main()
