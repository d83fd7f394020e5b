"""Lattices: columns whose values are k / denominator for whole k, which is what lossless compression codes.

A lattice is found by `denominators`; `to_integers` and `from_integers` go between a container and its codes,
exactly. A value such as 39.1 is the float nearest to 391/10, and IEEE division gives just that float back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from abduce.data.arrays import find_codes, split, take
from abduce.data.columns import Column, build_column, lookup, numbers, ticks_per_day
from abduce.data.fields import CODED, Field, Group, listing
from abduce.data.scaling import refuse

if TYPE_CHECKING:
    from abduce.data.schema import Schema

# Coarse lattices are tried first: tenths before hundredths; 255 and 65535 are for images scaled to [0, 1].
_DENOMINATORS = (1, 2, 4, 8, 10, 16, 32, 64, 100, 128, 255, 256, 1000, 10**4, 65535, 10**5, 10**6)
_DAY_PARTS = (1, 24, 1440, 86400, 86400 * 10**3, 86400 * 10**6, 86400 * 10**9)
_EXACT = 2.0**53


def denominators(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Find for each column of `values` (n, D) the smallest q with all values k/q, 0 where there is none.

    Missing values are to be given as 0. `dtype` is the float type the values came in, in which k/q must be
    exact.
    """
    found = np.zeros(values.shape[1], np.int64)
    head = values[:200]
    alive = ~(np.signbit(values) & (values == 0)).any(axis=0)  # -0.0 would not come back with its sign
    for q in _DENOMINATORS:
        left = np.flatnonzero(alive & (found == 0))
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
    return int(denominators(column.values[:, None], _float_type(column.dtype))[0]) or None


def _float_type(label: str) -> np.dtype:
    label = label.lower()
    if "float16" in label or "halffloat" in label:
        return np.dtype(np.float16)
    return np.dtype(np.float32 if "float32" in label or label.startswith("float[") else np.float64)


def _negative_zero(values: np.ndarray) -> np.ndarray:
    # A lattice has one zero; -0.0 would come back without its sign.
    if values.dtype.kind != "f":
        return np.zeros(values.shape, bool)
    return np.signbit(values) & (values == 0)


