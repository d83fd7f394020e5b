"""Columns taken apart without a model: whole numbers and bytes from which each comes back to the bit.

    whole       integers, bits, dates, codes of categories: k · unit
    lattice     floats that are k / q for whole k
    bits        any other floats: their bits
    lines       text: codes, in the order of first occurrence, and the levels, a line each
    values      objects: codes, and the levels as JSON
    parquet     any other dtype of pandas

The largest number of a column with blanks stands for a blank; and above it that of a column with odd cells, -0.0 or infinite
ones among floats on a lattice, for such a cell, whose bits follow.
"""

from __future__ import annotations

import io
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from abduce.compress.container import CompressedDataError
from abduce.compress.objects import from_json, to_json
from abduce.data.columns import build_column, dtype_label, pandas_dtype
from abduce.data.fields import Field
from abduce.data.lattice import denominators, negative_zero

WHOLE, LATTICE, BITS, LINES, VALUES, PARQUET = range(6)
BLANKS, ODD = 8, 16  # flags beside the form


class Loose(NamedTuple):
    """A column apart: ``form`` with its flag, the ``unit`` or q, whole numbers (n,) or None, and bytes or None."""

    form: int
    unit: int
    whole: np.ndarray | None
    bytes_: bytes | None = None

    @property
    def has_bytes(self) -> bool:
        return has_bytes(self.form)


def has_bytes(form: int) -> bool:
    """Whether columns of a form have bytes beside their numbers."""
    return form & 7 in (LINES, VALUES, PARQUET) or bool(form & ODD)


# ---------------------------------------------------------------- arrays


def loosen_array(flat: np.ndarray, lattices: bool = True) -> list[Loose]:
    """The columns of an array (n, d) of numbers; floats all as bits where not ``lattices``."""
    if flat.dtype.kind in "iub":
        whole = flat.view(np.uint8) if flat.dtype.kind == "b" else flat
        return [Loose(WHOLE, 1, column) for column in np.ascontiguousarray(whole.T)]
    if flat.dtype.kind != "f" or flat.dtype.itemsize > 8:
        return [loosen(pd.Series(column.astype(object))) for column in flat.T]
    observed = ~np.isnan(flat)
    odd = np.isinf(flat) | negative_zero(flat)
    values = np.where(observed & ~odd, flat, 0.0).astype(np.float64)
    steps = np.zeros(flat.shape[1], np.int64)
    if len(flat) and lattices:
        steps = denominators(values, flat.dtype.newbyteorder("="))
    return [
        _floats(flat[:, j], values[:, j], observed[:, j], odd[:, j], int(steps[j]))
        for j in range(flat.shape[1])
    ]


def fasten_array(loose: list[Loose], n: int, dtype: np.dtype) -> np.ndarray:
    """The array (n, d) of columns apart."""
    out = np.empty((n, len(loose)), dtype)
    for j, column in enumerate(loose):
        out[:, j] = _numbers(column, dtype) if column.form & 7 <= BITS else fasten(column, np.dtype(object))
    return out


def _floats(
    column: np.ndarray, values: np.ndarray, observed: np.ndarray, odd: np.ndarray, step: int
) -> Loose:
    native = np.ascontiguousarray(column.astype(column.dtype.newbyteorder("=")))
    bits = native.view(f"i{native.itemsize}")
    if step and odd.sum() <= len(odd) / 8:
        k = np.rint(values * step).astype(np.int64)
        if int(np.ptp(k)) < 2 ** (np.finfo(column.dtype).nmant - 2):  # else its bits say as much
            found = _blanked(LATTICE, step, k, observed)
            if not odd.any():
                return found
            assert found.whole is not None
            whole = np.where(odd, found.whole.max() + 1, found.whole)
            return Loose(
                found.form | ODD, step, whole, bits[odd].astype(bits.dtype.newbyteorder("<")).tobytes()
            )
    return Loose(BITS, 1, bits)


def _blanked(form: int, unit: int, k: np.ndarray, observed: np.ndarray) -> Loose:
    """Codes (n,), those not observed as blanks, in the narrowest of signed integers."""
    if not observed.all():
        top = int(k[observed].max()) + 1 if observed.any() else 0
        form, k = form | BLANKS, np.where(observed, k, top)
    ends = (int(k.min()), int(k.max())) if len(k) else (0, 0)
    fits = (
        d for d in (np.int8, np.int16, np.int32) if np.iinfo(d).min <= ends[0] and ends[1] < np.iinfo(d).max
    )
    return Loose(form, unit, k.astype(next(fits, np.int64)))


