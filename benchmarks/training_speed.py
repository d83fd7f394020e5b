"""Training speed: the 784-200-200-50 tanh Bernoulli VAE on 60,000 binary images, interleaved with what else would train it.

python benchmarks/training_speed.py [--rows N] [--rounds 5]

Every trainer runs the same number of steps in turn, round after round, so that the machine's other work hits all alike;
figures are medians over rounds. Ours is `abduce.fit.loop.train`, the loop behind `VAE.fit`, on complete data; the bare loop
is what one writes by hand in eager PyTorch; pythae's trainer runs without callbacks. The floor is the time of a step's
matrix products alone.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import statistics
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from common import Report, arguments, data_folder, parse, say
from pythae_peer import HIDDEN, LATENT, PIXELS, network, pythae_trainer
from torch import Tensor
from torch.nn import functional as F

from abduce.data.examples import mnist
from abduce.data.schema import Schema
from abduce.fit.bounds import ELBO, IWAE, Objective, Renyi
from abduce.fit.loop import train
from abduce.fit.settings import Settings
from abduce.fit.steps import LatentStep
from abduce.models.build import build_vae
from abduce.models.choice import Choice

SHAPES = (
    (PIXELS, HIDDEN),
    (HIDDEN, HIDDEN),
    (HIDDEN, 2 * LATENT),
    (LATENT, HIDDEN),
    (HIDDEN, HIDDEN),
    (HIDDEN, PIXELS),
)
# forward, gradient of weights, gradient of inputs (not of the images); 2 operations a multiply-add
FLOPS = 6 * sum(i * o for i, o in SHAPES) - 2 * PIXELS * HIDDEN

Epoch = Callable[[], None]


def flops(samples: int, backward: int | None = None) -> float:
    """Operations a row of a bound of ``samples`` draws, of which ``backward`` go through the backward pass (default: all)."""
    backward = samples if backward is None else backward
    encoder = sum(i * o for i, o in SHAPES[:3])
    decoder = sum(i * o for i, o in SHAPES[3:])
    again = backward if backward < samples else 0  # draws chosen for the backward pass run forward once more
    return 6 * encoder - 2 * PIXELS * HIDDEN + decoder * (2 * (samples + again) + 4 * backward)


def ours(x: Tensor, batch: int, objective: Objective | None = None) -> Epoch:
    schema = Schema.infer(x.numpy().astype(np.uint8).reshape(-1, 28, 28))
    model = build_vae(schema, Choice(LATENT, (HIDDEN, HIDDEN), activation="tanh", masking=False))
    settings = Settings(epochs=1, batch_size=batch, masking=False, validation=0.0, device="cpu")
    observed = torch.ones(x.shape, dtype=torch.bool)

    def epoch() -> None:
        train(LatentStep(model, objective or ELBO(), settings, len(x)), x, observed, settings)

    return epoch


def fused(x: Tensor, batch: int) -> Epoch:
    return eager(x, batch, fused=True)


def eager(x: Tensor, batch: int, fused: bool = False) -> Epoch:
    encoder, decoder = network(PIXELS, HIDDEN, HIDDEN, 2 * LATENT), network(LATENT, HIDDEN, HIDDEN, PIXELS)
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-3, fused=fused)

    def epoch() -> None:
        order = torch.randperm(len(x))
        for i in range(0, len(x), batch):
            rows = x[order[i : i + batch]]
            mean, log_variance = encoder(rows).chunk(2, -1)
            z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
            reconstruction = F.binary_cross_entropy_with_logits(decoder(z), rows, reduction="sum")
            kl = 0.5 * torch.sum(mean.square() + log_variance.exp() - 1 - log_variance)
            loss = (reconstruction + kl) / len(rows)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return epoch


def pythae(x: Tensor, batch: int) -> Epoch:
    _, trainer = pythae_trainer(x, batch)

    def epoch() -> None:
        trainer.train_step(1)

    return epoch


def products(x: Tensor, batch: int) -> Epoch:
    """Only the matrix products of a step, into memory set aside beforehand."""
    steps = []
    for n, (i, o) in enumerate(SHAPES):
        rows, gradient, weight = torch.randn(batch, i), torch.randn(batch, o), torch.randn(o, i)
        steps += [(rows, weight.T, torch.empty(batch, o)), (gradient.T, rows, torch.empty(o, i))]
        if n:
            steps.append((gradient, weight, torch.empty(batch, i)))

    def epoch() -> None:
        for _ in range(0, len(x), batch):
            for left, right, out in steps:
                torch.mm(left, right, out=out)

    return epoch


def peak() -> float:
    """Best rate of a large float32 matrix product here, FLOP/s."""
    a, out = torch.randn(1024, 1024), torch.empty(1024, 1024)
    best = 0.0
    for _ in range(20):
        start = time.perf_counter()
        torch.mm(a, a, out=out)
        best = max(best, 2 * 1024**3 / (time.perf_counter() - start))
    return best


def main() -> None:
    parser = arguments(__doc__, 1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=60_000)
    args = parse(parser)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_flush_denormal(True)
    data_folder()
    images = mnist().x_train.reshape(-1, PIXELS)
    rows = 5_000 if args.quick else args.rows
    x = torch.from_numpy((images > 127).astype(np.float32))[:rows].contiguous()
    report = Report("training_speed", "Training speed, 784-200-200-50 tanh Bernoulli VAE, binary MNIST", args)
    for batch in (100, 1000):
        torch.manual_seed(0)
        with contextlib.redirect_stdout(io.StringIO()):
            trainers = {f.__name__: f(x, batch) for f in (ours, eager, fused, pythae, products)}
        seconds: dict[str, list[float]] = {name: [] for name in trainers}
        rates = []
        for r in range(args.rounds + 1):
            rates.append(peak())
            for name, epoch in trainers.items():
                start = time.perf_counter()
                epoch()
                if r:  # the first round warms up
                    seconds[name].append(time.perf_counter() - start)
            say(f"batch {batch}, round {r}", {k: round(v[-1], 2) for k, v in seconds.items() if v})
        middle = {name: statistics.median(s) for name, s in seconds.items()}
        gemm = statistics.median(rates)
        label = {
            "ours": "**abduce**",
            "eager": "bare eager loop",
            "fused": "bare eager loop, fused Adam",
            "pythae": "pythae trainer",
            "products": "matrix products alone",
        }
        table = [
            [
                label[name],
                len(x) / t,
                *(middle[peer] / t for peer in ("eager", "fused", "pythae")),
                f"{FLOPS * len(x) / t / gemm:.0%}",
                f"{middle['products'] / t:.0%}",
            ]
            for name, t in sorted(middle.items(), key=lambda item: item[1])
        ]
        for row in table:
            row[1] = f"{row[1]:,.0f}"
        report.table(
            f"batch {batch}, {len(x):,} rows, medians of {args.rounds} interleaved rounds",
            [
                "trainer",
                "rows/s",
                "x eager",
                "x fused",
                "x pythae",
                f"of the {gemm / 1e9:.0f} GFLOP/s peak",
                "of its products",
            ],
            table,
        )
        report.keep(
            f"batch {batch}", {"seconds": seconds, "gemm_flops": gemm, "rows": len(x), "flops_a_row": FLOPS}
        )
    many_draws(x[: len(x) // 20], args.rounds, report)
    report.save()


def many_draws(x: Tensor, rounds: int, report: Report) -> None:
    """Bounds of 50 draws: all of them backward, or one (VR-max, and a Rényi bound by a draw picked by its share)."""
    cases = {
        "IWAE, k = 50, plain": (IWAE(50, "plain"), flops(50)),
        "IWAE, k = 50, dreg": (IWAE(50, "dreg"), flops(50)),
        "Renyi(0.5), k = 50, one draw backward": (Renyi(0.5, 50, backward="one"), flops(50, 1)),
        "VR-max, k = 50": (Renyi(-math.inf, 50), flops(50, 1)),
    }
    trainers = {name: ours(x, 20, objective) for name, (objective, _) in cases.items()}
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    rates = []
    for r in range(rounds + 1):
        rates.append(peak())
        for name, epoch in trainers.items():
            start = time.perf_counter()
            epoch()
            if r:
                seconds[name].append(time.perf_counter() - start)
        say(f"50 draws, round {r}", {k: round(v[-1], 2) for k, v in seconds.items() if v})
    middle = {name: statistics.median(s) for name, s in seconds.items()}
    gemm, first = statistics.median(rates), next(iter(cases))
    report.table(
        f"50 draws a row, batch 20, {len(x):,} rows",
        ["objective", "rows/s", "time / IWAE plain", f"of the {gemm / 1e9:.0f} GFLOP/s peak"],
        [
            [name, f"{len(x) / t:,.0f}", t / middle[first], f"{cases[name][1] * len(x) / t / gemm:.0%}"]
            for name, t in middle.items()
        ],
    )
    report.keep("50 draws", {"seconds": seconds, "gemm_flops": gemm, "rows": len(x)})


if __name__ == "__main__":
    main()
