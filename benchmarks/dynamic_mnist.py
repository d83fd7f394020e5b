"""Dynamically binarised MNIST, 784-200-200-50 tanh: which bound, which gradient, beside the published figures.

python benchmarks/dynamic_mnist.py [--only RUN ...] [--evaluate]

Each epoch draws the training images afresh (pixel on with probability grey / 255); the test images are one fixed draw.
Runs are trained one by one and kept in out/dynamic_mnist/; `--evaluate` scores what is there and writes the table.  The
published runs took 3,280 epochs; these take minutes.
"""

from __future__ import annotations

from common import arguments, data_folder, parse
from mnist_runs import Run, binarized, evaluate, train_runs

from abduce import ELBO, IWAE
from abduce.data.examples import mnist

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


def main() -> None:
    parser = arguments(__doc__, 1)
    parser.add_argument("--only", nargs="*", default=list(RUNS), help="names of runs")
    parser.add_argument(
        "--evaluate", action="store_true", help="score the runs there are and write the table"
    )
    parser.add_argument("--samples", type=int, default=1000, help="importance draws a test image")
    parser.add_argument("--rows", type=int, default=10_000, help="test images")
    args = parse(parser)
    data_folder()
    digits = mnist()
    if args.evaluate:
        title = "Log p(x) of MNIST, binarised dynamically, 784-200-200-50 tanh"
        evaluate("dynamic_mnist", title, args, binarized(digits.x_test, 1), RUNS, PUBLISHED)
        return
    grey = digits.x_train

    def redraw(epoch: int):
        return binarized(grey, 1_000_001 + epoch)

    chosen = {name: RUNS[name] for name in args.only}
    train_runs("dynamic_mnist", chosen, binarized(grey, 1_000_000), redraw, args)


if __name__ == "__main__":
    main()
