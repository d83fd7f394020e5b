"""Run every benchmark in its own process, one after the other; a failure does not stop the others.

python benchmarks/run_all.py [--quick] [names ...]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
HELPERS = {"common", "mnist_runs", "nab_scoring", "peers", "pythae_peer", "run_all", "worlds"}


def main() -> int:
    names = sorted(path.stem for path in HERE.glob("[a-z]*.py") if path.stem not in HELPERS)
    parser = argparse.ArgumentParser(description="Run every benchmark.")
    parser.add_argument("--quick", action="store_true", help="smoke runs, written to out/benchmarks/")
    parser.add_argument(
        "names", nargs="*", metavar="name", help=f"some of: {', '.join(names)} (default: all)"
    )
    args = parser.parse_args()
    if unknown := sorted(set(args.names) - set(names)):
        parser.error(f"no such benchmark: {', '.join(unknown)}; there are {', '.join(names)}")
    failed = []
    for name in args.names or names:
        start = time.perf_counter()
        print(f"== {name}", file=sys.stderr, flush=True)
        command = [sys.executable, str(HERE / f"{name}.py"), *(["--quick"] if args.quick else [])]
        if subprocess.run(command, check=False).returncode:
            failed.append(name)
        print(f"== {name}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
