"""Tables in many files: seconds and peak memory of fit, fill and score as rows grow, what a second process brings, and how
many rows a fit needs.

python benchmarks/scale.py [--sizes 10000 100000 1000000 10000000] [--threads 1]
python benchmarks/scale.py --models vae --sizes 1000000 10000000 [--resume | --kept]
python benchmarks/scale.py --engines [--engine-rows 10000000]
python benchmarks/scale.py --passes [--engine-rows 10000000]

Twenty numeric columns of five factors, a tenth of the cells blank, in files of at most 125,000 rows.  A command runs in a
process of its own, whose peak is measured.  A process that only loads the package says what of a time and of a peak is no
data.  Where one process works seconds are the processor's, so that runs may go beside one another, one a core.  With
``--models`` only these are run, at all sizes; what a run that was cut has not found is run by ``--resume``, and what it has
found is put into a table by ``--kept``.  The
picture of both by rows is of all figures that there are, and goes to docs/images/scale.png, with --quick to out/benchmarks.
With ``--engines`` only who works is compared, with ``--passes`` only a pass of EM by one process and by two, in turn.  Rows
that a fit needs: log p of 20,000 new rows under mixtures fitted to more and more rows of a mixture of 20 in 20 columns.
"""

from __future__ import annotations

import filecmp
import importlib.util
import json
import math
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from common import ROOT, Report, arguments, parse, say, timed
from streaming import MAIN, START, measured

from abduce import GaussianMixture

COLUMNS, FACTORS, BLANK, PER_FILE = 20, 5, 0.1, 125_000
FEW = 160_000  # rows that every engine has begun with, and hardly worked
WORKERS = 1, 2, 8, 64, 512
MOST_PASSES = 100  # of EM
MODELS = {
    "one Gaussian": ("--model", "gaussian-mixture", "--set", "components=1"),
    "a VAE": ("--model", "vae"),
    "the default pool": ("--model", "auto"),
}
SHORT = dict(zip(("gaussian", "vae", "auto"), MODELS, strict=True))
QUESTIONS = "fit", "fill", "score"


def tables(folder: Path, rows: int) -> None:
    """Write the files, at least four."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    loadings = rng.normal(size=(FACTORS, COLUMNS))
    each = min(PER_FILE, -(-rows // 4))
    for i, start in enumerate(range(0, rows, each)):
        n = min(each, rows - start)
        x = rng.normal(size=(n, FACTORS)) @ loadings + 0.5 * rng.normal(size=(n, COLUMNS))
        x[rng.random(x.shape) < BLANK] = np.nan
        frame = pd.DataFrame(x, columns=[f"c{j}" for j in range(COLUMNS)])
        frame.to_parquet(folder / f"part-{i:03}.parquet", index=False)


def same(one: Path, other: Path) -> bool:
    """Whether two folders hold the same bytes."""
    names = sorted(path.name for path in one.iterdir())
    if names != sorted(path.name for path in other.iterdir()):
        return False
    return not any(filecmp.cmpfiles(one, other, names, shallow=False)[1:])


def picture(folder: Path, path: Path) -> None:
    """Seconds and peak memory of each model and question by rows, of every run whose figures are in ``folder``."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    found: dict[str, dict[str, float]] = {}
    for figures in sorted(folder.glob("scale*.json")):
        found |= json.loads(figures.read_text())["results"].get("runs", {})
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    marks = dict(zip(QUESTIONS, "o^s", strict=True))
    for colour, name in zip(("tab:blue", "tab:orange", "tab:green"), MODELS, strict=True):
        for question, mark in marks.items():
            known = [key.split(" | ") for key in found]
            sizes = sorted(int(k[1]) for k in known if len(k) == 3 and k[0] == name and k[2] == question)
            runs = [found[f"{name} | {rows} | {question}"] for rows in sizes]
            for axis, what in zip(axes, ("cpu", "peak"), strict=True):
                values = [run[what] for run in runs]
                axis.plot(sizes, values, marker=mark, color=colour, label=f"{name}, {question}", lw=1, ms=4)
    axes[1].axhline(1500, color="gray", ls=":", lw=1)
    for axis, title in zip(axes, ("seconds of a core", "peak memory, MiB"), strict=True):
        axis.set(xscale="log", xlabel="rows of 20 numbers", title=title)
    axes[0].set_yscale("log")
    axes[1].set_ylim(bottom=0)
    figure.legend(*axes[0].get_legend_handles_labels(), fontsize=8, loc="outside right center")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def by_rows(found: dict[str, dict[str, float]], report: Report) -> None:
    """The table of fits, fills and scores, of those that were run."""
    alone = min((found[f"the package alone {i}"] for i in range(3)), key=lambda run: run["seconds"])
    known = [key.split(" | ") for key in found if key.count(" | ") == 2]
    lines = []
    for name, rows in dict.fromkeys((name, int(rows)) for name, rows, _ in known):
        cells = [name, f"{rows:,}"]
        for question in QUESTIONS:
            done = found.get(f"{name} | {rows} | {question}")
            if done is None:
                cells += ["–", "–"]
                continue
            speed = f", {rows / max(done['cpu'] - alone['cpu'], 1e-9):,.0f} rows/s"
            cells += [f"{done['cpu']:.1f}{'' if question == 'fit' else speed}", f"{done['peak']:.0f}"]
        lines.append(cells)
    header = ["model", "rows"]
    header += [f"{q}: {what}" for q in QUESTIONS for what in ("seconds of a core", "peak MiB")]
    report.table("As rows grow: one process", header, lines)
    report.remark(
        f"The package alone: {alone['cpu']:.1f} s, {alone['peak']:.0f} MiB; rows a second are without these. `fit` of the "
        "pool and of a VAE takes a uniform sample of at most two million cells, of one Gaussian it passes over all. Every "
        "command looks through all rows before it answers the first; several processes do so together."
    )


