"""One column of a data frame, read into plain arrays and written back in its own dtype.

pandas has many ways to store the same thing (NumPy, nullable, `str`, categorical, Arrow, object). Here each
becomes a `Column` in one of four forms, and only here does the package look at pandas dtypes.

    number   values are the numbers as float64; `integers` holds them exactly where the dtype is integer
    text     values are codes into `levels` (strings, or the levels of a categorical)
    bool     values are 0 / 1, levels are (False, True)
    time     values are days as float64; `integers` holds the stored ticks, `per_day` how many make a day
    objects  values are 0; levels are one word for what it holds that no model reads
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from abduce.data.fields import Field, listing

_TICKS = {"s": 86400, "ms": 86400 * 10**3, "us": 86400 * 10**6, "ns": 86400 * 10**9}


@dataclass(frozen=True)
class Column:
    """One column as plain arrays of length n; unobserved entries of `values` and `integers` are 0."""

    name: str
    form: str
    dtype: str
    values: np.ndarray
    observed: np.ndarray
    levels: tuple = ()
    integers: np.ndarray | None = None
    per_day: int = 0

    def first(self) -> Any:
        """Return the first observed value, for error messages."""
        row = int(np.argmax(self.observed))
        return self.levels[int(self.values[row])] if self.levels else self.values[row].item()


def plain(value: Any, name: str) -> Any:
    """Turn a category into a JSON-able str, bool, int or float; ValueError for anything else."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, str | bool | int | float):
        return value
    raise ValueError(
        f"column {name!r}: categories must be str, int, float or bool, got {listing([value])} "
        f"of type {type(value).__name__}; convert them, for example with .astype(str)"
    )


def read_column(series: Any, name: str) -> Column:
    """Read a column into a `Column`.

    Raises ValueError naming the column for infinities and for mixed or unsupported contents.

    >>> read_column(pd.Series([1, None, 3], dtype="Int64"), "a").values
    array([1., 0., 3.])
    """
    dtype = series.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        return _read_categorical(series, name)
    observed = ~series.isna().to_numpy(dtype=bool)
    if pd.api.types.is_object_dtype(dtype):
        return _read_object(series, name, observed)
    label = dtype_label(dtype)
    if pd.api.types.is_bool_dtype(dtype):
        flags = _dense(series, observed, np.bool_).astype(np.int64)
        return Column(name, "bool", label, flags, observed, (False, True))
    if pd.api.types.is_integer_dtype(dtype):
        return _integers(name, label, series, observed)
    if pd.api.types.is_float_dtype(dtype):
        values = series.to_numpy(dtype=np.float64, na_value=np.nan)
        return _floats(name, label, values)
    if pd.api.types.is_datetime64_any_dtype(dtype) or pd.api.types.is_timedelta64_dtype(dtype):
        return _read_time(series, name, label, observed)
    if pd.api.types.is_string_dtype(dtype):
        return _read_text(series, name, label, observed)
    if isinstance(dtype, pd.ArrowDtype):
        return _objects(name, str(dtype), observed)
    raise ValueError(f"column {name!r} has dtype {dtype}; expected numbers, bool, text, category or dates")


def _objects(name: str, what: str, observed: np.ndarray) -> Column:
    return Column(name, "objects", "object", np.zeros(len(observed), np.int64), observed, (what,))


def dtype_label(dtype: Any) -> str:
    """A dtype in a word from which :func:`pandas_dtype` makes it again, but for the levels of a categorical one."""
    # "string[pyarrow]" read back would give pandas' own string dtype, so Arrow strings carry a mark.
    if isinstance(dtype, pd.ArrowDtype) and str(dtype) in ("string[pyarrow]", "large_string[pyarrow]"):
        return f"arrow:{dtype.pyarrow_dtype}"
    return str(dtype)


def _dense(series: pd.Series, observed: np.ndarray, dtype: Any) -> np.ndarray:
    if observed.all():
        return series.to_numpy(dtype=dtype)
    return series.to_numpy(dtype=dtype, na_value=np.dtype(dtype).type(0).item())


def _integers(name: str, label: str, series: pd.Series, observed: np.ndarray) -> Column:
    if label.lower().startswith("uint64"):
        exact = _dense(series, observed, np.uint64)
        if exact.size and exact.max() > np.iinfo(np.int64).max:  # 53 bits of them are seen
            return Column(name, "number", label, exact.astype(np.float64), observed)
        exact = exact.astype(np.int64)
    else:
        exact = _dense(series, observed, np.int64)
    return Column(name, "number", label, exact.astype(np.float64), observed, integers=exact)


def _floats(name: str, label: str, values: np.ndarray) -> Column:
    observed = np.isfinite(values)
    if not observed.all():
        infinite = np.isinf(values)
        if infinite.any():
            row = int(np.argmax(infinite))
            raise ValueError(
                f"column {name!r} contains {values[row]} (first in row {row}); expected finite numbers"
            )
        values = np.where(observed, values, 0.0)
    return Column(name, "number", label, values, observed)


