"""Refit a model to a bootstrap resample of its rows: fitted parameters that are as uncertain as the data leave them.

    rows i₁ … i_n drawn with replacement from 1 … n,   θ* = fit(x_{i₁}, …, x_{i_n})

θ* stands for a draw from the posterior of the parameters, for a model that has none.  A resample stays in model space and
keeps the schema of the data it was drawn from, so that kinds, classes and units are the same in every refit, and classes
that a resample misses are still known.

Sources: Efron 1979; Efron 1994, Missing data, imputation, and the bootstrap.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.utils import check_random_state

from abduce.data.schema import Schema
from abduce.fit.settings import Settings

TRIES = 200  # resamples drawn before rows are added to one


@dataclass(frozen=True, eq=False)
class Encoded:
    """Rows in model space: values (n, D), 0 where nothing was observed, the mask (n, D), and the schema that reads them."""

    schema: Schema
    values: np.ndarray
    observed: np.ndarray

    def __len__(self) -> int:
        return len(self.values)

    def take(self, rows: np.ndarray) -> Encoded:
        """Some of the rows, in that order."""
        return Encoded(self.schema, self.values[rows], self.observed[rows])


def refit(model: Any, data: Encoded, rng: np.random.Generator) -> Any:
    """A clone of ``model`` fitted to a resample of ``data``, with a seed of its own."""
    fresh: Any = clone(model)
    fresh.set_params(random_state=int(rng.integers(2**31 - 1)))
    if "callback" in fresh.get_params(deep=False):  # it watches the fit that was asked for
        fresh.set_params(callback=None)
    rows = resample(data.values, data.observed, rng, varied=data.schema.container != "image")
    return fresh.fit(data.take(apart(rows, held_out(fresh, len(rows)), rng)))


def resample(values: np.ndarray, observed: np.ndarray, rng: np.random.Generator, varied: bool) -> np.ndarray:
    """Draw as many rows as there are, with replacement: their indices (n,).

    Every column with an observed cell keeps one; with ``varied`` every column that varies still does, as no model fits
    the spread of a column that stands still.  Resamples that miss this are drawn anew; what the last of many still
    misses is added to it, a row at a time.

    >>> rng = np.random.default_rng(0)
    >>> rare = np.eye(1, 6).T  # one row differs from the others
    >>> all(0 in resample(rare, rare >= 0, rng, varied=True) for _ in range(20))
    True
    """
    n = len(values)
    wanted = _holds(values, observed, varied)
    rows = rng.integers(n, size=n)
    for _ in range(TRIES):
        if not (wanted & ~_holds(values[rows], observed[rows], varied)).any():
            return rows
        rows = rng.integers(n, size=n)
    while len(missed := np.flatnonzero(wanted & ~_holds(values[rows], observed[rows], varied))):
        j = missed[0] % values.shape[1]
        kept = values[rows, j][observed[rows, j]]
        mends = observed[:, j] & ~np.isin(values[:, j], kept)
        rows = np.append(rows, rng.choice(np.flatnonzero(mends)))
    return rows


def _holds(values: np.ndarray, observed: np.ndarray, varied: bool) -> np.ndarray:
    """Which columns are observed, (D,), and with ``varied`` also which have two values at least, (2 D,)."""
    some: Any = observed.any(0)
    if not varied:
        return some
    low, high = np.where(observed, values, np.inf).min(0), np.where(observed, values, -np.inf).max(0)
    return np.concatenate([some, np.less(low, high)])


def held_out(model: Any, n: int) -> np.ndarray:
    """Places of the rows that ``fit`` will hold out of n to judge the training by."""
    seed = int(check_random_state(model.random_state).randint(2**31 - 1))
    return Settings(validation=model.validation_fraction, seed=seed).split(n)[1].numpy()


def apart(rows: np.ndarray, held: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Order drawn rows so that copies of one row are all in the places ``held`` or all outside: (n,).

    A copy on either side would let the training be judged by what it was trained on.  Where the counts of copies do not
    add up to the places, copies of one row are on both sides.

    >>> apart(np.array([7, 7, 3, 3, 3]), np.array([0, 4]), np.random.default_rng(0))
    array([7, 3, 3, 3, 7])
    """
    distinct, count = np.unique(rows, return_counts=True)
    left, chosen = len(held), []
    for k in rng.permutation(len(distinct)):
        if count[k] <= left:
            chosen.append(k)
            left -= count[k]
    judge = np.isin(rows, distinct[chosen])
    order = np.concatenate([rng.permutation(rows[judge]), rng.permutation(rows[~judge])])
    places = np.concatenate([held, np.setdiff1d(np.arange(len(rows)), held)])
    out = np.empty_like(rows)
    out[places] = order
    return out