def rows_needed(args, report: Report) -> None:
    """Log p of new rows by the rows that a fit took."""
    rng = np.random.default_rng(1)
    most = 3000 if args.quick else 300_000
    means, loadings = 2 * rng.normal(size=(20, COLUMNS)), rng.normal(size=(20, FACTORS, COLUMNS))

    def rows(n: int) -> np.ndarray:
        k = rng.integers(0, 20, n)
        x = means[k] + 0.5 * rng.normal(size=(n, COLUMNS))
        for c in range(20):
            x[k == c] += rng.normal(size=(int((k == c).sum()), FACTORS)) @ loadings[c]
        return x

    train, new = rows(most), rows(2000 if args.quick else 20_000)
    lines, found = [], {}
    for n in (1000, 3000, 10_000, 30_000, 100_000, 300_000):
        if n > most:
            break
        cells = [f"{n:,}"]
        for k in (1, 5, 20):
            model = GaussianMixture(components=k, random_state=0)
            _, seconds = timed(model.fit, train[:n])
            log_p = float(model.score(new))
            found[f"{n} | {k}"] = {"log_p": log_p, "seconds": seconds}
            cells.append(f"{log_p:.3f}")
            say(n, k, round(log_p, 4))
        lines.append(cells)
    header = ["rows of the fit", "1 component", "5 components", "20 components"]
    report.table(
        "Rows that a fit needs: log p of new rows, nats",
        header,
        lines,
    )
    report.keep("rows needed", found)


