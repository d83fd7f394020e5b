"""Speed of log p(x): importance sampling of the 784-200-200-50 tanh Bernoulli VAE, 5,000 draws an image, beside pythae.

python benchmarks/evidence_speed.py [--rows 10000] [--samples 5000]

10,000 MNIST test images, binarised by one fixed draw. Weights are as initialised: the cost does not depend on them.
The floor is the decoder's matrix products, 2 x 206,800 operations a draw an image; the share is of the rate of a large
float32 matrix product here, measured before and after. pythae's `get_nll` runs on a few images and is scaled to as many.
Memory is the peak above what the process held before.
"""

from __future__ import annotations

import contextlib
import io
import logging
import statistics
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from common import Report, arguments, data_folder, parse, say, timed
from pythae_peer import HIDDEN, LATENT, PIXELS, pythae_model
from torch import Tensor
from training_speed import peak

from abduce.data.examples import mnist
from abduce.data.schema import Schema
from abduce.inference.importance import log_prob
from abduce.models.build import build_vae
from abduce.models.choice import Choice

FLOPS = 2 * (LATENT * HIDDEN + HIDDEN * HIDDEN + HIDDEN * PIXELS)  # of the decoder, a draw


def images(rows: int) -> Tensor:
    """Test images binarised by one fixed draw of pixels, (rows, 784)."""
    grey = mnist().x_test.reshape(-1, PIXELS)[:rows] / 255.0
    drawn = np.random.default_rng(0).random(grey.shape) < grey
    return torch.from_numpy(drawn.astype(np.float32))


def held(peak: bool) -> float:
    """Memory this process holds, GiB: now, or the most since :func:`forget_peak`."""
    key = "VmHWM:" if peak else "VmRSS:"
    (line,) = [s for s in Path("/proc/self/status").read_text().splitlines() if s.startswith(key)]
    return int(line.split()[1]) / 2**20


def forget_peak() -> None:
    """Let the peak be measured from here (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")


def pythae(x: Tensor, samples: int) -> float:
    """Seconds of pythae's `get_nll`, in batches of 100 draws as is its default."""
    model = pythae_model().eval()
    with torch.no_grad():
        return timed(model.get_nll, x, n_samples=samples, batch_size=100)[1]


def main() -> None:
    parser = arguments(__doc__, 1)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--samples", type=int, default=5_000)
    args = parse(parser)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    data_folder()
    rows, samples = (64, 1000) if args.quick else (args.rows, args.samples)
    x = images(rows)
    rows = len(x)
    few = min(rows, 5 if args.quick else 100)
    torch.manual_seed(0)
    schema = Schema.infer(x.numpy().astype(np.uint8).reshape(-1, 28, 28))
    model = build_vae(schema, Choice(LATENT, (HIDDEN, HIDDEN), activation="tanh", masking=False))
    observed = torch.ones(x.shape, dtype=torch.bool)
    report = Report(
        "evidence_speed", "Speed of log p(x), 784-200-200-50 tanh Bernoulli VAE, binary MNIST", args
    )
    table, kept = [], {}
    log_prob(model, x[:64], observed[:64], 50, precision="single")  # warms up
    for precision, dtype in (("single", torch.float32), ("double", torch.float64)):
        part = rows if precision == "single" else min(rows, 64)
        rates = [peak()]
        forget_peak()
        before = held(peak=False)
        start = time.perf_counter()
        evidence = log_prob(model.to(dtype), x[:part], observed[:part], samples, precision=precision)
        seconds = time.perf_counter() - start
        memory = held(peak=True) - before
        rates.append(peak())
        rate = statistics.mean(rates)
        share = FLOPS * part * samples / seconds / rate
        say(
            f"{precision}: {part} images, {seconds:.1f} s, {share:.0%} of {rate / 1e9:.0f} GFLOP/s, {memory:.3f} GiB"
        )
        table.append((f"**abduce**, {precision} precision", part, seconds / part, share, memory))
        kept[precision] = {"rows": part, "seconds": seconds, "share": share, "gemm_flops": rates,
                           "peak_gib": memory, "mean_log_prob": float(evidence.value.mean())}  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        seconds = pythae(x[:few], samples)
    rate = peak()
    table.append(
        (
            "pythae `get_nll`, single precision",
            few,
            seconds / few,
            FLOPS * few * samples / seconds / rate,
            "–",
        )
    )
    kept["pythae"] = {"rows": few, "seconds": seconds, "gemm_flops": rate}
    slowest = table[-1][2]
    report.table(
        f"{samples:,} draws an image",
        [
            "",
            "images run",
            "ms an image",
            "10,000 images, min",
            "of the float32 peak",
            "x pythae",
            "peak memory, GiB",
        ],
        [
            [
                name,
                n,
                f"{1000 * s:.1f}",
                f"{10_000 * s / 60:.1f}",
                f"{share:.0%}",
                f"{slowest / s:.1f}",
                memory,
            ]
            for name, n, s, share, memory in table
        ],
    )
    report.remark(
        "The share is of the decoder's operations at the rate of a large float32 matrix product, also in double precision."
    )
    report.keep("runs", kept)
    report.save()


if __name__ == "__main__":
    main()
