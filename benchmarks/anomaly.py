"""Anomaly detection on 14 sets of ADBench, beside PyOD's detectors at their defaults.

*unsup*: fit to all rows, anomalies among them, and score the same rows. *one-class*: fit to half of the
normal rows (a permutation by seed 0), score all the others. Sets over 20,000 rows are cut to 10,000 random
ones.

    ABDUCE_DATA=folder python benchmarks/anomaly.py [--quick] [--seeds 1] [--sets glass WDBC] [--budget 600]
"""

from __future__ import annotations

import time
import warnings
from collections import defaultdict

import numpy as np
from common import Report, arguments, data_folder, parse, say, spread, timed
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.preprocessing import StandardScaler

from abduce import VAE
from abduce.data.examples import adbench, adbench_names

PROTOCOLS = ("unsup", "one-class")
OURS = ("abduce VAE", "abduce VAE, trim=0.1")


def load(name: str) -> tuple[np.ndarray, np.ndarray]:
    X, y = adbench(name)
    if len(X) > 20_000:
        rows = np.random.default_rng(0).permutation(len(X))[:10_000]
        X, y = X[rows], y[rows]
    return X, y


def divided(X: np.ndarray, y: np.ndarray, protocol: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows to fit, rows to score, and which of the latter are anomalies."""
    if protocol == "unsup":
        return X, X, y
    normal = np.random.default_rng(0).permutation(np.flatnonzero(y == 0))
    fit = normal[: len(normal) // 2]
    rest = np.setdiff1d(np.arange(len(X)), fit)
    return X[fit], X[rest], y[rest]


def ours(fit: np.ndarray, score: np.ndarray, seed: int, **kw) -> np.ndarray:
    """Oddness of the rows to score, −log p: the model standardises by itself."""
    return VAE(random_state=seed, **kw).fit(fit).anomaly_score(score)


def pyod(detector, fit: np.ndarray, score: np.ndarray) -> np.ndarray:
    """PyOD's oddness on standardised columns, as its examples do."""
    scaler = StandardScaler().fit(fit)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return detector.fit(scaler.transform(fit)).decision_function(scaler.transform(score))


def detectors(seed: int, quick: bool) -> dict:
    """Functions of (rows to fit, rows to score); PyOD's at defaults, its GMM also with 10 components."""
    from pyod.models.gmm import GMM
    from pyod.models.iforest import IForest
    from pyod.models.knn import KNN
    from pyod.models.vae import VAE as PyodVAE

    epochs = {"max_epochs": 5} if quick else {}
    return {
        OURS[0]: lambda f, s: ours(f, s, seed, **epochs),
        OURS[1]: lambda f, s: ours(f, s, seed, trim=0.1, **epochs),
        "PyOD IForest": lambda f, s: pyod(IForest(random_state=seed), f, s),
        "PyOD KNN": lambda f, s: pyod(KNN(), f, s),
        "PyOD GMM": lambda f, s: pyod(GMM(random_state=seed), f, s),
        "PyOD GMM, 10 components": lambda f, s: pyod(GMM(n_components=10, random_state=seed), f, s),
        "PyOD VAE": lambda f, s: pyod(
            PyodVAE(random_state=seed, verbose=0, **({"epoch_num": 2} if quick else {})), f, s
        ),
    }


def main() -> None:
    parser = arguments(__doc__, seeds=1)
    parser.add_argument("--sets", nargs="+", help='some of the sets, such as "glass 43_WDBC" (default: all)')
    parser.add_argument(
        "--budget", type=float, default=1800, help="seconds a set: later seeds are left out beyond it"
    )
    args = parse(parser)
    data_folder()
    sets = args.sets or (["14_glass", "43_WDBC"] if args.quick else adbench_names())
    report = Report("anomaly", f"Anomaly detection: {len(sets)} sets of ADBench", args)
    found: dict = defaultdict(list)
    for name in sets:
        X, y = load(name)
        start = time.perf_counter()
        for seed in range(args.seeds):
            if seed and time.perf_counter() - start > args.budget:
                say(f"{name}: over its budget of {args.budget:g} s, seeds from {seed} on left out")
                break
            for protocol in PROTOCOLS:
                fit, score, truth = divided(X, y, protocol)
                for method, detect in detectors(seed, args.quick).items():
                    odd, seconds = timed(detect, fit, score)
                    auroc, ap = roc_auc_score(truth, odd), average_precision_score(truth, odd)
                    found[protocol, name, method].append((float(auroc), float(ap), seconds))
                    say(f"{name} {protocol} seed {seed} {method}: {auroc:.3f} / {ap:.3f}, {seconds:.1f} s")
    methods = list(detectors(0, args.quick))

    def over_sets(protocol: str, method: str, which: int) -> list[float]:
        """Means over the sets, one a seed that all sets have."""
        runs = [found[protocol, n, method] for n in sets]
        return [float(np.mean([r[i][which] for r in runs])) for i in range(min(map(len, runs)))]

    header = ["", *(f"{p}: {what}" for p in PROTOCOLS for what in ("AUROC", "AP", "seconds a set"))]
    report.table(
        f"Mean over {len(sets)} sets",
        header,
        [
            [m, *(spread(over_sets(p, m, w), 1 if w == 2 else 3) for p in PROTOCOLS for w in range(3))]
            for m in methods
        ],
    )
    for protocol in PROTOCOLS:
        rows = [
            [f"{n} ({len(load(n)[0]):,})"]
            + [
                " / ".join(f"{np.mean([r[w] for r in found[protocol, n, m]]):.3f}" for w in (0, 1))
                for m in methods
            ]
            for n in sets
        ]
        report.table(f"{protocol}: AUROC / AP of each set (rows)", ["", *methods], rows)
    report.remark(trimming(found, sets))
    report.keep("sets", {" | ".join(k): v for k, v in found.items()})
    report.save()


def trimming(found: dict, sets: list[str]) -> str:
    """Say what robust training did, in figures."""
    lines = [
        "`trim=0.1` leaves the 10 % least plausible rows of each batch out of the gradient: what is rare and "
        "far from the rest stops pulling the model toward itself. With it minus without:"
    ]
    for protocol in PROTOCOLS:
        gain = np.array(
            [np.mean(found[protocol, n, OURS[1]], 0) - np.mean(found[protocol, n, OURS[0]], 0) for n in sets]
        )
        best, worst = int(gain[:, 0].argmax()), int(gain[:, 0].argmin())
        lines.append(
            f"{protocol}: AUROC {gain[:, 0].mean():+.3f}, AP {gain[:, 1].mean():+.3f} on average, AUROC up "
            f"on {(gain[:, 0] > 0).sum()} of {len(sets)} sets (most {sets[best]} {gain[best, 0]:+.3f}, "
            f"least {sets[worst]} {gain[worst, 0]:+.3f})."
        )
    return " ".join(lines)


if __name__ == "__main__":
    main()
