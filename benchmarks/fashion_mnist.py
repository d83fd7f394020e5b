"""Fashion-MNIST, 784-200-200-50 tanh: ours beside pythae's VAE and IWAE after as many epochs, one estimator for all.

python benchmarks/fashion_mnist.py [--epochs 8] [--rows 60000]

Images are binarised once by one stochastic draw.  Both libraries train in turn in this process, batch 100, Adam, at each of
the learning rates; pythae's weights are then copied into our network of the same shape, so that all test log p(x) come from
one estimator.  Ours differs by what it does on its own: inputs centred and the output's bias started at the pixels'
frequencies, a learning rate that falls along a cosine, and doubly reparameterised gradients for IWAE.  Seconds are of the
epochs alone: pythae's without its callbacks and copies, ours without what `fit` does before and after.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings

import numpy as np
import torch
from common import Report, arguments, parse, say, timed
from mnist_runs import binarized
from pythae_peer import HIDDEN, LATENT, PIXELS, pythae_trainer
from torch import Tensor, nn

from abduce import ELBO, IWAE, VAE
from abduce.data.examples import fashion_mnist
from abduce.data.schema import Schema
from abduce.inference.importance import log_prob
from abduce.models.build import build_vae
from abduce.models.choice import Choice


def scored(model: nn.Module, x: Tensor, samples: int) -> np.ndarray:
    observed = torch.ones(x.shape, dtype=torch.bool)
    return log_prob(model, x, observed, samples, precision="single").value.numpy()  # pyright: ignore


def ours(x: np.ndarray, samples: int, rate: float, epochs: int) -> tuple[nn.Module, float]:
    objective = IWAE(samples) if samples else ELBO()
    model = VAE(
        latent_dim=LATENT, hidden=(HIDDEN, HIDDEN), activation="tanh", objective=objective, max_epochs=epochs,
        batch_size=100, learning_rate=rate, weight_decay=0.0, validation_fraction=0.0, masking=False, random_state=0,
    )  # fmt: skip
    model.fit(x)
    return model.model_, model.history_[-1]["seconds"]


def pythae(x: np.ndarray, samples: int, rate: float, epochs: int, schema) -> tuple[nn.Module, float]:
    rows = torch.from_numpy(x.reshape(-1, PIXELS).astype(np.float32))
    torch.manual_seed(0)
    with contextlib.redirect_stdout(io.StringIO()):
        peer, trainer = pythae_trainer(rows, 100, samples, rate)
        _, seconds = timed(lambda: [trainer.train_step(epoch) for epoch in range(1, epochs + 1)])
    model = build_vae(schema, Choice(LATENT, (HIDDEN, HIDDEN), activation="tanh", masking=False))
    with torch.no_grad():
        for own, theirs in ((model.encoder.net, peer.encoder.net), (model.decoder.net, peer.decoder.net)):
            for a, b in zip(own.parameters(), theirs.parameters(), strict=True):
                a.copy_(b)
        # they give log-variances where we read log-scales; our reading of binary cells is centred
        last, first = model.encoder.net[-1], model.encoder.net[0]
        last.weight[LATENT:] *= 0.5
        last.bias[LATENT:] *= 0.5
        first.bias += first.weight @ model.features.numeric_loc
    return model.double(), seconds


def main() -> None:
    parser = arguments(__doc__, 1)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--samples", type=int, default=500, help="importance draws a test image")
    parser.add_argument("--rates", type=float, nargs="*", default=[1e-3, 3e-3])
    args = parse(parser)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_flush_denormal(True)
    data = fashion_mnist()
    rows, epochs = (2000, 2) if args.quick else (args.rows, args.epochs)
    x = binarized(data.x_train[:rows], 0)
    test = torch.from_numpy(
        binarized(data.x_test[: 200 if args.quick else 2000], 1).reshape(-1, PIXELS).astype(np.float64)
    )
    report = Report(
        "fashion_mnist", "Fashion-MNIST, binarised: abduce beside pythae, same network, same epochs", args
    )
    schema = Schema.infer(x)
    table = []
    for samples in (0, 5):
        for rate in args.rates:
            found = {
                "abduce": ours(x, samples, rate, epochs),
                "pythae": pythae(x, samples, rate, epochs, schema),
            }
            values = {name: scored(model, test, args.samples) for name, (model, _) in found.items()}
            difference = values["abduce"] - values["pythae"]
            gain = f"{difference.mean():+.2f} ± {difference.std(ddof=1) / len(test) ** 0.5:.2f}"
            for name, (_, seconds) in found.items():
                mean, error = values[name].mean(), values[name].std(ddof=1) / len(test) ** 0.5
                method = f"IWAE, k = {samples}" if samples else "VAE"
                ratio = found["pythae"][1] / seconds
                label = f"**{name}**" if name == "abduce" else name
                table.append(
                    [method, f"{rate:g}", label, f"{mean:.2f} ± {error:.2f}", gain if name == "abduce" else "",
                     f"{seconds:.0f}", f"{ratio:.2f}"]
                )  # fmt: skip
                report.keep(
                    f"{method} {rate:g} {name}",
                    {"log_prob": mean, "standard_error": error, "seconds": seconds},
                )
                say(*table[-1])
    report.table(
        f"{len(x):,} training images, {epochs} epochs, batch 100; log p(x) of {len(test):,} test images, nats, "
        f"{args.samples} draws each",
        [
            "method",
            "learning rate",
            "library",
            "log p(x)",
            "ours − theirs (paired)",
            "seconds to train",
            "x pythae",
        ],
        table,
    )
    report.save()


if __name__ == "__main__":
    main()