def by_engines(
    rows: int, data: Path, few: int, work: Path, run: Callable[..., dict[str, float]], report: Report
) -> None:
    """A fit and fills of one Gaussian by each engine: seconds, whether the answers have the same bytes, and, beyond the
    seconds for ``few`` rows, what it brings once it has begun."""
    tables(work / "few", few)
    engines = [("plain", 1), ("processes", 2)]
    if importlib.util.find_spec("ray"):
        engines += [("ray", 1), ("ray", 2)]
    name = "one Gaussian"
    asked = {"fit": MODELS[name], "fill": ("-m", work / "fit-plain-1")}
    for question, words in asked.items():
        lines: list[list[str]] = []
        alone, rate_alone = 0.0, 0.0
        for engine, workers in engines:
            target = work / f"{question}-{engine}-{workers}"
            more = () if engine == "plain" else ("--engine", engine, "--workers", workers)
            who = f"{question} by {engine} {workers}"
            how = *words, "-q", *more
            begun = run(f"{name} | {few} | {who}", MAIN, question, work / "few", "-o", work / "begun", *how)[
                "seconds"
            ]
            shutil.rmtree(work / "begun")
            seconds = run(f"{name} | {rows} | {who}", MAIN, question, data, "-o", target, *how)["seconds"]
            rate = (rows - few) / max(seconds - begun, 1e-9)
            alone, rate_alone = alone or seconds, rate_alone or rate
            told = "yes" if same(work / f"{question}-plain-1", target) else "NO"
            cells = [engine, str(workers), f"{seconds:.1f}", f"{alone / seconds:.2f}", f"{begun:.1f}"]
            lines.append([*cells, f"{rate:,.0f}", f"{rate / rate_alone:.2f}", told])
            if engine != "plain":
                shutil.rmtree(target)
        header = [
            "engine",
            "processes",
            "seconds",
            "as fast as one plain process",
            f"seconds for {few:,} rows",
        ]
        header += ["rows a second beyond these", "as fast as one plain process", "the same bytes"]
        report.table(f"Who {question}s {rows:,} rows, {name}", header, lines)


def seconds_a_pass(data: Path, workers: int) -> float:
    """Of a fit of one Gaussian, the median second that a pass of EM takes, without the first, for which processes begin."""
    ends: dict[int, float] = {}

    def told(record: dict) -> None:
        if record.get("rows") == record.get("of"):
            ends[record["pass"]] = time.perf_counter()

    model = GaussianMixture(components=1, random_state=0, callback=told)
    model.fit(data, **({} if workers == 1 else {"engine": "processes", "workers": workers}))
    times = [ends[k] for k in sorted(ends)]
    return statistics.median(np.diff(times))


def passes(args, rows: int, report: Report) -> None:
    """A pass of EM by one process and by two, in turn, so that the machine's other work meets both alike."""
    times: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as place:
        data = Path(place) / "data"
        tables(data, rows)
        for turn in range(1 if args.quick else 3):
            for workers, found in times.items():
                found.append(seconds_a_pass(data, workers))
                say("turn", turn, workers, round(found[-1], 2))
    one, two = (statistics.median(found) for found in times.values())
    line = [", ".join(f"{t:.1f}" for t in found) for found in times.values()]
    header = ["one process, seconds", "two, seconds", "as fast as one, of the medians"]
    report.table(
        f"A pass of EM over {rows:,} rows, one Gaussian, in turn", header, [[*line, f"{one / two:.2f}"]]
    )
    report.keep("seconds a pass", {str(workers): found for workers, found in times.items()})
    report.save()


def modelled(rows: int, start: float, found: dict[str, dict[str, float]], report: Report) -> None:
    """What the measured seconds say of more machines.

        t(W) = start + c · rows / W + passes · 2 log₂ W · (delay + bytes / speed)

    A fit sends the sums of a Gaussian, 8 (1 + D + D²) bytes, up a tree and parameters down; a fill sends nothing.
    """
    size, delay, speed = 8 * (1 + COLUMNS + COLUMNS**2), 50e-6, 1.25e9
    header = ["what", "rows", *(f"{n} processes" for n in WORKERS), "2 processes, measured"]
    lines = []
    for question, passes in (("fit", MOST_PASSES), ("fill", 0)):
        alone = found[f"one Gaussian | {rows} | {question} by plain 1"]["seconds"]
        two = found[f"one Gaussian | {rows} | {question} by processes 2"]["seconds"]
        each = (alone - start) / rows
        for many in (rows, 1_000_000_000):
            cells = [question, f"{many:,}"]
            for n in WORKERS:
                seconds = start + each * many / n + passes * 2 * math.log2(n) * (delay + size / speed)
                cells.append(f"{seconds:,.0f} s ({100 * start / seconds:.0f} %)")
            lines.append([*cells, f"{two:.1f} s" if many == rows else ""])
    report.table("Modelled, and the share that starting is", header, lines)
    report.remark(
        f"A process starts in {start:.1f} s; the network of the model carries 10 Gbit/s and answers in 50 µs, and disks keep "
        f"up. {MOST_PASSES} passes, the most that a fit takes. What a fit does before its passes, on a sample, is counted "
        "as if it were shared."
    )


