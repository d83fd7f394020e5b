"""What the data are, and the way into and out of the model's matrix.

A `Schema` is learnt once from the training data and then turns any container of the same make (2-D array,
data frame, stack of images) into model values `(n, D)` with a mask of what was observed, and back into the
same container.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypedDict

import numpy as np
import pandas as pd

from abduce.data.arrays import numeric_array, split
from abduce.data.columns import read_column
from abduce.data.containers import Arrays, Container, Frames, ModelValues, column_labels
from abduce.data.fields import CODED, KINDS, WHOLE, Field, Group, grouped, listing, side_by_side
from abduce.data.foreign import native
from abduce.data.infer import frame_field, resolve_kinds, within
from abduce.data.infer_arrays import array_fields, image_field
from abduce.data.layout import Layout
from abduce.data.transform import Transform, over_observed
from abduce.declared import conform

_VERSION = 1


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

    Examples
    --------
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
    def infer(cls, X: Any, kinds: Mapping[Any, str] | str | None = None, bounds: Any = None) -> Schema:
        """Learn kinds, categories, ranges and scaling from training data.

        Parameters
        ----------
        X
            2-D array, (n, H, W) or (n, H, W, C) images, or DataFrame; NaN, None, NA and NaT are missing.
        kinds
            Overrides, by column name or position; or one kind for all.
        bounds
            ``(low, high)``, for all numbers or by column: no answer lies beyond; None is no end.

        Raises
        ------
        ValueError
            For no rows, no usable column, infinities, or a kind that cannot hold the data.
        TypeError
            For containers of another make.
        """
        X = native(X)
        if isinstance(X, pd.DataFrame):
            return cls._infer_frame(X, kinds, bounds)
        array = numeric_array(X, "X")
        if array.ndim not in (2, 3, 4):
            raise ValueError(
                "Expected 2D array, (n, H, W) or (n, H, W, C) images, or a DataFrame, "
                f"got X of shape {array.shape}. Reshape your data, for example with X.reshape(-1, 1) "
                "for a single column"
            )
        _check_size(array.shape, array.size)
        shape = array.shape[1:]
        flat, observed = split(array, "X")
        if array.ndim == 2:
            names = [f"x{j}" for j in range(shape[0])]
            found = array_fields(flat, observed, array.dtype, resolve_kinds(kinds, names))
            found = within(found, bounds, names)
            _warn_empty([f.name for f in found if f.missing == 1.0])
            return cls("array", shape, str(array.dtype), found)
        if kinds is not None and not isinstance(kinds, str):
            raise TypeError(f"kinds must be one kind for images, got {type(kinds).__name__}")
        (kind,) = resolve_kinds(kinds, ["pixel"])
        field = image_field(flat, observed, array.dtype, kind)
        _warn_empty(["pixel"] if field.missing == 1.0 else [])
        return cls("image", shape, str(array.dtype), within((field,), bounds, ["pixel"]))

    @classmethod
    def _infer_frame(cls, X: pd.DataFrame, kinds: Mapping[Any, str] | str | None, bounds: Any) -> Schema:
        labels = column_labels(X)
        _check_size(X.shape, len(labels))
        asked = resolve_kinds(kinds, labels)
        columns = [read_column(X[label], str(label)) for label in labels]
        if _unnamed(labels) and all(c.form == "number" and c.dtype.lower() != "uint8" for c in columns):
            # numbers without names: an array in a frame, whose columns are told as an array's are
            array = np.stack([np.where(c.observed, c.values, np.nan) for c in columns], 1)
            guessed = array_fields(*split(array, "X"), array.dtype, asked)
            asked = [kind or f.kind for kind, f in zip(asked, guessed, strict=True)]
        every = [frame_field(column, kind) for column, kind in zip(columns, asked, strict=True)]
        if any(f.kind == "binary" for f in every) and all(
            f.kind == "binary" or (f.constant and f.low in (0, 1)) for f in every if f.kind in KINDS
        ):  # a table of bits: the columns where one of the two never came are bits too
            every = [
                frame_field(c, "binary") if f.constant and kind is None else f
                for c, f, kind in zip(columns, every, asked, strict=True)
            ]
        every = within(every, bounds, labels)
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
        return math.prod(self.shape)

    @cached_property
    def names(self) -> list[str]:
        """Name each cell: the column, or `pixel[row, column]`."""
        if self.container != "image":
            return [f.name for f in self.fields]
        return [f"pixel[{', '.join(map(str, place))}]" for place in np.ndindex(*self.shape)]

    @cached_property
    def cell_fields(self) -> tuple[Field, ...]:
        """The field of each cell: images have one for all."""
        return self.fields * self.n_cells if self.container == "image" else self.fields

    @cached_property
    def layout(self) -> Layout:
        """How cells lie: binary and categorical ones hold classes, all others numbers."""
        coded = ("binary", "categorical")
        levels = tuple(len(f.categories or (0, 1)) if f.kind in coded else 0 for f in self.cell_fields)
        return Layout(tuple(self.shape), levels)

    @cached_property
    def groups(self) -> list[Group]:
        """Gather cells of one kind, in the order of `KINDS`."""
        return grouped(self.fields, self.n_cells)

    @cached_property
    def transform(self) -> Transform:
        """The map from data values (..., D), codes of coded kinds, to model values."""
        return side_by_side(self.groups, self.n_cells)

    @cached_property
    def _form(self) -> Container:
        if self.container == "frame":
            return Frames(self.fields, self.left_out, self.order)
        return Arrays(self.fields, self.shape, self.dtype, self.names)

    # ------------------------------------------------------------ in

    def encode(self, X: Any, name: str = "X", dtype: Any = np.float64) -> tuple[np.ndarray, np.ndarray]:
        """Turn data into model values (n, D) and a bool mask (n, D) of those that are known; others are 0.

        Not known is what is missing, and what is `novel`: see :meth:`read`, which tells them apart.
        """
        return self.read(X, name, dtype)[:2]

    def read(self, X: Any, name: str = "X", dtype: Any = np.float64) -> ModelValues:
        """Turn data into model values (n, D), the mask of those that are known, and the mask of novel cells.

        Novel is an observed value that the kind of its column has no model value for: a level or grade never seen in
        training, 2.5 among counts, 0 where all were positive.  A kind is a guess, so this is odd but no error: see
        :attr:`Field.log_novel`.  Raises ValueError naming `name` and the column for missing or extra columns, other shapes,
        infinities, and text among numbers.
        """
        values, observed, novel = self._form.encode(native(X, name), name, dtype)
        if novel is not None:
            observed = observed & ~novel
        if not observed.all():
            values[~observed] = 0.0
        return ModelValues(values, observed, novel)

    def log_novel(self, novel: np.ndarray) -> np.ndarray:
        """Log-probability that novel cells (n, D) hold what they hold, nats, (n,)."""
        return novel @ np.array([f.log_novel for f in self.cell_fields])

    def modelled(self, X: Any, name: str = "X") -> Any:
        """X itself, or of a frame the modelled columns in the order of the fields, once its columns are checked."""
        return self._form.modelled(X, name)

    # ------------------------------------------------------------ out

    def decode(self, values: np.ndarray, snap: bool = False, beside: Any = None) -> Any:
        """Turn model values (n, D) into new rows of the container: same columns, dtypes and categories.

        Codes, counts, dates and integer dtypes are rounded to what they can hold, pixels clipped to their
        range. With `snap` floats on a lattice are rounded to it too (a length in tenths comes out in tenths).
        Left-out columns are missing, unless all rows had the same text; with `beside`, a frame of these rows, they
        are its own, and so are its index and the name of its columns.
        """
        data = self._data(values)
        if snap:
            self._snap(data)
        return self._form.write(data, beside)

    def _data(self, values: np.ndarray) -> np.ndarray:
        """Data values (n, D) of model values, within what the fields allow."""
        data = self.transform.back(self._matrix(values))
        low, high = self._stops
        return data if low is None else np.clip(data, low, high, out=data)

    @cached_property
    def _stops(self) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Least and greatest data value of each cell, (D,) each; None where there is neither for any."""
        low, high = np.array([f.stops for f in self.fields]).T
        return (low, high) if np.isfinite(low).any() or np.isfinite(high).any() else (None, None)

    def _snap(self, data: np.ndarray) -> None:
        """Round data values to their lattice in place; positive values stay above 0."""
        for group in self.groups:
            step = np.array([f.denominator or 0 for f in group.fields], np.float64)
            if group.kind in WHOLE or not step.any():
                continue
            block = data[:, group.index]
            snapped = block * np.maximum(step, 1.0)
            np.rint(snapped, out=snapped)
            snapped /= np.maximum(step, 1.0)
            if group.kind == "positive":
                snapped = np.maximum(snapped, 1 / np.maximum(step, 1.0))
            data[:, group.index] = snapped if step.all() else np.where(step > 0, snapped, block)

    def _matrix(self, values: np.ndarray) -> np.ndarray:
        values = np.asarray(values)
        if values.ndim != 2 or values.shape[1] != self.n_cells:
            raise ValueError(f"values must have shape (n, {self.n_cells}), got {values.shape}")
        return values

    def replace(self, X: Any, values: np.ndarray, where: np.ndarray) -> Any:
        """Copy X and put decoded `values` (n, D) into the cells marked by `where` (n, D); the rest stays to
        the bit.

        The dtype is kept where it can hold the new value: an integer array receiving 3.7 becomes float64.
        """
        values, where = self._matrix(values), self._matrix(where).astype(bool)
        if values.shape != where.shape:
            raise ValueError(f"values {values.shape} and where {where.shape} must have the same shape")
        return self._form.put(X, self._data(values), where)

    def complete(self, X: Any, values: np.ndarray, where: np.ndarray) -> Any:
        """:meth:`replace`, and the one value of columns left out as constant in their blanks too."""
        return self._form.put_constants(self.replace(X, values, where))

    def unfilled(self, X: Any) -> list[str]:
        """Columns left out of the model, and not as constant, that have blanks in X, which nothing can fill."""
        loose = [f.name for f in self.left_out if f.kind != "constant"]
        if not loose or not isinstance(self._form, Frames):
            return []
        frame = self._form.check(X, "X")
        return [str(c) for c in self.order if str(c) in loose and frame[c].isna().to_numpy().any()]

    def log_jacobian(self, values: np.ndarray, observed: np.ndarray, pixels: bool = False) -> np.ndarray:
        """Sum log |d model value / d data value| over observed real and positive cells, shape (n,), nats.

        With ``pixels`` over pixels too, where a model gives them a density rather than probabilities of levels.
        Added to a log density in model space it gives the log density in data units (dates: per day).
        """
        values, observed = self._matrix(values), self._matrix(observed)
        out = np.zeros(len(values))
        for group, slope in self._slopes(values, pixels):
            out += over_observed(slope, observed[:, group.index])
        return out

    def log_slopes(self, values: np.ndarray, pixels: bool = False) -> np.ndarray:
        """Mean over rows (n, D) of what :meth:`log_jacobian` adds up, for each cell, (D,)."""
        out = np.zeros(self.n_cells)
        for group, slope in self._slopes(values, pixels):
            out[group.index] = slope.mean(0) if slope.ndim > 1 else slope
        return out

    def _slopes(self, values: np.ndarray, pixels: bool) -> Iterator[tuple[Group, np.ndarray]]:
        """Groups of cells that have densities, and log |d model value / d data value| of each."""
        for group in self.groups:
            if group.kind in ("real", "positive") or (pixels and group.kind == "pixel"):
                yield group, group.transform.log_slope(values[:, group.index])

    # ------------------------------------------------------------ lattice

    def checked(self, X: Any, name: str = "X") -> Any:
        """X as an array or frame of the columns or shape seen in training; ValueError or TypeError if it is none."""
        return self._form.check(native(X, name), name)

    def to_integers(self, X: Any) -> tuple[np.ndarray, np.ndarray]:
        """Turn data into lattice codes, int64 (n, D), and the mask of cells that have one; all other codes are 0.

        Coded cells give their code, all others k with value k / denominator.  Missing cells have none, nor have values off
        their column's lattice, -0.0, infinities, classes never seen in training, and columns of another kind.
        """
        return self._form.to_codes(X)

    def from_integers(self, k: np.ndarray, observed: np.ndarray, dtype: Any = None) -> Any:
        """Turn lattice codes back into the container: the exact inverse of `to_integers` where there are codes.

        Left-out columns come back missing (constant text as it was). A missing cell in an integer column,
        which the training data did not have, makes that column float64. ValueError for codes out of range.
        Arrays are of ``dtype`` where it is given.
        """
        k, observed = self._matrix(k), self._matrix(observed).astype(bool)
        if k.dtype.kind not in "iu":
            raise ValueError(f"k must be whole numbers, got dtype {k.dtype}")
        k = np.where(observed, k, 0).astype(np.int64)
        for group in self.groups:
            if group.kind in CODED:
                low, high = np.array([f.ends for f in group.fields]).T
                if ((k[:, group.index] < low) | (k[:, group.index] > high)).any():
                    raise ValueError("k has codes outside the categories of its columns")
        return self._form.from_codes(k, observed, dtype)

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
    def from_json(cls, data: Any, place: str = "schema") -> Schema:
        """Rebuild a schema from `to_json`; ValueError naming the ``place`` where it is none, or of another version."""
        conform(data, _SchemaJson, place)
        if data["version"] != _VERSION:
            raise ValueError(f"{place}.version must be {_VERSION}, got {data['version']!r}")
        fields = tuple(Field.from_json(f, f"{place}.fields[{i}]") for i, f in enumerate(data["fields"]))
        shape = tuple(data["shape"])
        if not shape or min(shape) < 1:
            raise ValueError(f"{place}.shape must be of whole numbers above 0, got {list(shape)}")
        if len(fields) != (1 if data["container"] == "image" else math.prod(shape)):
            raise ValueError(f"{place} of shape {shape} cannot have {len(fields)} fields")
        left_out = tuple(Field.from_json(f, f"{place}.left_out[{i}]") for i, f in enumerate(data["left_out"]))
        if wrong := [f for f in fields if f.kind not in KINDS] + [f for f in left_out if f.kind in KINDS]:
            raise ValueError(f"{place}: column {wrong[0].name!r} cannot be of kind {wrong[0].kind!r}")
        order = tuple(data["order"])
        if data["container"] == "frame" and sorted(map(str, order)) != sorted(
            f.name for f in fields + left_out
        ):
            raise ValueError(f"{place}.order must name the columns, each once, got {listing(order)}")
        return cls(data["container"], shape, data["dtype"], fields, left_out, order)

    def describe(self) -> list[dict[str, Any]]:
        """List each column in its original order: column, kind, dtype, missing, range, note."""
        by_name = {f.name: f for f in (*self.fields, *self.left_out)}
        names = [str(label) for label in self.order] if self.order else [f.name for f in self.fields]
        return [by_name[name].describe() for name in names]


class _SchemaJson(TypedDict):
    """What :meth:`Schema.to_json` gives."""

    version: int
    container: Literal["array", "frame", "image"]
    shape: list[int]
    dtype: str
    fields: list[dict[str, Any]]
    left_out: list[dict[str, Any]]
    order: list[str | int]


# ---------------------------------------------------------------- helpers


def _check_size(shape: tuple[int, ...], features: int) -> None:
    if not shape[0] or not features:
        what = "feature" if shape[0] else "sample"
        raise ValueError(f"Found array with 0 {what}(s) (shape={shape}) while a minimum of 1 is required.")


def _unnamed(labels: list) -> bool:
    """Whether columns only have the numbers that pandas gives them, or the names that polars makes of these."""
    return any(labels == [make(j) for j in range(len(labels))] for make in (int, "column_{}".format))


def _warn_empty(names: list[str]) -> None:
    if names:
        warnings.warn(
            f"no value in any row of {listing(names)}: kept as real, filled from the prior",
            UserWarning,
            stacklevel=4,
        )
