"""Transforms: how data values v of columns become model values m, and back.

    Affine          m = (v − loc) / scale                       real columns, pixels
    Log             m = (log v − loc) / scale                   positive columns
    Whole           m = v, whole numbers from 0 to `top`        counts, and the codes of classes
    NormalScores    m = Φ⁻¹(F(v)), F the distribution seen      features of any numbers
    Chained         from one transform's model values to another's
    Joined          columns of different transforms side by side

A transform maps many columns at once, one along the last axis: its parameters have shape (d,), or (1,) where all columns
share them.  A field has the transform of one column; `joined` puts those of many columns together, class by class.

Sources: van der Waerden 1952 (normal scores); Liu, Lafferty & Wasserman 2009 (the nonparanormal).
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from scipy.special import ndtr, ndtri

KNOTS = 8.0  # times the cube root of the number of values: knots of a column's distribution
ATOM = 0.01  # share of rows from which on a repeated value keeps its interval of scores

Pair = tuple[np.ndarray, np.ndarray]


class Transform(abc.ABC):
    """The map from data values v (..., d) to model values m (..., d); `to` and `back` return new arrays."""

    as_is: ClassVar[bool] = False  # whether model values are the data values themselves

    @property
    def line(self) -> Pair | None:
        """``(loc, scale)`` of the line v = loc + scale · m; None where the map is no line."""
        return None

    @property
    @abc.abstractmethod
    def edges(self) -> Pair:
        """Least and greatest data value, where values stop; infinite where they do not."""

    @abc.abstractmethod
    def to(self, v: np.ndarray, dtype: Any = np.float64) -> np.ndarray:
        """Model values of data values, as floats of type ``dtype``."""

    @abc.abstractmethod
    def back(self, m: np.ndarray) -> np.ndarray:
        """Data values of model values, float64, within the edges."""

    @abc.abstractmethod
    def log_slope(self, m: np.ndarray) -> np.ndarray:
        """log |dm/dv| at model values m: as m, or (d,) where it is the same everywhere; 0 for whole numbers."""


@dataclass(frozen=True, eq=False)
class Affine(Transform):
    """m = (v − loc) / scale, for v from ``low`` to ``high``.

    >>> pixels = Affine(np.array([127.5]), np.array([127.5]), np.array([0.0]), np.array([255.0]))
    >>> pixels.to(np.array([0, 255])), pixels.back(np.array([-1.0, 2.0]))
    (array([-1.,  1.]), array([  0., 255.]))
    """

    loc: np.ndarray
    scale: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def of(cls, loc: Any, scale: Any, low: float = -np.inf, high: float = np.inf) -> Affine:
        """From numbers or (d,) arrays; by default values never stop."""
        loc = np.array(loc, np.float64, ndmin=1)
        return cls(loc, *(np.full(loc.shape, p, np.float64) for p in (scale, low, high)))

    @property
    def line(self) -> Pair:
        return self.loc, self.scale

    @property
    def edges(self) -> Pair:
        return self.low, self.high

    @cached_property
    def stops(self) -> bool:
        """Whether any column has an edge."""
        return bool(np.isfinite(self.low).any() or np.isfinite(self.high).any())

    def to(self, v: np.ndarray, dtype: Any = np.float64) -> np.ndarray:
        loc = self.loc.astype(dtype)
        out = np.subtract(v, loc) if v.dtype == dtype else np.array(v, dtype)
        if v.dtype != dtype:
            out -= loc
        out /= self.scale.astype(dtype)
        return out

    def back(self, m: np.ndarray) -> np.ndarray:
        out = np.multiply(m, self.scale, dtype=np.float64)
        out += self.loc
        return np.clip(out, self.low, self.high, out=out) if self.stops else out

    def log_slope(self, m: np.ndarray) -> np.ndarray:
        return -np.log(self.scale)


@dataclass(frozen=True, eq=False)
class Log(Transform):
    """m = (log v − loc) / scale, for v above 0; of 0 it is −∞."""

    loc: np.ndarray
    scale: np.ndarray

    @property
    def edges(self) -> Pair:
        return np.zeros_like(self.loc), np.full_like(self.loc, np.inf)

    def to(self, v: np.ndarray, dtype: Any = np.float64) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            out = np.log(v, dtype=dtype)
        out -= self.loc.astype(dtype)
        out /= self.scale.astype(dtype)
        return out

    def back(self, m: np.ndarray) -> np.ndarray:
        out = np.multiply(m, self.scale, dtype=np.float64)
        out += self.loc
        return np.exp(np.clip(out, -690.0, 700.0, out=out), out=out)  # neither 0 nor infinite

    def log_slope(self, m: np.ndarray) -> np.ndarray:
        out = np.multiply(m, self.scale, dtype=np.float64)
        out += np.log(self.scale)
        out += self.loc
        return np.negative(out, out=out)


@dataclass(frozen=True, eq=False)
class Whole(Transform):
    """m = v, whole numbers from 0 to ``top``: counts (to infinity), and the codes of classes (to K − 1)."""

    as_is = True

    top: np.ndarray

    @property
    def edges(self) -> Pair:
        return np.zeros_like(self.top), self.top

    def to(self, v: np.ndarray, dtype: Any = np.float64) -> np.ndarray:
        return np.array(v, dtype)

    def back(self, m: np.ndarray) -> np.ndarray:
        out = np.rint(m, dtype=np.float64)
        return np.clip(out, 0, self.top, out=out)

    def log_slope(self, m: np.ndarray) -> np.ndarray:
        return np.zeros_like(self.top)


@dataclass(frozen=True, eq=False)
class NormalScores(Transform):
    """m = Φ⁻¹(F(v)), F a column's distribution, between knots; both rise from knot to knot.

    Any column becomes Gaussian on its own.  A value that repeats (a spike at 0, a rounding grid) owns the interval of scores
    between the ranks of its neighbours: `to` gives the mean of a normal variable there, and `back` leads from every score in
    the interval to it, so draws repeat it as often as the data do.

    Knots are as many as eight times the cube root of the number of values: of more the density is rough, of fewer fills are.
    Half of them lie at even ranks, half at even scores, which tails need.

    Those of all columns stand one after the other, ``knots`` (d,) of them a column: ``values`` and ``scores`` for the way in,
    ``back_scores`` and ``back_values``, two a knot, for the way back.
    """

    values: np.ndarray
    scores: np.ndarray
    back_scores: np.ndarray
    back_values: np.ndarray
    knots: np.ndarray

    @classmethod
    def of(cls, v: np.ndarray) -> NormalScores:
        """Of one column's observed values."""
        found, count = np.unique(v, return_counts=True)
        n = count.sum()
        top = np.cumsum(count) / n
        bottom = top - count / n
        centre = _centre(bottom, top)
        atom = (count >= max(2, ATOM * n)) if len(found) > 1 else np.ones(1, bool)
        floor, half = ndtri(0.5 / n), int(KNOTS / 2 * np.cbrt(n))
        if len(found) > 2 * half:  # the ends, and every atom between its neighbours, too
            ranks = np.concatenate([np.linspace(0, 1, half), ndtr(np.linspace(floor, -floor, half))])
            near = np.flatnonzero(atom)[:, None] + [-1, 0, 1]
            keep = np.concatenate([[0, len(found) - 1], np.searchsorted(top, ranks), near.ravel()])
            keep = np.unique(keep.clip(0, len(found) - 1))
        else:
            keep = np.arange(len(found))
        values, scores = found[keep], centre[keep]
        low, high = bottom[keep].clip(0.5 / n, 1), top[keep].clip(0, 1 - 0.5 / n)
        ends = np.stack([ndtri(low), ndtri(high)], 1).clip(floor, -floor)
        single = ~atom[keep]
        ends[single] = scores[single, None]
        # equal ranks may differ by a rounding error, and must not fall
        back_scores = np.maximum.accumulate(np.ravel(ends))
        return cls(values, scores, back_scores, np.repeat(values, 2), np.array([len(values)]))

    def column(self, j: int) -> NormalScores:
        """The scores of one column alone."""
        one = slice(self._first[j], self._last[j] + 1)
        two = slice(2 * one.start, 2 * one.stop)
        back = self.back_scores[two], self.back_values[two]
        return NormalScores(self.values[one], self.scores[one], *back, self.knots[[j]])

    @property
    def edges(self) -> Pair:
        return self.values[self._first], self.values[self._last]

    @cached_property
    def _last(self) -> np.ndarray:
        return np.cumsum(self.knots) - 1

    @property
    def _first(self) -> np.ndarray:
        return self._last + 1 - self.knots

    @cached_property
    def _slope(self) -> np.ndarray:
        """Slope of whole columns, (d,), 0 for a column of one value."""
        rise, run = (x[self._last] - x[self._first] for x in (self.scores, self.values))
        return np.divide(rise, run, out=np.zeros(len(rise)), where=run > 0)

    def to(self, v: np.ndarray, dtype: Any = np.float64) -> np.ndarray:
        """Scores of values; beyond the data's ends along the slope of the whole column."""
        out = np.empty(np.shape(v))
        for j, (a, b) in enumerate(zip(self._first, self._last + 1, strict=True)):
            out[..., j] = np.interp(v[..., j], self.values[a:b], self.scores[a:b])
        low, high = self.edges
        out += self._slope * (np.minimum(v - low, 0) + np.maximum(v - high, 0))
        return out.astype(dtype, copy=False)

    def back(self, m: np.ndarray) -> np.ndarray:
        out = np.empty(np.shape(m))
        for j, (a, b) in enumerate(zip(2 * self._first, 2 * (self._last + 1), strict=True)):
            out[..., j] = np.interp(m[..., j], self.back_scores[a:b], self.back_values[a:b])
        return out

    def log_slope(self, m: np.ndarray) -> np.ndarray:
        """Of the piece that ends at a score; 0 for a column of one value."""
        out = np.zeros(np.shape(m))
        for j, (a, b) in enumerate(zip(self._first, self._last + 1, strict=True)):
            if b - a > 1:
                pieces = np.diff(self.scores[a:b]) / np.diff(self.values[a:b])
                slopes = np.concatenate([self._slope[[j]], pieces, self._slope[[j]]])
                out[..., j] = np.log(slopes[np.searchsorted(self.scores[a:b], m[..., j], side="left")])
        return out


