"""Anomalies in streams of rows: each chunk is scored, then learnt from; beside PyOD's detectors refitted to windows.

*order of chance*: 14 sets of ADBench, at most 2,000 rows in an order by the seed; a tenth is learnt first, the rest comes in
chunks of 100. Nothing drifts, so the best is to know all rows: "from scratch" fits `OutlierDetector` to all of them before
each chunk.

*drift*: 3,000 rows of 6 columns, 3 % anomalies: far off, or usual rows of 750 rows ago. "still" does not drift, "wander"
moves along a circle, "jump" is another Gaussian every 750 rows, "turn" keeps its place while correlations turn.

PyOD's detectors are fitted anew to a window of the last rows whenever a tenth of it is new: what one would do with them.
AUROC and AP are over all rows scored; milliseconds are of the processor.

    ABDUCE_DATA=folder python benchmarks/anomaly_stream.py [--quick] [--seeds 2] [--sets 14_glass]
"""

from __future__ import annotations

import math
import time
import warnings
from collections import defaultdict
from collections.abc import Callable

import numpy as np
from anomaly import load
from common import Report, arguments, data_folder, parse, say, spread
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.preprocessing import StandardScaler

from abduce import OutlierDetector
from abduce.data.examples import adbench_names

CHUNK = 100
HALF_LIVES = (60, 200)
WINDOW = 400
DRIFTS = ("still", "wander", "jump", "turn")


class Windowed:
    """A detector of PyOD's on standardised columns of the last ``window`` rows, refitted when a tenth of it is new."""

    def __init__(self, make: Callable, window: int):
        self.make, self.window, self.fresh = make, window, math.inf

    def partial_fit(self, X: np.ndarray) -> None:
        start = not hasattr(self, "rows")
        self.rows = X[-self.window :] if start else np.concatenate([self.rows, X])[-self.window :]
        self.fresh = self.fresh + len(X)
        if self.fresh >= 0.1 * len(self.rows):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.scaler = StandardScaler().fit(self.rows)
                self.detector = self.make().fit(self.scaler.transform(self.rows))
            self.fresh = 0

    def anomaly_score(self, X: np.ndarray) -> np.ndarray:
        odd = self.detector.decision_function(self.scaler.transform(X))
        return np.nan_to_num(odd.astype(np.float64), posinf=1e300)


class Scratch:
    """Ours, fitted to all of the last ``window`` rows before each chunk."""

    def __init__(self, seed: int, window: int):
        self.seed, self.window = seed, window

    def partial_fit(self, X: np.ndarray) -> None:
        rows = X if not hasattr(self, "rows") else np.concatenate([self.rows, X])
        self.rows = rows[-self.window :]

    def anomaly_score(self, X: np.ndarray) -> np.ndarray:
        return OutlierDetector(random_state=self.seed).fit(self.rows).anomaly_score(X)


def methods(seed: int, drift: bool) -> dict:
    from pyod.models.iforest import IForest
    from pyod.models.knn import KNN
    from pyod.models.lof import LOF

    window = WINDOW if drift else 10_000
    found = {"abduce": OutlierDetector(random_state=seed)}
    if drift:
        for half_life in HALF_LIVES:
            found[f"abduce, forget={half_life}"] = OutlierDetector(random_state=seed, forget=half_life)
    return found | {
        "abduce, from scratch": Scratch(seed, window),
        "PyOD KNN": Windowed(KNN, window),
        "PyOD LOF": Windowed(LOF, window),
        "PyOD IForest": Windowed(lambda: IForest(random_state=seed), window),
    }


def prequential(method, X: np.ndarray, y: np.ndarray, first: int) -> tuple[float, float, float]:
    """AUROC and AP of rows each scored before it was learnt from, and milliseconds of the processor a row."""
    start = time.process_time()
    method.partial_fit(X[:first])
    odd = []
    for at in range(first, len(X), CHUNK):
        part = X[at : at + CHUNK]
        odd.append(method.anomaly_score(part))
        method.partial_fit(part)
    seconds = time.process_time() - start
    odd = np.concatenate(odd)
    truth = y[first:]
    return (
        float(roc_auc_score(truth, odd)),
        float(average_precision_score(truth, odd)),
        1000 * seconds / len(X),
    )


