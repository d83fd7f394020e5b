"""Filling blanks of mixed tables: Adult and Palmer penguins, with 10, 20 and 50 % of the observed cells hidden.

Error of numbers: RMSE in standard deviations of the observed values, averaged over columns; of classes: the share of hidden
cells that are filled right, averaged over columns (the protocol of HI-VAE: Nazábal et al. 2020, arXiv:1807.03653, but for its
scaling of numbers by their range).  A method is fitted to the incomplete table and fills it.

    python benchmarks/fill_mixed.py [--quick] [--seeds 3] [--rows 5000]
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable

import numpy as np
import pandas as pd
from common import Report, arguments, data_folder, parse, say, spread, timed
from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor
from sklearn.experimental import enable_iterative_imputer  # noqa: F401  (makes the next import work)
from sklearn.impute import IterativeImputer, KNNImputer

from abduce import VAE, Auto
from abduce.data.examples import penguins

RATES = (0.1, 0.2, 0.5)
OURS = "abduce Auto"


def tables(rows: int) -> dict[str, pd.DataFrame]:
    """Both tables; Adult cut to a random ``rows``."""
    adult = pd.read_csv(data_folder() / "tables" / "adult.csv")
    return {
        "penguins": penguins(),
        "adult": adult.sample(min(rows, len(adult)), random_state=0).reset_index(drop=True),
    }


def is_number(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column)


# ---------------------------------------------------------------- peers


def mode_and_mean(X: pd.DataFrame, seed: int) -> pd.DataFrame:
    """A column's mean or most frequent class."""
    return X.apply(lambda c: c.fillna(c.mean() if is_number(c) else c.mode()[0]))


class OneHot:
    """Numbers standardised and classes as indicators, all blank where the cell is; and back."""

    def __init__(self, X: pd.DataFrame):
        self.X = X
        self.numbers = [c for c in X if is_number(X[c])]
        self.levels = {c: sorted(X[c].dropna().unique()) for c in X if c not in self.numbers}
        self.loc, self.scale = X[self.numbers].mean(), X[self.numbers].std().replace(0, 1)

    def matrix(self) -> np.ndarray:
        parts = [((self.X[self.numbers] - self.loc) / self.scale).to_numpy(float)]
        for c, levels in self.levels.items():
            block = (self.X[c].to_numpy()[:, None] == np.array(levels, object)).astype(float)
            block[self.X[c].isna()] = np.nan
            parts.append(block)
        return np.concatenate(parts, 1)

    def frame(self, Z: np.ndarray) -> pd.DataFrame:
        out = self.X.copy()
        start = len(self.numbers)
        for i, c in enumerate(self.numbers):
            out[c] = self.X[c].fillna(pd.Series(Z[:, i] * self.scale[c] + self.loc[c], self.X.index))
        for c, levels in self.levels.items():
            chosen = np.array(levels, object)[Z[:, start : start + len(levels)].argmax(1)]
            out[c] = self.X[c].fillna(pd.Series(chosen, self.X.index))
            start += len(levels)
        return out


def by_matrix(make: Callable) -> Callable:
    """An imputer of numbers, on one-hot classes."""

    def fill(X: pd.DataFrame, seed: int) -> pd.DataFrame:
        coded = OneHot(X)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return coded.frame(make(seed).fit_transform(coded.matrix()))

    return fill


def miss_forest(X: pd.DataFrame, seed: int, rounds: int = 5, trees: int = 100) -> pd.DataFrame:
    """MissForest (Stekhoven & Bühlmann 2012) with extra-trees: each column in turn from all others, ``rounds`` times."""
    whole = mode_and_mean(X, seed)
    classes = {c: sorted(X[c].dropna().unique()) for c in X if not is_number(X[c])}

    def inputs(target: str) -> np.ndarray:
        parts = [
            whole[c].to_numpy(float)[:, None]
            if c not in classes
            else (whole[c].to_numpy()[:, None] == np.array(classes[c], object)).astype(float)
            for c in X
            if c != target
        ]
        return np.concatenate(parts, 1)

    for _ in range(rounds):
        for c in X.isna().sum().sort_values().index:
            blank = X[c].isna().to_numpy()
            if not blank.any():
                continue
            family = ExtraTreesClassifier if c in classes else ExtraTreesRegressor
            A = inputs(c)
            model = family(trees, random_state=seed).fit(
                A[~blank], X[c][~blank].astype(object if c in classes else float)
            )
            filled = whole[c].astype(object if c in classes else float)
            filled[blank] = model.predict(A[blank])
            whole[c] = filled
    return whole


