"""A deep Kalman model trained by the ELBO, by IWAE and by FIVO: what each teaches, by one and the same particle filter.

An autoregression of order one seen through noise, whose log p is exact by the Kalman filter, and the map of the sine
x_t = 2.5 sin(1.6 x_t−1) + .1 w, seen through noise of .2, whose log p a filter of 4,096 particles with the true law
estimates.  Windows of 25 steps, a fifth
of the cells hidden.  All models begin alike, at an autoregression that is wrong, and climb their bound with Adam for as many
steps of as many paths: 8 a window, of which the ELBO takes the mean log weight, IWAE the mean weight of whole paths, and FIVO
resamples them.  Particles do not look ahead: each step is drawn from the optimum given it and those before, moved by the
network that is trained.  Judged are new windows, by FIVO with 128 particles, nats a step.

    python benchmarks/filtering_bounds.py [--quick] [--seeds 3] [--updates 80]
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from common import Report, arguments, parse, say, spread
from torch import Generator, Tensor

from abduce.fit.bounds import FIVO
from abduce.sequences.deep_kalman import DeepKalman
from abduce.sequences.kalman import StateSpace, smoothed
from abduce.sequences.var import VectorAutoregression

STEPS, BATCH, PATHS, JUDGES = 25, 64, 8, 128
LINE = {"a": 0.9, "q": 0.19, "r": 0.5}
BOUNDS = {"ELBO": (1, "never"), "IWAE": (PATHS, "never"), "FIVO": (PATHS, "adaptive")}
TRUTH_PARTICLES = 4096
RATE = 0.03


def line(steps: int, rng: np.random.Generator) -> np.ndarray:
    """A latent autoregression of order one, seen through noise."""
    x, out = rng.normal(), []
    for _ in range(steps):
        x = LINE["a"] * x + math.sqrt(LINE["q"]) * rng.normal()
        out.append(x)
    return np.array(out) + math.sqrt(LINE["r"]) * rng.normal(size=steps)


def sine(steps: int, rng: np.random.Generator) -> np.ndarray:
    """A noisy map of the sine, seen through noise."""
    x, out = 0.5, []
    for _ in range(steps):
        x = 2.5 * math.sin(1.6 * x) + 0.1 * rng.normal()
        out.append(x)
    return np.array(out) + 0.2 * rng.normal(size=steps)


def log_p_of_line(y: Tensor, mask: Tensor) -> Tensor:
    """Exact log p of windows, (N,)."""
    one = torch.ones(1, 1, dtype=torch.float64)
    space = StateSpace(LINE["a"] * one, LINE["q"] * one, one, LINE["r"] * one[0])
    return smoothed(space, y, mask).log_prob.sum(1)


def log_p_of_sine(y: Tensor, mask: Tensor) -> Tensor:
    """Log p of windows by a filter that draws steps from the true law, (N,); the first step has the law it settles to."""
    g = Generator().manual_seed(0)
    n = len(y)
    x = torch.full((n, TRUTH_PARTICLES), 0.5, dtype=torch.float64)
    out = torch.zeros(n, dtype=torch.float64)
    for t in range(-100, y.shape[1]):
        x = 2.5 * torch.sin(1.6 * x) + 0.1 * torch.randn(x.shape, generator=g, dtype=x.dtype)
        if t < 0:
            continue
        gap = (y[:, t] - x) / 0.2
        log_w = -0.5 * gap.square() - math.log(0.2) - 0.5 * math.log(2 * math.pi)
        log_w = torch.where(mask[:, t], log_w, 0.0)
        out += torch.logsumexp(log_w, 1) - math.log(TRUTH_PARTICLES)
        chosen = torch.multinomial(torch.softmax(log_w, 1), TRUTH_PARTICLES, True, generator=g)
        x = x.gather(1, chosen)
    return out


SETS: dict[str, tuple[Callable, Callable]] = {"line": (line, log_p_of_line), "sine": (sine, log_p_of_sine)}


def windows(name: str, count: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Windows (count, STEPS, 1) of one series, and which of their cells are seen."""
    y = torch.from_numpy(SETS[name][0](count * STEPS, rng)).view(count, STEPS, 1)
    return y, torch.from_numpy(rng.random((count, STEPS, 1)) > 0.2)


