"""Columns as bytes without a model, in whichever of two forms is the shorter:

    apart    each as whole numbers and text (:mod:`abduce.compress.loose`), the numbers packed together, the text squeezed
    text     row by row, as CSV, of which general compressors see what columns have to do with each other; columns that do
             not come back from it the same to the bit, as blanks beside empty text, are kept apart

Lengths and dtypes are not among the bytes: who reads them must know.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from abduce.compress.container import CompressedDataError, Reader, varint
from abduce.compress.loose import LATTICE, Loose, fasten, fasten_array, has_bytes, loosen, loosen_array
from abduce.compress.numbers import pack, unpack
from abduce.compress.squeeze import shortest, squeeze, unsqueeze
from abduce.compress.unlike import unlike

TEXT_CELLS = 2**20  # tables of more cells are not tried as text
BYTES = 2**17  # floats on lattices are tried by their bits, too, up to this
SAME = 1


# ---------------------------------------------------------------- arrays


def write_array(flat: np.ndarray, beat: float = math.inf) -> bytes:
    """An array (n, d) of numbers; ``beat`` bytes are enough to lose."""
    apart = loosen_array(flat)
    best = _write_loose(apart, beat)
    lattices = sum(c.form & 7 == LATTICE for c in apart)
    if lattices and (flat.nbytes <= BYTES or lattices < len(apart)):
        best = min(best, _write_loose(loosen_array(flat, lattices=False), beat), key=len)
    return best


def read_array(reader: Reader, n: int, d: int, dtype: np.dtype) -> np.ndarray:
    """Read what :func:`write_array` wrote."""
    return fasten_array(_read_loose(reader, [n] * d), n, dtype)


# ---------------------------------------------------------------- columns


def write_columns(columns: Sequence[pd.Series], beat: float = math.inf) -> bytes:
    """Columns of any lengths; TypeError or ValueError for what has no form."""
    apart = [loosen(c) for c in columns]
    best = b"\0" + _write_loose(apart, beat)
    if len({len(c) for c in columns}) != 1 or not 0 < sum(map(len, columns)) <= TEXT_CELLS:
        return best
    as_text = _come_back(columns)
    if not any(as_text):
        return best
    text = _csv([c for c, yes in zip(columns, as_text, strict=True) if yes])
    rest = [loose for loose, yes in zip(apart, as_text, strict=True) if not yes]
    mixed = b"\1" + np.packbits(as_text).tobytes() + _squeezed(text, beat)
    return min(best, mixed + _write_loose(rest, beat), key=len)


def read_columns(reader: Reader, lengths: Sequence[int], dtypes: Sequence[Any]) -> list[pd.Series]:
    """Read what :func:`write_columns` wrote: columns of these lengths and dtypes (None: as Parquet says)."""
    as_text = np.zeros(len(lengths), bool)
    parsed: list[pd.Series] = []
    if reader.take(1) == b"\1":
        mask = np.frombuffer(reader.take((len(lengths) + 7) // 8), np.uint8)
        as_text = np.unpackbits(mask, count=len(lengths)).astype(bool)
        text = unsqueeze(reader).decode("utf-8", "surrogatepass")
        parsed = _parsed(text, [d for d, yes in zip(dtypes, as_text, strict=True) if yes])
        sizes = [n for n, yes in zip(lengths, as_text, strict=True) if yes]
        if any(len(c) != n for c, n in zip(parsed, sizes, strict=True)):
            raise CompressedDataError("data does not decode: a column has another length than it says")
    rest = [j for j, yes in enumerate(as_text) if not yes]
    loose = _read_loose(reader, [lengths[j] for j in rest])
    own = iter(fasten(column, dtypes[j]) for j, column in zip(rest, loose, strict=True))
    others = iter(parsed)
    return [next(others if yes else own) for yes in as_text]


# ---------------------------------------------------------------- apart


def _write_loose(columns: Sequence[Loose], beat: float) -> bytes:
    if not columns:
        return b""
    described = [bytes([c.form]) + varint(c.unit) for c in columns]
    same = len(set(described)) == 1
    head = bytes([same]) + (described[0] if same else squeeze(b"".join(described)))
    texts = [c.bytes_ for c in columns if c.bytes_ is not None]
    numbers = pack([c.whole for c in columns if c.whole is not None], beat)
    if not texts:
        return head + numbers
    return head + numbers + squeeze(b"".join(varint(len(t)) for t in texts[:-1]) + b"".join(texts))


def _read_loose(reader: Reader, lengths: Sequence[int]) -> list[Loose]:
    if not lengths:
        return []
    same = reader.take(1)[0] == SAME
    head = reader if same else Reader(unsqueeze(reader))
    described = [(head.take(1)[0], head.varint()) for _ in (lengths[:1] if same else lengths)]
    described = described * len(lengths) if same else described
    whole = [form & 7 < 5 for form, _ in described]
    numbers = iter(unpack(reader, [n for n, is_whole in zip(lengths, whole, strict=True) if is_whole]))
    count = sum(has_bytes(form) for form, _ in described)
    parts = Reader(unsqueeze(reader) if count else b"")
    sizes = [parts.varint() for _ in range(count - 1)]
    texts = iter([*(parts.take(size) for size in sizes), parts.rest()])
    return [
        Loose(form, unit, next(numbers) if is_whole else None, next(texts) if has_bytes(form) else None)
        for (form, unit), is_whole in zip(described, whole, strict=True)
    ]


# ---------------------------------------------------------------- text


def _squeezed(text: str, beat: float) -> bytes:
    return shortest([lambda: text.encode("utf-8", "surrogatepass")], beat)[1]


def _csv(columns: Sequence[pd.Series]) -> str:
    table = {j: c.reset_index(drop=True) for j, c in enumerate(columns)}
    return pd.DataFrame(table).to_csv(index=False, header=False, lineterminator="\n")


def _parsed(text: str, dtypes: Sequence[Any]) -> list[pd.Series]:
    """Columns of CSV without a header."""
    try:
        cells = pd.read_csv(
            io.StringIO(text),
            header=None,
            dtype=str,
            keep_default_na=False,
            na_filter=False,
            skip_blank_lines=False,
        )
        if cells.shape[1] != len(dtypes):
            raise ValueError(f"{cells.shape[1]} columns, expected {len(dtypes)}")
        return [_of_text(cells[j].to_numpy(object), dtype) for j, dtype in enumerate(dtypes)]
    except (TypeError, ValueError, KeyError, OverflowError) as error:
        raise CompressedDataError(f"data does not decode: {error}") from None


def _of_text(cells: np.ndarray, dtype: Any) -> pd.Series:
    """A column of a dtype from its cells (n,) as text, where nothing is a blank; ValueError if it has none such."""
    blank = cells == ""
    if isinstance(dtype, pd.CategoricalDtype):
        codes = {str(level): code for code, level in enumerate(dtype.categories)}
        found = [-1 if empty else codes[cell] for cell, empty in zip(cells, blank, strict=True)]
        return pd.Series(pd.Categorical.from_codes(found, dtype=dtype))
    if pd.api.types.is_object_dtype(dtype) or isinstance(dtype, pd.StringDtype):
        return pd.Series(_blanked(cells, blank), dtype=dtype)
    if not isinstance(dtype, np.dtype):
        raise ValueError(f"no text of dtype {dtype}")
    if dtype.kind == "b":
        return pd.Series(cells == "True")
    if dtype.kind in "iu":
        return pd.Series(cells.astype("U").astype(dtype))
    if dtype.kind == "f":
        return pd.Series(np.where(blank, "nan", cells).astype("U").astype(np.float64).astype(dtype))
    return pd.Series(pd.to_datetime(pd.Series(_blanked(cells, blank)), format="ISO8601")).astype(dtype)


def _blanked(cells: np.ndarray, blank: np.ndarray) -> np.ndarray:
    out = cells.copy()
    out[blank] = None
    return out


def _come_back(columns: Sequence[pd.Series]) -> list[bool]:
    """Which columns are the same to the bit when read from text."""
    out = []
    for column in columns:
        try:
            (back,) = _parsed(_csv([column]), [column.dtype])
        except CompressedDataError:
            out.append(False)
        else:
            out.append(not unlike(column.reset_index(drop=True), back).any())
    return out