def _read_categorical(series: pd.Series, name: str) -> Column:
    dtype = series.dtype
    assert isinstance(dtype, pd.CategoricalDtype)
    levels = tuple(plain(v, name) for v in dtype.categories)
    codes = series.cat.codes.to_numpy().astype(np.int64)
    observed = codes >= 0
    order = "ordered," if dtype.ordered else ""
    label = f"category[{order}{dtype_label(dtype.categories.dtype)}]"
    return Column(name, "text", label, np.where(observed, codes, 0), observed, levels)


def _read_text(series: pd.Series, name: str, label: str, observed: np.ndarray) -> Column:
    codes, levels = pd.factorize(series, use_na_sentinel=True)
    values = np.where(codes >= 0, codes, 0).astype(np.int64)
    return Column(name, "text", label, values, observed, tuple(str(v) for v in levels))


def _read_time(series: pd.Series, name: str, label: str, observed: np.ndarray) -> Column:
    if isinstance(series.dtype, pd.ArrowDtype):
        raise ValueError(f"column {name!r} has dtype {series.dtype}; convert it with pandas.to_datetime")
    unit = re.match(r"\w+\[(\w+)", label)
    assert unit is not None
    per_day = _TICKS[unit.group(1)]
    array: Any = series.array
    ticks = np.where(observed, array.asi8, 0)
    return Column(name, "time", label, ticks / per_day, observed, integers=ticks, per_day=per_day)


def _read_object(series: pd.Series, name: str, observed: np.ndarray) -> Column:
    found = pd.api.types.infer_dtype(series, skipna=True)
    if found == "string":
        return _read_text(series, name, "object", observed)
    if found == "empty" or not observed.any():
        nothing = np.zeros(len(series), np.int64)
        return Column(name, "text", "object", nothing, observed)
    filled = series.to_numpy(dtype=object, copy=True)
    filled[~observed] = 0
    if found == "boolean":
        return Column(name, "bool", "object", filled.astype(np.int64), observed, (False, True))
    if found == "integer":
        try:
            exact = filled.astype(np.int64)
        except OverflowError as error:
            raise ValueError(f"column {name!r}: integers must lie between -2**63 and 2**63 - 1") from error
        return Column(name, "number", "object[int]", exact.astype(np.float64), observed, integers=exact)
    if found in ("floating", "mixed-integer-float"):
        return _floats(name, "object[float]", np.where(observed, filled, np.nan).astype(np.float64))
    first = filled[observed]
    kinds = list(dict.fromkeys(type(v).__name__ for v in first))
    if len(kinds) == 1:
        return _objects(name, f"{kinds[0]} objects such as {listing(first[:1])}", observed)
    numbers = [isinstance(v, int | float | np.number) and not isinstance(v, bool) for v in first]
    rarer = np.argmin(numbers) if sum(numbers) * 2 >= len(numbers) else np.argmax(numbers)
    odd = first[int(rarer)]
    raise ValueError(
        f"column {name!r} mixes {' and '.join(kinds)}, first odd value {listing([odd])}; expected one type"
    )


def lookup(column: Column, field: Field) -> np.ndarray:
    """Find each value's code among the field's categories, (n,): 0 where nothing is observed, -1 for a value never seen.

    ValueError for a column of another form than in training.
    """
    assert field.categories is not None
    codes = {value: code for code, value in enumerate(field.categories)}
    text = isinstance(field.categories[0], str)
    if column.observed.any() and (column.form == "time" or (text and column.form in ("number", "bool"))):
        held = {"time": "dates", "number": "numbers", "bool": "booleans"}[column.form]
        raise ValueError(
            f"column {column.name!r} holds {held} such as {column.first()!r}; expected values like those seen in training: "
            f"{listing(field.categories)}"
        )
    if column.levels:
        table = np.array([codes.get(v, -1) for v in column.levels], dtype=np.int64)
        found = table[column.values]
    else:
        numbers = column.values if column.integers is None else column.integers
        distinct, where = np.unique(numbers, return_inverse=True)
        found = np.array([codes.get(v, -1) for v in distinct.tolist()], dtype=np.int64)[where]
    return np.where(column.observed, found, 0)


def numbers(column: Column, field: Field) -> np.ndarray:
    """Give a numeric column's values, float64 (n,); ValueError names the first that is no number."""
    if column.form == "text" and column.observed.any():
        odd = np.array([not _number(level) for level in column.levels])[column.values] & column.observed
        row = int(np.argmax(odd if odd.any() and not field.temporal else column.observed))
        raise ValueError(
            f"column {column.name!r} expects {'dates' if field.temporal else 'numbers'}, "
            f"got {listing([column.levels[int(column.values[row])]])} in row {row}"
        )
    if (column.form == "time") != field.temporal and column.observed.any():
        have, want = ("dates", "numbers") if column.form == "time" else ("numbers", "dates")
        raise ValueError(
            f"column {column.name!r} expects {want} ({field.dtype}), got {have} ({column.dtype})"
        )
    return column.values.astype(np.float64, copy=False)


