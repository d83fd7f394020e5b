"""What a table has beside the cells that a model codes, losslessly.

    escapes    cells without a code, or whose code does not lead back to them: where they are, and their values
    carried    columns the model does not see, and those of which more than a quarter would be escapes
    the form   dtypes other than in training, a frame's index, the order of its columns

Without a model all columns are carried.  Of a table that comes back whole from its codes there is nothing to say.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from abduce.compress.container import CompressedDataError, Reader
from abduce.compress.loose import dtype_from_json, dtype_to_json
from abduce.compress.objects import from_json, to_json
from abduce.compress.squeeze import squeeze, unsqueeze
from abduce.compress.table import read_array, read_columns, write_array, write_columns
from abduce.compress.unlike import unlike, unlike_array
from abduce.data.columns import build_column
from abduce.data.schema import Schema

MOST = 0.25  # share of a column's cells that may be escapes

Codes = tuple[np.ndarray, np.ndarray]  # (n, D) and which of them are there


def carry(schema: Schema, X: Any, codes: Codes | None, beat: float = math.inf) -> tuple[bytes, np.ndarray]:
    """What X has beside its lattice codes, or all of it where there are none, and which cells their codes stand for (n, D).

    ValueError, naming the column, for objects that have no form in bytes.
    """
    if isinstance(X, pd.DataFrame):
        return _Frame(schema, X).carry(codes, beat)
    return _carry_array(schema, X, codes, beat)


def put_back(schema: Schema, n: int, codes: Codes | None, extras: bytes) -> Any:
    """The table of ``n`` rows from its codes and what :func:`carry` found beside them."""
    try:
        if schema.container == "frame":
            return _put_back_frame(schema, n, codes, extras)
        return _put_back_array(schema, n, codes, extras)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        if isinstance(error, CompressedDataError):
            raise
        raise CompressedDataError(f"data does not decode: {error}") from None


def check_whole(X: Any, back: Any) -> None:
    """Raise ValueError, naming what, if ``back`` is not X again."""
    if isinstance(X, pd.DataFrame):
        for label in X.columns:
            if (
                label not in back
                or unlike(X[label].reset_index(drop=True), back[label].reset_index(drop=True)).any()
            ):
                column = f"column {label!r} (dtype {X[label].dtype})"
                raise ValueError(f"X: {column} has values that can't be stored losslessly")
        if not X.index.equals(back.index) or list(X.index.names) != list(back.index.names):
            raise ValueError(f"X: its index ({type(X.index).__name__}) can't be stored losslessly")
        return
    array = np.asarray(X)
    if array.shape != back.shape or _unlike_cells(array, back).any():
        raise ValueError(f"X of dtype {array.dtype} has values that can't be stored losslessly")


def _unlike_cells(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if a.dtype != object:
        return unlike_array(a, b)
    return unlike(pd.Series(a.ravel(), dtype=object), pd.Series(b.ravel(), dtype=b.dtype)).reshape(a.shape)


# ---------------------------------------------------------------- arrays


def _head(words: dict[str, Any]) -> bytes:
    """What is said in words, nothing if there is nothing to say."""
    return squeeze(to_json(words).encode() if words else b"")


def _words(reader: Reader) -> dict[str, Any]:
    text = unsqueeze(reader)
    return from_json(text) if text else {}


def _carry_array(schema: Schema, X: Any, codes: Codes | None, beat: float) -> tuple[bytes, np.ndarray]:
    array = np.asarray(X)
    flat = array.reshape(len(array), schema.n_cells)
    words: dict[str, Any] = {} if array.dtype == schema.dtype else {"dtype": array.dtype.str}
    if codes is None:
        return _head(words) + write_array(flat, beat), np.zeros(flat.shape, bool)
    k, observed = codes
    blank = pd.isna(flat)
    back = _of_codes(schema, k, observed, ~blank, array.dtype).reshape(flat.shape)
    escaped = ~blank & ~observed | _unlike_cells(flat, back)
    carried = np.flatnonzero(escaped.sum(0) > MOST * np.maximum((~blank).sum(0), 1))
    escaped[:, carried] = False
    observed = observed & ~escaped
    observed[:, carried] = False
    where = np.flatnonzero(escaped.T)
    if not (words or len(carried) or len(where)):
        return b"", observed
    if len(carried):
        words["carried"] = carried.tolist()
    if len(where):
        words["escaped"] = len(where)
    data = _head(words) + write_array(flat[:, carried])
    if len(where):
        data += write_array(where[:, None]) + write_array(flat.T.ravel()[where][:, None])
    return data, observed


def _put_back_array(schema: Schema, n: int, codes: Codes | None, extras: bytes) -> np.ndarray:
    reader = Reader(extras)
    words = _words(reader) if extras else {}
    dtype = np.dtype(words.get("dtype", schema.dtype))
    cells = schema.n_cells
    if codes is None:
        return read_array(reader, n, cells, dtype).reshape(n, *schema.shape)
    k, observed = codes
    carried = words.get("carried", [])
    columns = read_array(reader, n, len(carried), dtype)
    escaped, where = np.zeros((cells, n), bool), np.zeros(0, np.int64)
    if m := words.get("escaped", 0):
        where = read_array(reader, m, 1, np.dtype(np.int64))[:, 0]
        escaped.ravel()[where] = True
    present = observed | escaped.T
    present[:, carried] = True
    out = _of_codes(schema, k, observed, present, dtype).reshape(n, cells)
    out[:, carried] = columns
    if m:
        out.T[np.divmod(where, n)] = read_array(reader, m, 1, dtype)[:, 0]
    return out.reshape(n, *schema.shape)


def _of_codes(
    schema: Schema, k: np.ndarray, observed: np.ndarray, present: np.ndarray, dtype: Any = None
) -> Any:
    """The table of codes where they are observed; any value where a cell is present but has none."""
    return schema.from_integers(np.where(observed, k, 0), present | observed, dtype)


# ---------------------------------------------------------------- frames


class _Frame:
    """A frame to be carried: what is said of it in words, and the columns that go along."""

    def __init__(self, schema: Schema, X: pd.DataFrame):
        self.schema, self.X = schema, X
        self.words: dict[str, Any] = {}
        self.columns: list[pd.Series] = []
        self.labels: list[str] = []  # for messages
        self.own = [X[label].reset_index(drop=True) for label in schema.order]
        places = {str(label): place for place, label in enumerate(schema.order)}
        self.places = [places[f.name] for f in schema.fields]  # of the model's cells

    def carry(self, codes: Codes | None, beat: float) -> tuple[bytes, np.ndarray]:
        observed, escapes = np.zeros((len(self.X), self.schema.n_cells), bool), {}
        carried = list(range(len(self.own)))
        if codes is not None:
            observed, escapes, carried = self._escapes(*codes)
            self.words["carried"] = carried
        for place in carried:
            self._take(f"column {self.schema.order[place]!r}", self.own[place])
        trained = {place: trained_dtype(self.schema, place) for place in carried}
        odd = {
            i: c
            for i, (place, c) in enumerate(zip(carried, self.columns, strict=True))
            if c.dtype != trained[place]
        }
        self._index()
        for place, rows in escapes.items():
            self._take("escapes", pd.Series(rows))
            self._take(f"column {self.schema.order[place]!r}", self.own[place].iloc[rows])
        dtypes = {str(i): dtype_to_json(c.dtype) for i, c in odd.items()}
        for key, value in (("dtypes", dtypes), ("escaped", {str(p): len(r) for p, r in escapes.items()})):
            if value:
                self.words[key] = value
        if not self.words.get("carried", True):
            del self.words["carried"]
        self._order()
        if codes is not None and not self.words:
            return b"", observed
        return _head(self.words) + self._written(beat), observed

    def _escapes(
        self, k: np.ndarray, observed: np.ndarray
    ) -> tuple[np.ndarray, dict[int, np.ndarray], list[int]]:
        """The cells that their codes stand for, rows of escapes by column, and the columns that are carried."""
        present = np.ones(observed.shape, bool)
        for j, place in enumerate(self.places):
            present[:, j] = ~self.own[place].isna().to_numpy(dtype=bool)
        restored = _of_codes(self.schema, k, observed, present)
        observed, escapes, carried, casts = observed.copy(), {}, [], {}
        cells = dict(zip(self.places, range(len(self.places)), strict=True))
        for place, own in enumerate(self.own):
            back, j = restored.iloc[:, place], cells.get(place)
            if j is not None and own.dtype != back.dtype:
                word = dtype_to_json(own.dtype)
                back = None if word is None else cast(back, own.dtype)
                casts[str(place)] = word
            if back is None or back.dtype != own.dtype:
                wrong = np.ones(len(own), bool)
                whole = True
            else:
                wrong = unlike(own, back)
                if j is not None:
                    wrong = wrong | (present[:, j] & ~observed[:, j])
                whole = wrong.any() if j is None else wrong.sum() > MOST * present[:, j].sum()
            if whole:
                carried.append(place)
                casts.pop(str(place), None)
            elif wrong.any():
                escapes[place] = np.flatnonzero(wrong)
            if j is not None:
                observed[:, j] &= ~wrong & (not whole)
        if casts:
            self.words["cast"] = casts
        return observed, escapes, carried

    def _index(self) -> None:
        index = self.X.index
        if isinstance(index, pd.RangeIndex):
            if (index.start, index.step) != (0, 1) or index.name is not None:
                self.words |= {"range": [index.start, index.stop, index.step], "names": [index.name]}
            return
        levels = [pd.Series(index.get_level_values(i)).reset_index(drop=True) for i in range(index.nlevels)]
        self.words |= {"names": list(index.names), "index": [dtype_to_json(c.dtype) for c in levels]}
        if isinstance(index, pd.MultiIndex):
            self.words["multi"] = True
        for level in levels:
            self._take("the index", level)

    def _order(self) -> None:
        labels = list(self.X.columns)
        if labels != list(self.schema.order):
            self.words["order"] = [self.schema.order.index(label) for label in labels]
        if self.X.columns.name is not None:
            self.words["columns"] = self.X.columns.name

    def _take(self, what: str, column: pd.Series) -> None:
        self.columns.append(column.reset_index(drop=True))
        self.labels.append(what)

    def _written(self, beat: float) -> bytes:
        try:
            return write_columns(self.columns, beat)
        except (TypeError, ValueError, OverflowError):
            for label, column in zip(self.labels, self.columns, strict=True):
                try:
                    write_columns([column])
                except (TypeError, ValueError, OverflowError) as error:
                    raise ValueError(f"X: {label} (dtype {column.dtype}) can't be stored: {error}") from None
            raise


def _put_back_frame(schema: Schema, n: int, codes: Codes | None, extras: bytes) -> pd.DataFrame:
    reader = Reader(extras)
    words = _words(reader) if extras else {}
    carried = words.get("carried", []) if codes is not None else list(range(len(schema.order)))
    odd = {int(i): dtype_from_json(word) for i, word in words.get("dtypes", {}).items()}
    dtypes = [odd[i] if i in odd else trained_dtype(schema, place) for i, place in enumerate(carried)]
    dtypes += [dtype_from_json(word) for word in words.get("index", [])]
    lengths = [n] * len(dtypes)
    casts = {int(place): dtype_from_json(word) for place, word in words.get("cast", {}).items()}
    escaped = {int(place): int(m) for place, m in words.get("escaped", {}).items()}
    for place, m in escaped.items():
        dtypes += [np.dtype(np.int64), casts.get(place, trained_dtype(schema, place))]
        lengths += [m, m]
    columns = read_columns(reader, lengths, dtypes) if extras else []
    levels, rest = (
        columns[len(carried) : len(columns) - 2 * len(escaped)],
        columns[len(columns) - 2 * len(escaped) :],
    )
    table: dict[int, pd.Series] = dict(zip(carried, columns[: len(carried)], strict=True))
    if codes is not None:
        k, observed = codes
        names = {f.name: j for j, f in enumerate(schema.fields)}
        present = observed.copy()
        escapes = {place: (rest[2 * i].to_numpy(), rest[2 * i + 1]) for i, place in enumerate(escaped)}
        for place, (rows, _) in escapes.items():
            present[rows, names[str(schema.order[place])]] = True
        restored = _of_codes(schema, k, observed, present)
        for place in range(len(schema.order)):
            if place not in table:
                back = restored.iloc[:, place]
                table[place] = cast(back, casts[place]) if place in casts else back
            if place in escapes:
                rows, values = escapes[place]
                array: Any = table[place].array.copy()
                array[rows] = values.array
                table[place] = pd.Series(array, dtype=array.dtype)
    order = words.get("order", list(range(len(schema.order))))
    out = pd.DataFrame({j: table[place] for j, place in enumerate(order)}, index=pd.RangeIndex(n))
    out.columns = pd.Index([schema.order[place] for place in order], name=words.get("columns"))
    if "range" in words:
        out.index = pd.RangeIndex(*words["range"], name=words["names"][0])
    elif words.get("multi"):
        out.index = pd.MultiIndex.from_arrays(levels, names=words["names"])
    elif levels:
        out.index = pd.Index(levels[0]).rename(words["names"][0])
    return out


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
