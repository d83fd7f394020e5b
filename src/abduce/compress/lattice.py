"""The lattice of a table's values: whole-number codes, in place of numbers, of every cell of a schema.

Every cell that is not a code of categories has values (low + s) / denominator for s = 0..size−1.  The range of a column is
what training saw; where rows to be compressed leave it, it is widened, and the wider range goes with them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from abduce.compress.container import CompressedDataError
from abduce.data.schema import Schema

FAR = 2**58  # numbers beyond this are not coded by their lattice

Ranges = dict[int, tuple[int, int]]  # place of a field: its lowest code, and the number of its codes


@dataclass(frozen=True)
class Lattice:
    """Where each of the D cells' values lie: codes k = low + s, value k / denominator; all arrays ``(D,)``."""

    raw: np.ndarray  # cells whose model value is the code itself (classes, counts)
    log: np.ndarray  # cells modelled by their logarithm
    denominator: np.ndarray
    loc: np.ndarray
    scale: np.ndarray
    low: np.ndarray
    size: np.ndarray

    @classmethod
    def of(cls, schema: Schema, ranges: Ranges) -> Lattice:
        """The lattice of a schema's cells, with ``ranges`` in place of those seen in training."""
        low, size = trained_ranges(schema)
        for place, (start, n) in ranges.items():
            if place >= len(low) or n < 1:
                wrong = "data does not decode: it has a range for a column that is not there"
                raise CompressedDataError(wrong)
            low[place], size[place] = start, n

        def spread(values: Any, dtype: Any = np.float64) -> np.ndarray:
            return np.array(np.broadcast_to(np.array(values, dtype), (schema.n_cells,)))

        columns = schema.fields
        raw = spread([f.coded or f.kind == "count" for f in columns], bool)
        log = spread([f.kind == "positive" for f in columns], bool)
        numbers = zip(*((f.denominator or 1, f.loc, f.scale) for f in columns), strict=True)
        denominator, loc, scale = map(spread, numbers)
        return cls(raw, log, denominator, loc, scale, spread(low, np.int64), spread(size, np.int64))

    def values(self, k: np.ndarray, observed: np.ndarray, at: slice = slice(None)) -> np.ndarray:
        """Model values of codes (n, d) of all cells or of those ``at`` some places; unobserved cells are 0."""
        v = np.where(observed, k, self.low[at]) / self.denominator[at]
        return np.where(observed, np.where(self.raw[at], v, self._to_model(v, at)), 0.0)

    def edges(self, cells: np.ndarray, e: np.ndarray) -> np.ndarray:
        """Model values of the lower edges of symbols ``e`` (m, j) of cells (m,), of the real line's kinds."""
        at = cells[:, None]
        return self._to_model((self.low[at] + e - 0.5) / self.denominator[at], at)

    def _to_model(self, v: np.ndarray, at: Any) -> np.ndarray:
        log = self.log[at]
        if log.any():
            v = np.where(log, np.log(np.where(log, np.maximum(v, 1e-300), 1.0)), v)
        return (v - self.loc[at]) / self.scale[at]


def trained_ranges(schema: Schema) -> tuple[np.ndarray, np.ndarray]:
    """Range of codes of each field as seen in training: lowest code and number of codes, ``(fields,)``."""
    low, high = np.array([f.ends for f in schema.fields], object).T
    start, stop = (np.clip(ends, -FAR, FAR).astype(np.int64) for ends in (low, high))
    return start, stop - start + 1


def near(schema: Schema, k: np.ndarray) -> np.ndarray:
    """Which codes (n, D) are near enough to those seen in training to be coded with them."""
    low, size = trained_ranges(schema)
    return (k >= low - FAR) & (k <= low + size - 1 + FAR)


def wider_ranges(schema: Schema, k: np.ndarray, observed: np.ndarray) -> Ranges:
    """Ranges of the fields whose codes (n, D), all of them near, leave the range seen in training."""
    if not k.size:
        return {}
    low, size = trained_ranges(schema)
    least = np.where(observed, k, np.iinfo(np.int64).max).min(0)
    most = np.where(observed, k, np.iinfo(np.int64).min).max(0)
    if len(low) == 1:
        least, most = least.min(keepdims=True), most.max(keepdims=True)
    high = low + size - 1
    out = {}
    for j in np.flatnonzero((least <= most) & ((least < low) | (most > high))):
        start, stop = int(min(least[j], low[j])), int(max(most[j], high[j]))
        out[int(j)] = (start, stop - start + 1)
    return out
