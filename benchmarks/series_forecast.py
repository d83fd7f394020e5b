"""Forecasts: the hourly and weekly series of the M4 competition, and ETTh1 far ahead.

M4: each series goes on for 48 hours (13 weeks); mean MASE, weighted quantile loss (2 Σ pinball / Σ |y| over all series,
mean over .1 .. .9), coverage of 80 % intervals.  Forecasts are of one fit to all series; backcasts, of the same turned round.
ETTh1: mean squared error of stride-1 windows of the test part, z-scored on the training part; fitted once to the training and
validation part, asked with the last 336 hours.

    python benchmarks/series_forecast.py [--quick] [--sets hourly weekly etth1] [--horizons 96 192]
"""

from __future__ import annotations

import contextlib
import gzip
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch
from common import Report, arguments, data_folder, parse, say, timed

from abduce import Series

M4 = {"hourly": ("Hourly", 48, 24, "h"), "weekly": ("Weekly", 13, 1, "7D")}
PUBLISHED = {  # Ansari et al. 2024, arXiv 2403.07815, and the model cards of Chronos-Bolt: MASE, weighted quantile loss
    "hourly": {"AutoARIMA": (1.03, 0.034), "Chronos-Bolt": (0.837, 0.025)},
    "weekly": {"AutoARIMA": (2.36, 0.050), "Chronos-Bolt": (2.08, 0.038)},
}
ETTH1 = {96: 0.374, 192: 0.408, 336: 0.429, 720: 0.440}  # NLinear, Zeng et al. 2023, arXiv 2205.13504
DECILES = np.arange(1, 10) / 10
CONTEXT = 336
RULE = "shared lookback"  # of Series' members: linear in the last steps, as NLinear is


