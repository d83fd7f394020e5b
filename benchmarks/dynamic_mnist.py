"""Dynamically binarised MNIST, 784-200-200-50 tanh: which bound, which gradient, beside the published figures.

python benchmarks/dynamic_mnist.py [--only RUN ...] [--evaluate]

Each epoch draws the training images afresh (pixel on with probability grey / 255); the test images are one fixed draw.
Runs are trained one by one and kept in out/dynamic_mnist/; `--evaluate` scores what is there and writes the table.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import torch
from common import ROOT, arguments, data_folder, parse, say

from abduce import VAE
from abduce.data.examples import mnist
from abduce.objectives.bounds import ELBO, IWAE, Objective

FOLDER = ROOT / "out" / "dynamic_mnist"
SEED = 0  # of the test images' draw
RUNS: dict[str, tuple[Objective, int]] = {  # objective, epochs
    "VAE k=1": (ELBO(), 130),
    "VAE k=5": (ELBO(samples=5), 60),
    "IWAE k=5": (IWAE(5, "plain"), 60),
    "DReG k=5": (IWAE(5, "dreg"), 60),
}


def binarized(grey: np.ndarray, seed: int) -> np.ndarray:
    """Draw black-and-white images, each pixel on with probability grey / 255."""
    uniform = np.random.default_rng(seed).random(grey.shape, dtype=np.float32)
    return (255 * uniform < grey).view(np.uint8)


def fit(name: str, objective: Objective, epochs: int, grey: np.ndarray) -> None:
    start = time.perf_counter()

    def told(record: dict) -> None:
        if record["epoch"] % 5 == 0:
            say(name, {k: round(v, 2) for k, v in record.items()})

    model = VAE(
        latent_dim=50,
        hidden=(200, 200),
        activation="tanh",
        objective=objective,
        max_epochs=epochs,
        batch_size=100,
        learning_rate=2e-3,
        weight_decay=0.0,
        validation_fraction=0.02,
        masking=False,
        random_state=0,
        callback=told,
    ).fit(binarized(grey, 1_000_000), redraw=lambda epoch: binarized(grey, 1_000_001 + epoch))
    seconds = time.perf_counter() - start
    model.save(FOLDER / name)
    facts = {"epochs": epochs, "batch": 100, "seconds": seconds, "threads": torch.get_num_threads()}
    (FOLDER / f"{name}.json").write_text(json.dumps(facts))


def main() -> None:
    parser = arguments(__doc__, 1)
    parser.add_argument("--only", nargs="*", default=list(RUNS), help="names of runs")
    args = parse(parser)
    torch.set_flush_denormal(True)
    data_folder()
    digits = mnist()
    grey = digits.x_train[:2000] if args.quick else digits.x_train
    Path(FOLDER).mkdir(parents=True, exist_ok=True)
    for name in args.only:
        objective, epochs = RUNS[name]
        fit(name, objective, 2 if args.quick else epochs, grey)


if __name__ == "__main__":
    main()
