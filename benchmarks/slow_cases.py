"""Tables that once took minutes: wide ones, many levels, a typo among numbers, grades, many rows, a long CSV file.

    python benchmarks/slow_cases.py [--threads 1] [--cases wide typo]

Each case is fitted and asked in a process of its own; seconds are those of the questions named, without loading the package,
and the peak is that of the whole process.  Errors are in standard deviations of the complete columns, on cells hidden at
random, beside those of the columns' means (of classes the share that is wrong, beside that of the modes).
"""

from __future__ import annotations

import json
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from common import Report, alone, arguments, parse, say, timed
from streaming import MAIN, measured

from abduce import VAE, Auto

HIDDEN = 0.1
Found = dict[str, float]  # seconds a question, and errors


# ---------------------------------------------------------------- tables


def factors(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """Rows of three factors and noise."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, 3)) @ rng.normal(size=(3, columns)) + rng.normal(size=(rows, columns))


def levels(rows: int, count: int) -> pd.DataFrame:
    """Text of so many levels, and two numbers that depend on it."""
    rng = np.random.default_rng(0)
    level, place = rng.integers(0, count, rows), rng.normal(size=(2, count))
    numbers = (place[:, level] + 0.3 * rng.normal(size=(2, rows))).round(2)
    return pd.DataFrame({"town": [f"town {k}" for k in level], "x": numbers[0], "y": numbers[1]})


def hide(table: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray]:
    """A table without a tenth of its cells, and which these are."""
    hidden = np.random.default_rng(1).random(table.shape) < HIDDEN
    return table.mask(hidden), hidden


def errors(table: pd.DataFrame, filled: pd.DataFrame, hidden: np.ndarray) -> Found:
    """How far fills are off, and the columns' means or modes, over all hidden cells."""
    ours: list[np.ndarray] = []
    theirs: list[np.ndarray] = []
    for j, name in enumerate(table.columns):
        rows, column = hidden[:, j], table[name]
        if pd.api.types.is_numeric_dtype(column):
            scale = column.std()
            ours.append(((filled[name] - column) / scale)[rows] ** 2)
            theirs.append(((column - column[~rows].mean()) / scale)[rows] ** 2)
        else:
            ours.append((filled[name] != column)[rows].astype(float))
            theirs.append((column != column[~rows].mode()[0])[rows].astype(float))
    return {
        "error": float(np.sqrt(np.concatenate(ours).mean())),
        "of means": float(np.sqrt(np.concatenate(theirs).mean())),
    }


def fitted(model: Any, table: pd.DataFrame) -> Found:
    """Fit to a table with blanks and fill it."""
    gaps, hidden = hide(table)
    _, fit = timed(model.fit, gaps)
    filled, fill = timed(model.fill, gaps)
    return {"fit": fit, "fill": fill} | errors(table, filled, hidden)


# ---------------------------------------------------------------- cases


def wide(quick: bool) -> Found:
    return fitted(Auto(random_state=0), pd.DataFrame(factors(50, 500 if quick else 5000)).add_prefix("c"))


def typo(quick: bool) -> Found:
    """One slip among numbers: text of thousands of levels, if it were not read as numbers."""
    table = pd.DataFrame(factors(5000 if quick else 70_000, 3).round(3), columns=list("abc"))
    gaps, hidden = hide(table)
    text = gaps["a"].map(lambda v: None if np.isnan(v) else f"{v:.3f}").astype(object)
    text[int(np.flatnonzero(~hidden[:, 0])[9])] = "12,5x"
    gaps = gaps.assign(a=text)
    model = Auto(random_state=0)
    _, fit = timed(model.fit, gaps)
    filled, fill = timed(model.fill, gaps)
    return {"fit": fit, "fill": fill} | errors(
        table, filled.assign(a=pd.to_numeric(filled["a"], errors="coerce")), hidden
    )


def grades(quick: bool) -> Found:
    """Three columns of seven grades that depend on each other."""
    z = factors(300 if quick else 3000, 3)
    table = pd.DataFrame(np.clip(np.rint(1.2 * z / z.std(0)) + 4, 1, 7).astype(int), columns=list("abc"))
    return fitted(VAE(random_state=0), table)


def many_rows(quick: bool) -> Found:
    """Questions of many rows, put to a model of 5,000."""
    X = factors(10_000 if quick else 100_000, 5)
    model = Auto(random_state=0)
    found = {"fit": timed(model.fit, X[:5000])[1]}
    for question in ("score_samples", "transform", "predict"):
        found[question] = timed(getattr(model, question), X)[1]
    return found


CASES: dict[str, tuple[str, float, Callable[[bool], Found]]] = {
    "wide": ("Auto, 50 rows of 5,000 numbers", 60, wide),
    "levels_200": ("Auto, 2,000 rows, text of 200 levels", 20, lambda quick: fitted(Auto(random_state=0), levels(2000, 200))),
    "levels_900": ("Auto, 5,000 rows, text of 900 levels", 20, lambda quick: fitted(Auto(random_state=0), levels(5000, 900))),
    "typo": ("Auto, one typo in 70,000 numbers", 20, typo),
    "grades": ("VAE, 3,000 rows of 3 grades", 20, grades),
    "many_rows": ("Auto, 100,000 rows of 5 numbers asked, each question", 20, many_rows),
}  # fmt: skip


def long_file(rows: int, threads: int) -> dict[str, Found]:
    """A CSV file of ten numbers a row, a fifth of them blank, fitted and filled by the command line."""
    with tempfile.TemporaryDirectory() as folder:
        data, model = Path(folder) / "long.csv", Path(folder) / "model"
        rng = np.random.default_rng(0)
        for start in range(0, rows, 100_000):
            x = factors(min(100_000, rows - start), 10, seed=0).round(4)
            frame = pd.DataFrame(np.where(rng.random(x.shape) < 0.2, np.nan, x)).add_prefix("c")
            frame.to_csv(data, mode="a", header=not start, index=False)
        method = ("--model", "gaussian-mixture", "--set", "components=5", "-q")
        return {
            "fit": measured(MAIN, "fit", data, "-o", model, *method, threads=threads),
            "fill": measured(
                MAIN, "fill", data, "-m", model, "-o", Path(folder) / "whole.csv", "-q", threads=threads
            ),
        }


def main() -> None:
    parser = arguments(__doc__, 1)
    parser.add_argument("--cases", nargs="*", default=[*CASES, "long_file"], help="some of the cases")
    parser.add_argument(
        "--case", choices=list(CASES), help="run one in this process, and print what it finds"
    )
    args = parse(parser)
    if args.case:
        warnings.simplefilter("ignore")
        print(json.dumps(CASES[args.case][2](args.quick)))
        return
    report = Report("slow_cases", "Tables that once took minutes", args)
    report.remark(" ".join((__doc__ or "").split("\n\n")[2].split()))
    rows = []
    for name in (c for c in args.cases if c in CASES):
        found = alone(__file__, name, args)
        say(name, {k: round(v, 2) for k, v in found.items()})
        report.keep(name, found)
        title, most, _ = CASES[name]
        seconds = ", ".join(
            f"{k} {v:.1f}" for k, v in found.items() if k not in ("error", "of means", "cpu", "peak")
        )
        error = f"{found['error']:.3f} ({found['of means']:.3f})" if "error" in found else "–"
        rows.append([title, seconds, f"{found['cpu']:.1f}", f"{most:.0f}", error, f"{found['peak']:.0f}"])
    header = [
        "case",
        "seconds",
        "of processor, in all",
        "at most",
        "error (of means and modes)",
        "peak memory, MiB",
    ]
    report.table("one process each", header, rows)
    if "long_file" in args.cases:
        start = time.perf_counter()
        count = 50_000 if args.quick else 1_000_000
        runs = long_file(count, args.threads)
        say("long_file", f"{time.perf_counter() - start:.0f} s")
        report.keep("long_file", runs)
        report.table(
            f"{count:,} rows of a CSV file by the command line, ten numbers each, a fifth blank",
            ["run", "seconds", "of processor", "peak memory, MiB"],
            [
                [f"abduce {name}", f"{f['seconds']:.1f}", f"{f['cpu']:.1f}", f"{f['peak']:.0f}"]
                for name, f in runs.items()
            ],
        )
    report.save()


if __name__ == "__main__":
    main()
