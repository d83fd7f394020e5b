"""What the data are, and the way into and out of the model's matrix.

A `Schema` is learnt once from the training data and then turns any container of the same make (2-D array,
data frame, stack of images) into model values `(n, D)` with a mask of what was observed, and back into the
same container.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from abduce.data import lattice, scaling
from abduce.data.arrays import find_codes, numeric_array, split
from abduce.data.columns import Column, build_column, lookup, numbers, put, read_column, ticks_per_day
from abduce.data.fields import CODED, KINDS, Field, Group, listing
from abduce.data.infer import frame_field, resolve_kinds
from abduce.data.layout import Layout
from abduce.data.infer_arrays import array_fields, image_field

__all__ = ["KINDS", "Field", "Group", "Schema"]

_VERSION = 1
_KEYS = {"version", "container", "shape", "dtype", "fields", "left_out", "order"}


@dataclass(frozen=True, eq=True)
class Schema:
    """The columns or pixels of a data container.

    Parameters
    ----------
    container : "array" (n, D), "frame" (pandas), or "image" (n, H, W) / (n, H, W, C).
    shape : shape of one row: (D,), (H, W) or (H, W, C).
    dtype : dtype of the array, "" for a frame.
    fields : one per cell; for images exactly one, shared by all pixels.
    left_out : columns of a frame that the model does not see.
    order : all column labels of a frame in their original order, else ().

    >>> import numpy as np
    >>> schema = Schema.infer(np.array([[1.0, 0.0], [3.0, 1.0]]))
    >>> [field.kind for field in schema.fields]
    ['real', 'binary']
    >>> values, observed = schema.encode(np.array([[1.0, np.nan]]))
    >>> values, observed
    (array([[-1.,  0.]]), array([[ True, False]]))
    """

    container: str
    shape: tuple[int, ...]
    dtype: str
    fields: tuple[Field, ...]
    left_out: tuple[Field, ...] = ()
    order: tuple = ()

    # ------------------------------------------------------------ learn

    @classmethod
    def infer(cls, X: Any, kinds: Mapping[Any, str] | str | None = None) -> Schema:
        """Learn kinds, categories, ranges and scaling from training data.

        Parameters
        ----------
        X : 2-D array, (n, H, W) or (n, H, W, C) images, or DataFrame; NaN, None, NA and NaT are missing.
        kinds : overrides, by column name or position; or one kind for all.

        Raises ValueError for no rows, no usable column, infinities, or a kind that cannot hold the data;
        TypeError for containers of another make.
        """
        if isinstance(X, pd.DataFrame):
            return cls._infer_frame(X, kinds)
        array = numeric_array(X, "X")
        if array.ndim not in (2, 3, 4):
            raise ValueError(
                "Expected 2D array, (n, H, W) or (n, H, W, C) images, or a DataFrame, "
                f"got X of shape {array.shape}. Reshape your data, for example with X.reshape(-1, 1) "
                "for a single column"
            )
        if not array.shape[0] or not array.size:
            what = "sample" if not array.shape[0] else "feature"
            raise ValueError(
                f"Found array with 0 {what}(s) (shape={array.shape}) while a minimum of 1 is required."
            )
        shape = array.shape[1:]
        flat, observed = split(array, "X")
        if array.ndim == 2:
            columns = resolve_kinds(kinds, [f"x{j}" for j in range(shape[0])])
            found = array_fields(flat, observed, array.dtype, columns)
            _warn_empty([f.name for f in found if f.missing == 1.0])
            return cls("array", shape, str(array.dtype), found)
        if kinds is not None and not isinstance(kinds, str):
            raise TypeError(f"kinds must be one kind for images, got {type(kinds).__name__}")
        (kind,) = resolve_kinds(kinds, ["pixel"])
        field = image_field(flat, observed, array.dtype, kind)
        _warn_empty(["pixel"] if field.missing == 1.0 else [])
        return cls("image", shape, str(array.dtype), (field,))

    @classmethod
    def _infer_frame(cls, X: pd.DataFrame, kinds: Mapping[Any, str] | str | None) -> Schema:
        labels = _labels(X)
        if not len(X):
            raise ValueError(
                f"Found array with 0 sample(s) (shape={X.shape}) while a minimum of 1 is required."
            )
        if not labels:
            raise ValueError(
                f"Found array with 0 feature(s) (shape={X.shape}) while a minimum of 1 is required."
            )
        asked = resolve_kinds(kinds, labels)
        every = [
            frame_field(read_column(_column(X, label), str(label)), kind)
            for label, kind in zip(labels, asked, strict=True)
        ]
        kept = tuple(f for f in every if f.kind in KINDS)
        left_out = tuple(f for f in every if f.kind not in KINDS)
        if not kept:
            why = listing([f"{f.name} ({f.kind})" for f in left_out])
            raise ValueError(f"X has no column to model; left out were {why}; kinds= can override this")
        _warn_empty([f.name for f in kept if f.missing == 1.0])
        return cls("frame", (len(kept),), "", kept, left_out, tuple(labels))

    # ------------------------------------------------------------ shape

    @property
    def n_cells(self) -> int:
        """Count the cells D of a row."""
        return int(np.prod(self.shape))

    @cached_property
    def names(self) -> list[str]:
        """Name each cell: the column, or `pixel[row, column]`."""
        if self.container != "image":
            return [f.name for f in self.fields]
        return [f"pixel[{', '.join(map(str, place))}]" for place in np.ndindex(*self.shape)]

    @cached_property
    def layout(self) -> Layout:
        """How cells lie: binary and categorical ones hold classes, all others numbers."""
        fields = self.fields * self.n_cells if self.container == "image" else self.fields
        coded = ("binary", "categorical")
        levels = tuple(len(f.categories or (0, 1)) if f.kind in coded else 0 for f in fields)
        return Layout(tuple(self.shape), levels)

    @cached_property
    def groups(self) -> list[Group]:
        """Gather cells of one kind, in the order of `KINDS`."""
        if self.container == "image":
            return [Group(self.fields[0].kind, np.arange(self.n_cells), self.fields)]
        kinds = np.array([f.kind for f in self.fields])
        out = []
        for kind in KINDS:
            cells = np.flatnonzero(kinds == kind)
            if cells.size:
                out.append(Group(kind, cells, tuple(self.fields[j] for j in cells)))
        return out

    @cached_property
    def _blocks(self) -> list[tuple[Group, Any, np.ndarray, np.ndarray]]:
        """Give each group with an index for its cells (a slice if it is all of them), loc and scale."""
        out = []
        for group in self.groups:
            cells = slice(None) if len(group.cells) == self.n_cells else group.cells
            loc = np.array([f.loc for f in group.fields])
            scale = np.array([f.scale for f in group.fields])
            out.append((group, cells, loc, scale))
        return out

    # ------------------------------------------------------------ in

    def encode(self, X: Any, name: str = "X", dtype: Any = np.float64) -> tuple[np.ndarray, np.ndarray]:
        """Turn data into model values (n, D) and a bool mask (n, D) of what was observed; unobserved values
        are 0.

        Raises ValueError naming `name` and the column for missing or extra columns, other shapes, infinities,
        text among numbers, values never seen in a coded column, and values a positive or count column cannot
        hold.
        """
        if self.container == "frame":
            columns = self._columns(X, name)
            values = np.empty((len(columns[0].values), self.n_cells), dtype)
            observed = np.empty(values.shape, bool)
            for j, (field, column) in enumerate(zip(self.fields, columns, strict=True)):
                observed[:, j] = column.observed
                values[:, j] = lookup(column, field) if field.coded else numbers(column, field)
        else:
            flat, seen = split(self._array(X, name), name)
            values = np.array(flat, dtype)
            observed = np.ones(values.shape, bool) if seen is None else seen
            for group, cells, _, _ in self._blocks:
                if group.kind in CODED:
                    values[:, cells] = find_codes(values[:, cells], observed[:, cells], group, name)
        scaling.standardise(self, values, observed, name)
        return values, observed

    def _columns(self, X: Any, name: str) -> list[Column]:
        X = self._frame(X, name)
        by_name = {str(label): label for label in self.order}
        return [read_column(_column(X, by_name[f.name]), f.name) for f in self.fields]

    def _frame(self, X: Any, name: str) -> pd.DataFrame:
        if not isinstance(X, pd.DataFrame):
            if isinstance(X, np.ndarray) and X.ndim == 2 and X.shape[1] == len(self.order):
                return pd.DataFrame(X, columns=list(self.order))
            raise TypeError(
                f"{name} must be a DataFrame with columns {listing(self.order)}, got {type(X).__name__}"
            )
        labels = _labels(X, name)
        missing = [c for c in self.order if c not in labels]
        extra = [c for c in labels if c not in self.order]
        if missing or extra:
            parts = [f"is missing {listing(missing, 10)}"] if missing else []
            parts += [f"has unknown {listing(extra, 10)}"] if extra else []
            raise ValueError(f"{name} must have the columns seen in training: it {' and '.join(parts)}")
        return X

    def _array(self, X: Any, name: str) -> np.ndarray:
        array = numeric_array(X, name)
        if array.shape[1:] != self.shape or array.ndim < 2:
            if self.container == "array" and array.ndim == 2:
                raise ValueError(
                    f"{name} has {array.shape[1]} features, but {self.shape[0]} features are expected "
                    "as in training"
                )
            want = ", ".join(["n", *map(str, self.shape)])
            raise ValueError(f"{name} has shape {array.shape}, expected ({want})")
        return array

    # ------------------------------------------------------------ out

    def decode(self, values: np.ndarray, snap: bool = False) -> Any:
        """Turn model values (n, D) into new rows of the container: same columns, dtypes and categories.

        Codes, counts, dates and integer dtypes are rounded to what they can hold, pixels clipped to their
        range. With `snap` floats on a lattice are rounded to it too (a length in tenths comes out in tenths).
        Left-out columns are missing, unless all rows had the same text.
        """
        values = self._matrix(values)
        data = scaling.to_data(self, values, snap)
        if self.container != "frame":
            return scaling.cast(self, data, np.dtype(self.dtype)).reshape(-1, *self.shape)
        arrays = [_finish(f, data[:, j]) for j, f in enumerate(self.fields)]
        return self._assemble(arrays, len(values))

    def _matrix(self, values: np.ndarray) -> np.ndarray:
        values = np.asarray(values)
        if values.ndim != 2 or values.shape[1] != self.n_cells:
            raise ValueError(f"values must have shape (n, {self.n_cells}), got {values.shape}")
        return values

    def _assemble(self, arrays: list, n: int) -> pd.DataFrame:
        by_name = {f.name: a for f, a in zip(self.fields, arrays, strict=True)}
        for field in self.left_out:
            constant = field.kind == "constant"
            codes = np.zeros(n, np.int64)
            by_name[field.name] = build_column(field, codes, np.full(n, constant))
        frame = pd.DataFrame(
            {str(label): by_name[str(label)] for label in self.order}, index=pd.RangeIndex(n)
        )
        frame.columns = pd.Index(list(self.order)) if self.order else frame.columns
        return frame

    def replace(self, X: Any, values: np.ndarray, where: np.ndarray) -> Any:
        """Copy X and put decoded `values` (n, D) into the cells marked by `where` (n, D); the rest stays to
        the bit.

        The dtype is kept where it can hold the new value: an integer array receiving 3.7 becomes float64.
        """
        values, where = self._matrix(values), self._matrix(where).astype(bool)
        if values.shape != where.shape:
            raise ValueError(f"values {values.shape} and where {where.shape} must have the same shape")
        if self.container == "frame":
            X = self._frame(X, "X")
            self._same_length(len(X), len(values))
            data = scaling.to_data(self, values)
            out = X.copy()
            by_name = {str(label): label for label in self.order}
            for j in np.flatnonzero(where.any(axis=0)):
                field, rows = self.fields[j], where[:, j]
                label = by_name[field.name]
                out[label] = put(X[label], rows, _finish(field, data[rows, j]))
            return out
        array = self._array(X, "X")
        self._same_length(len(array), len(values))
        target = array.dtype
        if target.kind in "iub" and target != np.dtype(self.dtype) and where.any():
            target = (
                np.dtype(np.float64)
                if np.dtype(self.dtype).kind == "f"
                else np.promote_types(target, self.dtype)
            )
        out = np.array(array, target).reshape(len(array), -1)
        new = scaling.cast(self, scaling.to_data(self, values), target)
        out[where] = new[where]
        return out.reshape(array.shape)

    @staticmethod
    def _same_length(rows: int, given: int) -> None:
        if rows != given:
            raise ValueError(f"X has {rows} rows but values has {given}")

    def log_jacobian(self, values: np.ndarray, observed: np.ndarray, pixels: bool = False) -> np.ndarray:
        """Sum log |d model value / d data value| over observed real and positive cells, shape (n,), nats.

        With ``pixels`` over pixels too, where a model gives them a density rather than probabilities of levels.
        Added to a log density in model space it gives the log density in data units (dates: per day).
        """
        return scaling.log_jacobian(self, self._matrix(values), self._matrix(observed), pixels)

    # ------------------------------------------------------------ lattice

    def to_integers(self, X: Any, ignore_left_out: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Turn data into lattice codes, int64 (n, D), and the mask of observed cells; unobserved codes are 0.

        Coded cells give their code, all others k with value k / denominator. Raises ValueError naming the
        columns that are not on a lattice, and any column the model leaves out (unless `ignore_left_out`), as
        neither could come back whole.
        """
        return lattice.to_integers(self, X, ignore_left_out)

    def from_integers(self, k: np.ndarray, observed: np.ndarray) -> Any:
        """Turn lattice codes back into the container: the exact inverse of `to_integers`, bit for bit.

        Left-out columns come back missing (constant text as it was). A missing cell in an integer column,
        which the training data did not have, makes that column float64. ValueError for codes out of range.
        """
        return lattice.from_integers(self, k, observed)

    # ------------------------------------------------------------ words

    def to_json(self) -> dict[str, Any]:
        """Turn into plain JSON values."""
        return {
            "version": _VERSION,
            "container": self.container,
            "shape": list(self.shape),
            "dtype": self.dtype,
            "fields": [f.to_json() for f in self.fields],
            "left_out": [f.to_json() for f in self.left_out],
            "order": [label if isinstance(label, str | int) else str(label) for label in self.order],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Schema:
        """Rebuild a schema from `to_json`; ValueError where it is none, or of another version."""
        if not isinstance(data, dict) or set(data) != _KEYS:
            got = sorted(data) if isinstance(data, dict) else type(data).__name__
            raise ValueError(f"not a schema: expected the keys {sorted(_KEYS)}, got {got}")
        if data["version"] != _VERSION:
            raise ValueError(f"schema version must be {_VERSION}, got {data['version']!r}")
        if data["container"] not in ("array", "frame", "image"):
            raise ValueError(f"schema container must be array, frame or image, got {data['container']!r}")
        fields = tuple(Field.from_json(f) for f in data["fields"])
        shape = tuple(int(size) for size in data["shape"])
        if len(fields) != (1 if data["container"] == "image" else int(np.prod(shape))):
            raise ValueError(f"schema of shape {shape} cannot have {len(fields)} fields")
        left_out = tuple(Field.from_json(f) for f in data["left_out"])
        return cls(data["container"], shape, data["dtype"], fields, left_out, tuple(data["order"]))

    def describe(self) -> list[dict[str, Any]]:
        """List each column in its original order: column, kind, dtype, missing, range, note."""
        by_name = {f.name: f for f in (*self.fields, *self.left_out)}
        names = [str(label) for label in self.order] if self.order else [f.name for f in self.fields]
        return [by_name[name].describe() for name in names]


# ---------------------------------------------------------------- helpers


def _warn_empty(names: list[str]) -> None:
    if names:
        warnings.warn(
            f"no value in any row of {listing(names)}: kept as real, filled from the prior",
            UserWarning,
            stacklevel=4,
        )


def _column(X: pd.DataFrame, label: Any) -> pd.Series:
    series: Any = X[label]
    return series


def _labels(X: pd.DataFrame, name: str = "X") -> list:
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
    if field.integral:
        limits = np.iinfo(label.split("[")[0] if label.startswith(("int", "uint")) else "int64")
        low = max(float(limits.min), 1.0 if field.kind == "positive" else -np.inf)
        high = np.nextafter(float(limits.max), 0) if limits.max > 2**53 else float(limits.max)
        data = np.clip(np.rint(data), low, high).astype(limits.dtype)
    elif "float32" in label or "float16" in label:
        limits = np.finfo("float32" if "float32" in label else "float16")
        data = np.clip(data, limits.tiny if field.kind == "positive" else limits.min, limits.max)
    return build_column(field, data)
