"""Dynamically binarised MNIST, 784-200-200-50 tanh: which bound, which gradient, beside the published figures.

python benchmarks/dynamic_mnist.py [--only RUN ...] [--evaluate]

Each epoch draws the training images afresh (pixel on with probability grey / 255); the test images are one fixed draw.
Runs are trained one by one and kept in out/dynamic_mnist/; `--evaluate` scores what is there and writes the table.  The
published runs took 3,280 epochs; these take minutes.
"""

from __future__ import annotations

from mnist_runs import Run, main

from abduce import ELBO, IWAE

NET = {"latent_dim": 50, "hidden": (200, 200), "activation": "tanh", "batch_size": 100, "learning_rate": 2e-3}
RUNS = {
    "VAE k=1": Run({**NET, "objective": ELBO()}, 100),
    "VAE k=5": Run({**NET, "objective": ELBO(samples=5)}, 30),
    "IWAE k=5": Run({**NET, "objective": IWAE(5, "plain")}, 30),
    "DReG k=5": Run({**NET, "objective": IWAE(5, "dreg")}, 30),
}
PUBLISHED = [
    ["VAE k=1 (Burda et al. 2016)", -86.76, "3,280 epochs"],
    ["VAE k=5 (Burda et al. 2016)", -86.47, "3,280 epochs"],
    ["IWAE k=5 (Burda et al. 2016)", -85.54, "3,280 epochs"],
    ["IWAE k=50 (Burda et al. 2016)", -84.78, "3,280 epochs"],
    ["VR-max k=5 (Li & Turner 2016)", -85.42, ""],
    ["IWAE k=5, two stochastic layers (Burda et al. 2016)", -83.89, "3,280 epochs"],
]


if __name__ == "__main__":
    main(
        __doc__,
        "dynamic_mnist",
        "Log p(x) of MNIST, binarised dynamically, 784-200-200-50 tanh",
        RUNS,
        PUBLISHED,
        dynamic=True,
    )
