"""What a table has beside its cells: dtypes, a frame's index and the columns that the model leaves out, losslessly."""

from __future__ import annotations

import io
import json
import lzma
import zlib
from typing import Any

import numpy as np
import pandas as pd

from abduce.compress.container import Reader, block
from abduce.data.schema import Schema


def carry(schema: Schema, X: Any, restored: Any) -> tuple[bytes, list[int]]:
    """Find what X has beyond ``restored``, which came back from its cells alone.

    Gives these extras as bytes (none if X came back whole) and the fields that had to be carried as they are,
    whose cells need no coding.
    """
    if schema.container != "frame":
        array = np.asarray(X)
        return (b"" if array.dtype == restored.dtype else _pack({"dtype": array.dtype.str}, None)), []
    head: dict[str, Any] = {}
    columns: dict[str, Any] = {}
    fields = {f.name: j for j, f in enumerate(schema.fields)}
    carried: list[int] = []
    for place, label in enumerate(schema.order):
        own, back = X[label].reset_index(drop=True), restored[label]
        if same(own, back):
            continue
        if str(label) in fields and same(own, _cast(back, str(own.dtype))):
            head.setdefault("cast", {})[str(place)] = str(own.dtype)
            continue
        columns[f"c{place}"] = own
        if str(label) in fields:
            carried.append(fields[str(label)])
    index = X.index
    if isinstance(index, pd.RangeIndex):
        if (index.start, index.step) != (0, 1) or index.name is not None:
            head["range"] = [index.start, index.stop, index.step]
            head["names"] = [index.name]
    else:
        head["names"] = list(index.names)
        head["multi"] = isinstance(index, pd.MultiIndex)
        for level in range(index.nlevels):
            columns[f"i{level}"] = pd.Series(index.get_level_values(level)).reset_index(drop=True)
    if columns:
        head["dtypes"] = {name: str(column.dtype) for name, column in columns.items()}
        lists = {name: values for name, column in columns.items() if (values := _as_list(column)) is not None}
        head["lists"] = lists
        columns = {name: column for name, column in columns.items() if name not in lists}
    if not head:
        return b"", []
    return _pack(head, pd.DataFrame(columns) if columns else None), carried


def put_back(restored: Any, extras: bytes) -> Any:
    """Give ``restored`` what :func:`carry` found missing."""
    if not extras:
        return restored
    head, columns = _unpack(extras)
    if not isinstance(restored, pd.DataFrame):
        return restored.astype(np.dtype(head["dtype"]))
    out = restored.copy()
    for place, dtype in head.get("cast", {}).items():
        label = out.columns[int(place)]
        out[label] = _cast(out[label], dtype)
    levels = []
    for name, dtype in head.get("dtypes", {}).items():
        lists = head["lists"]
        column = pd.Series(lists[name], dtype=dtype) if name in lists else _cast(columns[name], dtype)
        if name[0] == "c":
            out[out.columns[int(name[1:])]] = column
        else:
            levels.append(column)
    if "range" in head:
        out.index = pd.RangeIndex(*head["range"], name=head["names"][0])
    elif head.get("multi"):
        out.index = pd.MultiIndex.from_arrays(levels, names=head["names"])
    elif levels:
        out.index = pd.Index(levels[0]).rename(head["names"][0])
    return out


def check_whole(X: Any, back: Any) -> None:
    """Raise ValueError, naming what, if ``back`` is not X again."""
    if isinstance(back, pd.DataFrame):
        for label in back.columns:
            if not same(X[label].reset_index(drop=True), back[label].reset_index(drop=True)):
                column = f"column {label!r} (dtype {X[label].dtype})"
                raise ValueError(f"X: {column} has values that can't be stored losslessly")
        if not X.index.equals(back.index) or list(X.index.names) != list(back.index.names):
            raise ValueError(f"X: its index ({type(X.index).__name__}) can't be stored losslessly")
        if list(X.columns) != list(back.columns):
            raise ValueError("X must have its columns in the order seen in training")
    else:
        array = np.asarray(X)
        if array.dtype != back.dtype or not np.array_equal(array, back, equal_nan=array.dtype.kind == "f"):
            raise ValueError(f"X of dtype {array.dtype} has values that can't be stored losslessly")


def same(a: Any, b: Any) -> bool:
    """Whether two columns have equal values, blanks and dtype (a blank is a blank, be it None or NaN)."""
    if a.dtype != b.dtype or len(a) != len(b):
        return False
    blank = a.isna().to_numpy()
    if not np.array_equal(blank, b.isna().to_numpy()):
        return False
    left, right = a[~blank], b[~blank]
    if left.dtype == object and [type(v) for v in left] != [type(v) for v in right]:
        return False
    return bool(np.array_equal(left.to_numpy(), right.to_numpy()))


def _as_list(column: pd.Series) -> list | None:
    """A column of text or whole numbers as a list for JSON, which takes less room than Parquet; None for others."""
    if column.dtype.kind in "iu" and isinstance(column.dtype, np.dtype):
        return column.tolist()
    values = [None if blank else v for v, blank in zip(column.tolist(), column.isna(), strict=True)]
    text = isinstance(column.dtype, pd.StringDtype) or column.dtype == object
    return values if text and all(v is None or type(v) is str for v in values) else None


def _cast(column: Any, dtype: str) -> Any:
    if str(column.dtype) == dtype:
        return column
    try:
        return column.astype(dtype)
    except (TypeError, ValueError):
        return column


def _pack(head: dict[str, Any], columns: pd.DataFrame | None) -> bytes:
    try:
        text = json.dumps(head, separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise ValueError(f"X: the names of its index can't be stored: {error}") from None
    data = block(text)
    if columns is not None:
        buffer = io.BytesIO()
        try:
            columns.to_parquet(buffer, index=False, compression=None)
        except (TypeError, ValueError) as error:  # pyarrow's errors are among these
            what = "columns left out of the model, or its index,"
            raise ValueError(f"X: {what} can't be stored: {error}") from None
        data += buffer.getvalue()
    thin, thick = zlib.compress(data, 9), lzma.compress(data, lzma.FORMAT_ALONE, preset=9)
    return b"z" + thin if len(thin) <= len(thick) else b"x" + thick


def _unpack(extras: bytes) -> tuple[dict[str, Any], Any]:
    thin = extras[:1] == b"z"
    reader = Reader(zlib.decompress(extras[1:]) if thin else lzma.decompress(extras[1:], lzma.FORMAT_ALONE))
    head = json.loads(reader.block())
    rest = reader.rest()
    return head, pd.read_parquet(io.BytesIO(rest)) if rest else None
