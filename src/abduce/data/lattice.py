"""Lattices: columns whose values are k / denominator for whole k, which is what lossless compression codes.

A lattice is found by `denominators`, the codes of floats by `round_codes`, exactly. A value such as 39.1 is
the float nearest to 391/10, and IEEE division gives just that float back.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from abduce.data.columns import Column

# Coarse lattices are tried first: tenths before hundredths; 255 and 65535 are for images scaled to [0, 1].
_DENOMINATORS = (1, 2, 4, 8, 10, 16, 32, 64, 100, 128, 255, 256, 1000, 10**4, 65535, 10**5, 10**6)
_DAY_PARTS = (1, 24, 1440, 86400, 86400 * 10**3, 86400 * 10**6, 86400 * 10**9)
_EXACT = 2.0**53


def denominators(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Find for each column of `values` (n, D) the smallest q with all values k/q, 0 where there is none.

    Missing values are to be given as 0. `dtype` is the float type the values came in, in which k/q must be
    exact. -0.0 is on any lattice as 0 is: what is to come back to the bit must look for it (`negative_zero`).
    """
    found = np.zeros(values.shape[1], np.int64)
    head = values[:200]
    for q in _DENOMINATORS:
        left = np.flatnonzero(found == 0)
        if not left.size:
            break
        left = left[_on_lattice(head[:, left], q, dtype)]
        if left.size:
            block = values if left.size == values.shape[1] else values[:, left]
            found[left[_on_lattice(block, q, dtype)]] = q
    return found


def _on_lattice(values: np.ndarray, q: int, dtype: np.dtype) -> np.ndarray:
    alive = np.ones(values.shape[1], bool)
    rows = max(1, 2**17 // max(1, values.shape[1]))  # a part that stays in cache
    for start in range(0, len(values), rows):
        part = values[start : start + rows]
        with np.errstate(over="ignore"):
            k = np.rint(part * q)
        back = k / q if dtype == np.float64 else (k / q).astype(dtype).astype(np.float64)
        alive &= ((back == part) & (np.abs(k) < _EXACT)).all(axis=0)
        if not alive.any():
            break
    return alive


def column_denominator(column: Column) -> int | None:
    """Find the denominator of one column, None if it is on no lattice; dates count in parts of a day."""
    if not column.observed.any():
        return None
    ticks = column.integers
    if column.form == "time" and ticks is not None:
        fits = (
            parts
            for parts in _DAY_PARTS
            if column.per_day % parts == 0 and not (ticks % (column.per_day // parts)).any()
        )
        return next(fits, None)
    if ticks is not None:
        return 1
    return int(denominators(column.values[:, None], float_type(column.dtype))[0]) or None


def float_type(label: str) -> np.dtype:
    """The float type of a column's dtype label, in which its values k / denominator are exact."""
    label = label.lower()
    if "float16" in label or "halffloat" in label:
        return np.dtype(np.float16)
    return np.dtype(np.float32 if "float32" in label or label.startswith("float[") else np.float64)


def negative_zero(values: np.ndarray) -> np.ndarray:
    """Which values are −0.0: a lattice has one zero, from which it would come back without its sign."""
    if values.dtype.kind != "f":
        return np.zeros(values.shape, bool)
    return np.signbit(values) & (values == 0)


def round_codes(values: np.ndarray, step: Any, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Codes of float values, and where they do not lead back to the value."""
    with np.errstate(over="ignore"):
        codes = np.rint(values * step)
    wrong = (codes / step).astype(dtype).astype(np.float64) != values
    wrong |= negative_zero(values) | (np.abs(codes) >= _EXACT)
    return np.where(wrong, 0, codes).astype(np.int64), wrong
