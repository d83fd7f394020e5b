"""Images of another kind: models of Fashion-MNIST asked about digits, and about garments turned, in negative, and noise.

VAEs, the default one and one without convolutions, are fitted to 4,000 training images in five epochs, and tell 300 test
images from as many of another kind. *-log p* alone finds plain images usual, whatever they show: digits are likelier than the
garments that a model was fitted to (Nalisnick et al. 2019, arXiv 1810.09136). `anomaly_score` takes off what a plain image
coder needs (Serrà et al. 2020, arXiv 1909.11480). Detectors of rows are asked about the 784 pixels. A seed draws the training
images and starts the fit; seconds are of the processor.

    ABDUCE_DATA=folder python benchmarks/anomaly_images.py [--quick] [--seeds 3] [--rows 4000] [--epochs 5]
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
from anomaly import pyod
from common import Report, arguments, parse, say, spread
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import MinMaxScaler

from abduce import VAE, OutlierDetector
from abduce.compress.image_length import image_length
from abduce.data.examples import fashion_mnist, mnist

SAMPLES = 10  # importance draws an image
KINDS = ("digits", "turned", "negative", "noise")


def cpu(function: Callable[..., Any], *args: Any) -> tuple[Any, float]:
    """Call and return (result, seconds of the processor)."""
    start = time.process_time()
    return function(*args), time.process_time() - start


def strangers(test: np.ndarray, digits: np.ndarray) -> dict[str, np.ndarray]:
    """Images of other kinds; those made of garments are of other garments than the usual ones."""
    noise = np.random.default_rng(0).integers(0, 256, test.shape).astype(np.uint8)
    return {
        "digits": digits,
        "turned": np.rot90(test, axes=(1, 2)).copy(),
        "negative": 255 - test,
        "noise": noise,
    }


def scored(model: VAE, images: np.ndarray) -> dict[str, np.ndarray]:
    """-log p, and with what a plain coder needs taken off: what `anomaly_score` is, from one pass."""
    minus = -model.score_samples(images)
    plain = image_length(images[..., None], np.ones((*images.shape, 1), bool))
    return {"-log p": minus, "anomaly_score": minus - plain}


def main() -> None:
    parser = arguments(__doc__, seeds=3)
    parser.add_argument("--rows", type=int, default=4000, help="training images")
    parser.add_argument("--test", type=int, default=300, help="test images of each kind")
    parser.add_argument("--epochs", type=int, default=5, help="passes of the VAEs")
    args = parse(parser)
    rows, test = (300, 60) if args.quick else (args.rows, args.test)
    epochs = 2 if args.quick else args.epochs
    data, digits = fashion_mnist(), mnist().x_test[:test]
    usual, others = data.x_test[:test], strangers(data.x_test[test : 2 * test], digits)
    truth = np.repeat([False, True], test)
    report = Report("anomaly_images", "Images of another kind than Fashion-MNIST", args)
    found: dict = defaultdict(list)

    def note(method: str, odd: dict[str, np.ndarray], seconds: float) -> None:
        both = {kind: np.concatenate([odd["usual"], odd[kind]]) for kind in KINDS}
        found[method].append(
            [float(roc_auc_score(truth, np.nan_to_num(both[kind], posinf=1e300))) for kind in KINDS]
            + [seconds]
        )

    for seed in range(args.seeds):
        train = data.x_train[np.random.default_rng(seed).permutation(len(data.x_train))[:rows]]
        for name, network in (("VAE (convolutions)", "auto"), ("VAE (mlp)", "mlp")):
            fitted = VAE(network=network, max_epochs=epochs, samples=SAMPLES, random_state=seed)
            model, seconds = cpu(fitted.fit, train)
            each = {kind: scored(model, images) for kind, images in {"usual": usual, **others}.items()}
            for which in ("-log p", "anomaly_score"):
                note(f"abduce {name}: {which}", {k: v[which] for k, v in each.items()}, seconds)
            if seed == 0:
                own = model.anomaly_score(digits[:50])
                if not np.allclose(own, each["digits"]["anomaly_score"][:50], rtol=1e-9):
                    raise RuntimeError("anomaly_score is not what it says it is")
            say(name, seed, f"{seconds:.0f} s", {m: np.round(f[-1], 3).tolist() for m, f in found.items()})
        flat = {kind: images.reshape(test, -1) for kind, images in {"usual": usual, **others}.items()}
        detector, seconds = cpu(OutlierDetector(random_state=seed).fit, train.reshape(rows, -1))
        note("abduce OutlierDetector()", {k: detector.anomaly_score(v) for k, v in flat.items()}, seconds)
        every = np.concatenate(list(flat.values()))
        for method, odd, seconds in peers(train.reshape(rows, -1), every, seed):
            note(method, dict(zip(flat, np.split(odd, len(flat)), strict=True)), seconds)
        say("rows", seed, {m: np.round(f[-1], 3).tolist() for m, f in found.items()})

    report.table(
        "AUROC of images of another kind among Fashion-MNIST's test images",
        ["", *KINDS, "seconds"],
        [
            [m, *(spread([f[k] for f in runs]) for k in range(len(KINDS))), spread([f[-1] for f in runs], 0)]
            for m, runs in found.items()
        ],
    )
    start = time.process_time()
    image_length(data.x_test[:5000, ..., None], np.ones((5000, 28, 28, 1), bool))
    report.remark(
        f"The plain coder takes {(time.process_time() - start) / 5:.2f} s for 1,000 images. It was chosen among five by other "
        "changes of garments, by turned and negative ones, and by noise; no image of digits was looked at."
    )
    report.keep("AUROC of " + ", ".join(KINDS) + "; seconds", dict(found))
    report.save()


def peers(fit: np.ndarray, score: np.ndarray, seed: int):
    """PyOD's oddness of pixels: name, scores, seconds to fit and score; of KNN on pixels as they are."""
    from pyod.models.iforest import IForest
    from pyod.models.knn import KNN

    for name, make in (("KNN", KNN), ("IForest", lambda: IForest(random_state=seed))):
        odd, seconds = cpu(pyod, make(), fit / 255.0, score / 255.0, MinMaxScaler)
        yield f"PyOD {name}", odd, seconds


if __name__ == "__main__":
    main()