def main() -> None:
    parser = arguments(__doc__, 1)
    parser.add_argument("--engines", action="store_true", help="compare only who works")
    parser.add_argument(
        "--sizes", nargs="+", type=int, default=[10_000, 100_000, 1_000_000, 10_000_000], help="rows"
    )
    parser.add_argument(
        "--pool-rows",
        type=int,
        default=100_000,
        help="rows that a VAE and the pool are asked about, at most",
    )
    parser.add_argument("--models", nargs="+", choices=tuple(SHORT), help="run only these, at all sizes")
    parser.add_argument(
        "--engine-rows", type=int, default=1_000_000, help="rows that the engines are compared on"
    )
    parser.add_argument(
        "--kept",
        action="store_true",
        help="with --models: tables of the figures that there are, measuring nothing",
    )
    parser.add_argument(
        "--resume", action="store_true", help="with --models: measure only what has no figures yet, and fits"
    )
    parser.add_argument("--passes", action="store_true", help="time only a pass of EM")
    args = parse(parser)
    if (args.kept or args.resume) and not args.models:
        parser.error("--kept and --resume want --models: figures of whole runs are not put together again")
    sizes = [5000] if args.quick else args.sizes
    if args.passes:
        title = "Tables in many files, a pass over all rows by two processes"
        passes(args, FEW if args.quick else args.engine_rows, Report("scale_passes", title, args))
        return
    name, title = ("scale_engines", "by several processes") if args.engines else ("scale", "by rows")
    if args.models:
        name = "_".join([name, *args.models])
    report = Report(name, f"Tables in many files, {title}", args)
    pictured = ROOT / ("out/benchmarks" if args.quick else "docs/images") / "scale.png"
    found: dict[str, dict[str, float]] = {}
    if args.kept or args.resume:
        found |= json.loads((report.folder() / f"{name}.json").read_text())["results"]["runs"]
    if args.kept:
        report.keep("runs", found)
        by_rows(found, report)
        report.save()
        picture(report.folder(), pictured)
        return

    def run(name: str, code: str, *words: object) -> dict[str, float]:
        found[name] = measured(code, *words, threads=args.threads)
        say(name, {k: round(v, 1) for k, v in found[name].items()})
        report.keep("runs", found)
        report.save_figures()
        return found[name]

    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        if args.engines:
            rows = sizes[0] if args.quick else args.engine_rows
            tables(work / "data", rows)
            by_engines(rows, work / "data", min(FEW, rows // 2), work, run, report)
            start = min(run(f"the package alone {i}", START)["seconds"] for i in range(3))
            modelled(rows, start, found, report)
            report.save()
            return
        for i in range(3):
            if f"the package alone {i}" not in found:
                run(f"the package alone {i}", START)
        chosen = [SHORT[short] for short in args.models or SHORT]
        for rows in sizes:
            data = work / f"data-{rows}"
            missing = [n for n in chosen if any(f"{n} | {rows} | {q}" not in found for q in QUESTIONS)]
            if missing:
                tables(data, rows)
            for name in missing:
                if not (args.models or args.quick or name == "one Gaussian" or rows <= args.pool_rows):
                    continue
                model = work / f"model-{rows}-{len(name)}"
                for question in QUESTIONS:
                    if question != "fit" and f"{name} | {rows} | {question}" in found:
                        continue
                    words = (data, "-m", model, "-o", work / "answers", "-q")
                    if question == "fit":
                        words = (data, "-o", model, *MODELS[name], "-q", "--seed", 0)
                    run(f"{name} | {rows} | {question}", MAIN, question, *words)
                    shutil.rmtree(work / "answers", ignore_errors=True)
        by_rows(found, report)
        if args.models:
            report.save()
            picture(report.folder(), pictured)
            return

        rows = max((size for size in sizes if size <= args.engine_rows), default=sizes[0])
        by_engines(rows, work / f"data-{rows}", min(FEW, rows // 2), work, run, report)
    rows_needed(args, report)
    report.save()
    picture(report.folder(), pictured)


if __name__ == "__main__":
    main()
