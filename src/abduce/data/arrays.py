"""Arrays of numbers in and out: what is accepted, what is missing, and codes for cells of a coded kind."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from abduce.data.fields import Group


def numeric_array(X: Any, name: str) -> np.ndarray:
    """Take anything that is an array of numbers; TypeError or ValueError, naming `name`, for all else."""
    if isinstance(X, pd.DataFrame):
        X = X.to_numpy(dtype=np.float64, na_value=np.nan)
    array = np.asarray(X)
    if array.dtype.kind in "OUS":
        if array.dtype.kind == "O":
            array = np.where(pd.isna(array), np.nan, array)
        try:
            return array.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{name} is an array of dtype {array.dtype} that does not convert to float: {error}; "
                "use a pandas DataFrame for columns of mixed kinds"
            ) from error
    if array.dtype.kind == "c":
        raise ValueError(f"Complex data not supported: {name} has dtype {array.dtype}")
    if array.dtype.kind not in "iubf":
        raise ValueError(f"{name} has dtype {array.dtype}; expected numbers, or a pandas DataFrame")
    return array


def split(array: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Flatten to (n, D), zeros for missing cells, with a mask of observed cells (None: all).

    Floats come out as float64, whole numbers and bool in their own dtype. ValueError for infinities.
    """
    flat = array.reshape(len(array), -1) if len(array) else array.reshape(0, int(np.prod(array.shape[1:])))
    flat = np.ascontiguousarray(flat)  # sums run in the same order then, to the bit, however the array lies
    if flat.dtype == np.bool_:
        return flat.astype(np.uint8), None
    if flat.dtype.kind in "iu":
        return flat, None
    flat = flat.astype(np.float64, copy=False)
    observed = np.isfinite(flat)
    if observed.all():
        return flat, None
    infinite = np.isinf(flat)
    if infinite.any():
        row, cell = np.argwhere(infinite)[0]
        place = f"column x{cell}" if array.ndim == 2 else f"pixel {np.unravel_index(cell, array.shape[1:])}"
        raise ValueError(
            f"{name} contains infinity: {flat[row, cell]} in row {row}, {place}; expected finite numbers"
        )
    return np.where(observed, flat, 0.0), observed


def find_codes(block: np.ndarray, group: Group) -> tuple[np.ndarray, np.ndarray]:
    """Find codes of the cells of a coded group in an array, (n, d) to (n, d), and mark values never seen in training."""
    if all(f.categories == (0, 1) for f in group.fields):
        return block, (block != 0) & (block != 1)
    if len(group.fields) == 1:
        return _search(block, np.array(group.fields[0].categories, np.float64))
    out, unseen = np.empty_like(block), np.empty(block.shape, bool)
    for j, field in enumerate(group.fields):
        out[:, j], unseen[:, j] = _search(block[:, j], np.array(field.categories, np.float64))
    return out, unseen


def _search(block: np.ndarray, categories: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    place = np.minimum(np.searchsorted(categories, block), len(categories) - 1)
    return place, categories[place] != block


def take(codes: np.ndarray, group: Group) -> np.ndarray:
    """Turn codes (n, d) of a coded group in an array into its categories, as float64."""
    if all(f.categories == (0, 1) for f in group.fields):
        return codes
    whole = codes.astype(np.int64)
    if len(group.fields) == 1:
        return np.array(group.fields[0].categories, np.float64)[whole]
    out = np.empty(codes.shape)
    for j, field in enumerate(group.fields):
        out[:, j] = np.array(field.categories, np.float64)[whole[:, j]]
    return out
