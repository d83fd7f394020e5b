"""What a table has beside the cells that a model codes, losslessly.

    escapes    cells without a code, or whose code does not lead back to them: where they are, and their values
    carried    columns the model does not see, and those of which more than a quarter would be escapes
    the form   dtypes other than in training, a frame's index, the order of its columns

Without a model all columns are carried.  Of a table that comes back whole from its codes there is nothing to say.
"""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pandas as pd

from abduce.compress.container import CompressedDataError, Reader
from abduce.compress.frame_extras import MOST, Codes, carry_frame, of_codes, put_back_frame, said
from abduce.compress.squeeze import unsqueeze
from abduce.compress.table import read_array, write_array
from abduce.compress.unlike import unlike, unlike_array
from abduce.data.schema import Schema

# what may go wrong in reading what was changed
WRONG = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    StopIteration,
    TypeError,
    ValueError,
)


def carry(schema: Schema, X: Any, codes: Codes | None, beat: float = math.inf) -> tuple[bytes, np.ndarray]:
    """What X has beside its lattice codes, or all of it where there are none, and which cells their codes stand for (n, D).

    ValueError, naming the column, for objects that have no form in bytes.
    """
    if isinstance(X, pd.DataFrame):
        return carry_frame(schema, X, codes, beat)
    return _carry_array(schema, X, codes, beat)


def put_back(schema: Schema, n: int, codes: Codes | None, extras: bytes) -> Any:
    """The table of ``n`` rows from its codes and what :func:`carry` found beside them."""
    reader = Reader(extras)
    try:
        words = json.loads(unsqueeze(reader) or b"{}") if extras else {}
        if schema.container == "frame":
            return put_back_frame(schema, n, codes, words, reader)
        return _put_back_array(schema, n, codes, words, reader)
    except CompressedDataError:
        raise
    except WRONG as error:
        raise CompressedDataError(f"data does not decode: {error}") from error


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


def _carry_array(schema: Schema, X: Any, codes: Codes | None, beat: float) -> tuple[bytes, np.ndarray]:
    array = np.asarray(X)
    flat = array.reshape(len(array), schema.n_cells)
    words: dict[str, Any] = {} if array.dtype == schema.dtype else {"dtype": array.dtype.str}
    if codes is None:
        return said(words) + write_array(flat, beat), np.zeros(flat.shape, bool)
    k, observed = codes
    blank = pd.isna(flat)
    back = of_codes(schema, k, observed, ~blank, array.dtype).reshape(flat.shape)
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
    data = said(words) + write_array(flat[:, carried])
    if len(where):
        data += write_array(where[:, None]) + write_array(flat.T.ravel()[where][:, None])
    return data, observed


def _put_back_array(
    schema: Schema, n: int, codes: Codes | None, words: dict[str, Any], reader: Reader
) -> np.ndarray:
    dtype, cells = np.dtype(words.get("dtype", schema.dtype)), schema.n_cells
    if dtype.kind not in "biufOSU":
        raise ValueError(f"no array of {dtype}")
    if codes is None:
        return read_array(reader, n, cells, dtype).reshape(n, *schema.shape)
    k, observed = codes
    carried, m = words.get("carried", []), words.get("escaped", 0)
    if len(carried) > cells or m > n * cells:
        raise ValueError("more cells than there are")
    columns = read_array(reader, n, len(carried), dtype)
    escaped = np.zeros((cells, n), bool)
    where = read_array(reader, m, int(m > 0), np.dtype(np.int64)).ravel()
    escaped.ravel()[where] = True
    present = observed | escaped.T
    present[:, carried] = True
    out = of_codes(schema, k, observed, present, dtype).reshape(n, cells)
    out[:, carried] = columns
    if m:
        out.T[np.divmod(where, n)] = read_array(reader, m, 1, dtype)[:, 0]
    return out.reshape(n, *schema.shape)
