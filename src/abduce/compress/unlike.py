"""Which cells differ, to the bit: −0.0 is not 0.0, and 1 is not 1.0 among objects; a blank is a blank, be it None or NaN."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from abduce.compress.objects import to_json


def unlike_array(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cells where arrays of one shape differ, or all of them where they have not one dtype.

    >>> unlike_array(np.array([0.0, np.nan, 1.0]), np.array([-0.0, np.nan, 1.0]))
    array([ True, False, False])
    """
    if a.dtype != b.dtype:
        return np.ones(a.shape, bool)
    if a.dtype.kind != "f":
        return a != b
    return ((a != b) | (np.signbit(a) != np.signbit(b))) & ~(np.isnan(a) & np.isnan(b))


def unlike(a: Any, b: Any) -> np.ndarray:
    """Rows where two columns of as many rows differ, or all of them where they have not one dtype."""
    if a.dtype != b.dtype:
        return np.ones(len(a), bool)
    blank = a.isna().to_numpy(dtype=bool)
    out = blank != b.isna().to_numpy(dtype=bool)
    both = ~blank & ~out
    if not both.any():
        return out
    left, right = a[both], b[both]
    if pd.api.types.is_object_dtype(a.dtype):
        out[both] = [not _alike(v, w) for v, w in zip(left.tolist(), right.tolist(), strict=True)]
    elif pd.api.types.is_float_dtype(a.dtype):
        out[both] = unlike_array(left.to_numpy(dtype=np.float64), right.to_numpy(dtype=np.float64))
    else:
        out[both] = left.to_numpy() != right.to_numpy()
    return out


def _alike(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if type(a) in (str, int, bool):
        return a == b
    try:
        return to_json(a) == to_json(b)
    except TypeError:
        return bool(np.all(a == b))
