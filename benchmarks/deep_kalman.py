"""Series whose dynamics bend: a deep Kalman model beside the autoregression that it starts from, windows and pools.

A pendulum driven by noise, the first coordinate of the Lorenz system, a noisy map of the sine, and ETTh1.  A fifth of the
cells and some runs are hidden.  Windows of 50 steps: log p of what was seen of new ones, nats, and mean absolute error of
hidden cells, in standard deviations; on ETTh1 the new ones are those of later months.  Then fills of one series by `Series`
as a whole, the bound against the number of particles, and what each way of training reaches.

    python benchmarks/deep_kalman.py [--quick] [--seeds 1] [--sets pendulum lorenz sine etth1] [--tables members fills ...]
"""

from __future__ import annotations

import gzip
import math
import time
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from common import Report, arguments, data_folder, parse, say, spread
from torch import Generator, Tensor

from abduce import Series
from abduce.answers.answer import Effort
from abduce.data.seen import Seen
from abduce.fit.bounds import FIVO
from abduce.sequences.deep_fit import TRAINING, fit_deep
from abduce.sequences.var import fit_var
from abduce.sequences.windows import conditional, fit_windows

STEPS = 50


def pendulum(steps: int, seed: int) -> np.ndarray:
    """Sine and cosine of the angle, seen through noise."""
    r = np.random.default_rng(seed)
    angle, speed, out = 1.0, 0.0, []
    for _ in range(steps):
        for _ in range(5):
            speed += -0.12 * math.sin(angle) + 0.03 * r.normal()
            angle += 0.06 * speed
        speed *= 0.99
        out.append((math.sin(angle), math.cos(angle)))
    return np.array(out) + 0.1 * r.normal(size=(steps, 2))


def lorenz(steps: int, seed: int) -> np.ndarray:
    """x of Lorenz 1963 every 0.08, seen through noise; y and z are never seen."""
    r = np.random.default_rng(seed)
    state, out, dt = r.normal(size=3) + [0, 0, 25], [], 0.02

    def slope(s):
        return np.array([10 * (s[1] - s[0]), s[0] * (28 - s[2]) - s[1], s[0] * s[1] - 8 / 3 * s[2]])

    for t in range(-200, 4 * steps):
        k1 = slope(state)
        k2 = slope(state + dt / 2 * k1)
        k3 = slope(state + dt / 2 * k2)
        k4 = slope(state + dt * k3)
        state = state + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4) + 0.05 * math.sqrt(dt) * r.normal(size=3)
        if t >= 0 and t % 4 == 0:
            out.append(state[:1] / 8)
    return np.array(out) + 0.1 * r.normal(size=(steps, 1))


def sine(steps: int, seed: int) -> np.ndarray:
    """x_t = 2.5 sin(1.6 x_{t−1}) + .1 w, seen through noise of .2: no line tells a step from the one before."""
    r = np.random.default_rng(seed)
    x, out = 0.5, []
    for _ in range(steps):
        x = 2.5 * math.sin(1.6 * x) + 0.1 * r.normal()
        out.append(x)
    return (np.array(out) + 0.2 * r.normal(size=steps))[:, None]


def etth1(steps: int, seed: int) -> np.ndarray:
    """Hours of ETTh1; another seed means later ones."""
    with gzip.open(data_folder() / "series" / "ETTh1.csv.gz") as file:
        x = pd.read_csv(file, parse_dates=["date"]).set_index("date").to_numpy(float)
    return x[seed % 2 * 4000 :][:steps]


TABLES = ("members", "fills", "particles", "ways")
SETS = {"pendulum": (pendulum, 4), "lorenz": (lorenz, 6), "sine": (sine, 1), "etth1": (etth1, 3)}