def _centre(bottom: np.ndarray, top: np.ndarray) -> np.ndarray:
    """Mean of a standard normal variable between two of its ranks: (φ(a) − φ(b)) / (top − bottom)."""
    a, b = ndtri(bottom.clip(1e-12, 1)), ndtri(top.clip(0, 1 - 1e-12))
    density = np.exp(-0.5 * np.square(np.stack([a, b]))) / np.sqrt(2 * np.pi)
    density[0][bottom <= 0] = 0.0
    density[1][top >= 1 - 1e-12] = 0.0
    return (density[0] - density[1]) / (top - bottom)


# ---------------------------------------------------------------- composition


@dataclass(frozen=True, eq=False)
class Chained(Transform):
    """From the model values of ``first`` to those of ``then``, both of the same data values."""

    first: Transform
    then: Transform

    @property
    def line(self) -> Pair | None:
        if self.first.line is None or self.then.line is None:
            return None
        (loc, scale), (loc_then, scale_then) = self.first.line, self.then.line
        return (loc_then - loc) / scale, scale_then / scale

    @property
    def edges(self) -> Pair:
        (low, high), (low_then, high_then) = self.first.edges, self.then.edges
        return self.first.to(np.maximum(low, low_then)), self.first.to(np.minimum(high, high_then))

    def to(self, v: np.ndarray, dtype: Any = np.float64) -> np.ndarray:
        return self.then.to(self.first.back(v), dtype)

    def back(self, m: np.ndarray) -> np.ndarray:
        return self.first.to(self.then.back(m))

    def log_slope(self, m: np.ndarray) -> np.ndarray:
        return self.then.log_slope(m) - self.first.log_slope(self.back(m))


