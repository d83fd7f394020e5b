"""Tables too large for memory: time and peak memory of `abduce fit` and `abduce fill` from Parquet to Parquet.

python benchmarks/streaming.py [--rows 1000000] [--threads 1]

Ten numeric columns of a mixture of five Gaussians, a fifth of the cells blank.  `fit` takes a sample and fits
`GaussianMixture(components=5)`; `fill` streams.  Each command runs in a process of its own, whose peak is measured; beside
it, the same fill of the whole frame in memory.  A process that only loads the package says what of the peak is no data.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from common import Report, arguments, parse, say

COLUMNS, BLANK, COMPONENTS = 10, 0.2, 5
MAIN = "from abduce.cli import main; main()"
START = "import abduce, torch, pyarrow.parquet; abduce.load"
IN_MEMORY = """
import sys, abduce
from abduce.data import readers
readers.write(sys.argv[3], abduce.load(sys.argv[2]).fill(readers.read(sys.argv[1])))
"""


def table(path: Path, rows: int) -> int:
    """Write the table a piece at a time; count its blank cells."""
    rng = np.random.default_rng(0)
    means = 2 * rng.normal(size=(COMPONENTS, COLUMNS))
    roots = rng.normal(size=(COMPONENTS, COLUMNS, COLUMNS)) / np.sqrt(COLUMNS)
    names = [f"c{j}" for j in range(COLUMNS)]
    blanks = 0
    with pq.ParquetWriter(path, pa.schema([(name, pa.float64()) for name in names])) as writer:
        for start in range(0, rows, 100_000):
            k = rng.integers(0, COMPONENTS, min(100_000, rows - start))
            x = means[k] + np.einsum("nij,nj->ni", roots[k], rng.normal(size=(len(k), COLUMNS)))
            blank = rng.random(x.shape) < BLANK
            blanks += int(blank.sum())
            frame = pd.DataFrame(np.where(blank, np.nan, x), columns=names)
            writer.write_table(pa.Table.from_pandas(frame, preserve_index=False))
    return blanks


def measured(code: str, *words: Any, threads: int) -> dict[str, float]:
    """Run Python code in a process of its own: seconds on the clock and of the processor, peak memory in MiB."""
    cores = str(threads)
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)],
        env={**os.environ, "OMP_NUM_THREADS": cores, "OPENBLAS_NUM_THREADS": cores, "MKL_NUM_THREADS": cores},
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"failed: {' '.join(map(str, words))}")
    return {
        "seconds": time.perf_counter() - start,
        "cpu": usage.ru_utime + usage.ru_stime,
        "peak": usage.ru_maxrss / (1024 if sys.platform != "darwin" else 1024**2),
    }


def main() -> None:
    parser = arguments(__doc__, 1)
    parser.add_argument("--rows", type=int, default=1_000_000)
    args = parse(parser)
    rows = 50_000 if args.quick else args.rows
    report = Report("streaming", "Tables too large for memory, Parquet to Parquet", args)
    with tempfile.TemporaryDirectory() as folder:
        data, model = Path(folder) / "big.parquet", Path(folder) / "model"
        blanks = table(data, rows)
        size = data.stat().st_size / 2**20
        say(f"{rows:,} rows, {blanks:,} blanks, {size:.0f} MiB")
        method = ("--model", "gaussian-mixture", "--set", f"components={COMPONENTS}", "-q")
        runs = {"the package alone": (START,)}
        runs["abduce fit"] = (MAIN, "fit", data, "-o", model, *method)
        runs["abduce fill"] = (MAIN, "fill", data, "-m", model, "-o", Path(folder) / "whole.parquet", "-q")
        runs["fill, whole frame in memory"] = (IN_MEMORY, data, model, Path(folder) / "memory.parquet")
        found: dict[str, dict[str, float]] = {}
        for name, run in runs.items():
            found[name] = measured(*run, threads=args.threads)
            say(name, {k: round(v, 1) for k, v in found[name].items()})
        streamed, whole = (pq.read_table(Path(folder) / f"{n}.parquet") for n in ("whole", "memory"))
        same = all(streamed[c].equals(whole[c]) for c in streamed.column_names)
    report.remark(
        f"{rows:,} rows of {COLUMNS} numbers, {blanks:,} of the cells blank ({size:.0f} MiB of Parquet, "
        f"{rows * COLUMNS * 8 / 2**20:.0f} MiB as numbers). `fit` takes a uniform sample where the table has more than two "
        f"million cells. The streamed answer {'is, to the bit, that' if same else 'DIFFERS from that'} of the whole frame."
    )
    report.table(
        "one process each",
        ["run", "seconds", "seconds of processor", "rows/s", "peak memory, MiB"],
        [
            [
                name,
                f"{f['seconds']:.1f}",
                f"{f['cpu']:.1f}",
                f"{rows / f['seconds']:,.0f}",
                f"{f['peak']:.0f}",
            ]
            for name, f in found.items()
        ],
    )
    report.keep("runs", found)
    report.keep(
        "table", {"rows": rows, "columns": COLUMNS, "blanks": blanks, "mib": size, "same_to_the_bit": same}
    )
    report.save()


if __name__ == "__main__":
    main()