def m4(name: str, most: int | None) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Series and what came after them."""

    def part(which: str) -> list[np.ndarray]:
        with gzip.open(data_folder() / "series" / "m4" / f"{M4[name][0]}-{which}.csv.gz") as file:
            rows = pd.read_csv(file).iloc[:most, 1:].to_numpy(float)
        return [row[~np.isnan(row)] for row in rows]

    return part("train"), part("test")


def long_frame(series: list[np.ndarray], step: str) -> pd.DataFrame:
    """Series one after the other, all from one date on: the stamps of the competition are not used."""
    parts = [
        pd.DataFrame({"id": i, "ds": pd.date_range("2020-01-06", periods=len(x), freq=step), "y": x})
        for i, x in enumerate(series)
    ]
    return pd.concat(parts, ignore_index=True)


def figures(
    past: list[np.ndarray], truth: np.ndarray, mean: np.ndarray, season: int, deciles: Any = None
) -> dict[str, float]:
    """MASE, and the weighted quantile loss and the coverage of 80 % intervals where there are quantiles (9, N, n)."""
    scale = np.array([np.abs(x[season:] - x[:-season]).mean() for x in past])
    out = {"MASE": float((np.abs(truth - mean).mean(1) / scale).mean())}
    quantiles = np.broadcast_to(mean, (9, *mean.shape)) if deciles is None else deciles
    gap = truth - quantiles
    level = DECILES[:, None, None]
    out["WQL"] = float(
        2 * np.maximum(level * gap, (level - 1) * gap).sum((1, 2)).mean() / np.abs(truth).sum()
    )
    if deciles is not None:
        out["coverage"] = float(((deciles[0] <= truth) & (truth <= deciles[-1])).mean())
    return out


def forecast_m4(name: str, seed: int, quick: bool, backward: bool) -> dict[str, dict[str, float]]:
    """Figures of Series and of the naive forecasts; ``backward`` turns the series round."""
    past, after = m4(name, 20 if quick else None)
    _, horizon, season, step = M4[name]
    truth = np.stack(after)
    if backward:  # the first steps are to be inferred from what came after them
        whole = [np.concatenate(pair)[::-1] for pair in zip(past, after, strict=True)]
        past, truth = [x[:-horizon] for x in whole], np.stack([x[-horizon:] for x in whole])

    def run() -> tuple[np.ndarray, np.ndarray]:
        if backward:
            model = Series(id="id", time="ds", horizon=horizon, random_state=seed)
            model.fit(long_frame([x[::-1] for x in past], step))
            mean = model.backcast(horizon)["y"].to_numpy().reshape(truth.shape)[:, ::-1]
            return mean, np.broadcast_to(mean, (9, *mean.shape))
        model = Series(id="id", time="ds", horizon=horizon, random_state=seed).fit(long_frame(past, step))
        say(model.members().round(3).to_string())
        ends = [model.forecast_interval(horizon, level=v) for v in (0.8, 0.6, 0.4, 0.2)]
        mean = model.forecast(horizon)["y"].to_numpy().reshape(truth.shape)
        low, high = ([end[k]["y"].to_numpy().reshape(truth.shape) for end in ends] for k in (0, 1))
        return mean, np.stack([*low, mean, *high[::-1]])

    (mean, deciles), seconds = timed(run)
    naive = np.stack([x[-season:][np.arange(horizon) % season] for x in past])
    ours = figures(past, truth, mean, season, None if backward else deciles)
    return {
        "abduce Series": {**ours, "seconds": seconds},
        "seasonal naive" if season > 1 else "last value": figures(past, truth, naive, season),
    }


@contextlib.contextmanager
def alone(model: Series, member: str) -> Iterator[None]:
    """A model in which one member has all the weight."""
    pool = model.model_.pool
    before = pool.shares.clone()
    pool.shares.copy_(torch.as_tensor(model.members().index == member).to(before).expand_as(before))
    try:
        yield
    finally:
        pool.shares.copy_(before)


def forecast_etth1(
    horizon: int, seed: int, every: int, months: tuple[int, int]
) -> dict[str, dict[str, float]]:
    """Mean squared errors over all windows of some ``months``, of a model of those before."""
    with gzip.open(data_folder() / "series" / "ETTh1.csv.gz") as file:
        frame = pd.read_csv(file, parse_dates=["date"]).set_index("date")
    month = 30 * 24
    train, (test, stop) = 12 * month, (m * month for m in months)
    frame = (frame - frame[:train].mean()) / frame[:train].std(ddof=0)
    begin = test - CONTEXT
    starts = np.arange(begin, stop - CONTEXT - horizon + 1, every)
    hours = frame.reset_index(names="ds").assign(id=0)
    model, fit = timed(
        lambda: Series(id="id", time="ds", horizon=horizon, scale="shared", random_state=seed).fit(
            hours[:test]
        )
    )
    say(model.members().round(3).to_string())
    values = frame.to_numpy()
    squared = dict.fromkeys(("abduce Series", RULE, "seasonal naive"), 0.0)
    seconds = 0.0
    for some in np.array_split(starts, max(1, len(starts) // 128)):
        windows = pd.concat([hours[s : s + CONTEXT].assign(id=s) for s in some], ignore_index=True)
        said, taken = timed(lambda windows=windows: model.forecast(horizon, X=windows))
        seconds += taken
        with alone(model, RULE):
            ruled = model.forecast(horizon, X=windows)
        said, ruled = (
            v.drop(columns=["ds", "id"]).to_numpy().reshape(len(some), horizon, -1) for v in (said, ruled)
        )
        truth = np.stack([values[s + CONTEXT : s + CONTEXT + horizon] for s in some])
        naive = np.stack([values[s + CONTEXT - 24 :][:24][np.arange(horizon) % 24] for s in some])
        squared["abduce Series"] += np.square(said - truth).mean((1, 2)).sum()
        squared[RULE] += np.square(ruled - truth).mean((1, 2)).sum()
        squared["seasonal naive"] += np.square(naive - truth).mean((1, 2)).sum()
    out = {name: {"MSE": total / len(starts)} for name, total in squared.items()}
    out["abduce Series"] |= {"seconds": fit + seconds, "fit": fit}
    return out


def main() -> None:
    parser = arguments(__doc__, seeds=1)
    parser.add_argument("--sets", nargs="+", choices=[*M4, "etth1"], default=[*M4, "etth1"])
    parser.add_argument("--horizons", nargs="+", type=int, choices=list(ETTH1), default=list(ETTH1))
    parser.add_argument(
        "--every", type=int, default=1, help="windows of ETTh1 that are asked about: each, or fewer"
    )
    parser.add_argument("--name", default="series_forecast", help="of the result's files")
    args = parse(parser)
    report = Report(args.name, "Forecasts of series", args)
    for name in (s for s in args.sets if s in M4):
        found = forecast_m4(name, 0, args.quick, False)
        back = forecast_m4(name, 0, args.quick, True)
        say(name, found, back)
        rows = [
            [
                model,
                f["MASE"],
                f["WQL"],
                f"{100 * f['coverage']:.1f}" if "coverage" in f else "–",
                back[model]["MASE"],
            ]
            for model, f in found.items()
        ]
        rows += [
            [f"{peer}, as published", mase, wql, "–", "–"] for peer, (mase, wql) in PUBLISHED[name].items()
        ]
        head = ["", "MASE", "weighted quantile loss", "80 % intervals hold, %", "MASE of backcasts"]
        report.table(f"M4 {name}, {len(m4(name, None)[0])} series, {M4[name][1]} steps ahead", head, rows)
        report.remark(f"Fit, forecasts and four intervals took {found['abduce Series']['seconds']:.0f} s.")
        report.keep(name, {"ahead": found, "back": back})
        report.save()
    if "etth1" in args.sets:
        rows = []
        for horizon in args.horizons[:1] if args.quick else args.horizons:
            every = 200 if args.quick else args.every
            found, before = (forecast_etth1(horizon, 0, every, part) for part in ((16, 20), (12, 16)))
            say("etth1", horizon, found, before)
            ours, rule = "abduce Series", RULE
            errors = [found[ours]["MSE"], found[rule]["MSE"], found["seasonal naive"]["MSE"], ETTH1[horizon]]
            errors += [before[ours]["MSE"], before[rule]["MSE"]]
            rows.append([horizon, *errors, f"{found[ours]['fit']:.0f}"])
            report.keep(f"etth1 {horizon}", {"test": found, "before": before})
        head = [
            "steps ahead",
            "abduce Series",
            "its linear rule alone",
            "last day repeated",
            "NLinear, as published",
            "the four months before: abduce Series",
            "its linear rule alone",
            "seconds to fit",
        ]
        report.table("ETTh1: mean squared error", head, rows)
        report.remark(
            "The months before are those that choices may look at: where the whole is nearer than its linear rule there, it "
            "weighs the rule by that, whatever the test months will be like."
        )
        if args.every > 1:
            report.remark(f"Windows begin at every {args.every}th hour; NLinear's at each.")
    report.save()


if __name__ == "__main__":
    main()