def _number(level: Any) -> bool:
    """Whether a text is written as a number, with a decimal comma too."""
    try:
        float(str(level).replace(",", "."))
    except ValueError:
        return False
    return True


def build_column(field: Field, values: np.ndarray, observed: np.ndarray | None = None) -> Any:
    """Make a pandas array in the field's dtype.

    `values` (n,) are codes (coded kinds), ticks (dates, durations) or data values; `observed` (n,) marks
    which are there, None means all. A dtype that cannot hold a missing value becomes float64 or object.
    """
    missing = np.zeros(len(values), bool) if observed is None else ~observed
    label = field.dtype
    if field.categories is not None:
        return _build_coded(field.categories, label, values, missing)
    if label.startswith("category["):
        return pd.Categorical.from_codes(np.full(len(values), -1), dtype=_category_dtype(label, ()))
    if field.temporal:
        return _build_time(label, values, missing)
    if label.startswith("object["):
        out = np.empty(len(values), object)
        out[:] = values.astype(np.int64 if label == "object[int]" else np.float64).tolist()
        out[missing] = None
        return out
    return _masked(values, label, missing)


def _masked(values: np.ndarray, label: str, missing: np.ndarray) -> Any:
    dtype: Any = object if label == "object" else pandas_dtype(label)
    if not missing.any():
        return values.astype(dtype) if isinstance(dtype, np.dtype) else pd.array(values, dtype=dtype)
    if isinstance(dtype, np.dtype) and dtype.kind in "iu":
        dtype = np.dtype(np.float64)
    if isinstance(dtype, np.dtype) and dtype.kind == "f":
        return np.where(missing, np.nan, values).astype(dtype)
    out = values.astype(object)
    out[missing] = None
    return out if dtype is object or isinstance(dtype, np.dtype) else pd.array(out, dtype=dtype)


def _build_coded(categories: tuple, label: str, codes: np.ndarray, missing: np.ndarray) -> Any:
    codes = np.asarray(codes, np.int64)
    if label.startswith("category["):
        codes = np.where(missing, -1, codes)
        return pd.Categorical.from_codes(codes, dtype=_category_dtype(label, categories))
    table = np.empty(len(categories), object)
    table[:] = categories
    if label.startswith("object"):
        out = table[codes]
        out[missing] = None
        return out
    taken = table[codes] if isinstance(categories[0], str) else np.array(categories)[codes]
    return _masked(taken, label, missing)


def _build_time(label: str, ticks: np.ndarray, missing: np.ndarray) -> Any:
    unit = label.split("[")[1].rstrip("]").split(",")[0]
    kind = "M8" if label.startswith("datetime64") else "m8"
    stamps = np.asarray(ticks, np.int64).view(f"{kind}[{unit}]").copy()
    stamps[missing] = "NaT"
    if "," not in label:
        return pd.array(stamps, dtype=f"{label}")
    zone = label.split(",")[1].strip(" ]")
    return pd.DatetimeIndex(stamps).tz_localize("UTC").tz_convert(zone).array


def _category_dtype(label: str, categories: tuple) -> pd.CategoricalDtype:
    inner = label[len("category[") : -1]
    ordered = inner.startswith("ordered,")
    inner = inner.removeprefix("ordered,")
    return pd.CategoricalDtype(pd.Index(list(categories), dtype=pandas_dtype(inner)), ordered=ordered)


def pandas_dtype(label: str) -> Any:
    """Turn a field's dtype label into a dtype."""
    if label.startswith("arrow:"):
        import pyarrow as pa

        return pd.ArrowDtype(pa.type_for_alias(label.removeprefix("arrow:")))
    return pd.api.types.pandas_dtype("object" if label.startswith("object") else label)


def ticks_per_day(label: str) -> int:
    """Count the stored ticks in a day for a date or duration dtype such as `datetime64[us]`."""
    return _TICKS[label.split("[")[1].rstrip("]").split(",")[0]]


def as_series(array: Any, index: pd.Index) -> pd.Series:
    """An array as a column of its own dtype: pandas would make text of objects."""
    return pd.Series(array, index=index, dtype=array.dtype)


def put(series: pd.Series, rows: np.ndarray, new: Any) -> Any:
    """Copy a column's array, `new` (m,) put into the marked `rows` (n,); widens the dtype where it must."""
    array: Any = series.array.copy()
    if isinstance(array, pd.Categorical):
        fresh = [v for v in pd.unique(pd.Series(new)) if v not in array.categories]
        array = array.add_categories(fresh) if fresh else array
        new = list(new)
    try:
        array[rows] = new
        return array
    except (TypeError, ValueError):
        both = all(pd.api.types.is_numeric_dtype(a.dtype) for a in (series, pd.Series(new)))
        wide: Any = series.astype("float64" if both else object).array.copy()
        wide[rows] = new
        return wide
