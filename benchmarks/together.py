"""Training by several processes: what a second one brings, and what a model of the costs says of 8, 64 and 512 machines.

python benchmarks/together.py [--rows 20000] [--epochs 6]

A VAE with the 784-200-200-50 tanh network on binary rows, batches of 1,000, by one process and by two that ``torchrun``
starts, each with one thread; beside them the seconds of a step of a part of the batch alone, of half of it by each of two
processes that exchange nothing, which is what two can come to here, and of an exchange of gradients alone.  A step of W
processes is modelled as

    t(W) = c(B / W) + 2 (W − 1)/W · bytes / bandwidth + 2 (W − 1) · delay          (a ring: every process sends to the next)

with c(b) the seconds that one process takes for b rows, measured; bandwidth and delay are measured between two processes
here, and taken for a network where there are more machines.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from common import Report, arguments, parse, say

from abduce import VAE
from abduce.together import launched, meet

PIXELS, BATCH = 784, 1000
PARTS = (1000, 500, 125, 16)  # rows of a step
MACHINES = (1, 2, 8, 64, 512)
NETWORK = {
    "10 Gbit/s, 50 µs": (1.25e9, 50e-6),
    "100 Gbit/s, 5 µs": (1.25e10, 5e-6),
}  # bytes a second, seconds
SIZES = (2**12, 2**20, 2**22, 2**24)  # bytes that are averaged


def one_case(case: str, rows: int, epochs: int) -> dict[str, float]:
    """What this process finds, of those that were launched with it."""
    torch.set_num_threads(1)
    if case == "exchange":
        return exchange()
    batch = int(case)
    X = (np.random.default_rng(0).random((rows, PIXELS)) < 0.3).astype(float)
    model = VAE(
        kinds="binary",
        latent_dim=50,
        hidden=(200, 200),
        activation="tanh",
        network="mlp",
        linear_path=False,
        masking=False,
        batch_size=batch,
        max_epochs=epochs,
        validation_fraction=0.0,
        dropout=0.0,
        random_state=0,
    )
    ends: list[float] = []
    model.set_params(callback=lambda record: ends.append(record["seconds"]))
    model.fit(X)
    steps = rows // batch
    weights = sum(p.numel() for p in model.model_.parameters())
    return {
        "step": statistics.median(np.diff(ends)) / steps,
        "weights": weights,
        "processes": launched().count,
    }


def exchange() -> dict[str, float]:
    """Seconds of an average over two processes, by its bytes."""
    meet()
    found = {}
    for size in SIZES:
        tensor = torch.zeros(size // 4)
        times = []
        for _ in range(30):
            start = time.perf_counter()
            torch.distributed.all_reduce(tensor)
            times.append(time.perf_counter() - start)
        found[str(size)] = statistics.median(times)
    return found


def run(processes: int, case: str, args) -> dict[str, float]:
    """A case in processes of its own; the figures of the first."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", processes]
    found = started([launcher], case, args)[0]
    say(case, processes, found)
    return found


def started(launchers: list[list], case: str, args) -> list[dict[str, float]]:
    """A case begun at once by each of some launchers, words before this file's name; the figures of each."""
    with tempfile.TemporaryDirectory() as folder:
        targets = [Path(folder) / f"found-{i}.json" for i in range(len(launchers))]
        running = []
        for launcher, target in zip(launchers, targets, strict=True):
            words = [sys.executable, *launcher, __file__, "--case", case, "--target", target]
            words += ["--rows", args.rows, "--epochs", args.epochs]
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            running.append(
                subprocess.Popen([str(w) for w in words], env=environment, stdout=subprocess.DEVNULL)
            )
        for process in running:
            if process.wait():
                sys.exit(f"case {case} failed")
        return [json.loads(target.read_text()) for target in targets]


def modelled(
    count: int, rows: float, cost: dict[int, float], size: float, speed: float, delay: float
) -> float:
    """Seconds of a step of ``count`` processes with so many rows each."""
    known = sorted(cost)
    compute = float(np.interp(rows, known, [cost[b] for b in known]))
    return compute + 2 * (count - 1) / count * size / speed + 2 * (count - 1) * delay


def main() -> None:
    parser = arguments(__doc__, 1)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--case")
    parser.add_argument("--target", type=Path)
    args = parse(parser)
    if args.case:
        found = one_case(args.case, args.rows, args.epochs)
        if launched().rank == 0:
            args.target.write_text(json.dumps(found))
        return
    if args.quick:
        args.rows, args.epochs = 4000, 3
    report = Report("together", "One model, trained by several processes", args)
    # in turn, so that the machine's other work meets all alike
    turns = [
        {"one": run(1, "1000", args), "two": run(2, "1000", args)} for _ in range(1 if args.quick else 3)
    ]
    one, two = (statistics.median(turn[w]["step"] for turn in turns) for w in ("one", "two"))
    cost = {b: one if b == BATCH else run(1, str(b), args)["step"] for b in PARTS}
    apart = max(found["step"] for found in started([[], []], str(BATCH // 2), args))
    times = run(2, "exchange", args)
    size = 4 * turns[0]["one"]["weights"]
    small, large = times[str(SIZES[0])], times[str(SIZES[-1])]
    delay, speed = small / 2, SIZES[-1] / max(large - small, 1e-9)
    said = modelled(2, BATCH / 2, cost, size, speed, delay)
    report.table(
        "A step of 1,000 rows here",
        ["processes", "milliseconds", "as fast as one", "by the model of costs"],
        [
            ["1", f"{1e3 * one:.1f}", "1.00", ""],
            ["2", f"{1e3 * two:.1f}", f"{one / two:.2f}", f"{1e3 * said:.1f}"],
            [
                "2 that exchange nothing, half of the rows each",
                f"{1e3 * apart:.1f}",
                f"{one / apart:.2f}",
                "",
            ],
        ],
    )
    report.table(
        "What the model is made of, measured here",
        ["what", "milliseconds"],
        [[f"a step of {b:,} rows, one process", f"{1e3 * cost[b]:.2f}"] for b in PARTS]
        + [
            [f"an average of {s / 2**20:.3g} MiB, two processes", f"{1e3 * times[str(s)]:.2f}"] for s in SIZES
        ],
    )
    lines = []
    for name, (rate, wait) in NETWORK.items():
        for what, each in (("1,000 rows in all", None), ("1,000 rows each", BATCH)):
            cells = [name, what]
            for count in MACHINES:
                rows = BATCH / count if each is None else each
                step = modelled(count, rows, cost, size, rate, wait)
                gain = one / step * (1 if each is None else count)
                share = 1 - modelled(1, rows, cost, size, rate, wait) / step
                cells.append(f"{gain:.1f} ({100 * share:.0f} %)")
            lines.append(cells)
    header = ["network", "a batch of", *(f"{n} machines" for n in MACHINES)]
    report.table(
        "Rows a second, in those of one process, and the share of a step that is exchange: modelled",
        header,
        lines,
    )
    report.keep(
        "measured",
        {"turns": turns, "cost": {str(b): c for b, c in cost.items()}, "exchange": times, "apart": apart},
    )
    report.remark(
        f"{turns[0]['one']['weights']:,} weights, {size / 2**20:.2f} MiB of gradients a step. Batches that grow with the "
        "machines are other batches: they need fewer, larger steps, and what that does to the model is not in this table."
    )
    report.save()


if __name__ == "__main__":
    main()
