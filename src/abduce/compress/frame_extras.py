"""What a data frame has beside the cells that a model codes: see :mod:`abduce.compress.extras`.

Along with the words that say what is what go columns: those that are carried, the levels of the index, and for each column
with escapes their rows and their values.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd

from abduce.compress.container import Reader
from abduce.compress.loose import dtype_from_json, dtype_to_json
from abduce.compress.objects import from_json, to_json
from abduce.compress.squeeze import squeeze
from abduce.compress.table import read_columns, write_columns
from abduce.compress.unlike import unlike
from abduce.data.columns import build_column
from abduce.data.schema import Schema

MOST = 0.25  # share of a column's cells that may be escapes

Codes = tuple[np.ndarray, np.ndarray]  # (n, D) and which of them are there


def said(words: dict[str, Any]) -> bytes:
    """What is said of a table in words, as bytes."""
    return squeeze(json.dumps(words, separators=(",", ":")).encode() if words else b"")


def of_codes(
    schema: Schema, k: np.ndarray, observed: np.ndarray, present: np.ndarray, dtype: Any = None
) -> Any:
    """The table of codes where they are observed; any value where a cell is present but has none."""
    return schema.from_integers(np.where(observed, k, 0), present | observed, dtype)


# ---------------------------------------------------------------- there


def carry_frame(
    schema: Schema, X: pd.DataFrame, codes: Codes | None, beat: float
) -> tuple[bytes, np.ndarray]:
    """What a frame has beside its codes, or all of it where there are none, and which cells their codes stand for."""
    own: list[Any] = [X[label].reset_index(drop=True) for label in schema.order]
    words: dict[str, Any] = {}
    if codes is None:
        carried, escapes = list(range(len(own))), {}
        observed = np.zeros((len(X), schema.n_cells), bool)
    else:
        found = _Comparison(schema, own, *codes)
        carried, escapes, observed = found.carried, found.escapes, found.observed
        words |= {"carried": carried} if carried else {}
        words |= {"cast": found.casts} if found.casts else {}
    columns: list[tuple[str, Any]] = [(f"column {schema.order[place]!r}", own[place]) for place in carried]
    odd = {i: own[p].dtype for i, p in enumerate(carried) if own[p].dtype != trained_dtype(schema, p)}
    if odd:
        words["dtypes"] = {str(i): dtype_to_json(dtype) for i, dtype in odd.items()}
    if escapes:
        words["escaped"] = {str(place): len(rows) for place, rows in escapes.items()}
    levels = _index(X.index, words)
    columns += [("the index", level) for level in levels]
    for place, rows in escapes.items():
        columns += [("rows", pd.Series(rows)), (f"column {schema.order[place]!r}", own[place].iloc[rows])]
    labels = list(X.columns)
    if labels != list(schema.order):
        words["order"] = [schema.order.index(label) for label in labels]
    if X.columns.name is not None:
        words["columns"] = _name(X.columns.name)
    if codes is not None and not words:
        return b"", observed
    return said(words) + _written(columns, beat), observed


class _Comparison:
    """A frame's columns beside what their codes give back."""

    def __init__(self, schema: Schema, own: list[Any], k: np.ndarray, observed: np.ndarray):
        cells = _cells(schema)
        present = np.ones(observed.shape, bool)
        for place, j in cells.items():
            present[:, j] = ~own[place].isna().to_numpy(dtype=bool)
        restored = of_codes(schema, k, observed, present)
        self.observed = observed.copy()  # the cells that their codes stand for
        self.carried: list[int] = []  # places of the columns that are carried
        self.escapes: dict[int, np.ndarray] = {}  # place of a column, and the rows of its escapes
        self.casts: dict[str, Any] = {}  # columns that come back in another dtype than they had in training
        for place, column in enumerate(own):
            back: Any = restored.iloc[:, place]
            if place not in cells:
                if back.dtype != column.dtype or unlike(column, back).any():
                    self.carried.append(place)
                continue
            j = cells[place]
            word = None if column.dtype == back.dtype else dtype_to_json(column.dtype)
            back = back if word is None else cast(back, column.dtype)
            whole = back is not None and back.dtype == column.dtype
            wrong = (
                unlike(column, back) | (present[:, j] & ~observed[:, j])
                if whole
                else np.ones(len(column), bool)
            )
            if not whole or wrong.sum() > MOST * present[:, j].sum():
                self.carried.append(place)
                self.observed[:, j] = False
                continue
            if word is not None:
                self.casts[str(place)] = word
            if wrong.any():
                self.escapes[place] = np.flatnonzero(wrong)
                self.observed[:, j] &= ~wrong


