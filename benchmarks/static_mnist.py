"""Statically binarised MNIST: the nets of a well-known tutorial at less than its budget, then the best that fits in minutes.

python benchmarks/static_mnist.py [--only RUN ...] [--evaluate]

Train and test images are binarised once by one stochastic draw (pixel on with probability grey / 255, seeds 0 and 1).  That
is not the file of Larochelle & Murray 2011 that published figures use, but drawn in the same way.  Runs are trained one by
one and kept in out/static_mnist/; `--evaluate` scores what is there on the test images and writes the table.
"""

from __future__ import annotations

from mnist_runs import Run, main

from abduce import ELBO, IWAE

TUTORIAL = {
    "latent_dim": 128,
    "hidden": (512, 512),
    "activation": "relu",
    "batch_size": 128,
    "learning_rate": 2e-3,
}
RUNS = {
    "tutorial net, mean-field": Run({**TUTORIAL, "objective": ELBO(warmup=0.1)}, 20),
    "tutorial net, flow posterior (IAF)": Run(
        {
            **TUTORIAL,
            "objective": ELBO(warmup=0.1),
            "posterior": "iaf",
            "transforms": 1,
        },
        9,
    ),
    "best found: VampPrior, DReG k=3": Run(
        {
            "latent_dim": 40,
            "hidden": (300, 300),
            "activation": "silu",
            "batch_size": 128,
            "prior": "vamp",
            "components": 200,
            "objective": IWAE(3),
            "learning_rate": 3e-3,
            "weight_decay": 0.01,
        },
        28,
    ),
}
PUBLISHED = [
    ["tutorial, mean-field (Altosaar)", -97.10, "65,000 steps of 128"],
    ["tutorial, inverse autoregressive flow (Altosaar)", -95.33, "150,000 steps of 128"],
    ["VAE, VampPrior (Tomczak & Welling 2018)", -85.57, "up to 2,000 epochs"],
]


if __name__ == "__main__":
    main(
        __doc__, "static_mnist", "Log p(x) of MNIST, one static binarisation", RUNS, PUBLISHED, dynamic=False
    )