def drifting(kind: str, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows (n, 6) and which are anomalies."""
    rng = np.random.default_rng([seed, DRIFTS.index(kind)])
    odd = rng.random(n) < 0.03
    at = np.arange(n)
    back = odd & (rng.random(n) < 0.5) & (at >= n // 4) & (kind != "still")
    at = np.where(back, at - n // 4, at)
    noise = rng.normal(size=(n, 6))
    X = noise.copy()
    mixing = rng.normal(size=(2, 6, 6)) / 2
    if kind in ("still", "wander"):
        X = noise @ mixing[0]
    if kind == "wander":
        angle = 2 * np.pi * at / n
        X[:, :2] += 8 * np.stack([np.cos(angle), np.sin(angle)], 1)
    if kind == "jump":
        places, every = 4 * rng.normal(size=(4, 6)), rng.normal(size=(4, 6, 6)) / 2
        which = np.minimum(4 * at // n, 3)
        X = places[which] + np.einsum("nf,nfg->ng", noise, every[which])
    if kind == "turn":
        angle = np.pi * at / n
        wide = np.array([3.0, 0.3])
        for pair in (0, 2, 4):
            a, b = (noise[:, pair : pair + 2] * wide).T
            X[:, pair] = np.cos(angle) * a - np.sin(angle) * b
            X[:, pair + 1] = np.sin(angle) * a + np.cos(angle) * b
    far = odd & ~back
    X[far] += 4 * rng.normal(size=(far.sum(), 6))
    return X, odd


def main() -> None:
    parser = arguments(__doc__, seeds=2)
    parser.add_argument(
        "--sets", nargs="+", help='some of the sets, such as "14_glass 43_WDBC" (default: all)'
    )
    args = parse(parser)
    data_folder()
    sets = args.sets or (["14_glass"] if args.quick else adbench_names())
    rows, n = (600, 1200) if args.quick else (2000, 3000)
    report = Report("anomaly_stream", "Anomalies in streams of rows: scored, then learnt from", args)
    found: dict = defaultdict(list)
    for seed in range(args.seeds):
        for name in sets:
            X, y = load(name, rows)
            order = np.random.default_rng([seed, 5]).permutation(len(X))
            X, y = X[order], y[order]
            for method, detector in methods(seed, False).items():
                found["order of chance", name, method].append(prequential(detector, X, y, len(X) // 10))
            say(
                name,
                seed,
                *(f"{m} {found['order of chance', name, m][-1][0]:.3f}" for m in methods(0, False)),
            )
        for kind in DRIFTS:
            X, y = drifting(kind, n, seed)
            for method, detector in methods(seed, True).items():
                found["drift", kind, method].append(prequential(detector, X, y, len(X) // 10))
            say(kind, seed, *(f"{m} {found['drift', kind, m][-1][0]:.3f}" for m in methods(0, True)))

    def over(protocol: str, names: list[str], method: str, which: int) -> list[float]:
        runs = [found[protocol, name, method] for name in names]
        return [float(np.mean([run[s][which] for run in runs])) for s in range(args.seeds)]

    header = ["", "AUROC", "AP", "ms a row"]
    report.table(
        f"Order of chance: mean over {len(sets)} sets",
        header,
        [[m, *(spread(over("order of chance", sets, m, w)) for w in range(3))] for m in methods(0, False)],
    )
    report.table(
        f"Drift: AUROC / AP; windows and from scratch of the last {WINDOW} rows",
        ["", *DRIFTS, "ms a row"],
        [
            [
                m,
                *(
                    " / ".join(f"{np.mean(over('drift', [kind], m, w)):.3f}" for w in (0, 1))
                    for kind in DRIFTS
                ),
                spread(over("drift", list(DRIFTS), m, 2), 2),
            ]
            for m in methods(0, True)
        ],
    )
    report.table(
        "Order of chance: AUROC / AP of each set",
        ["", *methods(0, False)],
        [
            [
                name,
                *(
                    " / ".join(f"{np.mean(over('order of chance', [name], m, w)):.3f}" for w in (0, 1))
                    for m in methods(0, False)
                ),
            ]
            for name in sets
        ],
    )
    report.keep("runs", {" | ".join(key): value for key, value in found.items()})
    report.save()


if __name__ == "__main__":
    main()
