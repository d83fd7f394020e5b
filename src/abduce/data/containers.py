"""Containers of rows, a data frame or an array: their cells as one matrix of numbers, and back.

Cells come in as model values, by their fields' transforms, and go out from *data values*: numbers, dates in days, codes for
coded kinds.  Their other form are *lattice codes*, whole numbers k with value k / denominator, which lose nothing.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from abduce.data.arrays import find_codes, numeric_array, split, take
from abduce.data.columns import (
    Column,
    as_series,
    build_column,
    lookup,
    numbers,
    put,
    read_column,
    ticks_per_day,
)
from abduce.data.fields import CODED, Field, Group, grouped, listing, side_by_side
from abduce.data.lattice import float_type, negative_zero, round_codes
from abduce.data.spelled import numeric

Pair = tuple[np.ndarray, np.ndarray]


class ModelValues(NamedTuple):
    """Model values (n, D), the mask of observed cells, and which of these hold what has no model value (None: no cell)."""

    values: np.ndarray
    observed: np.ndarray
    novel: np.ndarray | None


class Container(abc.ABC):
    """The make of a container of rows, as seen in training."""

    @abc.abstractmethod
    def check(self, X: Any, name: str) -> Any:
        """X in the make and with the columns or the shape seen in training; TypeError or ValueError if it has not."""

    @abc.abstractmethod
    def encode(self, X: Any, name: str, dtype: Any) -> ModelValues:
        """Model values (n, D) of type ``dtype``, whatever they are where missing or novel.

        ValueError or TypeError, naming ``name`` and the column, for data of another make.
        """

    @abc.abstractmethod
    def modelled(self, X: Any, name: str) -> Any:
        """X itself, or of a frame the modelled columns in the order of the fields, once its columns are checked."""

    @abc.abstractmethod
    def write(self, data: np.ndarray, beside: Any = None) -> Any:
        """A new container of data values (n, D), used up, rounded and cut to what its dtypes can hold.

        What is no cell of the model, an index or a column, is that of ``beside``, if given.
        """

    @abc.abstractmethod
    def put(self, X: Any, data: np.ndarray, where: np.ndarray) -> Any:
        """A copy of X with data values (n, D), used up, in the cells marked ``where``; dtypes are widened where they must."""

    @abc.abstractmethod
    def put_constants(self, X: Any) -> Any:
        """X, or a copy whose blanks are filled in columns that the model leaves out as they hold one value only."""

    @abc.abstractmethod
    def to_codes(self, X: Any) -> Pair:
        """Lattice codes int64 (n, D), and which cells have one."""

    @abc.abstractmethod
    def from_codes(self, k: np.ndarray, observed: np.ndarray, dtype: Any = None) -> Any:
        """The container of lattice codes; arrays of ``dtype`` where it is given."""


def same_length(rows: int, given: int) -> None:
    """Refuse values for another number of rows."""
    if rows != given:
        raise ValueError(f"X has {rows} rows but values has {given}")


# What cells of a kind may hold that not every number is.
_HELD = {
    "count": lambda v: (v >= 0) & (v == np.rint(v)),
    "positive": lambda v: v > 0,
}


# ---------------------------------------------------------------- frames


class Frames(Container):
    """Data frames of columns ``order``, of which ``left_out`` are not modelled."""

    def __init__(self, fields: tuple[Field, ...], left_out: tuple[Field, ...], order: tuple):
        self.fields, self.left_out, self.order = fields, left_out, order
        by_name = {str(label): label for label in order}
        self.labels = [by_name[f.name] for f in fields]

    def check(self, X: Any, name: str) -> pd.DataFrame:
        """X as a frame with the columns seen in training; TypeError or ValueError if it is none."""
        if not isinstance(X, pd.DataFrame):
            if isinstance(X, np.ndarray) and X.ndim == 2 and X.shape[1] == len(self.order):
                return pd.DataFrame(X, columns=list(self.order))
            raise TypeError(
                f"{name} must be a DataFrame with columns {listing(self.order)}, got {type(X).__name__}"
            )
        labels = column_labels(X, name)
        missing = [c for c in self.order if c not in labels]
        extra = [c for c in labels if c not in self.order]
        if missing or extra:
            parts = [f"is missing {listing(missing, 10)}"] if missing else []
            parts += [f"has unknown {listing(extra, 10)}"] if extra else []
            raise ValueError(f"{name} must have the columns seen in training: it {' and '.join(parts)}")
        return X

    def modelled(self, X: Any, name: str) -> Any:
        return self.check(X, name)[self.labels]

    def _columns(self, X: Any, name: str) -> Iterator[tuple[int, Field, Column]]:
        X = self.check(X, name)
        for j, (field, label) in enumerate(zip(self.fields, self.labels, strict=True)):
            yield j, field, read_column(X[label], field.name)

    def encode(self, X: Any, name: str, dtype: Any) -> ModelValues:
        out = np.empty((len(X), len(self.fields)), dtype)
        observed, novel = np.empty(out.shape, bool), np.zeros(out.shape, bool)
        for j, field, column in self._columns(X, name):
            observed[:, j] = column.observed
            if field.spelled and column.form == "text":
                column = numeric(column)
                novel[:, j] = observed[:, j] & ~column.observed
            if field.coded:
                data = lookup(column, field)
                novel[:, j] = data < 0
            else:
                data = numbers(column, field)
                if field.kind in _HELD:
                    novel[:, j] |= ~_HELD[field.kind](data) & column.observed
                data = data if field.transform.as_is else field.transform.to(data, dtype)
            out[:, j] = data
        return ModelValues(out, observed, novel if novel.any() else None)

    def write(self, data: np.ndarray, beside: Any = None) -> pd.DataFrame:
        out = self._assemble([_finish(f, data[:, j]) for j, f in enumerate(self.fields)], len(data))
        if isinstance(beside, pd.DataFrame) and len(beside) == len(out):
            out = out.set_axis(beside.index).rename_axis(columns=beside.columns.name)
            names = {f.name for f in self.left_out}
            for label in beside.columns[[str(c) in names for c in beside.columns]]:
                out[label] = beside[label]
        return out

    def put(self, X: Any, data: np.ndarray, where: np.ndarray) -> pd.DataFrame:
        X = self.check(X, "X")
        same_length(len(X), len(data))
        out = X.copy()
        for j in np.flatnonzero(where.any(axis=0)):
            label, rows, field = self.labels[j], where[:, j], self.fields[j]
            if field.spelled and pd.api.types.is_numeric_dtype(X[label].dtype):  # spelled in training alone
                field = replace(field, dtype=str(X[label].dtype))
            out[label] = as_series(put(X[label], rows, _finish(field, data[rows, j])), X.index)
        return out

    def put_constants(self, X: Any) -> Any:
        X = out = self.check(X, "X")
        for label, field in ((c, f) for f in self.left_out for c in self.order if str(c) == f.name):
            if field.kind == "constant" and (rows := X[label].isna().to_numpy(bool)).any():
                out = X.copy() if out is X else out
                out[label] = put(X[label], rows, build_column(field, np.zeros(int(rows.sum()), np.int64)))
        return out

    def to_codes(self, X: Any) -> Pair:
        X = self.check(X, "X")
        k = np.zeros((len(X), len(self.fields)), np.int64)
        observed = np.zeros(k.shape, bool)
        for j, (field, label) in enumerate(zip(self.fields, self.labels, strict=True)):
            if (field.denominator is None and not field.coded) or field.spelled:  # "1.50" is no number
                continue
            try:
                k[:, j], observed[:, j] = _column_codes(read_column(_finite(X[label]), field.name), field)
            except ValueError:  # a column of another kind has no codes
                continue
        return k, observed

    def from_codes(self, k: np.ndarray, observed: np.ndarray, dtype: Any = None) -> pd.DataFrame:
        arrays = [_from_codes(f, k[:, j], observed[:, j]) for j, f in enumerate(self.fields)]
        return self._assemble(arrays, len(k))

    def _assemble(self, arrays: list, n: int) -> pd.DataFrame:
        by_name = {f.name: a for f, a in zip(self.fields, arrays, strict=True)}
        for field in self.left_out:
            constant = np.full(n, field.kind == "constant")
            by_name[field.name] = build_column(field, np.zeros(n, np.int64), constant)
        index = pd.RangeIndex(n)
        columns = {str(label): as_series(by_name[str(label)], index) for label in self.order}
        frame = pd.DataFrame(columns, index=index)
        frame.columns = pd.Index(list(self.order)) if self.order else frame.columns
        return frame


def column_labels(X: pd.DataFrame, name: str = "X") -> list:
    """A frame's column labels; TypeError for labels that are not str or int, ValueError for one that comes twice."""
    if isinstance(X.columns, pd.MultiIndex):
        raise TypeError(f"{name} has columns of several levels; expected one name a column")
    labels = [int(c) if isinstance(c, np.integer) else c for c in X.columns]
    if odd := [c for c in labels if not isinstance(c, str | int)]:
        raise TypeError(f"{name} must have column names that are str or int, got {listing(odd)}")
    seen: set[str] = set()
    if twice := [c for c in labels if str(c) in seen or seen.add(str(c))]:
        raise ValueError(f"{name} has the column {listing(twice)} more than once")
    return labels


