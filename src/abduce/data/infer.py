"""Guess what each column, or the pixels of images, hold.

`frame_field` looks at one column of a data frame, where names and dtypes carry meaning; plain arrays and
images, where they do not, are in `infer_arrays`. A guess can always be overridden by the caller's `kinds`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from abduce.data.columns import Column
from abduce.data.fields import CODED, KINDS, Field, listing
from abduce.data.lattice import column_denominator
from abduce.data.spelled import slips, spelled_numbers

LEVELS = 1000  # texts beyond which a column names rows, or is a number in disguise
_EXACT = 2.0**53
_ID_NAMES = ("id", "index", "row", "rowid", "row_id", "rownames")


def resolve_kinds(kinds: Mapping[Any, str] | str | None, names: list) -> list[str | None]:
    """Give the kind asked for each column, None where it is to be inferred.

    ValueError for an unknown kind or a column that is not there, TypeError for a wrong container.
    """
    allowed = (*KINDS, "identifier")
    if kinds is None:
        return [None] * len(names)
    if isinstance(kinds, str):
        _check_kind(kinds, allowed)
        return [kinds] * len(names)
    if not isinstance(kinds, Mapping):
        raise TypeError(f"kinds must be a kind or a mapping of column to kind, got {type(kinds).__name__}")
    out: list[str | None] = [None] * len(names)
    for key, kind in kinds.items():
        _check_kind(kind, allowed, key)
        out[_place("kinds", key, names)] = kind
    return out


def _place(argument: str, key: Any, names: list) -> int:
    """Position of a column given by name, or by position; ValueError if it is not there."""
    if key in names:
        return names.index(key)
    if str(key) in (words := [str(name) for name in names]):  # 2019 for '2019'
        return words.index(str(key))
    if isinstance(key, int | np.integer) and 0 <= key < len(names):
        return int(key)
    raise ValueError(
        f"{argument} names the column {key!r}, which is not there; columns are {listing(names, 10)}"
    )


def within(fields: Sequence[Field], bounds: Any, names: list) -> tuple[Field, ...]:
    """Give the fields of columns ``names`` the bounds asked for: one pair ``(low, high)`` for all numbers, or a mapping of
    column to pair; None stands for no end.

    ValueError for a column that is not there or holds classes, and for ends that are not in order; TypeError for no pair.
    """
    if bounds is None:
        return tuple(fields)
    pairs: dict[int, tuple[float, float]]
    if isinstance(bounds, Mapping):
        pairs = {_place("bounds", key, names): _pair(pair, key) for key, pair in bounds.items()}
        if odd := [fields[j].name for j in pairs if fields[j].coded or fields[j].kind not in KINDS]:
            raise ValueError(
                f"bounds are for columns of numbers; {listing(odd)} holds classes or is left out"
            )
    else:
        pair = _pair(bounds, None)
        pairs = {j: pair for j, f in enumerate(fields) if f.kind in KINDS and not f.coded}
    return tuple(replace(f, bounds=pairs[j]) if j in pairs else f for j, f in enumerate(fields))


def _pair(pair: Any, key: Any) -> tuple[float, float]:
    where = "" if key is None else f" of column {key!r}"
    try:
        low, high = (None if v is None else float(v) for v in pair)
    except (TypeError, ValueError):
        raise TypeError(
            f"bounds{where} must be a pair (low, high) of numbers or None, got {pair!r}"
        ) from None
    low, high = -math.inf if low is None else low, math.inf if high is None else high
    if not low < high:
        raise ValueError(f"bounds{where} must be in order, low below high, got {pair!r}")
    return low, high


def _check_kind(kind: Any, allowed: tuple, key: Any = None) -> None:
    if kind not in allowed:
        where = "" if key is None else f" for column {key!r}"
        raise ValueError(f"kinds: unknown kind {kind!r}{where}; expected one of {', '.join(allowed)}")


# ---------------------------------------------------------------- data frames


def frame_field(column: Column, kind: str | None) -> Field:
    """Describe one column of a frame; `kind` overrides the guess, ValueError if it cannot hold the data."""
    if (kind is None or kind not in (*CODED, "identifier")) and (found := spelled_numbers(column)):
        if told := slips(column):
            warnings.warn(
                f"column {column.name!r} is read as numbers, and {told}: such cells stay as they are and tell the model "
                "nothing",
                UserWarning,
                stacklevel=6,
            )
        column = found
    n = max(len(column.values), 1)
    share = 1.0 - float(column.observed.sum()) / n
    values = column.values[column.observed]
    base: dict[str, Any] = {"name": column.name, "dtype": column.dtype, "missing": share, "seen": values.size}
    if column.form in ("number", "time") and values.size:
        base |= {"low": float(values.min()), "high": float(values.max())}
    asked = kind
    if column.form == "objects":
        _leave_out(column, kind)
        return Field(kind="objects", **base)
    if kind is None:
        kind = _text_kind(column) if column.form in ("text", "bool") else _number_kind(column, values)
    declared = column.levels if column.dtype.startswith("category[") else None
    if kind in ("identifier", "constant", "empty"):
        only = (column.first(),) if kind == "constant" else None
        return Field(kind=kind, categories=declared or only, **base)
    if kind in CODED:
        return Field(kind=kind, categories=_categories(column, kind), denominator=1, **base)
    if column.form == "text" and values.size:
        raise ValueError(f"column {column.name!r} holds text such as {column.first()!r}; it cannot be {kind}")
    if kind == "positive" and asked and values.size and values.min() <= 0:
        raise ValueError(
            f"column {column.name!r} has the value {values.min():g}; kind positive needs values above 0"
        )
    return number_field(base, kind, values, column_denominator(column))


def _leave_out(column: Column, kind: str | None) -> None:
    """Say that a column is left out for what it holds; ValueError if a kind was asked for."""
    what = f"column {column.name!r} holds {column.levels[0]}; expected numbers, bool, text, category or dates"
    if kind not in (None, "identifier"):
        raise ValueError(f"{what}; it cannot be {kind}")
    warnings.warn(f"{what}: it is left out of the model", UserWarning, stacklevel=6)


def number_field(base: dict[str, Any], kind: str, values: np.ndarray, step: int | None) -> Field:
    """Describe numbers of a kind, from the observed ones (n,) and their denominator; ``base`` are the other arguments."""
    if kind == "count":
        check_counts(values, step, base["name"])
        return Field(kind=kind, denominator=1, **base)
    if kind == "pixel":
        return pixel_field(base, values, step)
    loc, scale = location_scale((np.log(values) if kind == "positive" else values)[:, None], None)
    return Field(kind=kind, loc=float(loc[0]), scale=float(scale[0]), denominator=step, **base)


def check_counts(values: np.ndarray, step: int | None, name: str) -> None:
    """Refuse values that are not 0, 1, 2, ...; `step` is their denominator."""
    if values.size and (step != 1 or values.min() < 0):
        wrong = values[(values < 0) | (values != np.rint(values))]
        raise ValueError(
            f"column {name!r} has values such as {listing(wrong[:1].tolist())}; kind count needs 0, 1, 2, ..."
        )


def _text_kind(column: Column) -> str:
    used = np.bincount(column.values[column.observed].astype(np.int64), minlength=1)
    n, distinct = int(used.sum()), int((used > 0).sum())
    declared = len(column.levels) if column.dtype.startswith("category[") else distinct
    if column.form == "bool" or declared == 2:
        return "binary"
    if column.dtype.startswith("category[") and declared > 2:
        if column.dtype.startswith("category[ordered"):
            return "ordinal"
        return "identifier" if declared > min(max(50, n / 2), LEVELS) else "categorical"
    if distinct < 2:
        return ("empty", "constant")[distinct]
    return "identifier" if distinct == n or distinct > min(max(50, n / 2), LEVELS) else "categorical"


def _number_kind(column: Column, values: np.ndarray) -> str:
    n = values.size
    if n == 0 or column.form == "time":
        return "identifier" if n > 2 and _id_name(column.name) and np.unique(values).size == n else "real"
    low, high = values.min(), values.max()
    if low == high:
        return "real"
    if (values == np.rint(values)).all() and max(-low, high) < _EXACT:
        return _integer_kind(column, values)
    return "positive" if _heavy_tailed(values) else "real"


def _integer_kind(column: Column, values: np.ndarray) -> str:
    exact = values if column.integers is None else column.integers[column.observed]
    distinct = np.unique(exact)
    n, k = exact.size, distinct.size
    low, high = float(values.min()), float(values.max())
    if k == 2:
        return "binary"
    if k == n and n > 2 and _id_name(column.name):
        return "identifier"
    if k == n and n > 10:
        steps = np.diff(exact)
        if (steps == steps[0]).all():  # row numbers
            return "identifier"
    if k <= 12 and high - low + 1 == k and not (low == 0 and k > 4 and np.mean(exact == distinct[-1]) < 0.02):
        return "ordinal"  # (a thin tail upward from 0 is a count, whose next value has merely not come yet)
    mean = float(values.mean())
    # A negative binomial cannot be narrower than a Poisson: counts much narrower are better off as reals.
    if low >= 0 and mean < 100 and float(values.var()) >= 0.5 * mean:
        return "count"
    return "positive" if _heavy_tailed(values) else "real"


def _id_name(name: str) -> bool:
    lower = name.lower().strip()
    return lower in _ID_NAMES or lower.endswith(("_id", " id")) or lower.startswith("unnamed:")


def _heavy_tailed(values: np.ndarray) -> bool:
    low, high = float(values.min()), float(values.max())
    if low <= 0:
        return False
    skew = _skewness(values)
    # a logarithm of what is more skewed would only move the tail to the other side
    return (skew > 2 or high / low > 1000) and abs(_skewness(np.log(values))) < skew


def _skewness(values: np.ndarray) -> float:
    centred = values / np.abs(values).max()
    centred = centred - centred.mean()
    spread = float(np.mean(centred**2))
    return float(np.mean(centred**3)) / spread**1.5 if spread > 1e-30 else 0.0


def _categories(column: Column, kind: str) -> tuple:
    if column.form == "time":
        raise ValueError(f"column {column.name!r} holds dates; it cannot be {kind}")
    if column.form == "bool":
        return (False, True)
    if column.dtype.startswith("category["):
        found = column.levels
    elif column.form == "text":
        used = np.unique(column.values[column.observed])
        found = tuple(sorted(column.levels[int(c)] for c in used))
    else:
        numbers = column.values if column.integers is None else column.integers
        found = number_categories(numbers, column.observed)
    if kind == "binary" and set(found) < {0, 1}:
        found = (0.0, 1.0) if column.integers is None else (0, 1)
    if (kind == "binary" and len(found) != 2) or not found:
        raise ValueError(
            f"column {column.name!r} has {len(found)} distinct values ({listing(found)}); it cannot be {kind}"
        )
    return found


def number_categories(values: np.ndarray, observed: np.ndarray) -> tuple:
    """List the distinct observed numbers in order."""
    return tuple((np.unique(values[observed]) + 0).tolist())  # + 0 turns -0.0 into 0.0


# ---------------------------------------------------------------- shared with arrays


def location_scale(values: np.ndarray, observed: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Compute mean and standard deviation of each column of (n, D) over observed cells.

    Scale is 1 where a column is constant. Unobserved cells must be given as 0. Extreme magnitudes are divided
    out first, so that 1e300 does not overflow.
    """
    n = np.full(values.shape[1], values.shape[0]) if observed is None else observed.sum(axis=0)
    n = np.maximum(n, 1)
    largest = np.maximum(values.max(axis=0, initial=0.0), -values.min(axis=0, initial=0.0))
    unit = np.where((largest > 1e100) | ((largest < 1e-100) & (largest > 0)), largest, 1.0)
    if (unit != 1.0).any():
        values = values / unit
    loc = values.sum(axis=0) / n
    centred = values - loc
    if observed is not None:
        centred[~observed] = 0.0
    scale = np.sqrt(np.einsum("ij,ij->j", centred, centred) / n)
    flat = scale <= 1e-12 * np.maximum(np.abs(loc), largest / unit)
    scale = np.where(flat, 1.0, scale * unit)
    return loc * unit, scale


