"""Between data values and model values, a whole matrix at a time, one group of cells after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from abduce.data.arrays import take
from abduce.data.fields import CODED, Group

if TYPE_CHECKING:
    from abduce.data.schema import Schema


def standardise(schema: Schema, values: np.ndarray, observed: np.ndarray, name: str) -> None:
    """Turn data values into model values, in place."""
    for group, cells, loc, scale in schema._blocks:
        if group.kind in CODED:
            continue
        block = values[:, cells]  # a view when the group is everything, a copy otherwise
        if group.kind == "count":
            wrong = ((block < 0) | (block != np.rint(block))) & observed[:, cells]
            refuse(schema, wrong, block, group, name, "whole numbers 0, 1, 2, ... (kind count)")
            continue
        if group.kind == "positive":
            wrong = (block <= 0) & observed[:, cells]
            refuse(schema, wrong, block, group, name, "values above 0 (kind positive)")
            block = np.log(np.where(observed[:, cells], block, 1.0))
        block -= loc.astype(block.dtype)
        block /= scale.astype(block.dtype)
        if group.kind == "positive" or not isinstance(cells, slice):
            values[:, cells] = block
    if not observed.all():
        values[~observed] = 0.0


def refuse(
    schema: Schema, wrong: np.ndarray, block: np.ndarray, group: Group, name: str, expected: str
) -> None:
    """Raise ValueError naming the first of the cells marked `wrong`, its value, and what was `expected`."""
    if wrong.any():
        row, j = np.argwhere(wrong)[0]
        column = schema.names[group.cells[j]]
        raise ValueError(f"{name}: column {column!r} expects {expected}, got {block[row, j]:g} in row {row}")


def to_data(schema: Schema, values: np.ndarray, snap: bool = False) -> np.ndarray:
    """Turn model values into data values, float64 (n, D); coded cells become codes."""
    out = np.array(values, np.float64)
    for group, cells, loc, scale in schema._blocks:
        block = out[:, cells]  # a view when the group is everything, a copy otherwise
        if group.kind in CODED:
            top = np.array([len(f.categories or ()) - 1 for f in group.fields])
            np.rint(block, out=block)
            np.clip(block, 0, top, out=block)
        elif group.kind == "count":
            np.rint(block, out=block)
            np.maximum(block, 0, out=block)
        else:
            block *= scale
            block += loc
            if group.kind == "positive":
                np.exp(np.clip(block, -690.0, 700.0, out=block), out=block)
            if snap:
                _snap(block, group)
            if group.kind == "pixel":
                low, high = np.array([(f.low, f.high) for f in group.fields]).T
                np.clip(block, low, high, out=block)
        if not isinstance(cells, slice):
            out[:, cells] = block
    return out


def cast(schema: Schema, data: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Turn data values (n, D), used up, into an array's dtype; codes into their categories."""
    for group, where, _, _ in schema._blocks:
        if group.kind in CODED:
            data[:, where] = take(data[:, where], group)
        elif group.kind == "positive":  # rounding must not reach 0, which has no logarithm
            data[:, where] = np.maximum(data[:, where], 1.0 if dtype.kind in "iu" else np.finfo(dtype).tiny)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        np.rint(data, out=data)
        top = float(limits.max)
        np.clip(data, float(limits.min), np.nextafter(top, 0) if limits.max > 2**53 else top, out=data)
    elif dtype.kind == "f" and dtype.itemsize < 8:
        np.clip(data, float(np.finfo(dtype).min), float(np.finfo(dtype).max), out=data)
    return data.astype(dtype, copy=False)


def log_jacobian(
    schema: Schema, values: np.ndarray, observed: np.ndarray, pixels: bool = False
) -> np.ndarray:
    """Sum log |d model value / d data value| over observed cells, (n,); see `Schema.log_jacobian`."""
    out = np.zeros(len(values))
    for group, cells, loc, scale in schema._blocks:
        if group.kind == "real" or (pixels and group.kind == "pixel"):
            out -= observed[:, cells] @ np.broadcast_to(np.log(scale), (len(group.cells),))
        elif group.kind == "positive":
            slope = np.log(scale) + values[:, cells].astype(np.float64) * scale + loc
            out -= np.where(observed[:, cells], slope, 0.0).sum(axis=1)
    return out


def _snap(block: np.ndarray, group: Group) -> None:
    """Round data values (n, d) to their lattice in place; positive values stay above 0."""
    step = np.array([f.denominator or 0 for f in group.fields], np.float64)
    whole = np.where(step > 0, step, 1.0)
    snapped = np.rint(block * whole) / whole
    if group.kind == "positive":
        snapped = np.maximum(snapped, 1 / whole)
    np.copyto(block, snapped, where=step > 0)
