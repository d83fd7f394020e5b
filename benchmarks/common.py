"""What every benchmark shares: its arguments, the clock, and a report written as Markdown and JSON.

A full run writes `benchmarks/results/<name>.md` and `.json`, which are committed; a run with `--quick` (a
smoke run on little data) writes the same files to `out/benchmarks/`, so that it never replaces a real result.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("abduce", "torch", "numpy", "scikit-learn", "pyod", "pythae", "torchebm")
T = TypeVar("T")


def arguments(description: str | None, seeds: int) -> argparse.ArgumentParser:
    """The parser that all benchmarks extend: `--quick`, `--seeds`, `--threads`."""
    parser = argparse.ArgumentParser(description=(description or "").split("\n")[0])
    parser.add_argument(
        "--quick", action="store_true", help="a smoke run on little data, written to out/benchmarks/"
    )
    parser.add_argument(
        "--seeds", type=int, default=seeds, help="number of seeds, 0, 1, ... (default %(default)s)"
    )
    parser.add_argument(
        "--threads", type=int, default=None, help="threads of torch and BLAS (default: all cores)"
    )
    return parser


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse the command line; with `--quick` one seed; set the number of threads."""
    args = parser.parse_args()
    if args.seeds < 1:
        parser.error(f"--seeds must be at least 1, got {args.seeds}")
    if args.quick:
        args.seeds = 1
    import torch
    from threadpoolctl import threadpool_limits

    if args.threads:
        torch.set_num_threads(args.threads)
        threadpool_limits(args.threads)
    args.threads = torch.get_num_threads()
    return args


def data_folder() -> Path:
    """The folder of larger data sets, or an exit that says what to set."""
    from abduce.data.examples import data_folder as find

    try:
        return find()
    except FileNotFoundError as error:
        sys.exit(f"{error}. This benchmark reads <folder>/adbench/*.npz, e.g. ABDUCE_DATA=~/data make bench")


def timed(function: Callable[..., T], *args: Any, **kw: Any) -> tuple[T, float]:
    """Call and return (result, seconds)."""
    start = time.perf_counter()
    return function(*args, **kw), time.perf_counter() - start


def say(*words: Any) -> None:
    """Progress, on stderr."""
    print(f"[{time.strftime('%H:%M:%S')}]", *words, file=sys.stderr, flush=True)


def spread(values: Iterable[float], digits: int = 3, scale: float = 1.0) -> str:
    """Mean ± standard deviation over seeds, "0.137 ± 0.002"; "–" where there are none."""
    x = np.asarray([v for v in values if v is not None and np.isfinite(v)], float) * scale
    if not len(x):
        return "–"
    mean = f"{x.mean():.{digits}f}"
    return f"{mean} ± {x.std(ddof=1):.{digits}f}" if len(x) > 1 else mean


def alone(script: str, case: str, args: argparse.Namespace, limit: float | None = None) -> dict[str, float]:
    """A case of a script in a process of its own, ``python script --case case``, which prints JSON: what it found, its seconds
    of processor ("cpu") and its peak ("peak", MiB); nothing where it was stopped after ``limit`` seconds."""
    cores = str(args.threads)
    environment = {**os.environ, "OMP_NUM_THREADS": cores, "OPENBLAS_NUM_THREADS": cores}
    with tempfile.TemporaryFile("w+") as out:
        command = [sys.executable, script, "--case", case, "--threads", cores]
        process = subprocess.Popen(command + ["--quick"] * args.quick, env=environment, stdout=out)
        clock = threading.Timer(limit or 1e6, process.kill)
        clock.start()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = status
        clock.cancel()
        if status:
            if limit:
                return {}
            sys.exit(f"failed: {case}")
        out.seek(0)
        found = json.loads(out.read())
    peak = usage.ru_maxrss / (1024 if sys.platform != "darwin" else 1024**2)
    return found | {"cpu": usage.ru_utime + usage.ru_stime, "peak": peak}


class Report:
    """Tables and remarks of one benchmark, and where and when they were measured."""

    def __init__(self, name: str, title: str, args: argparse.Namespace):
        self.name, self.title, self.args = name, title, args
        self.parts: list[str] = []
        self.data: dict[str, Any] = {}
        self.start = time.perf_counter()

    def remark(self, text: str) -> None:
        """Add a paragraph."""
        self.parts.append(text.strip())

    def table(self, title: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Add a table; cells are shown as they are, numbers with three digits."""

        def cell(value: Any) -> str:
            return f"{value:.3f}" if isinstance(value, float) else str(value)

        lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
        lines += ["| " + " | ".join(cell(v) for v in row) + " |" for row in rows]
        self.parts.append(f"## {title}\n\n" + "\n".join(lines))

    def keep(self, key: str, value: Any) -> None:
        """Add figures to the JSON: what the tables were made of, a number a seed."""
        self.data[key] = value

    def environment(self) -> dict[str, Any]:
        """When, with what and on what."""
        options = [a for a in sys.argv[1:] if not a.startswith(str(ROOT))]
        return {
            "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "command": shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *options]),
            "versions": {"python": platform.python_version()} | dict(filter(None, map(_version, PACKAGES))),
            "machine": {"cpu": _cpu(), "cores": os.cpu_count(), "threads": self.args.threads},
            "seeds": list(range(self.args.seeds)),
            "seconds": round(time.perf_counter() - self.start, 1),
        }

    def save(self) -> None:
        """Write both files, each whole or not at all, and print the Markdown."""
        about = self.environment()
        versions = ", ".join(f"{k} {v}" for k, v in about["versions"].items())
        machine = about["machine"]
        seeds = (
            f"{len(about['seeds'])} seeds; ± is the standard deviation over them"
            if self.args.seeds > 1
            else "1 seed"
        )
        foot = (
            f"{about['date']} · `{about['command']}` · {about['seconds']:.0f} s · {machine['cpu']}, "
            f"{machine['cores']} cores, {machine['threads']} threads · {versions} · {seeds}"
        )
        text = "\n\n".join([f"# {self.title}", *self.parts, "---", foot]) + "\n"
        write(self.folder() / f"{self.name}.md", text)
        self.save_figures()
        print(text)

    def save_figures(self) -> None:
        """Write the JSON alone, so that a long run that is cut leaves what it found."""
        figures = {**self.environment(), "results": self.data}
        write(self.folder() / f"{self.name}.json", json.dumps(figures, indent=1, default=float) + "\n")

    def folder(self) -> Path:
        """Where the files go: with ``--quick`` apart from results."""
        folder = ROOT / ("out/benchmarks" if self.args.quick else "benchmarks/results")
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def write(path: Path, text: str) -> None:
    """Write a file atomically."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _version(package: str) -> tuple[str, str] | None:
    try:
        return package, version(package)
    except PackageNotFoundError:
        return None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
