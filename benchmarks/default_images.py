"""What `VAE()` without arguments makes of images: bits a pixel on new ones, log p, samples, codes and seconds.

python benchmarks/default_images.py [--seeds 3] [--sets digits binary grey]

Sets: scikit-learn's 8 x 8 digits (1,500 to fit, 297 new), MNIST above 127 and MNIST as it is (4,000 to fit, the first 1,000
test images new). Beside the default stand the networks and likelihoods that it chose between, and general compressors of the
same bytes. `told` is the AUROC of a forest that tells samples from the rows fitted to (.5: not at all), by cross-validation;
`10-NN` the label accuracy of the ten nearest neighbours by codes, beside PCA of as many numbers.
"""

from __future__ import annotations

import bz2
import lzma
import warnings
from typing import Any

import numpy as np
from common import Report, arguments, data_folder, parse, say, timed
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict
from sklearn.neighbors import KNeighborsClassifier

from abduce import VAE
from abduce.data.examples import mnist

Images = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # to fit and new, and their labels
SETS = "digits", "binary", "grey"
CHOICES: dict[str, dict[str, Any]] = {
    "default": {},
    "network mlp": {"network": "mlp"},
    "network conv": {"network": "conv"},
    "gaussian, mlp": {"network": "mlp", "likelihood": "gaussian"},
    "logistics without masses": {"likelihood": "discretized_logistic_mixture"},
}


def sets(wanted: list[str]) -> dict[str, Images]:
    """The images by name, of the sets that are wanted."""
    X, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(X))
    fit, new = order[:1500], order[1500:]
    digits = X.reshape(-1, 8, 8).astype(np.uint8)
    out: dict[str, Images] = {}
    if "digits" in wanted:
        out["digits, 17 greys"] = digits[fit], digits[new], labels[fit], labels[new]
    if {"binary", "grey"} & set(wanted):
        data_folder()
        m = mnist()
        rows = np.random.default_rng(0).permutation(60_000)[:4000]
        grey, test = m.x_train[rows], m.x_test[:1000]
        known = m.y_train[rows], m.y_test[:1000]
        if "binary" in wanted:
            out["MNIST above 127"] = ((grey > 127).astype(np.uint8), (test > 127).astype(np.uint8), *known)
        if "grey" in wanted:
            out["MNIST, 256 greys"] = (grey, test, *known)
    return out


def told(made: np.ndarray, real: np.ndarray) -> float:
    """How well a forest tells samples from rows, AUROC."""
    rows, label = np.concatenate([made, real]), np.repeat([1, 0], [len(made), len(real)])
    forest = RandomForestClassifier(100, random_state=0)
    chance: Any = cross_val_predict(forest, rows, label, method="predict_proba", cv=5)
    return float(roc_auc_score(label, chance[:, 1]))


def judged(images: Images, choice: dict[str, Any], seed: int) -> dict[str, float]:
    """All figures of one choice on one set."""
    fit, new, fit_labels, new_labels = images
    model, seconds = timed(VAE(random_state=seed, **choice).fit, fit)
    packed, packing = timed(model.compress, new)
    found = model.diagnose(new, samples=4)
    near = KNeighborsClassifier(10).fit(model.transform(fit), fit_labels)
    some = fit[:1500].reshape(min(1500, len(fit)), -1)
    return {
        "seconds": seconds,
        "images/s in": len(new) / packing,
        "bits": 8 * len(packed) / new.size,
        "bound": found.elbo,
        "told": told(model.sample(len(some), random_state=seed).reshape(len(some), -1), some),
        "neighbours": float(near.score(model.transform(new), new_labels)),
        "codes": model.transform(new[:2]).shape[1],
    }


def main() -> None:
    parser = arguments(__doc__, 3)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    args = parse(parser)
    warnings.filterwarnings("ignore")
    report = Report("default_images", "VAE() on images, and what it chose between", args)
    for name, images in sets(["digits"] if args.quick else args.sets).items():
        binary = images[0].max() == 1
        raw = (
            images[1].tobytes()
            if not binary
            else np.packbits(images[1].reshape(len(images[1]), -1), 1).tobytes()
        )
        table = []
        for title, choice in CHOICES.items():
            if binary and "likelihood" in choice:
                continue
            runs = [judged(images, choice, seed) for seed in range(args.seeds)]
            mean = {key: float(np.mean([run[key] for run in runs])) for key in runs[0]}
            spread = float(np.std([run["bits"] for run in runs]))
            say(name, title, {key: round(value, 3) for key, value in mean.items()})
            report.keep(f"{name}, {title}", {"runs": runs})
            table.append([
                f"**{title}**" if title == "default" else title, f"{mean['bits']:.4f}", f"{spread:.4f}",
                f"{-mean['bound']:.1f}", f"{mean['told']:.3f}", f"{mean['neighbours']:.3f}", f"{mean['seconds']:.0f}",
                f"{mean['images/s in']:,.0f}",
            ])  # fmt: skip
            codes = int(mean["codes"])
        pixels = images[1].size
        for peer, size in (
            ("xz -9e", len(lzma.compress(raw, preset=9 | lzma.PRESET_EXTREME))),
            ("bz2 -9", len(bz2.compress(raw))),
        ):
            table.append([peer, f"{8 * size / pixels:.4f}", "", "", "", "", "", ""])
        flat = [part.reshape(len(part), -1).astype(float) for part in images[:2]]
        axes = PCA(codes, random_state=0).fit(flat[0])
        pca = (
            KNeighborsClassifier(10)
            .fit(axes.transform(flat[0]), images[2])
            .score(axes.transform(flat[1]), images[3])
        )
        table.append([f"PCA, {codes}", "", "", "", "", f"{pca:.3f}", "", ""])
        report.table(
            f"{name}: {len(images[0]):,} to fit, {len(images[1]):,} new",
            [
                "model",
                "bits a pixel, all bytes",
                "sd over seeds",
                "−ELBO, nats",
                "told",
                "10-NN",
                "fit, s",
                "images/s coded",
            ],
            table,
        )
    report.save()


if __name__ == "__main__":
    main()
