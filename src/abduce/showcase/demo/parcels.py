"""The demonstration's table: wrong rows found among right ones, with the cell that is wrong and what it should have been."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import LocalOutlierFactor

from abduce.estimators.adapters import OutlierDetector
from abduce.estimators.auto import Auto
from abduce.showcase import plots
from abduce.showcase.demo.questions import Finding, Findings
from abduce.showcase.report import Picture

ROWS, NEW, WRONG = 600, 400, 30
BLANKS = 0.05
ALPHA = 0.1
ODDEST = 10  # rows of the picture's map
PARCEL_TASKS = ("spot wrong rows", "usual among flagged", "name the wrong cell")
NAMES = ("kind", "size", "weight", "price")
KINDS = ("letter", "box", "tube")


class Parcels:
    """Parcels of three kinds, made up: ``train``, and ``new`` ones of which the first are wrong in the cell ``at``.

    Half of these were charged too much; the others are of another kind than they say.
    """

    def __init__(self, seed: int):
        rng = np.random.default_rng([seed, 3])
        train, new = _made(rng, ROWS), _made(rng, NEW)
        half = WRONG // 2
        self.at = np.repeat([NAMES.index("price"), NAMES.index("kind")], [half, WRONG - half])
        price, kind = (new[name].to_numpy(copy=True) for name in ("price", "kind"))
        price[:half] = (1.5 * price[:half] + 3).round(2)
        following = dict(zip(KINDS, np.roll(KINDS, -1), strict=True))
        kind[half:WRONG] = [following[k] for k in kind[half:WRONG]]
        blank = [rng.random(table.shape) < BLANKS for table in (train, new)]
        blank[1][:WRONG] = False
        self.train, self.new = train.mask(blank[0]), new.assign(price=price, kind=kind).mask(blank[1])
        self.wrong = np.arange(NEW) < WRONG


def _made(rng: np.random.Generator, n: int) -> pd.DataFrame:
    which = rng.choice(3, n, p=[0.5, 0.3, 0.2])
    size = np.array([25.0, 45.0, 80.0])[which] * rng.lognormal(0, 0.15, n)
    weight = np.array([0.1, 3.0, 1.2])[which] * (size / 40) ** 2 * rng.lognormal(0, 0.3, n)
    price = 2 + 1.5 * weight + 0.02 * size + rng.normal(0, 0.3, n)
    kind = np.array(KINDS, object)[which]
    return pd.DataFrame(
        {"kind": kind, "size": size.round(1), "weight": weight.round(2), "price": price.round(2)}
    )


def infer_rows(seed: int) -> Findings:
    """Score, flag and explain rows of a table of mixed kinds, beside detectors that are given numbers."""
    parcels = Parcels(seed)
    detector = OutlierDetector(Auto(trees=False, random_state=seed)).fit(parcels.train)
    odd, flagged = detector.anomaly_score(parcels.new), detector.flag(parcels.new, alpha=ALPHA)
    some = np.argsort(-odd, kind="stable")[:ODDEST]
    shown = parcels.new.iloc[some]
    nats, should = detector.explain(shown, expected=True)
    wrong = parcels.new[:WRONG]
    named = detector.explain(wrong).to_numpy()
    right = np.nan_to_num(named, nan=-np.inf).argmax(1) == parcels.at

    false = int((flagged & ~parcels.wrong).sum())
    theirs = _scores(parcels, seed)
    best, usual, cell = PARCEL_TASKS
    findings = [
        Finding(
            best,
            "AUROC",
            float(roc_auc_score(parcels.wrong, odd)),
            {name: float(roc_auc_score(parcels.wrong, found)) for name, found in theirs.items()},
            "high",
        ),
        Finding(usual, f"share, asked for {ALPHA:g}", false / max(1, int(flagged.sum())), {}, "low"),
        Finding(cell, "share", float(right.mean()), {}, "high"),
    ]
    names = list(parcels.new.columns)
    picture = Picture(
        "rows",
        "Odd rows, and which cell makes them so",
        f"{NEW} made-up parcels, {WRONG} of them wrong: charged too much, or of another kind than they say. Above "
        f"how odd each is, and where flag(alpha={ALPHA:g}) cuts; below the {ODDEST} oddest: what each cell is, as colour "
        "the nats that it adds, and where these are many what it should have been given the others.",
        lambda: plots.odd_rows(
            odd, flagged, nats.to_numpy(), written(shown, should, nats), list(some), names, ALPHA
        ),
    )
    return findings, [picture]


def written(rows: pd.DataFrame, should: pd.DataFrame, nats: pd.DataFrame) -> list[list[str]]:
    """What each cell is, and behind an arrow what it should have been where it adds a third of its row's most nats."""
    much = nats.ge(np.maximum(nats.max(axis=1) / 3, 1.0), axis=0)
    return [
        [
            f"{_plain(a)} \N{RIGHTWARDS ARROW} {_plain(b)}" if strange else _plain(a)
            for a, b, strange in zip(was, meant, flags, strict=True)
        ]
        for was, meant, flags in zip(rows.to_numpy(), should.to_numpy(), much.to_numpy(), strict=True)
    ]


def _plain(value: Any) -> str:
    if value is None or value != value:
        return "blank"
    return value if isinstance(value, str) else f"{value:.3g}"


def _scores(parcels: Parcels, seed: int) -> dict[str, np.ndarray]:
    """What detectors of scikit-learn say, given numbers: classes one by one, blanks as means, columns standardised."""
    both = pd.get_dummies(pd.concat([parcels.train, parcels.new]), columns=["kind"], dtype=float)
    first = both[:ROWS]
    x = ((both - first.mean()) / first.std()).fillna(0.0).to_numpy()
    forest = IsolationForest(random_state=seed).fit(x[:ROWS])
    local = LocalOutlierFactor(novelty=True).fit(x[:ROWS])
    return {
        "IsolationForest": -forest.score_samples(x[ROWS:]),
        "LocalOutlierFactor": -local.score_samples(x[ROWS:]),
    }