def _finish(field: Field, data: np.ndarray) -> Any:
    """Turn one column's data values (or codes) into its dtype, rounding where the dtype is whole."""
    if field.temporal:
        per_day = ticks_per_day(field.dtype)
        parts = field.denominator
        ticks = np.rint(data * parts) * (per_day // parts) if parts else np.rint(data * per_day)
        return build_column(field, np.clip(ticks, -9.2e18, 9.2e18).astype(np.int64))
    if field.coded:
        return build_column(field, data.astype(np.int64))
    label = field.dtype.lower()
    if field.whole and not field.integral:
        data = np.maximum(np.rint(data), 1.0 if field.kind == "positive" else -np.inf)
    if field.spelled:
        return build_column(field, (data.astype(np.int64) if field.whole else data).astype(str))
    if field.integral:
        dtype = np.dtype(label.split("[")[0] if label.startswith(("int", "uint")) else "int64")
        data = _fitted(data, dtype, 1.0 if field.kind == "positive" else -np.inf).astype(dtype)
    elif "float32" in label or "float16" in label:
        dtype = np.dtype("float32" if "float32" in label else "float16")
        data = _fitted(data, dtype, float(np.finfo(dtype).tiny) if field.kind == "positive" else -np.inf)
    return build_column(field, data)


def _fitted(data: np.ndarray, dtype: np.dtype, least: float = -np.inf) -> np.ndarray:
    """Data values, in place, rounded where a dtype is whole, and cut to what it can hold and to ``least``."""
    whole = dtype.kind in "iu"
    limits = np.iinfo(dtype) if whole else np.finfo(dtype)
    top = float(limits.max)
    if whole:
        np.rint(data, out=data)
        top = np.nextafter(top, 0) if top > 2**53 else top
    return np.clip(data, max(float(limits.min), least), top, out=data)


def _finite(series: Any) -> Any:
    """A column whose infinities are blanks."""
    if not isinstance(series.dtype, np.dtype) or series.dtype.kind != "f":
        return series
    return series.mask(np.isinf(series.to_numpy()))


def _column_codes(column: Column, field: Field) -> Pair:
    """Lattice codes of one column (n,), and where there is one."""
    wrong = np.zeros(len(column.values), bool)
    if field.coded:
        codes = lookup(column, field)
        wrong = codes < 0
        if column.form == "number":
            wrong = wrong | negative_zero(column.values)
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
            codes, wrong = round_codes(values, step, float_type(field.dtype))
        if field.kind == "pixel":
            wrong = wrong | (values < field.low) | (values > field.high)
        elif field.kind == "count":
            wrong = wrong | (codes < 0)
    known = column.observed & ~wrong
    return np.where(known, codes, 0), known


def _from_codes(field: Field, k: np.ndarray, observed: np.ndarray) -> Any:
    step = field.denominator or 1
    if field.temporal:
        k = k * (ticks_per_day(field.dtype) // step)
    elif not field.coded and not field.integral:
        return build_column(field, k / step, observed)
    return build_column(field, k, observed)


# ---------------------------------------------------------------- arrays


class Arrays(Container):
    """Arrays of rows of ``shape`` and of a ``dtype``: tables (n, D), or images, whose pixels share one field."""

    def __init__(self, fields: tuple[Field, ...], shape: tuple[int, ...], dtype: str, names: list[str]):
        self.shape, self.dtype, self.names = shape, np.dtype(dtype), names
        self.groups = grouped(fields, len(names))
        self.transform = side_by_side(self.groups, len(names))

    def check(self, X: Any, name: str) -> np.ndarray:
        """X as an array of numbers with rows of the shape seen in training; ValueError if it is none."""
        array = numeric_array(X, name)
        if array.shape[1:] != self.shape or array.ndim < 2:
            if len(self.shape) == 1 and array.ndim == 2:
                raise ValueError(
                    f"{name} has {array.shape[1]} features, but {self.shape[0]} features are expected "
                    "as in training"
                )
            want = ", ".join(["n", *map(str, self.shape)])
            raise ValueError(f"{name} has shape {array.shape}, expected ({want})")
        return array

    def encode(self, X: Any, name: str, dtype: Any) -> ModelValues:
        data, observed = split(self.check(X, name), name)
        observed = np.ones(data.shape, bool) if observed is None else observed
        values, novel = data, None
        for group in self.groups:
            block, known = data[:, group.index], observed[:, group.index]
            if group.kind in CODED:
                codes, unseen = find_codes(block, group)
                if codes is not block:
                    values = np.array(data, np.float64) if values is data else values
                    values[:, group.index] = codes
            elif group.kind in _HELD:
                unseen = ~_HELD[group.kind](block)
            else:
                continue
            unseen = unseen & known
            if unseen.any():
                novel = np.zeros(data.shape, bool) if novel is None else novel
                novel[:, group.index] = unseen
        return ModelValues(self.transform.to(values, dtype), observed, novel)

    def _names(self, group: Group) -> list[str]:
        return [self.names[j] for j in group.cells]

    def modelled(self, X: Any, name: str) -> Any:
        return X

    def write(self, data: np.ndarray, beside: Any = None) -> np.ndarray:
        return self._cast(data, self.dtype).reshape(-1, *self.shape)

    def put(self, X: Any, data: np.ndarray, where: np.ndarray) -> np.ndarray:
        array = self.check(X, "X")
        same_length(len(array), len(data))
        target = array.dtype
        if target.kind in "iub" and target != self.dtype and where.any():
            whole = self.dtype.kind != "f"
            target = np.promote_types(target, self.dtype) if whole else np.dtype(np.float64)
        out = np.array(array, target).reshape(data.shape)
        out[where] = self._cast(data, target)[where]
        return out.reshape(array.shape)

    def put_constants(self, X: Any) -> Any:
        return X

    def _cast(self, data: np.ndarray, dtype: np.dtype) -> np.ndarray:
        """Turn data values (n, D), used up, into an array's dtype; codes into their categories."""
        for group in self.groups:
            if group.kind in CODED:
                data[:, group.index] = take(data[:, group.index], group)
            elif group.kind == "positive":  # rounding must not reach 0, which has no logarithm
                least = 1.0 if dtype.kind in "iu" else np.finfo(dtype).tiny
                data[:, group.index] = np.maximum(data[:, group.index], least)
        if dtype.kind in "iu" or (dtype.itemsize < 8 and dtype.kind == "f"):
            data = _fitted(data, dtype)
        return data.astype(dtype, copy=False)

    def to_codes(self, X: Any) -> Pair:
        array = self.check(X, "X")
        if array.dtype.kind == "f":
            array = np.where(np.isinf(array), np.array(np.nan, array.dtype), array)
        flat, seen = split(array, "X")
        observed = np.ones(flat.shape, bool) if seen is None else seen
        k = np.empty(flat.shape, np.int64)
        for group in self.groups:
            codes, wrong = self._block_codes(flat[:, group.index], group, array.dtype)
            k[:, group.index] = codes
            observed[:, group.index] &= ~wrong
        k[~observed] = 0
        return k, observed

    def _block_codes(self, block: np.ndarray, group: Group, dtype: np.dtype) -> Pair:
        """Lattice codes of a group's cells in an array of a dtype, and where there is none."""
        if group.kind in CODED:
            codes, unseen = find_codes(block.astype(np.float64), group)
            return codes.astype(np.int64), unseen | negative_zero(block)
        step = np.array([f.denominator or 1 for f in group.fields], np.int64)
        if block.dtype.kind in "iub":
            codes, wrong = block.astype(np.int64) * step, np.zeros(block.shape, bool)
        else:
            codes, wrong = round_codes(block, step, dtype)
        if group.kind == "pixel":
            low, high = np.array([f.ends for f in group.fields]).T
            wrong = wrong | (codes < low) | (codes > high)
        elif group.kind == "count":
            wrong = wrong | (codes < 0)
        return codes, wrong | np.array([f.denominator is None for f in group.fields])

    def from_codes(self, k: np.ndarray, observed: np.ndarray, dtype: Any = None) -> np.ndarray:
        dtype = np.dtype(self.dtype if dtype is None else dtype)
        out = np.empty(k.shape, np.float64 if dtype.kind in "iub" and not observed.all() else dtype)
        for group in self.groups:
            block = k[:, group.index]
            step = np.array([f.denominator or 1 for f in group.fields], np.int64)
            if group.kind in CODED:
                block = take(block, group)
            elif (step != 1).any():
                block = block / step
            out[:, group.index] = block
        if not observed.all():
            out[~observed] = np.nan
        return out.reshape(-1, *self.shape)
