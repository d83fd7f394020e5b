"""Many series and a long one: seconds of processor, memory and errors of Series beside statsforecast's AutoETS.

    python benchmarks/series_scale.py [--threads 1] [--cases panel_ours panel_peer]

Series of a wandering level, a season of seven steps and noise, which is a model that exponential smoothing has; the last 24
steps are forecast.  Each case runs in a process of its own; seconds are of fitting and forecasting, without what loading the
packages takes, and the peak is that of the whole process.  The clock is of the whole process too, loading and making the data
among it, on a machine that others shared.  AutoETS, which fits series one by one, is measured on 100 of them, of which each
is as any other, and its seconds are scaled up to all; both are judged by the same ones.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from common import Report, alone, arguments, parse, say, timed

HORIZON, PERIOD = 24, 7
SHARED = 100  # series that AutoETS is measured on
LIMIT = 2400.0  # seconds that a case may take
Found = dict[str, float]


def panel(count: int, steps: int) -> np.ndarray:
    """Series (count, steps); the first are the same however many there are."""
    time_, out = np.arange(steps), np.empty((count, steps))
    for start in range(0, count, 1000):
        rng = np.random.default_rng(start)
        size = (min(1000, count - start), steps)
        level = np.cumsum(0.1 * rng.normal(size=size), 1) + 3 * rng.normal(size=(size[0], 1))
        season = rng.normal(size=(size[0], PERIOD))
        out[start : start + size[0]] = level + season[:, time_ % PERIOD] + 0.5 * rng.normal(size=size)
    return out


def errors(forecast: np.ndarray, X: np.ndarray) -> Found:
    """Mean absolute errors over the series that both are judged by, and of the season before."""
    truth, some = X[:, -HORIZON:], slice(0, SHARED)
    last = X[:, -HORIZON - PERIOD : -HORIZON][:, np.arange(HORIZON) % PERIOD]
    return {
        "error": float(np.abs(forecast - truth)[some].mean()),
        "of last seasons": float(np.abs(last - truth)[some].mean()),
    }


def ours(X: np.ndarray) -> Found:
    from abduce import Series

    start = time.process_time()
    model = Series(random_state=0).fit(X[:, :-HORIZON, None])
    fitted = time.process_time()
    said = np.asarray(model.forecast(HORIZON)).reshape(len(X), HORIZON)
    return {"fit": fitted - start, "forecast": time.process_time() - fitted} | errors(said, X)


def peer(X: np.ndarray) -> Found:
    import pandas as pd
    from statsforecast import StatsForecast
    from statsforecast.models import AutoETS

    X, count = X[:SHARED], len(X)
    n, t = X.shape
    frame = pd.DataFrame(
        {
            "unique_id": np.repeat(np.arange(n), t - HORIZON),
            "ds": np.tile(np.arange(t - HORIZON), n),
            "y": X[:, :-HORIZON].ravel(),
        }
    )
    models = StatsForecast([AutoETS(season_length=PERIOD)], freq=1, n_jobs=1)
    models.forecast(
        df=frame[(frame.unique_id == 0) & (frame.ds < 50)], h=2
    )  # compiled before the clock starts
    start = time.process_time()
    said = models.forecast(df=frame, h=HORIZON)["AutoETS"].to_numpy().reshape(n, HORIZON)
    return {"all": (time.process_time() - start) * count / n} | errors(said, X)


def sizes(quick: bool) -> dict[str, tuple[int, int]]:
    return (
        {"panel": (200, 200), "long": (1, 5000)}
        if quick
        else {"panel": (10_000, 500), "long": (1, 1_000_000)}
    )


WHO: dict[str, Callable[[np.ndarray], Found]] = {"ours": ours, "peer": peer}
CASES = [f"{what}_{who}" for what in ("panel", "long") for who in WHO]


def run(case: str, quick: bool) -> Found:
    what, who = case.split("_")
    return WHO[who](panel(*sizes(quick)[what]))


def main() -> None:
    parser = arguments(__doc__, 1)
    parser.add_argument("--cases", nargs="*", default=CASES, help="some of the cases")
    parser.add_argument("--case", choices=CASES, help="run one in this process, and print what it finds")
    args = parse(parser)
    if args.case:
        warnings.simplefilter("ignore")
        print(json.dumps(run(args.case, args.quick)))
        return
    report = Report("series_scale", "Many series and a long one", args)
    report.remark(" ".join((__doc__ or "").split("\n\n")[2].split()))
    for what, (count, steps) in sizes(args.quick).items():
        rows = []
        for who, name in (("ours", "abduce Series"), ("peer", "statsforecast AutoETS")):
            if f"{what}_{who}" not in args.cases:
                continue
            found, clock = timed(alone, __file__, f"{what}_{who}", args, limit=LIMIT)
            found = found and found | {"clock": clock}
            say(what, who, {k: round(v, 3) for k, v in found.items()})
            report.keep(f"{what}_{who}", found)
            rows.append([name, *row(found)])
        header = [
            "",
            "seconds of processor",
            "of the clock, whole process",
            "error (of the last season)",
            "peak memory, MiB",
        ]
        report.table(f"{count:,} series of {steps:,} steps, the last {HORIZON} forecast", header, rows)
    report.save()


def row(found: Found) -> list[Any]:
    if not found:
        return [f"stopped after {LIMIT:.0f}", "–", "–", "–"]
    parts = {k: v for k, v in found.items() if k in ("fit", "forecast", "all")}
    seconds = f"{sum(parts.values()):.0f}"
    if len(parts) > 1:
        seconds += " (" + ", ".join(f"{k} {v:.0f}" for k, v in parts.items()) + ")"
    return [
        seconds,
        f"{found['clock']:.0f}",
        f"{found['error']:.3f} ({found['of last seasons']:.3f})",
        f"{found['peak']:.0f}",
    ]


if __name__ == "__main__":
    main()