def _numbers(loose: Loose, dtype: np.dtype) -> np.ndarray:
    """Values of a numeric form; blanks are NaN."""
    form, unit, whole, bits = loose
    assert whole is not None
    native = dtype.newbyteorder("=")
    if form & 7 == BITS:
        return whole.astype(f"i{dtype.itemsize}").view(native)
    if form & 7 == WHOLE and not form & BLANKS:
        return (whole * unit if unit != 1 else whole).astype(dtype)
    values = whole / unit if form & 7 == LATTICE else (whole * unit).astype(np.float64)
    values = values.astype(native)
    if not len(whole):
        return values
    top = whole.max()
    if form & ODD:
        values[whole == top] = (
            np.frombuffer(bits or b"", f"<i{dtype.itemsize}").astype(f"i{dtype.itemsize}").view(native)
        )
        top = top - 1
    if form & BLANKS:
        values[whole == top] = np.nan
    return values


# ---------------------------------------------------------------- columns of frames


def loosen(series: pd.Series) -> Loose:
    """A column apart; TypeError or ValueError if it holds what has no form."""
    dtype = series.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        codes = series.cat.codes.to_numpy().astype(np.int64)
        return _blanked(WHOLE, 1, codes, codes >= 0)
    observed = ~series.isna().to_numpy(dtype=bool)
    if pd.api.types.is_object_dtype(dtype) or _texts(dtype):
        return _leveled(series.tolist(), observed, pd.api.types.is_object_dtype(dtype))
    if pd.api.types.is_bool_dtype(dtype) and not isinstance(dtype, pd.SparseDtype):
        return _blanked(WHOLE, 1, _filled(series, observed, np.uint8), observed)
    if pd.api.types.is_integer_dtype(dtype) and not isinstance(dtype, pd.SparseDtype):
        wide = np.dtype(np.uint64) if "uint64" in str(dtype).lower() else np.dtype(np.int64)
        k = _filled(series, observed, wide).view(np.int64)
        if not observed.all() and len(k) and k.max() == np.iinfo(np.int64).max:
            return _parquet(series)
        narrow = np.dtype(str(dtype).lower()) if isinstance(dtype, np.dtype) else wide
        return _united(k, observed, narrow if narrow.kind in "iu" else wide)
    if pd.api.types.is_float_dtype(dtype) and not isinstance(dtype, pd.SparseDtype):
        own = (
            np.dtype(np.float32) if "32" in str(dtype) or dtype == "float[pyarrow]" else np.dtype(np.float64)
        )
        own = dtype if isinstance(dtype, np.dtype) else own
        return loosen_array(series.to_numpy(dtype=own, na_value=np.nan)[:, None])[0]
    if dtype.kind in "mM" and not isinstance(dtype, pd.ArrowDtype | pd.PeriodDtype):
        ticks: Any = series.array
        return _united(ticks.asi8, observed, np.dtype(np.int64))
    return _parquet(series)


def fasten(loose: Loose, dtype: Any) -> pd.Series:
    """The column of a dtype, or of that which Parquet gives where None; CompressedDataError if it is none."""
    try:
        return _fastened(loose, dtype)
    except CompressedDataError:
        raise
    except (
        TypeError,
        ValueError,
        LookupError,
        ArithmeticError,
        AssertionError,
        OSError,
        RuntimeError,
    ) as error:
        raise CompressedDataError(f"data does not decode: {error}") from None


