"""Guess what each column, or the pixels of images, hold.

Two ways in: `frame_field` looks at one column of a data frame, where names and dtypes carry meaning; `array_fields` and
`image_field` look at plain numbers, all columns at once. A guess can always be overridden by the caller's `kinds`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from abduce.data.columns import Column
from abduce.data.fields import CODED, KINDS, Field, listing

# Finest lattices first tried coarse: tenths before hundredths; 255 and 65535 for images scaled to [0, 1].
_DENOMINATORS = (1, 2, 4, 8, 10, 16, 32, 64, 100, 128, 255, 256, 1000, 10**4, 65535, 10**5, 10**6)
_DAY_PARTS = (1, 24, 1440, 86400, 86400 * 10**3, 86400 * 10**6, 86400 * 10**9)
_EXACT = 2.0**53
_ID_NAMES = ("id", "index", "row", "rowid", "row_id", "rownames")
_RARE = 0.01


def resolve_kinds(kinds: Mapping[Any, str] | str | None, names: list) -> list[str | None]:
    """Give the kind asked for each column, None where it is to be inferred.

    ValueError for an unknown kind, TypeError for a wrong container, ValueError for a column that is not there.
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
        if key in names:
            out[names.index(key)] = kind
        elif isinstance(key, int | np.integer) and 0 <= key < len(names):
            out[int(key)] = kind
        else:
            raise ValueError(
                f"kinds names the column {key!r}, which is not there; columns are {listing(names, 10)}"
            )
    return out


def _check_kind(kind: Any, allowed: tuple, key: Any = None) -> None:
    if kind not in allowed:
        where = "" if key is None else f" for column {key!r}"
        raise ValueError(f"kinds: unknown kind {kind!r}{where}; expected one of {', '.join(allowed)}")


# ---------------------------------------------------------------- lattices


