"""Filling gaps of multivariate series: ETTh1 and Beijing air by the protocol of TSI-Bench.

Windows of 48 hours x 7 (ETTh1) or 24 x 132 (Beijing) of some months are filled by models of others, whose cells are hidden in
the same way.  Mean absolute error of hidden cells, in standard deviations of the training part.  Deep peers are as
published, on other masks of the same kind: linear interpolation on ours and as published says how much these differ.

    python benchmarks/series_infill.py [--quick] [--seeds 3] [--sets etth1 beijing] [--settings ...]
"""

from __future__ import annotations

import gzip
from collections import defaultdict

import numpy as np
import pandas as pd
from common import Report, arguments, data_folder, parse, say, spread, timed

from abduce import Series

PUBLISHED = {  # TSI-Bench (Du et al. 2024, arXiv 2406.12747): point 10 %, 50 %, 90 %, subsequence, block
    "etth1": {
        "linear": (0.197, 0.267, 0.616, 0.722, 0.527),
        "best deep model": (0.144, 0.223, 0.507, 0.558, 0.401),
    },
    "beijing": {
        "linear": (0.112, 0.153, 0.363, 0.364, 0.276),
        "best deep model": (0.102, 0.144, 0.258, 0.193, 0.181),
    },
}
SETTINGS = ("10 %", "50 %", "90 %", "subsequence", "block")


def etth1() -> tuple[np.ndarray, np.ndarray, int]:
    """Training hours, test hours and the length of a window; calendar months, 14 for training, 5 for validation, the rest."""
    with gzip.open(data_folder() / "series" / "ETTh1.csv.gz") as file:
        frame = pd.read_csv(file, parse_dates=["date"])
    return *split(frame.set_index("date"), 14, 5), 48


def beijing() -> tuple[np.ndarray, np.ndarray, int]:
    """12 stations side by side, 11 numbers each; the first 28 months for training, the last 10 are the test."""
    frame = pd.read_parquet(data_folder() / "series" / "beijing_air.parquet")
    numbers = list(frame.select_dtypes("number").columns)
    wide = frame.astype({"station": str}).pivot(index="time", columns="station", values=numbers)
    wide = wide.swaplevel(axis=1).sort_index(axis=1)
    months = wide.index.to_period("M")
    names = months.unique()
    part = [wide[months.isin(m)].to_numpy(float) for m in (names[:28], names[38:])]
    return part[0], part[1], 24


def split(frame: pd.DataFrame, train: int, valid: int) -> tuple[np.ndarray, np.ndarray]:
    """The first months and those after the validation's."""
    months = frame.index.to_period("M")
    names = months.unique()
    return tuple(frame[months.isin(m)].to_numpy(float) for m in (names[:train], names[train + valid :]))


SETS = {"etth1": etth1, "beijing": beijing}


def hidden_cells(
    shape: tuple[int, int, int], setting: str, rng: np.random.Generator, factor: float
) -> np.ndarray:
    """Cells of windows (n, T, F) to hide: points; runs of three quarters of the steps, half of the cells; or 6 x 6 blocks."""
    n, steps, f = shape
    if setting.endswith("%"):
        return rng.random(shape) < float(setting[:-1]) / 100
    out = np.zeros(shape, bool)
    if setting == "subsequence":
        length = steps * 3 // 4
        chosen = rng.choice(n * f, int(np.ceil(n * f * 0.5 * steps / length)), replace=False)
        for place, start in zip(chosen, rng.integers(0, steps - length, len(chosen)), strict=True):
            out[place // f, start : start + length, place % f] = True
        return out
    count = int(np.ceil(factor * n * steps * f * (f - 6) / 36))
    for i, start, first in zip(
        rng.integers(0, n, count),
        rng.integers(0, steps - 6, count),
        rng.integers(0, f - 6, count),
        strict=True,
    ):
        out[i, start : start + 6, first : first + 6] = True
    return out


def windows(x: np.ndarray, steps: int) -> np.ndarray:
    """Windows (n, steps, F) one after the other."""
    return x[: len(x) // steps * steps].reshape(-1, steps, x.shape[1])


def linear(x: np.ndarray) -> np.ndarray:
    """Straight lines between observed cells, the nearest one at the ends, 0 where there is none."""
    out, at = x.copy(), np.arange(x.shape[1])
    for i, f in np.argwhere(np.isnan(x).any(1)):
        known = ~np.isnan(x[i, :, f])
        out[i, :, f] = np.interp(at, at[known], x[i, known, f]) if known.any() else 0.0
    return out


def measure(name: str, setting: str, seed: int, quick: bool) -> dict[str, float]:
    """Errors, seconds, and how often 90 % intervals hold."""
    train, test, steps = SETS[name]()
    if quick:
        train, test, seeds = train[-960:, :7], test[:480, :7], 1
        del seeds
    mean, deviation = np.nanmean(train, 0), np.nanstd(train, 0)
    train, test = ((windows(x, steps) - mean) / deviation for x in (train, test))
    rng = np.random.default_rng(1000 + seed)
    factor = 0.36 if name == "etth1" else 0.0055
    parts = [(x, hidden_cells(x.shape, setting, rng, factor)) for x in (train, test)]
    (learn, _), (asked, _) = [(np.where(h, np.nan, x), h) for x, h in parts]
    judged = parts[1][1] & ~np.isnan(test)
    model, fit = timed(
        lambda: Series(random_state=seed, scale="shared").fit(learn.reshape(-1, learn.shape[2]))
    )
    (filled, (low, high)), fill = timed(lambda: (model.fill(asked), model.fill_interval(asked)))
    return {
        "ours": float(np.abs(filled - test)[judged].mean()),
        "linear": float(np.abs(linear(asked) - test)[judged].mean()),
        "coverage": float(((low <= test) & (test <= high))[judged].mean()),
        "seconds": fit + fill,
    }


def main() -> None:
    parser = arguments(__doc__, seeds=3)
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--name", default="series_infill", help="of the result's files")
    args = parse(parser)
    if args.quick:
        args.sets, args.settings = ["etth1"], ["10 %", "block"]
    report = Report(args.name, "Filling gaps of series", args)
    for name in args.sets:
        found = defaultdict(list)
        for setting in args.settings:
            for seed in range(args.seeds):
                found[setting].append(measure(name, setting, seed, args.quick))
                say(name, setting, seed, {k: round(v, 4) for k, v in found[setting][-1].items()})
        rows = []
        for title, key, digits in (
            ("abduce Series", "ours", 3),
            ("linear, same masks", "linear", 3),
            ("90 % intervals of Series hold, %", "coverage", 1),
            ("seconds, fit and fill, Series", "seconds", 0),
        ):
            scale = 100.0 if key == "coverage" else 1.0
            rows.append([title, *(spread((r[key] for r in found[s]), digits, scale) for s in args.settings)])
        for title, figures in PUBLISHED[name].items():
            shown = dict(zip(SETTINGS, figures, strict=True))
            rows.append([f"{title}, as published", *(f"{shown[s]:.3f}" for s in args.settings)])
        report.table(f"{name}: mean absolute error of hidden cells", ["", *args.settings], rows)
        report.keep(name, {s: found[s] for s in args.settings})
        report.save()
    report.remark(
        "Series drift from the months of training to those that are tested: intervals that hold 90 % of cells hidden from the "
        "training part need not hold as many of theirs. All choices are made on hidden cells of the training part."
    )
    report.save()


if __name__ == "__main__":
    main()