@dataclass(frozen=True, eq=False)
class Joined(Transform):
    """Transforms side by side: ``parts`` are pairs of columns (a slice or indices) and their transform, ``d`` counts all."""

    parts: tuple[tuple[slice | np.ndarray, Transform], ...]
    d: int

    @property
    def line(self) -> Pair | None:
        lines = [t.line for _, t in self.parts if t.line is not None]
        return self._spread(lines) if len(lines) == len(self.parts) else None

    @property
    def edges(self) -> Pair:
        return self._spread([t.edges for _, t in self.parts])

    def _spread(self, pairs: Sequence[Pair]) -> Pair:
        out = np.empty((2, self.d))
        for (columns, _), pair in zip(self.parts, pairs, strict=True):
            out[:, columns] = pair
        return out[0], out[1]

    def to(self, v: np.ndarray, dtype: Any = np.float64) -> np.ndarray:
        out = np.array(v, dtype, order="C")
        for columns, t in self.parts:
            if not t.as_is:
                out[..., columns] = t.to(v[..., columns], dtype)
        return out

    def back(self, m: np.ndarray) -> np.ndarray:
        out = np.empty(np.shape(m))
        for columns, t in self.parts:
            out[..., columns] = t.back(m[..., columns])
        return out

    def log_slope(self, m: np.ndarray) -> np.ndarray:
        slopes = [t.log_slope(m[..., columns]) for columns, t in self.parts]
        out = np.empty((self.d,) if all(s.ndim == 1 for s in slopes) else np.shape(m))
        for (columns, _), slope in zip(self.parts, slopes, strict=True):
            out[..., columns] = slope
        return out