def _round_codes(values: np.ndarray, step: Any, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Give codes of float values, and where they do not lead back to the value."""
    codes = np.rint(values * step)
    wrong = (codes / step).astype(dtype).astype(np.float64) != values
    wrong |= _negative_zero(values) | (np.abs(codes) >= _EXACT)
    return np.where(wrong, 0, codes).astype(np.int64), wrong


# ---------------------------------------------------------------- containers


def to_integers(schema: Schema, X: Any, ignore_left_out: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Turn data into lattice codes int64 (n, D) and the mask of observed cells; see `Schema.to_integers`."""
    loose = [f.name for f in schema.fields if f.denominator is None and f.missing < 1.0]
    if loose:
        raise ValueError(
            f"columns not on a lattice of fixed precision: {listing(loose, 10)}; round them first"
        )
    gone = [f.name for f in schema.left_out if f.kind == "identifier"]
    if gone and not ignore_left_out:
        raise ValueError(
            f"columns left out of the model cannot be coded: {listing(gone, 10)}; drop them first"
        )
    if schema.container == "frame":
        columns = schema._columns(X, "X")
        k = np.empty((len(columns[0].values), schema.n_cells), np.int64)
        observed = np.empty(k.shape, bool)
        for j, (field, column) in enumerate(zip(schema.fields, columns, strict=True)):
            observed[:, j] = column.observed
            k[:, j] = _column_codes(field, column)
        return k, observed
    flat, seen = split(schema._array(X, "X"), "X")
    observed = np.ones(flat.shape, bool) if seen is None else seen
    k = np.empty(flat.shape, np.int64)
    for group, cells, _, _ in schema._blocks:
        block = flat[:, cells]
        codes, wrong = _block_codes(block, observed[:, cells], group, np.dtype(schema.dtype))
        expected = "values on the training data's lattice"
        refuse(schema, wrong & observed[:, cells], block, group, "X", expected)
        k[:, cells] = codes
    if seen is not None:
        k[~observed] = 0
    return k, observed


def from_integers(schema: Schema, k: np.ndarray, observed: np.ndarray) -> Any:
    """Turn lattice codes back into the container; see `Schema.from_integers`."""
    k, observed = schema._matrix(k), schema._matrix(observed).astype(bool)
    if k.dtype.kind not in "iu":
        raise ValueError(f"k must be whole numbers, got dtype {k.dtype}")
    k = np.where(observed, k, 0).astype(np.int64)
    for group, cells, _, _ in schema._blocks:
        if group.kind in CODED:
            top = np.array([len(f.categories or ()) for f in group.fields])
            if ((k[:, cells] < 0) | (k[:, cells] >= top)).any():
                raise ValueError("k has codes outside the categories of its columns")
    if schema.container == "frame":
        arrays = [_from_codes(f, k[:, j], observed[:, j]) for j, f in enumerate(schema.fields)]
        return schema._assemble(arrays, len(k))
    dtype = np.dtype(schema.dtype)
    if dtype.kind in "iub" and not observed.all():
        dtype = np.dtype(np.float64)
    out = np.empty(k.shape, dtype)
    for group, cells, _, _ in schema._blocks:
        if group.kind in CODED:
            out[:, cells] = take(k[:, cells], group)
        else:
            step = np.array([f.denominator or 1 for f in group.fields], np.int64)
            out[:, cells] = k[:, cells] if (step == 1).all() else k[:, cells] / step
    if not observed.all():
        out[~observed] = np.nan
    return out.reshape(-1, *schema.shape)


def _block_codes(
    block: np.ndarray, observed: np.ndarray, group: Group, dtype: np.dtype
) -> tuple[np.ndarray, np.ndarray]:
    """Give the codes of a group's cells in an array, and where there is none."""
    if group.kind in CODED:
        codes = find_codes(block.astype(np.float64), observed, group, "X").astype(np.int64)
        return codes, _negative_zero(block)
    step = np.array([f.denominator or 1 for f in group.fields], np.int64)
    if block.dtype.kind in "iub":
        codes, wrong = block.astype(np.int64) * step, np.zeros(block.shape, bool)
    else:
        codes, wrong = _round_codes(block, step, np.dtype(np.float64) if dtype.kind in "iub" else dtype)
    if group.kind == "pixel":
        low = np.array([round(f.low * (f.denominator or 1)) for f in group.fields])
        high = np.array([round(f.high * (f.denominator or 1)) for f in group.fields])
        wrong = wrong | (codes < low) | (codes > high)
    elif group.kind == "count":
        wrong = wrong | (codes < 0)
    return codes, wrong


def _column_codes(field: Field, column: Column) -> np.ndarray:
    """Turn one column into lattice codes (n,); ValueError naming the first value off the lattice."""
    wrong = np.zeros(len(column.values), bool)
    if field.coded:
        codes = lookup(column, field)
        if column.form == "number":
            wrong = _negative_zero(column.values)
    else:
        values = numbers(column, field)
        step = field.denominator or 1
        ticks = column.integers
        if column.form == "time" and ticks is not None and column.per_day % step == 0:
            codes, rest = np.divmod(ticks, column.per_day // step)
            wrong = rest != 0
        elif column.form == "time" and ticks is not None:
            codes = ticks * (step // column.per_day)
        elif ticks is not None:
            codes = ticks * step
        else:
            codes, wrong = _round_codes(values, step, _float_type(field.dtype))
        if field.kind == "pixel":
            wrong = wrong | (values < field.low) | (values > field.high)
        elif field.kind == "count":
            wrong = wrong | (codes < 0)
    wrong = wrong & column.observed
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ValueError(
            f"column {field.name!r} has {column.values[row]} in row {row}, which is not on its lattice: "
            f"expected whole multiples of 1/{field.denominator}"
        )
    return np.where(column.observed, codes, 0)


def _from_codes(field: Field, k: np.ndarray, observed: np.ndarray) -> Any:
    if field.coded:
        return build_column(field, k, observed)
    step = field.denominator or 1
    if field.temporal:
        return build_column(field, k * (ticks_per_day(field.dtype) // step), observed)
    return build_column(field, k if field.integral else k / step, observed)
