"""A sample of bounded size of a stream's rows: uniform over all rows so far, or fresher ones likelier.

Each row t draws a priority when it comes, and the rows of the least priorities are kept:

    log e_t = log(−log u_t) − t · log 2 / half-life,        u_t uniform

Without a half-life that is a uniform sample.  With one it is a sample without replacement where a row's weight halves with so
many rows after it; as many rows are kept as the weights come to, half-life / log 2, since more would hold all rows of late
alike and forget nothing.  Priorities follow the order of rows, so how a stream is cut into chunks changes nothing.

Source: Efraimidis & Spirakis 2006 (weighted random sampling with a reservoir); Aggarwal 2006 (biased reservoirs).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

GROWN = 0.1  # share of rows that are new, by which a sample has changed enough to be looked at again
FIRST = 2  # rows at which it is looked at first
PARTS = 50  # chunks that may wait to be brought together


class Kept(NamedTuple):
    """Rows as they came, their places in the stream and their priorities."""

    priority: np.ndarray
    at: np.ndarray
    rows: Any


class Reservoir:
    """At most ``most`` rows of a stream of arrays or of frames, drawn by ``seed``; ``half_life`` in rows, None: uniform.

    ``seen`` counts the rows that came; ``due`` is the next of the numbers of rows, the same for every stream, at which a tenth
    of the sample is new.

    >>> sample = Reservoir(most=3, seed=0)
    >>> for start in range(0, 100, 10):
    ...     sample.add(np.arange(start, start + 10)[:, None])
    >>> sample.seen, len(sample.rows)
    (100, 3)
    """

    def __init__(self, most: int, seed: int, half_life: float | None = None):
        self.half_life, self.seen, self.due = half_life, 0, FIRST
        self.most = most if half_life is None else max(FIRST, min(most, round(half_life / math.log(2))))
        self._generator = np.random.default_rng([seed, 2])
        self._parts: list[Kept] = []
        self._waiting, self._cut = 0, math.inf

    @property
    def rows(self) -> Any:
        """The rows kept, in the order in which they came."""
        self._merge()
        return self._parts[0].rows

    @property
    def at(self) -> np.ndarray:
        """Their places in the stream, from 0, (kept,)."""
        self._merge()
        return self._parts[0].at

    def add(self, X: Any) -> None:
        """Show it the next rows of the stream."""
        at = np.arange(self.seen, self.seen + len(X))
        priority = np.log(self._generator.standard_exponential(len(X), method="inv"))
        if self.half_life is not None:
            priority -= at * (math.log(2) / self.half_life)
        self.seen += len(X)
        enters = np.flatnonzero(priority < self._cut)
        if not len(enters) and self._parts:
            return
        self._parts.append(Kept(priority[enters], at[enters], some_rows(X, enters)))
        self._waiting += len(enters)
        if self._waiting > 2 * self.most or len(self._parts) > PARTS:
            self._merge()

    def until(self, rows: int) -> int | None:
        """How many of the next ``rows`` come up to the last number of rows in them that is due; None: none is.

        What is due before that is passed over: what follows from a sample hangs on no earlier one.
        """
        last = None
        while self.due <= self.seen + rows:
            last = self.due
            step = GROWN * self.due
            if self.half_life is not None:  # by then a tenth of the weight is new
                step = min(step, -math.log2(1 - GROWN) * self.half_life)
            self.due += max(1, math.ceil(step))
        return None if last is None else last - self.seen

    def _merge(self) -> None:
        """Bring what was kept together, and drop what has no place any more."""
        if len(self._parts) < 2 and self._waiting <= self.most:
            return
        priority = np.concatenate([part.priority for part in self._parts])
        at = np.concatenate([part.at for part in self._parts])
        few = np.arange(len(at))
        if len(at) > self.most:
            few = np.sort(np.argpartition(priority, self.most - 1)[: self.most])
            self._cut = float(priority[few].max())
        rows = some_rows(_joined([part.rows for part in self._parts]), few)
        self._parts, self._waiting = [Kept(priority[few], at[few], rows)], len(few)


def some_rows(X: Any, some: np.ndarray | slice) -> Any:
    """Some of the rows of an array or a frame, by their places; named one by one, a copy."""
    return X[some] if isinstance(X, np.ndarray) else X.iloc[some]


def _joined(parts: list[Any]) -> Any:
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts)
    return pd.concat(parts, ignore_index=True) if len(parts) > 1 else parts[0]