def denominators(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Find for each column of `values` (n, D) the smallest q with all values k/q, 0 where there is none.

    Missing values are to be given as 0. `dtype` is the float type the values came in: k/q must round to them in it.
    """
    found = np.zeros(values.shape[1], np.int64)
    head = values[:200]
    alive = ~(np.signbit(values) & (values == 0)).any(axis=0)  # -0.0 would not come back with its sign
    for q in _DENOMINATORS:
        left = np.flatnonzero(alive & (found == 0))
        if not left.size:
            break
        left = left[_on_lattice(head[:, left], q, dtype)]
        if left.size:
            block = values if left.size == values.shape[1] else values[:, left]
            found[left[_on_lattice(block, q, dtype)]] = q
    return found


def _on_lattice(values: np.ndarray, q: int, dtype: np.dtype) -> np.ndarray:
    k = np.rint(values * q)
    same = (k / q).astype(dtype).astype(np.float64) == values
    same &= np.abs(k) < _EXACT
    return same.all(axis=0)


def _denominator(column: Column) -> int | None:
    if not column.observed.any():
        return None
    if column.form == "time":
        ticks = column.integers
        for parts in _DAY_PARTS:
            if (
                ticks is not None
                and column.per_day % parts == 0
                and not (ticks % (column.per_day // parts)).any()
            ):
                return parts
        return None
    if column.integers is not None:
        return 1
    single = "float32" in column.dtype.lower() or column.dtype.startswith("float[")
    half = "float16" in column.dtype.lower()
    dtype = np.dtype(np.float32 if single else np.float16 if half else np.float64)
    return int(denominators(column.values[:, None], dtype)[0]) or None


# ---------------------------------------------------------------- data frames


def frame_field(column: Column, kind: str | None) -> Field:
    """Describe one column of a data frame; `kind` overrides the guess. ValueError where the kind cannot hold the data."""
    n = max(len(column.values), 1)
    share = 1.0 - float(column.observed.sum()) / n
    values = column.values[column.observed]
    base: dict[str, Any] = {"name": column.name, "dtype": column.dtype, "missing": share}
    if column.form in ("number", "time") and values.size:
        base |= {"low": float(values.min()), "high": float(values.max())}
    asked = kind
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
    step = _denominator(column)
    if kind == "count":
        _check_counts(values, step, column.name)
        return Field(kind=kind, denominator=1, **base)
    if kind == "pixel":
        return _pixel_field(base, values, step)
    logs = values
    if kind == "positive":
        if asked and values.size and values.min() <= 0:
            raise ValueError(
                f"column {column.name!r} has the value {values.min():g}; kind positive needs values above 0"
            )
        logs = np.log(values)
    loc, scale = location_scale(logs[:, None], None)
    return Field(kind=kind, loc=float(loc[0]), scale=float(scale[0]), denominator=step, **base)


def _check_counts(values: np.ndarray, step: int | None, name: str) -> None:
    if values.size and (step != 1 or values.min() < 0):
        wrong = values[(values < 0) | (values != np.rint(values))]
        raise ValueError(
            f"column {name!r} has values such as {listing(wrong[:1].tolist())}; kind count needs 0, 1, 2, ..."
        )


def _text_kind(column: Column) -> str:
    used = np.bincount(column.values[column.observed].astype(np.int64), minlength=1)
    n, distinct = int(used.sum()), int((used > 0).sum())
    declared = len(column.levels) if column.dtype.startswith("category[") else distinct
    if column.form == "bool":
        return "binary"
    if declared == 2:
        return "binary"
    if column.dtype.startswith("category[") and declared > 2:
        if column.dtype.startswith("category[ordered"):
            return "ordinal"
        return "identifier" if declared > max(50, n / 2) else "categorical"
    if distinct == 0:
        return "empty"
    if distinct == 1:
        return "constant"
    return "identifier" if distinct == n or distinct > max(50, n / 2) else "categorical"


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
    if k <= 12 and high - low + 1 == k:
        return "ordinal"
    mean = float(values.mean())
    # A negative binomial cannot be narrower than a Poisson: counts well below that spread are better off as reals.
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
    if skew <= 2 and high / low <= 1000:
        return False
    return (
        abs(_skewness(np.log(values))) < skew
    )  # else the logarithm would only move the tail to the other side


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
        found = _number_categories(
            column.values if column.integers is None else column.integers, column.observed
        )
    if kind == "binary" and set(found) < {0, 1}:
        whole = column.integers is not None
        found = (0, 1) if whole else (0.0, 1.0)
    if (kind == "binary" and len(found) != 2) or not found:
        raise ValueError(
            f"column {column.name!r} has {len(found)} distinct values ({listing(found)}); it cannot be {kind}"
        )
    return found


def _number_categories(values: np.ndarray, observed: np.ndarray) -> tuple:
    return tuple((np.unique(values[observed]) + 0).tolist())  # + 0 turns -0.0 into 0.0


# ---------------------------------------------------------------- arrays


def location_scale(values: np.ndarray, observed: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Compute mean and standard deviation of each column of (n, D) over observed cells; scale 1 where it is constant.

    Unobserved cells must be given as 0. Divides by the largest magnitude first, so that 1e300 does not overflow.
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


def array_fields(
    values: np.ndarray, observed: np.ndarray | None, dtype: np.dtype, kinds: list[str | None]
) -> tuple[Field, ...]:
    """Describe the columns of a numeric array (n, D); unobserved cells of `values` are 0, `observed` None means all.

    `dtype` is the array's own. Columns of 0 and 1 are binary, uint8 arrays hold pixels, all else is real.
    """
    n, d = values.shape
    low, high = _ranges(values, observed)
    count = np.full(d, n) if observed is None else observed.sum(axis=0)
    whole = dtype.kind in "iub"
    step = np.ones(d, np.int64) if whole else denominators(values, dtype)
    guess = np.full(d, "real", dtype=object)
    if dtype == np.bool_:
        guess[:] = "binary"
    elif dtype == np.uint8 and (high > 1).any():
        guess[:] = "pixel"  # never binary: a pixel that is dark in training may light up later
    else:
        guess[_zero_one(values, low, high, count)] = "binary"
    guess = np.array([asked or found for asked, found in zip(kinds, guess, strict=True)], dtype=object)
    if (guess == "identifier").any():
        column = int(np.argmax(guess == "identifier"))
        raise ValueError(
            f"kinds: column {column} of an array cannot be left out as identifier; drop it, or use a DataFrame"
        )
    real, positive, pixel = guess == "real", guess == "positive", guess == "pixel"
    loc, scale = np.zeros(d), np.ones(d)
    if real.any():
        some = slice(None) if real.all() else np.flatnonzero(real)
        loc[some], scale[some] = location_scale(
            values[:, some], None if observed is None else observed[:, some]
        )
    if positive.any():
        some = np.flatnonzero(positive)
        seen = np.ones((n, some.size), bool) if observed is None else observed[:, some]
        if (values[:, some][seen] <= 0).any():
            bad = int(some[np.argmax(((values[:, some] <= 0) & seen).any(axis=0))])
            raise ValueError(f"column {bad} has values at or below 0; kind positive needs values above 0")
        logs = np.log(np.where(seen, values[:, some], 1.0))
        loc[some], scale[some] = location_scale(logs, seen)
    if pixel.any():
        _share_pixel_range(np.flatnonzero(pixel), low, high, step, loc, scale)
    categories = _array_categories(values, observed, dtype, guess)
    for j in np.flatnonzero(guess == "count"):
        seen = values[:, j] if observed is None else values[observed[:, j], j]
        _check_counts(seen, int(step[j]) or None, f"x{j}")
    return tuple(
        Field(
            name=f"x{j}",
            kind=str(guess[j]),
            dtype=str(dtype),
            categories=categories.get(j),
            loc=float(loc[j]),
            scale=float(scale[j]),
            denominator=1
            if guess[j] in CODED
            else int(step[j]) or None
            if count[j] or guess[j] == "pixel"
            else None,
            low=float(low[j]) if count[j] or guess[j] == "pixel" else math.nan,
            high=float(high[j]) if count[j] or guess[j] == "pixel" else math.nan,
            missing=1.0 - float(count[j]) / n,
        )
        for j in range(d)
    )


def _ranges(values: np.ndarray, observed: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    if observed is None:
        return values.min(axis=0).astype(np.float64), values.max(axis=0).astype(np.float64)
    low = np.min(values, axis=0, where=observed, initial=np.inf).astype(np.float64)
    high = np.max(values, axis=0, where=observed, initial=-np.inf).astype(np.float64)
    return low, high


def _zero_one(values: np.ndarray, low: np.ndarray, high: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Mark columns of 0s and 1s where the rarer is at least 1 % (a rarer 1 is likelier the tail of something else)."""
    out = (low == 0) & (high == 1)
    some = np.flatnonzero(out)
    if some.size:
        block = values[:, some]
        ones = (block == 1).sum(axis=0)
        pure = ((block == 0) | (block == 1)).all(axis=0)
        rare = np.minimum(ones, count[some] - ones) < _RARE * count[some]
        out[some[~pure | rare]] = False
    return out


def _share_pixel_range(some: np.ndarray, low: Any, high: Any, step: Any, loc: Any, scale: Any) -> None:
    if (step[some] == 0).any():
        raise ValueError("kinds: pixel columns must have values k/q for whole k, such as 0..255 or k/255")
    q = int(np.lcm.reduce(step[some]))
    a, b = pixel_range(float(np.min(low[some])), float(np.max(high[some])), q)
    if (b - a) * q > 255:
        raise ValueError(f"kinds: pixel columns must have at most 256 levels, got {(b - a) * q + 1:.0f}")
    low[some], high[some], step[some] = a, b, q
    loc[some], scale[some] = (a + b) / 2, max(b - a, 1.0 / q) / 2


def pixel_range(low: float, high: float, q: int) -> tuple[float, float]:
    """Give the range of levels behind observed pixels: the full 0..255 where they look like bytes, else as observed.

    >>> pixel_range(3.0, 250.0, 1), pixel_range(0.0, 16.0, 1)
    ((0.0, 255.0), (0.0, 16.0))
    """
    if not (math.isfinite(low) and math.isfinite(high)):
        return 0.0, 255.0 / q
    if low >= 0 and q in (1, 255) and 127 < high * q <= 255:
        return 0.0, 255.0 / q
    return (0.0, 255.0 / q) if low == high and q == 1 and low >= 0 else (low, high)


def _array_categories(
    values: np.ndarray, observed: np.ndarray | None, dtype: np.dtype, guess: np.ndarray
) -> dict:
    out: dict[int, tuple] = {}
    zero_one: tuple = {"b": (False, True), "f": (0.0, 1.0)}.get(dtype.kind, (0, 1))
    binary = np.flatnonzero(guess == "binary")
    if binary.size:
        block = values[:, binary]
        simple = ((block == 0) | (block == 1)).all(axis=0)
        out |= {int(j): zero_one for j in binary[simple]}
    for j in np.flatnonzero([kind in CODED for kind in guess]):
        if int(j) in out:
            continue
        seen = np.ones(len(values), bool) if observed is None else observed[:, j]
        found = _number_categories(values[:, j], seen)
        if not found or (guess[j] == "binary" and len(found) != 2):
            raise ValueError(
                f"column {j} has {len(found)} distinct values ({listing(found)}); it cannot be {guess[j]}"
            )
        out[int(j)] = tuple(int(v) for v in found) if dtype.kind in "iu" else found
    return out


# ---------------------------------------------------------------- images


def image_field(values: np.ndarray, observed: np.ndarray | None, dtype: np.dtype, kind: str | None) -> Field:
    """Describe the pixels of images given flat (n, D): two values are binary, few levels pixel, else real."""
    seen = values if observed is None else values[observed]
    share = 0.0 if observed is None else 1.0 - seen.size / values.size
    base: dict[str, Any] = {"name": "pixel", "dtype": str(dtype), "missing": share}
    if not seen.size:
        return Field(kind=kind or "real", **base)
    low, high = float(seen.min()), float(seen.max())
    head = seen.reshape(-1)[:100_000]
    two = bool(((head == low) | (head == high)).all() and ((seen == low) | (seen == high)).all())
    two = two and (low < high or kind == "binary")
    column = seen.reshape(-1, 1)
    step = 1 if dtype.kind in "iub" else int(denominators(column, dtype)[0]) or None
    levels = (high - low) * step + 1 if step else math.inf
    few = levels <= 256 and (low < high or dtype == np.uint8)
    kind = kind or ("binary" if two or dtype == np.bool_ else "pixel" if few else "real")
    if kind in CODED:
        found = (low, high) if two and low < high else _number_categories(seen, np.ones(seen.shape, bool))
        if kind == "binary" and set(found) <= {0.0, 1.0}:
            found = (0.0, 1.0)
        if kind == "binary" and len(found) != 2:
            raise ValueError(
                f"X has {len(found)} distinct pixel values ({listing(found)}); it cannot be binary"
            )
        cast = bool if dtype == np.bool_ else int if dtype.kind in "iu" else float
        found = tuple(cast(v) for v in found)
        return Field(kind=kind, categories=found, denominator=1, low=low, high=high, **base)
    if kind == "pixel":
        return _pixel_field(base | {"low": low, "high": high}, seen, step)
    if kind == "count":
        _check_counts(seen.reshape(-1), step, "pixel")
        return Field(kind=kind, denominator=1, low=low, high=high, **base)
    if kind == "identifier" or (kind == "positive" and low <= 0):
        raise ValueError(f"kinds: pixels between {low:g} and {high:g} cannot be {kind}")
    loc, scale = location_scale(np.log(column) if kind == "positive" else column, None)
    return Field(
        kind=kind, loc=float(loc[0]), scale=float(scale[0]), denominator=step, low=low, high=high, **base
    )


def _pixel_field(base: dict[str, Any], values: np.ndarray, step: int | None) -> Field:
    if not values.size or step is None:
        raise ValueError(f"{base['name']}: kind pixel needs values k/q for whole k, such as 0..255 or k/255")
    low, high = pixel_range(base["low"], base["high"], step)
    if (high - low) * step > 255:
        raise ValueError(
            f"{base['name']}: kind pixel needs at most 256 levels, got {(high - low) * step + 1:.0f}"
        )
    out = base | {"low": low, "high": high, "loc": (low + high) / 2, "scale": max(high - low, 1.0 / step) / 2}
    return Field(kind="pixel", denominator=step, **out)
