"""log Z of a trained RBMEnergy with 784 x 500 units, beside the published figure and plain annealed importance sampling.

The machine is Salakhutdinov & Murray's (2008) CD25, from `rbm_cd25_500.npz` in the folder that ABDUCE_DATA names.  Published,
with 14,500 temperatures chosen by hand and 100 chains: log Z = 451.28, and −86.34 nats for the mean test image.  Ours: a pilot
finds the temperatures, eight populations of tempered SMC give the estimate and its interval.  Plain annealed importance
sampling, with as many transitions, goes through evenly spaced temperatures from the uniform distribution, or from the images'
base rates.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from common import Report, arguments, data_folder, parse, say, timed

from abduce.distributions.bases import RatesBase
from abduce.inference.partition import estimate, interval
from abduce.inference.paths import Density, path_to
from abduce.inference.tempering import Plan, temper
from abduce.models.boltzmann import RBMEnergy

LOG_Z, TEST = 451.28, -86.34  # published


def machine() -> tuple[RBMEnergy, torch.Tensor]:
    """The machine in single precision, and the binarised test images."""
    with np.load(data_folder() / "rbm_cd25_500.npz", allow_pickle=False) as file:
        parts = (torch.from_numpy(file[k].astype(np.float32)) for k in ("W", "visible_bias", "hidden_bias"))
        x = torch.from_numpy(np.unpackbits(file["x_test"], axis=1)[:, :784].astype(np.float32))
        return RBMEnergy.of(*parts).requires_grad_(False), x


def main() -> None:
    parser = arguments(__doc__, 3)
    parser.add_argument(
        "--refine", type=int, default=40, help="parts that each of the pilot's steps is cut into"
    )
    args = parse(parser)
    refine = 2 if args.quick else args.refine
    model, x = machine()
    energy = float(model.energy(x).double().mean())
    bases = {"base rates": RatesBase.fit(x), "uniform": RatesBase(torch.zeros(784))}
    report = Report("partition_rbm", "log Z of a trained RBMEnergy, 784 x 500 units", args)
    rows, kept = [], []
    for seed in range(args.seeds):
        (found, _), seconds = timed(
            estimate, Density(model, bases["base rates"]), particles=64, refine=refine, seed=100 * seed
        )
        evaluations = found.diagnostics["evaluations"]
        runs = [
            (
                "tempered SMC, ours",
                found.value,
                found.low,
                found.high,
                found.diagnostics["spread"],
                seconds,
                evaluations,
            )
        ]
        for name, base in bases.items():
            temperatures = evaluations // 512
            plan = Plan(
                torch.linspace(0, 1, temperatures + 1, dtype=torch.float64), torch.ones(temperatures + 1)
            )
            done, seconds = timed(
                temper, path_to(Density(model, base)), 64, 8, 100 * seed + 1, plan=plan, resampling=False
            )
            value, half = interval(done.log_z)
            runs.append(
                (
                    f"plain AIS from {name}",
                    value,
                    value - half,
                    value + half,
                    float(done.log_z.std()),
                    seconds,
                    done.evaluations,
                )
            )
        for name, value, low, high, spread, seconds, evaluations in runs:
            say(
                f"seed {seed}: {name}: {value:.2f} [{low:.2f}, {high:.2f}], spread {spread:.2f}, {seconds:.0f} s"
            )
            rows.append(
                [
                    name,
                    seed,
                    f"{value:.2f}",
                    f"{low:.2f} to {high:.2f}",
                    f"{abs(value - LOG_Z):.2f}",
                    f"{spread:.2f}",
                    f"{-energy - value:.2f}",
                    f"{evaluations:,}",
                    f"{seconds:.0f}",
                ]
            )
            kept.append(
                {
                    "method": name,
                    "seed": seed,
                    "log_z": value,
                    "low": low,
                    "high": high,
                    "spread": spread,
                    "test": -energy - value,
                    "transitions": evaluations,
                    "seconds": seconds,
                }
            )
    report.table(
        "log Z, nats",
        [
            "method",
            "seed",
            "log Z",
            "90 % interval",
            "off by",
            "spread of populations",
            "log p, test mean",
            "transitions",
            "s",
        ],
        [["published", "–", f"{LOG_Z}", "–", "–", "–", f"{TEST}", "1,450,000", "–"], *rows],
    )
    root = {
        name: math.sqrt(np.mean([(k["log_z"] - LOG_Z) ** 2 for k in kept if k["method"] == name]))
        for name in dict.fromkeys(k["method"] for k in kept)
    }
    report.table(
        "Root mean square distance to 451.28", ["method", "nats"], [[k, f"{v:.2f}"] for k, v in root.items()]
    )
    report.remark(
        "A transition moves one chain once, hidden and visible units both. Spread is the standard deviation of log Ẑ over "
        "eight populations of 64. Seconds include, for ours, the pilot and the run from a wider base that checks it."
    )
    report.keep("runs", kept)
    report.save()


if __name__ == "__main__":
    main()
