"""Data as other libraries hold them, taken in as an array or a pandas frame, and answers given back in the same make.

| X | is read as | an answer is |
|---|---|---|
| array, pandas frame | itself | the same |
| masked array | array, NaN where it is masked | array |
| polars, PyArrow, any eager frame of narwhals | pandas frame | the same, in its types |
| list of rows | array | array |
| a file's name, a folder, pattern or address of files, a pyarrow dataset | pandas frame | pandas frame |
| data frame of Dask, data set of Ray | pandas frame | pandas frame |
| list of dicts, dict of columns | pandas frame | pandas frame |
| pandas column of dates, times of day, decimals as objects, or sparse | its plain dtype | the same |

What an answer leaves as it was is what X held, to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from inspect import signature
from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd
import pyarrow as pa

from abduce.data.arrow import frame_of, inward, outward, table_like
from abduce.data.partitioned import is_partitioned
from abduce.data.shards import given
from abduce.data.text import unchanged

_OBJECTS = ("date", "time", "decimal", "datetime")


def native(X: Any, name: str = "X") -> Any:
    """X as an array or a pandas frame; itself if it is one already, or nothing known.

    TypeError or ValueError, naming ``name``, for frames that are not in memory, sparse matrices and rows of unequal length.

    >>> native({"a": [1, 2], "b": ["u", None]}).shape
    (2, 2)
    >>> native(np.ma.MaskedArray([[1.0, -99.0]], [[False, True]]))
    array([[ 1., nan]])
    """
    if isinstance(X, pd.DataFrame):
        return _plain_frame(X)
    if (source := given(X)) is not None:
        return source.read()
    if isinstance(X, np.ma.MaskedArray):
        return unmasked(X)
    if isinstance(X, np.ndarray):
        return X
    if hasattr(X, "toarray"):  # some sparse matrices are dicts
        raise TypeError(
            f"{name} is sparse; dense data are required, use {name}.toarray(), where a cell that is not stored is a 0"
        )
    if isinstance(X, Mapping):
        return _plain_frame(_built(X, name, "a dict of columns"))
    if isinstance(X, list | tuple):
        return _of_rows(X, name)
    if (frame := _foreign(X)) is None:
        return X
    if isinstance(frame, nw.LazyFrame):
        raise TypeError(f"{name} is a lazy frame ({type(X).__module__.split('.')[0]}); collect() it first")
    return frame_of(frame.to_arrow())


def like(given: Any, before: Any, after: Any) -> Any:
    """An answer ``after`` in the make of ``given``, which was read as ``before`` by :func:`native`."""
    if given is before or not isinstance(after, pd.DataFrame):
        return after
    if isinstance(given, pd.DataFrame):
        return _like_frame(given, before, after)
    plain = isinstance(given, Mapping | list | tuple) or is_partitioned(given)
    if plain or (frame := _foreign(given)) is None:
        return after
    table = table_like(frame.to_arrow(), before, after)
    if frame.implementation.is_pyarrow():
        return table
    answer = nw.from_arrow(table, backend=frame.implementation)
    for column, dtype in frame.schema.items():
        if answer.schema[column] != dtype and not (dtype.is_integer() and answer.schema[column].is_float()):
            answer = answer.with_columns(nw.col(column).cast(dtype))
    return answer.to_native()


def same_make(method: Callable[..., Any]) -> Callable[..., Any]:
    """Let a method be asked with data of any make, its first argument: its answer, or each of several, is of that make."""
    name = list(signature(method).parameters)[1]

    @wraps(method)
    def asked(self: Any, *given: Any, **named: Any) -> Any:
        X = named.pop(name) if name in named else given[0] if given else None
        if X is None:
            return method(self, *given, **named)
        before = native(X, name)
        answer = method(self, before, *given[1:], **named)
        if before is X:
            return answer
        if isinstance(answer, list | tuple):
            return type(answer)(like(X, before, part) for part in answer)
        return like(X, before, answer)

    return asked


def unmasked(X: np.ma.MaskedArray) -> np.ndarray:
    """A masked array as a plain one: NaN where it is masked, in floats then; None in an array of objects."""
    plain, mask = np.asarray(X.data), np.ma.getmaskarray(X)
    if not mask.any():
        return plain
    if plain.dtype.kind in "iub":
        plain = plain.astype(np.float64)
    elif plain.dtype.kind in "US":
        plain = plain.astype(object)
    out = plain.copy()
    out[mask] = None if out.dtype == object else np.nan
    return out


def _foreign(X: Any) -> Any:
    """X as narwhals sees it; None for what it does not know, and for a single column."""
    frame = nw.from_native(X, pass_through=True)
    return frame if isinstance(frame, nw.DataFrame | nw.LazyFrame) else None


# ---------------------------------------------------------------- rows and columns of Python


def _of_rows(X: Any, name: str) -> Any:
    if not X or not isinstance(X[0], Mapping | list | tuple):
        return X
    if isinstance(X[0], Mapping):
        if odd := [i for i, row in enumerate(X) if not isinstance(row, Mapping)]:
            raise TypeError(
                f"{name}: row {odd[0]} is a {type(X[odd[0]]).__name__}, the rows before it are dicts"
            )
        return _plain_frame(_built(X, name, "a list of dicts"))
    width = len(X[0])
    for i, row in enumerate(X):
        if not hasattr(row, "__len__") or len(row) != width:
            has = f"{len(row)} cells" if hasattr(row, "__len__") else repr(row)
            raise ValueError(f"{name}: row {i} has {has}, row 0 has {width}; expected rows of one length")
    if words := [
        (i, j) for i, row in enumerate(X) for j, cell in enumerate(row) if isinstance(cell, str | bytes)
    ]:
        i, j = words[0]
        raise ValueError(
            f"{name} is a list of rows with text ({X[i][j]!r} in row {i}, column {j}); expected numbers: use a pandas "
            "DataFrame for columns of mixed kinds"
        )
    return X


def _built(X: Any, name: str, what: str) -> pd.DataFrame:
    try:
        return pd.DataFrame(X if isinstance(X, list) else dict(X) if isinstance(X, Mapping) else list(X))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} is {what} that makes no table: {error}") from error


# ---------------------------------------------------------------- pandas columns of objects


def _plain_frame(X: pd.DataFrame) -> pd.DataFrame:
    """A frame with its odd columns in plain dtypes; X itself if it has none."""
    if not X.columns.is_unique or isinstance(X.columns, pd.MultiIndex):
        return X
    plain = {label: new for label in X.columns if (new := _plain_column(X[label])) is not None}
    return _assigned(X, plain)


def _assigned(X: pd.DataFrame, columns: dict[Any, pd.Series]) -> pd.DataFrame:
    if not columns:
        return X
    out = X.copy(deep=False)
    for label, series in columns.items():
        out[label] = series
    return out


def _plain_column(series: Any) -> pd.Series | None:
    """A column in a plain dtype, or None if it has one."""
    if isinstance(series.dtype, pd.SparseDtype):
        return series.sparse.to_dense()
    if isinstance(series.dtype, pd.ArrowDtype):
        column = pa.array(series.array, from_pandas=True)
        return None if inward(column) is column else _as_series(inward(column), series)
    if series.dtype != object:
        return None
    found = pd.api.types.infer_dtype(series, skipna=True)
    if found not in _OBJECTS:
        return None
    if found == "datetime":
        return _one_zone(series)
    return _as_series(inward(pa.array(series, from_pandas=True)), series)


def _as_series(column: Any, old: Any) -> pd.Series:
    new: Any = frame_of(pa.table({"v": column}))["v"]
    return new.set_axis(old.index).rename(old.name)


def _one_zone(series: pd.Series) -> pd.Series:
    """Times as one dtype: those without a zone are in the zone of the others, which are in UTC if they have several."""
    known = series.dropna()
    zones = {str(t.tzinfo): t.tzinfo for t in known if t.tzinfo is not None}
    if not zones:
        return pd.to_datetime(series)
    zone = next(iter(zones.values())) if len(zones) == 1 else "UTC"
    stamps = [pd.Timestamp(t) for t in known]
    aware = [t.tz_localize(zone) if t.tzinfo is None else t.tz_convert(zone) for t in stamps]
    return pd.Series(pd.DatetimeIndex(aware), index=known.index, name=series.name).reindex(series.index)


def _like_frame(given: Any, before: Any, after: Any) -> pd.DataFrame:
    """An answer with the odd columns of ``given`` as they were, but for the cells that have new values."""
    columns: dict[Any, pd.Series] = {}
    for label in given.columns:
        old = given[label]
        if label not in after.columns or old.dtype == before[label].dtype:
            continue
        new = after[label].set_axis(old.index)
        if isinstance(old.dtype, pd.SparseDtype):
            columns[label] = new.astype(old.dtype)
            continue
        fresh = ~unchanged(before[label], new) & new.notna().to_numpy(dtype=bool)
        kind = (
            pa.array(old.dropna(), from_pandas=True).type if old.dtype == object else old.dtype.pyarrow_dtype
        )
        out = old.to_numpy(dtype=object, copy=True)
        if pa.types.is_timestamp(kind):
            out[fresh] = list(new[fresh])
        else:
            out[fresh] = outward(pa.array(new[fresh].array, from_pandas=True), kind).to_pylist()
        columns[label] = pd.Series(out, index=old.index, name=label, dtype=old.dtype)
    return _assigned(after, columns)