def _fastened(loose: Loose, dtype: Any) -> pd.Series:
    form = loose.form & 7
    if form == PARQUET:
        out: Any = pd.read_parquet(io.BytesIO(loose.bytes_ or b""))["v"]
        return out if dtype is None else out.astype(dtype)
    whole = loose.whole
    assert whole is not None
    observed = np.ones(len(whole), bool)
    if loose.form & BLANKS and len(whole):
        observed = whole != whole.max()
    if form in (LINES, VALUES):
        lines = (loose.bytes_ or b"").decode("utf-8", "surrogatepass").split("\n")
        levels = np.empty(len(lines) + 1, object)
        levels[:-1] = lines if form == LINES else [from_json(line or "null") for line in lines]
        levels[-1] = None
        return pd.Series(levels[np.where(observed, whole, len(lines))], dtype=dtype)
    if isinstance(dtype, pd.CategoricalDtype):
        return pd.Series(pd.Categorical.from_codes(np.where(observed, whole, -1), dtype=dtype))
    if isinstance(dtype, np.dtype) and dtype.kind in "biuf":
        return pd.Series(_numbers(loose, dtype))
    label = dtype_label(dtype)
    if dtype.kind in "mM":
        values = whole * loose.unit
    elif pd.api.types.is_float_dtype(dtype):
        values = _numbers(
            loose, np.dtype(np.float32 if "32" in label or label.startswith("float[") else np.float64)
        )
        observed = ~np.isnan(values)
    else:
        values = whole * loose.unit
        if "uint64" in label.lower():
            values = values.view(np.uint64)
        values = np.where(observed, values, np.zeros(1, values.dtype))
        values = values.astype(bool) if pd.api.types.is_bool_dtype(dtype) else values
    return pd.Series(build_column(Field("v", "real", label), values, observed), dtype=dtype)


def _texts(dtype: Any) -> bool:
    return isinstance(dtype, pd.StringDtype) or dtype in ("string[pyarrow]", "large_string[pyarrow]")


def _filled(series: pd.Series, observed: np.ndarray, dtype: Any) -> np.ndarray:
    if observed.all():
        return series.to_numpy(dtype=dtype)
    return series.to_numpy(dtype=dtype, na_value=np.dtype(dtype).type(0).item())


def _united(k: np.ndarray, observed: np.ndarray, narrow: np.dtype) -> Loose:
    """Integers in their greatest common unit, kept as wide as they came where that is 1."""
    seen = k[observed]
    unit = int(np.gcd.reduce(seen)) if len(seen) and abs(int(seen.min())) < 2**62 else 1
    if unit > 1:
        return _blanked(WHOLE, unit, np.where(observed, k, 0) // unit, observed)
    return Loose(WHOLE, 1, k.astype(narrow)) if observed.all() else _blanked(WHOLE, 1, k, observed)


def _leveled(values: list, observed: np.ndarray, objects: bool) -> Loose:
    """Text, or objects, as codes into their levels."""
    text = not objects or all(
        type(v) is str for v, seen in zip(values, observed.tolist(), strict=True) if seen
    )
    keys = values if text else [to_json(v) for v in values]
    codes, levels = pd.factorize(np.array([*keys, None], object)[:-1], use_na_sentinel=True)
    codes = np.where(observed, codes, -1)
    form = LINES if text and not any("\n" in level for level in levels) else VALUES
    lines = list(levels) if form == LINES or not text else [to_json(level) for level in levels]
    joined = "\n".join(lines).encode("utf-8", "surrogatepass")
    return _blanked(form, 1, codes, observed)._replace(bytes_=joined)


def _parquet(series: pd.Series) -> Loose:
    buffer = io.BytesIO()
    pd.DataFrame({"v": series.array}).to_parquet(buffer, index=False, compression=None)
    return Loose(PARQUET, 1, None, buffer.getvalue())


# ---------------------------------------------------------------- dtypes


def dtype_to_json(dtype: Any) -> Any:
    """A dtype in JSON from which :func:`dtype_from_json` makes it again; None where there is none such."""
    if isinstance(dtype, pd.CategoricalDtype):
        inner = dtype_to_json(dtype.categories.dtype)
        levels = dtype.categories.tolist()
        word: Any = {"levels": levels, "of": inner, "ordered": bool(dtype.ordered)}
        if inner is None or any(type(v) not in (str, int, float, bool) for v in levels):
            return None
    else:
        word = dtype_label(dtype)
    try:
        return word if dtype_from_json(word) == dtype else None
    except (TypeError, ValueError, CompressedDataError):
        return None


def dtype_from_json(word: Any) -> Any:
    """The dtype; None for None."""
    try:
        if isinstance(word, dict):
            levels = pd.Index(word["levels"], dtype=dtype_from_json(word["of"]))
            return pd.CategoricalDtype(levels, ordered=word["ordered"])
        return None if word is None else pandas_dtype(word)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise CompressedDataError(f"data does not decode: {error}") from None
