"""What the benchmarks of binarised MNIST share: draws of black-and-white images, training runs that are kept, the table."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from common import ROOT, Report, arguments, data_folder, parse, say, timed

from abduce import VAE, load
from abduce.data.examples import mnist


@dataclass(frozen=True)
class Run:
    """Arguments of a VAE, and for how many epochs to train it."""

    arguments: dict[str, Any]
    epochs: int


def binarized(grey: np.ndarray, seed: int) -> np.ndarray:
    """Draw black-and-white images, each pixel on with probability grey / 255."""
    uniform = np.random.default_rng(seed).random(grey.shape, dtype=np.float32)
    return (255 * uniform < grey).view(np.uint8)


def train_runs(
    folder: str,
    runs: dict[str, Run],
    x: np.ndarray,
    redraw: Callable[[int], np.ndarray] | None,
    args: argparse.Namespace,
) -> None:
    """Train one model after the other; each is kept in out/<folder>/ with what it cost."""
    torch.set_flush_denormal(True)
    place = ROOT / "out" / folder
    place.mkdir(parents=True, exist_ok=True)
    if args.quick:
        x, redraw = x[:2000], None
    for name, run in runs.items():

        def told(record: dict, name: str = name) -> None:
            if record["epoch"] % 5 == 0:
                say(name, {k: round(v, 2) for k, v in record.items() if not isinstance(v, list)})

        epochs = 2 if args.quick else run.epochs
        settings = {"weight_decay": 0.0, "validation_fraction": 0.02, "masking": False, "random_state": 0}
        model = VAE(**settings | run.arguments, max_epochs=epochs, callback=told)
        busy = time.process_time()
        _, seconds = timed(model.fit, x, redraw=redraw)
        busy = time.process_time() - busy
        model.callback = None
        model.save(place / name)
        steps = epochs * (round(0.98 * len(x)) // model.batch_size)
        facts = {
            "epochs": epochs,
            "steps": steps,
            "seconds": seconds,
            "cpu_seconds": busy,
            "threads": torch.get_num_threads(),
        }
        (place / f"{name}.json").write_text(json.dumps(facts))
        say(name, facts)


def evaluate(
    name: str,
    title: str,
    args: argparse.Namespace,
    x: np.ndarray,
    runs: dict[str, Run],
    published: list[list[Any]],
) -> None:
    """Score the runs chosen on the test images x by one estimator and write the table; of a part of them, to a file apart."""
    chosen = {run: runs[run] for run in args.only}
    report = Report(name if len(chosen) == len(runs) else f"{name}_part", title, args)
    place = ROOT / "out" / name
    rows = []
    x = x[: 500 if args.quick else args.rows]
    for run in chosen:
        if not (place / run).exists():
            say(f"{run}: not trained, left out")
            continue
        facts = json.loads((place / f"{run}.json").read_text())
        model = load(place / run)
        start = time.perf_counter()
        value, found = model.log_prob(x, samples=args.samples, precision="single", return_diagnostics=True)
        seconds = time.perf_counter() - start
        few = x[:300]
        more = float(model.log_prob(few, samples=5000, precision="single").mean() - value[: len(few)].mean())
        split = model.diagnose(x[:1000])
        mean, error = float(value.mean()), float(value.std(ddof=1) / len(value) ** 0.5)
        say(run, round(mean, 2), round(seconds))
        kept = {"log_prob": mean, "standard_error": error, "gain_5000": more, "seconds_to_score": seconds}
        report.keep(run, facts | kept)
        rows.append(
            {
                "model": f"**{run}**",
                "log p(x)": f"{mean:.2f} ± {error:.2f}",
                "with 5,000 draws": f"{more:+.2f}",
                "ELBO": f"{split.elbo:.2f}",
                "KL": f"{split.kl:.1f}",
                "active units": split.active_units,
                "median ESS": f"{np.median(found['effective_sample_size']):.0f}",
                "steps": f"{facts['steps']:,} ({facts['epochs']} epochs)",
                "minutes to train": f"{facts['seconds'] / 60:.1f}",
                "CPU minutes": f"{facts['cpu_seconds'] / 60:.1f}" if "cpu_seconds" in facts else "–",
                "minutes to score": f"{seconds / 60:.1f}",
            }
        )
    rows += [
        {"model": text, "log p(x)": f"{value:.2f}", "steps": budget} for text, value, budget in published
    ]
    report.table(
        f"nats an image, {len(x):,} test images, {args.samples:,} importance draws each",
        list(rows[0]),
        [[row.get(column, "") for column in rows[0]] for row in rows],
    )
    report.remark(
        "*log p(x)*: mean over the test images ± its standard error. *with 5,000 draws*: what five thousand draws an image "
        "add, on the first 300 images. *ELBO*, *KL* and *active units* are of the first 1,000. Minutes are wall time on a "
        "machine that did other work; CPU minutes are of one thread. Published figures are as their sources state them."
    )
    report.save()


def main(
    doc: str | None, name: str, title: str, runs: dict[str, Run], published: list[list[Any]], dynamic: bool
) -> None:
    """Train the runs named on the command line, or score them; ``dynamic`` draws the training images anew each epoch."""
    parser = arguments(doc, 1)
    parser.add_argument("--only", nargs="*", default=list(runs), help="names of runs")
    parser.add_argument(
        "--evaluate", action="store_true", help="score the runs there are and write the table"
    )
    parser.add_argument("--samples", type=int, default=1000, help="importance draws a test image")
    parser.add_argument("--rows", type=int, default=10_000, help="test images")
    args = parse(parser)
    data_folder()
    digits = mnist()
    if args.evaluate:
        evaluate(name, title, args, binarized(digits.x_test, 1), runs, published)
        return
    first = 1_000_000 if dynamic else 0  # seed of the first draw

    def redraw(epoch: int) -> np.ndarray:
        return binarized(digits.x_train, first + 1 + epoch)

    chosen = {run: runs[run] for run in args.only}
    train_runs(name, chosen, binarized(digits.x_train, first), redraw if dynamic else None, args)