def trained(bound: str, y: Tensor, mask: Tensor, seed: int, updates: int) -> DeepKalman:
    """A model that has climbed one bound on windows of unit variance."""
    one = torch.ones(1, 1)
    start = VectorAutoregression(1, 1).load(0.5 * one, 0.5 * one, 0.1 * one[0])
    model = DeepKalman.of(start, seed=seed).requires_grad_(True)
    samples, resampling = BOUNDS[bound]
    objective = FIVO(samples, resampling)
    optimizer = torch.optim.Adam(model.parameters(), RATE)
    generator = Generator().manual_seed(seed)
    for step in range(updates):
        optimizer.param_groups[0]["lr"] = RATE * (1 + math.cos(math.pi * step / updates)) / 2
        some = torch.randperm(len(y), generator=generator)[:BATCH].repeat(PATHS // samples)
        loss = -model.bound(y[some], mask[some], objective, generator, strength=0.0).sum() / mask[some].sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.requires_grad_(False)


def judged(name: str, seed: int, count: int, updates: int) -> dict[str, dict[str, float]]:
    """Nats a step of new windows: of the true law, and of the model trained by each bound, with its seconds of processor."""
    rng = np.random.default_rng(seed)
    (y, mask), (new, known) = windows(name, count, rng), windows(name, count, rng)
    scale = float(y[mask].std())
    lost = known.sum() * math.log(scale)  # of densities in units of the deviation
    cells = int(known.sum())
    out = {"true law": {"nats": float(SETS[name][1](new, known).sum()) / cells}}
    for bound in BOUNDS:
        start = time.process_time()
        model = trained(bound, y / scale, mask, seed, updates)
        seconds = time.process_time() - start
        with torch.no_grad():
            generator = Generator().manual_seed(1000 + seed)
            found = model.bound(new / scale, known, FIVO(JUDGES), generator, strength=0.0)
        out[bound] = {"nats": float(found.sum() - lost) / cells, "seconds": seconds}
        a = float(
            torch.autograd.functional.jacobian(lambda s, m=model: m.mean(s).sum(), torch.zeros(1, 1).double())
        )
        out[bound] |= {"slope at 0": a, "q": float(model.parts()[0].square()) * scale**2}
        out[bound]["r"] = float(model.parts()[1]) * scale**2
        say(name, seed, bound, {k: round(v, 3) for k, v in out[bound].items()})
    return out


def main() -> None:
    parser = arguments(__doc__, seeds=3)
    parser.add_argument("--updates", type=int, default=80, help="steps of Adam")
    args = parse(parser)
    count, updates = (20, 10) if args.quick else (160, args.updates)
    report = Report("filtering_bounds", "ELBO, IWAE and FIVO for a model of series", args)
    report.remark(" ".join((__doc__ or "").split("\n\n")[1].split()))
    for name, title in (("line", "A line, whose log p is exact"), ("sine", "A map of the sine")):
        found = [judged(name, seed, count, updates) for seed in range(args.seeds)]
        report.keep(name, found)
        rows: list[list[Any]] = []
        for who in found[0]:
            gap = [run["true law"]["nats"] - run[who]["nats"] for run in found]
            parts = [
                spread((run[who].get(k, math.nan) for run in found), 2) for k in ("slope at 0", "q", "r")
            ]
            seconds = spread((run[who].get("seconds", math.nan) for run in found), 0)
            rows.append([who, spread(run[who]["nats"] for run in found), spread(gap), *parts, seconds])
        truth = "slope .9, Q .19, R .5" if name == "line" else "slope 4, Q .01, R .04"
        head = [
            "trained by",
            "nats a step",
            "below the true law",
            "slope at 0",
            "Q",
            "R",
            "seconds of processor",
        ]
        report.table(f"{title} ({truth})", head, rows)
        report.save()


if __name__ == "__main__":
    main()