def joined(transforms: Sequence[Transform]) -> Transform:
    """One transform of d columns from d of one column each; the columns of a class are mapped together.

    >>> both = joined([Affine.of(1.0, 2.0), Log(np.zeros(1), np.ones(1))])
    >>> both.back(np.array([[3.0, 0.0]]))
    array([[7., 1.]])
    """
    parts = [(columns, stacked([transforms[j] for j in places])) for columns, places in _alike(transforms)]
    return parts[0][1] if len(parts) == 1 else Joined(tuple(parts), len(transforms))


def chained(firsts: Sequence[Transform], thens: Sequence[Transform]) -> Transform:
    """From the model values of one transform of each column to those of another; a line where two lines meet.

    >>> chained([Affine.of(1.0, 2.0)], [Affine.of(3.0, 4.0)]).line
    (array([1.]), array([2.]))
    """
    parts = []
    for columns, places in _alike(firsts, thens):
        pair = Chained(stacked([firsts[j] for j in places]), stacked([thens[j] for j in places]))
        endless = not any(np.isfinite(edge).any() for edge in pair.edges)
        parts.append((columns, Affine.of(*pair.line) if pair.line is not None and endless else pair))
    return parts[0][1] if len(parts) == 1 else Joined(tuple(parts), len(firsts))


def _alike(*transforms: Sequence[Transform]) -> list[tuple[slice | np.ndarray, list[int]]]:
    """Columns whose transforms are of the same classes, and stop or not: as an index, and one by one."""
    found: dict[tuple, list[int]] = {}
    for j, column in enumerate(zip(*transforms, strict=True)):
        key = tuple((type(t), t.edges[0][0] > -np.inf) for t in column)
        found.setdefault(key, []).append(j)
    return [(index_of(np.array(places, int)), places) for places in found.values()]


def index_of(cells: np.ndarray) -> slice | np.ndarray:
    """A slice of cells that follow each other, which makes no copy; else the cells themselves."""
    run = len(cells) and np.array_equal(cells, np.arange(cells[0], cells[0] + len(cells)))
    return slice(int(cells[0]), int(cells[0]) + len(cells)) if run else cells


def stacked(transforms: Sequence[Any]) -> Any:
    """One transform of the parameters of many of the same class."""
    first = transforms[0]
    return type(first)(*(np.concatenate([getattr(t, f.name) for t in transforms]) for f in fields(first)))


def over_observed(log_slope: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """Sum log slopes over the observed columns of rows, (n,), in one order however many rows there are."""
    return np.ascontiguousarray(np.where(observed, log_slope, 0.0)).sum(axis=1)
