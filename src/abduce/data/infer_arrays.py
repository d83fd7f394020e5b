"""Guess what the columns of a plain array, or the pixels of images, hold: all columns at once.

Arrays carry no names, so rules are few: columns of 0 and 1 are binary, bytes are pixels, all else is real.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from abduce.data.fields import CODED, Field, listing
from abduce.data.infer import check_counts, location_scale, number_categories, number_field, pixel_range
from abduce.data.lattice import denominators

_RARE = 0.01


def array_fields(
    values: np.ndarray, observed: np.ndarray | None, dtype: np.dtype, kinds: list[str | None]
) -> tuple[Field, ...]:
    """Describe the columns of an array (n, D); unobserved `values` are 0, `observed` None means all.

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
        if (guess == "binary").any() and _all_zero_one(values):
            guess[:] = "binary"  # a table of bits: the columns where one of the two never came are bits too
    guess = np.array([asked or found for asked, found in zip(kinds, guess, strict=True)], dtype=object)
    if (guess == "identifier").any():
        column = int(np.argmax(guess == "identifier"))
        raise ValueError(
            f"kinds: column {column} of an array cannot be left out as identifier; drop it or use a DataFrame"
        )
    real, positive, pixel = guess == "real", guess == "positive", guess == "pixel"
    loc, scale = np.zeros(d), np.ones(d)
    if real.any():
        some = slice(None) if real.all() else np.flatnonzero(real)
        seen = None if observed is None else observed[:, some]
        loc[some], scale[some] = location_scale(values[:, some], seen)
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
        check_counts(seen, int(step[j]) or None, f"x{j}")
    out = []
    for j, kind in enumerate(guess.tolist()):
        known = count[j] or kind == "pixel"
        q = 1 if kind in CODED else int(step[j]) or None if known else None
        ends = (float(low[j]), float(high[j])) if known else (math.nan, math.nan)
        line = float(loc[j]), float(scale[j])
        missing = 1.0 - float(count[j]) / n
        out.append(
            Field(f"x{j}", kind, str(dtype), categories.get(j), *line, q, *ends, missing, int(count[j]))
        )
    return tuple(out)


def _ranges(values: np.ndarray, observed: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    if observed is None:
        return values.min(axis=0).astype(np.float64), values.max(axis=0).astype(np.float64)
    low = np.min(values, axis=0, where=observed, initial=np.inf).astype(np.float64)
    high = np.max(values, axis=0, where=observed, initial=-np.inf).astype(np.float64)
    return low, high


def _zero_one(values: np.ndarray, low: np.ndarray, high: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Mark columns of 0 and 1, the rarer at least 1 % (a rarer 1 is likelier the tail of something else)."""
    out = (low == 0) & (high == 1)
    some = np.flatnonzero(out)
    if some.size:
        block = values[:, some]
        ones = (block == 1).sum(axis=0)
        pure = ((block == 0) | (block == 1)).all(axis=0)
        rare = np.minimum(ones, count[some] - ones) < _RARE * count[some]
        out[some[~pure | rare]] = False
    return out


def _all_zero_one(values: np.ndarray) -> bool:
    """Whether every cell is 0 or 1; unobserved ones are 0."""
    head = values[:100]
    return bool(((head == 0) | (head == 1)).all() and ((values == 0) | (values == 1)).all())


def _share_pixel_range(some: np.ndarray, low: Any, high: Any, step: Any, loc: Any, scale: Any) -> None:
    if (step[some] == 0).any():
        raise ValueError("kinds: pixel columns must have values k/q for whole k, such as 0..255 or k/255")
    q = int(np.lcm.reduce(step[some]))
    a, b = pixel_range(float(np.min(low[some])), float(np.max(high[some])), q)
    if (b - a) * q > 255:
        raise ValueError(f"kinds: pixel columns must have at most 256 levels, got {(b - a) * q + 1:.0f}")
    low[some], high[some], step[some] = a, b, q
    loc[some], scale[some] = (a + b) / 2, max(b - a, 1.0 / q) / 2


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
        found = number_categories(values[:, j], seen)
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
    base: dict[str, Any] = {"name": "pixel", "dtype": str(dtype), "missing": share, "seen": seen.size}
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
        found = (low, high) if two and low < high else number_categories(seen, np.ones(seen.shape, bool))
        if kind == "binary" and set(found) <= {0.0, 1.0}:
            found = (0.0, 1.0)
        if kind == "binary" and len(found) != 2:
            raise ValueError(
                f"X has {len(found)} distinct pixel values ({listing(found)}); it cannot be binary"
            )
        cast = bool if dtype == np.bool_ else int if dtype.kind in "iu" else float
        found = tuple(cast(v) for v in found)
        return Field(kind=kind, categories=found, denominator=1, low=low, high=high, **base)
    if kind == "identifier" or (kind == "positive" and low <= 0):
        raise ValueError(f"kinds: pixels between {low:g} and {high:g} cannot be {kind}")
    return number_field(base | {"low": low, "high": high}, kind, seen.reshape(-1), step)