def _index(index: pd.Index, words: dict[str, Any]) -> list[pd.Series]:
    """The levels of an index, as columns, if it is more than a count of the rows."""
    if isinstance(index, pd.RangeIndex):
        if (index.start, index.step) != (0, 1) or index.name is not None:
            words |= {"range": [index.start, index.stop, index.step], "names": [_name(index.name)]}
        return []
    levels = [pd.Series(index.get_level_values(i)).reset_index(drop=True) for i in range(index.nlevels)]
    words |= {"names": list(map(_name, index.names)), "index": [dtype_to_json(c.dtype) for c in levels]}
    if isinstance(index, pd.MultiIndex):
        words["multi"] = True
    return levels


def _name(name: Any) -> str:
    try:
        return to_json(name)
    except TypeError as error:
        raise ValueError(f"X: the name of its index or columns can't be stored: {error}") from None


def _written(columns: list[tuple[str, Any]], beat: float) -> bytes:
    try:
        return write_columns([column.reset_index(drop=True) for _, column in columns], beat)
    except (TypeError, ValueError, OverflowError):
        for label, column in columns:
            try:
                write_columns([column.reset_index(drop=True)])
            except (TypeError, ValueError, OverflowError) as error:
                raise ValueError(f"X: {label} (dtype {column.dtype}) can't be stored: {error}") from None
        raise


# ---------------------------------------------------------------- and back


def put_back_frame(
    schema: Schema, n: int, codes: Codes | None, words: dict[str, Any], reader: Reader
) -> pd.DataFrame:
    """The frame of ``n`` rows of its codes, what is said of it in words, and the columns that went along."""
    places = range(len(schema.order))
    carried = words.get("carried", []) if codes is not None else list(places)
    odd, casts = (
        {int(i): dtype_from_json(word) for i, word in words.get(key, {}).items()}
        for key in ("dtypes", "cast")
    )
    dtypes = [odd[i] if i in odd else trained_dtype(schema, place) for i, place in enumerate(carried)]
    dtypes += [dtype_from_json(word) for word in words.get("index", [])]
    lengths = [n] * len(dtypes)
    escaped = {int(place): int(m) for place, m in words.get("escaped", {}).items()}
    for place, m in escaped.items():
        dtypes += [np.dtype(np.int64), casts.get(place, trained_dtype(schema, place))]
        lengths += [m, m]
    if len(carried) > len(places) or max(escaped.values(), default=0) > n:
        raise ValueError("more cells than there are")
    columns = iter(read_columns(reader, lengths, dtypes) if lengths else [])
    table = {place: next(columns) for place in carried}
    levels = [next(columns) for _ in words.get("index", [])]
    escapes = {place: (next(columns).to_numpy(), next(columns)) for place in escaped}
    if codes is not None:
        k, observed = codes
        present, cells = observed.copy(), _cells(schema)
        for place, (rows, _) in escapes.items():
            present[rows, cells[place]] = True
        restored = of_codes(schema, k, observed, present)
        for place in places:
            if place not in table:
                back: Any = restored.iloc[:, place]
                back = cast(back, casts[place]) if place in casts else back
                table[place] = _with(back, *escapes[place]) if place in escapes else back
    order = words.get("order", list(places))
    out = pd.DataFrame({j: table[place] for j, place in enumerate(order)}, index=pd.RangeIndex(n))
    name = words.get("columns")
    out.columns = pd.Index([schema.order[p] for p in order], name=None if name is None else from_json(name))
    names = [from_json(name) for name in words.get("names", [])]
    if "range" in words:
        out.index = pd.RangeIndex(*words["range"], name=names[0])
    elif words.get("multi"):
        out.index = pd.MultiIndex.from_arrays(levels, names=names)
    elif levels:
        out.index = pd.Index(levels[0]).rename(names[0])
    return out


def _with(column: pd.Series, rows: np.ndarray, values: pd.Series) -> pd.Series:
    array: Any = column.array.copy()
    array[rows] = values.array
    return pd.Series(array, dtype=array.dtype)


def _cells(schema: Schema) -> dict[int, int]:
    """The cell of each place of a frame's columns that the model sees."""
    places = {str(label): place for place, label in enumerate(schema.order)}
    return {places[f.name]: j for j, f in enumerate(schema.fields)}


def trained_dtype(schema: Schema, place: int) -> Any:
    """The dtype that a column of a frame had in training."""
    name = str(schema.order[place])
    field = next(f for f in (*schema.fields, *schema.left_out) if f.name == name)
    return build_column(field, np.zeros(0, np.int64)).dtype


def cast(column: pd.Series, dtype: Any) -> pd.Series | None:
    """A column in another dtype, blank where that has no such value; None where there is no way."""
    try:
        if isinstance(dtype, pd.CategoricalDtype):
            codes = dtype.categories.get_indexer(pd.Index(column.astype(object), dtype=object))
            return pd.Series(pd.Categorical.from_codes(codes, dtype=dtype))
        return column.astype(dtype)
    except (TypeError, ValueError, OverflowError):
        return None