def hide(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A fifth of the cells as points, and runs of six steps of one feature."""
    hidden = rng.random(shape) < 0.2
    for start in rng.integers(0, shape[0] - 6, shape[0] // 100):
        hidden[start : start + 6, rng.integers(shape[1])] = True
    return hidden


def prepared(name: str, steps: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Windows for training and new ones, with their masks, in units of the training part."""
    draw, rng = SETS[name][0], np.random.default_rng(seed)
    train, new = draw(steps, 2 * seed), draw(steps // 2, 2 * seed + 1)
    mean, deviation = train.mean(0), train.std(0)
    out = []
    for x in (train, new):
        y = torch.from_numpy((x - mean) / deviation)
        mask = ~torch.from_numpy(hide(x.shape, rng))
        out += [v[: len(v) // STEPS * STEPS].view(-1, STEPS, v.shape[1]) for v in (y, mask)]
    return out[0], out[1], out[2], out[3]


def seconds(function):
    """A result and the processor's seconds."""
    start = time.process_time()
    return function(), time.process_time() - start


def members(name: str, seed: int, steps: int, training) -> dict[str, dict[str, float]]:
    """Each model of windows: log p a new window, error of hidden cells, seconds of its fit."""
    y, mask, new, known = prepared(name, steps, seed)
    hidden, seen, out = ~known, Seen(new, known), {}

    def judged(centre, log_p, taken, deviation=None):
        row = {"mae": float((centre - new)[hidden].abs().mean()), "log_p": log_p, "seconds": taken}
        if deviation is not None:
            inside = (centre - new).abs() < 1.645 * deviation
            row["coverage"] = float(inside[hidden].double().mean())
        return row

    var, taken = seconds(lambda: fit_var(y, mask, SETS[name][1]))
    line = var.answer(seen)
    out["autoregression"] = judged(line.centre, float(line.log_evidence.mean()), taken, line.deviation)
    rows = Seen(torch.where(mask, y, 0.0), mask)
    windows, more = seconds(lambda: fit_windows(rows, var.window(STEPS), STEPS, STEPS, 1.0))
    flat, cells = new.flatten(1), known.flatten(1)
    centre, _ = conditional(windows.covariance, flat, cells)
    log_p = []
    for x, m in zip(flat, cells, strict=True):
        inner = windows.covariance[m][:, m]
        law = torch.distributions.MultivariateNormal(x.new_zeros(len(inner)), inner)
        log_p.append(float(law.log_prob(x[m])))
    out["windows"] = judged(centre.view_as(new), float(np.mean(log_p)), taken + more)
    deep, more = seconds(lambda: fit_deep(y, mask, var, seed, training))
    curve = deep.answer(seen, Effort(particles=128))
    row = judged(curve.centre, float(curve.log_evidence.mean()), taken + more, curve.deviation)
    out["deep"] = row | {"ess": float(curve.ess.mean()), "bends": float(deep.bends)}
    return out


def fills(name: str, seed: int, steps: int) -> dict[str, dict[str, float]]:
    """`Series` with both dynamics: error of hidden cells of one series, seconds of fit and fill."""
    x = SETS[name][0](steps, 2 * seed)
    x = (x - x.mean(0)) / x.std(0)
    hidden, out = hide(x.shape, np.random.default_rng(50 + seed)), {}
    holes = np.where(hidden, np.nan, x)
    for dynamics in ("linear", "deep"):
        model, fit = seconds(lambda d=dynamics: Series(random_state=seed, dynamics=d).fit(holes))
        filled, fill = seconds(lambda m=model: m.fill(holes))
        out[dynamics] = {"mae": float(np.abs(filled - x)[hidden].mean()), "seconds": fit + fill}
    return out


def against_particles(name: str, steps: int, training) -> list[list[str]]:
    """The bound on new series of 200 steps by the number of particles: resampled or not, looking ahead or not."""
    y, mask, new, known = prepared(name, steps, 0)
    model = fit_deep(y, mask, fit_var(y, mask, SETS[name][1]), 0, training)
    some = len(new) // 4 * 4
    long, there = (v[:some].reshape(some // 4, 4 * STEPS, -1) for v in (new, known))
    out = []
    for title, resampling, strength in (
        ("FIVO", "adaptive", 0.0),
        ("IWAE: never resampled", "never", 0.0),
        ("FIVO, looking ahead by half", "adaptive", 0.5),
        ("IWAE, looking ahead by half", "never", 0.5),
        ("FIVO, looking ahead", "adaptive", 1.0),
    ):
        found = []
        for particles in (1, 4, 16, 64):
            with torch.no_grad():
                runs = [
                    model.bound(
                        long,
                        there,
                        FIVO(particles, resampling),
                        Generator().manual_seed(s),
                        strength=strength,
                    )
                    for s in range(4)
                ]
            found.append(f"{float(torch.stack(runs).mean()):.1f}")
        out.append([title, *found])
    return out


def ways(name: str, steps: int, training) -> list[list[str]]:
    """Log p of new windows after each way of training, and its seconds."""
    y, mask, new, known = prepared(name, steps, 0)
    var = fit_var(y, mask, SETS[name][1])
    out = []
    for title, how in (
        ("EM with particles", replace(training, climbs=0)),
        ("FIVO", replace(training, rounds=0, climbs=max(1, training.rounds // 4), rate=3 * training.rate)),
        ("both: the default", training),
    ):
        model, taken = seconds(lambda how=how: fit_deep(y, mask, var, 0, how))
        found = model.answer(Seen(new, known), Effort(particles=128)).log_evidence.mean()
        out.append([title, f"{float(found):.1f}", f"{taken:.0f}"])
    return out


def main() -> None:
    parser = arguments(__doc__, seeds=1)
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--name", default="deep_kalman", help="of the result's files")
    args = parse(parser)
    steps, training = 4000, TRAINING
    if args.quick:
        steps, training, args.sets = 1000, replace(TRAINING, rounds=4, climbs=1, steps=5), ["sine"]
    report = Report(args.name, "Series whose dynamics bend", args)
    if "members" in args.tables:
        rows = []
        for name in args.sets:
            found = [members(name, seed, steps, training) for seed in range(args.seeds)]
            say(name, found)
            report.keep(name, found)
            for member in found[0]:
                figures = defaultdict(list)
                for run in found:
                    for key, value in run[member].items():
                        figures[key].append(value)
                cells = [
                    spread(figures["log_p"], 1),
                    spread(figures["mae"]),
                    spread(figures["coverage"], 1, 100.0),
                ]
                rows.append([name, member, *cells, spread(figures["ess"], 0), spread(figures["seconds"], 0)])
        head = ["", "", "log p, nats", "MAE, hidden", "90 % hold, %", "least ESS of 128", "seconds, fit"]
        report.table("New windows of 50 steps", head, rows)
        report.save()
    if "fills" in args.tables:
        rows = []
        for name in args.sets:
            found = [fills(name, seed, steps // 2) for seed in range(args.seeds)]
            say(name, found)
            report.keep(f"{name} Series", found)
            for dynamics in found[0]:
                cells = [spread((r[dynamics][k] for r in found), n) for k, n in (("mae", 3), ("seconds", 0))]
                rows.append([name, f'`Series(dynamics="{dynamics}")`', *cells])
        report.table(f"Fills of one series of {steps // 2} steps", ["", "", "MAE", "seconds"], rows)
        report.save()
    if "particles" in args.tables:
        name = "lorenz" if "lorenz" in args.sets else args.sets[0]
        table = against_particles(name, steps, training)
        report.keep("particles", table)
        report.table(
            f"Bound on log p of 200 steps of {name} by the number of particles, nats",
            ["", "1", "4", "16", "64"],
            table,
        )
        report.save()
    if "ways" in args.tables:
        for name in [n for n in ("lorenz", "sine") if n in args.sets]:
            table = ways(name, steps, training)
            report.keep(f"{name} ways", table)
            report.table(f"Ways to train, {name}", ["", "log p of new windows, nats", "seconds"], table)
    report.remark(
        "Deep models are chosen by windows held out of the training part; on ETTh1 the autoregression stays where they do not "
        "beat it. Log p of deep models is a lower bound in expectation, that of the others is exact. Windows are Gaussian: "
        "one covariance of 50 steps, shrunk to the autoregression's."
    )
    report.save()


if __name__ == "__main__":
    main()