def pixel_range(low: float, high: float, q: int) -> tuple[float, float]:
    """Give the range of levels behind observed pixels: 0..255 where they look like bytes, else as observed.

    >>> pixel_range(3.0, 250.0, 1), pixel_range(0.0, 16.0, 1)
    ((0.0, 255.0), (0.0, 16.0))
    """
    if not (math.isfinite(low) and math.isfinite(high)):
        return 0.0, 255.0 / q
    if low >= 0 and q in (1, 255) and 127 < high * q <= 255:
        return 0.0, 255.0 / q
    return (0.0, 255.0 / q) if low == high and q == 1 and low >= 0 else (low, high)


def pixel_field(base: dict[str, Any], values: np.ndarray, step: int | None) -> Field:
    """Describe pixels; `base` has name, low and high, `step` is the denominator of `values`."""
    if not values.size or step is None:
        raise ValueError(f"{base['name']}: kind pixel needs values k/q for whole k, such as 0..255 or k/255")
    low, high = pixel_range(base["low"], base["high"], step)
    if (high - low) * step > 255:
        raise ValueError(
            f"{base['name']}: kind pixel needs at most 256 levels, got {(high - low) * step + 1:.0f}"
        )
    centre, half = (low + high) / 2, max(high - low, 1.0 / step) / 2
    out: dict[str, Any] = base | {"low": low, "high": high, "loc": centre, "scale": half}
    return Field(kind="pixel", denominator=step, **out)
