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
from common import ROOT, Report, say, timed

from abduce import VAE, load


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
    """Score every run there is on the test images x by one estimator and write the table."""
    report = Report(name, title, args)
    place = ROOT / "out" / name
    rows = []
    x = x[: 500 if args.quick else args.rows]
    for run in runs:
        if not (place / run).exists():
            say(f"{run}: not trained, left out")
            continue
        facts = json.loads((place / f"{run}.json").read_text())
        model = load(place / run)
        start = time.perf_counter()
        value, found = model.log_prob(x, samples=args.samples, precision="single", return_diagnostics=True)
        seconds = time.perf_counter() - start
        best = model.diagnose(x[:1000])
        mean, error = float(value.mean()), float(value.std(ddof=1) / len(value) ** 0.5)
        say(run, round(mean, 2), round(seconds))
        report.keep(run, {**facts, "log_prob": mean, "standard_error": error, "seconds_to_score": seconds})
        rows.append(
            [f"**{run}**", f"{mean:.2f} ± {error:.2f}", f"{best.elbo:.2f}", f"{best.kl:.1f}", best.active_units,
             f"{np.median(found['effective_sample_size']):.0f}", f"{facts['steps']:,} ({facts['epochs']} epochs)",
             f"{facts['seconds'] / 60:.1f}", f"{facts['cpu_seconds'] / 60:.1f}", f"{seconds / 60:.1f}"]
        )  # fmt: skip
    rows += [[text, f"{value:.2f}", "", "", "", "", budget, "", "", ""] for text, value, budget in published]
    report.table(
        f"nats an image, {len(x):,} test images, {args.samples:,} importance draws each",
        [
            "model",
            "log p(x)",
            "ELBO",
            "KL",
            "active units",
            "median ESS",
            "steps",
            "minutes to train",
            "to score",
        ],
        rows,
    )
    report.save()