METHODS: dict[str, Callable] = {
    OURS: lambda X, seed: Auto(random_state=seed).fit(X).fill(X),
    "abduce VAE": lambda X, seed: VAE(random_state=seed).fit(X).fill(X),
    "MissForest (extra-trees, 100)": miss_forest,
    "IterativeImputer, one-hot": by_matrix(lambda seed: IterativeImputer(random_state=seed)),
    "KNN-5, one-hot": by_matrix(lambda seed: KNNImputer(n_neighbors=5)),
    "mode and mean": mode_and_mean,
}


# ---------------------------------------------------------------- measure


def errors(truth: pd.DataFrame, hidden: np.ndarray, filled: pd.DataFrame) -> tuple[float, float]:
    """Normalised RMSE of numbers and accuracy of classes, means over columns."""
    rmse, right = [], []
    for j, c in enumerate(truth.columns):
        h = hidden[:, j]
        if not h.any():
            continue
        if is_number(truth[c]):
            off = filled[c][h].astype(float) - truth[c][h].astype(float)
            rmse.append(float(np.sqrt(np.mean(off**2)) / truth[c].std()))
        else:
            right.append(float((filled[c][h].astype(str) == truth[c][h].astype(str)).mean()))
    return float(np.mean(rmse)), float(np.mean(right))


def main() -> None:
    parser = arguments(__doc__, seeds=3)
    parser.add_argument("--rows", type=int, default=5000, help="of Adult")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument(
        "--once",
        nargs="*",
        default=["abduce VAE", "MissForest (extra-trees, 100)"],
        help="methods of seed 0 only on Adult",
    )
    args = parse(parser)
    report = Report("fill_mixed", "Fill: mixed tables", args)
    found: dict = defaultdict(list)
    sets = tables(300 if args.quick else args.rows)
    for name, table in sets.items():
        for rate in RATES:
            for seed in range(args.seeds):
                hidden = (
                    np.random.default_rng(3000 + seed).random(table.shape) < rate
                ) & table.notna().to_numpy()
                X = table.mask(hidden)
                for method in args.methods:
                    if seed and name == "adult" and method in args.once:
                        continue
                    filled, seconds = timed(METHODS[method], X, seed)
                    rmse, right = errors(table, hidden, filled)
                    found[name, rate, method].append((rmse, right, seconds))
                    say(f"{name} {rate:.0%} {seed}: {method}: {rmse:.4f}, {right:.4f}, {seconds:.1f} s")
    for name, table in sets.items():
        header = ["", *(f"{r:.0%} {what}" for r in RATES for what in ("numbers", "classes")), "seconds"]
        rows = []
        for m in args.methods:
            cells = []
            for r in RATES:
                runs = found[name, r, m]
                cells += [spread([e for e, _, _ in runs]), spread([a for _, a, _ in runs])]
            rows.append([m, *cells, spread([s for r in RATES for *_, s in found[name, r, m]], 1)])
        report.table(
            f"{name}, {len(table)} rows: normalised RMSE of numbers, accuracy of classes", header, rows
        )
    report.remark(
        f"Methods of one seed on Adult, for their time: {', '.join(args.once) or 'none'}. MissForest: five rounds of "
        "scikit-learn's extra-trees, one column after the other. All at one setting for both tables, ours at the defaults."
    )
    report.keep("mixed", {" | ".join(map(str, k)): v for k, v in found.items()})
    report.save()


if __name__ == "__main__":
    main()
