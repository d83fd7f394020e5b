"""Rows of mixed kinds as real features, for models of Gaussians: numbers in their own units or as normal scores, classes as
indicators.

    number v      (v − mean) / standard deviation,  or its normal score  Φ⁻¹(F(v)),  F the distribution of observed values
    class c       one indicator a level, 1[c = l] − p_l, all divided by √Σ p_l (1 − p_l); a binary cell needs one only

Normal scores make any column Gaussian on its own.  A value that repeats (a spike at 0, a rounding grid) owns the interval of
scores between the ranks of its neighbours: it is coded by the mean of a normal variable there, and every score in the
interval is decoded to it, so draws repeat it as often as the data do.

Sources: van der Waerden 1952 (normal scores); Liu, Lafferty & Wasserman 2009 (the nonparanormal).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import ndtri
from torch import Tensor

from abduce.data import scaling
from abduce.data.schema import Schema

KNOTS = 100  # at most, of a column's distribution
ATOM = 0.01  # share of rows from which on a repeated value keeps its interval of scores
SPIKE = 0.05  # share of rows from which on a repeated value is no accident
SMALL = 1e-3


@dataclass(frozen=True)
class Scores:
    """A column's distribution: values and their scores for coding, and values of scores for decoding; both rising."""

    values: np.ndarray
    scores: np.ndarray
    back_scores: np.ndarray
    back_values: np.ndarray

    @classmethod
    def of(cls, v: np.ndarray) -> Scores:
        """Of the observed values of a column."""
        found, count = np.unique(v, return_counts=True)
        n = count.sum()
        top = np.cumsum(count) / n
        bottom = top - count / n
        centre = _centre(bottom, top, n)
        atom = (count >= max(2, ATOM * n)) if len(found) > 1 else np.ones(1, bool)
        if len(found) > KNOTS:  # knots at even ranks, the ends, and every atom between its neighbours
            keep = np.searchsorted(top, np.linspace(0, 1, KNOTS))
            near = np.flatnonzero(atom)[:, None] + [-1, 0, 1]
            keep = np.unique(np.append(keep, near).clip(0, len(found) - 1))
        else:
            keep = np.arange(len(found))
        values, scores = found[keep], centre[keep]
        floor = ndtri(0.5 / n)
        ends = np.stack(
            [ndtri(bottom[keep].clip(0.5 / n, 1)), ndtri(top[keep].clip(0, 1 - 0.5 / n))], 1
        ).clip(floor, -floor)
        single = ~atom[keep]
        ends[single] = scores[single, None]
        # equal ranks may differ by a rounding error, and must not fall
        return cls(values, scores, np.maximum.accumulate(np.ravel(ends)), np.repeat(values, 2))

    def code(self, v: np.ndarray) -> np.ndarray:
        """Scores of values; beyond the data's ends along the slope of the whole column."""
        z = np.interp(v, self.values, self.scores)
        if len(self.values) > 1:
            slope = self._slope
            z += slope * (np.minimum(v - self.values[0], 0) + np.maximum(v - self.values[-1], 0))
        return z

    def decode(self, z: np.ndarray) -> np.ndarray:
        """Values of scores, never beyond the data's ends."""
        return np.interp(z, self.back_scores, self.back_values)

    def log_slope(self, v: np.ndarray) -> np.ndarray:
        """log dz/dv, of the piece that ends at v; 0 for a column of one value."""
        if len(self.values) < 2:
            return np.zeros_like(v)
        slopes = np.concatenate([[self._slope], np.diff(self.scores) / np.diff(self.values), [self._slope]])
        return np.log(slopes[np.searchsorted(self.values, v, side="left")])

    @property
    def _slope(self) -> float:
        return float((self.scores[-1] - self.scores[0]) / (self.values[-1] - self.values[0]))


def _centre(bottom: np.ndarray, top: np.ndarray, n: int) -> np.ndarray:
    """Mean of a standard normal variable between two of its ranks: (φ(a) − φ(b)) / (top − bottom)."""
    a, b = ndtri(bottom.clip(1e-12, 1)), ndtri(top.clip(0, 1 - 1e-12))
    density = np.exp(-0.5 * np.square(np.stack([a, b]))) / np.sqrt(2 * np.pi)
    density[0][bottom <= 0] = 0.0
    density[1][top >= 1 - 1e-12] = 0.0
    return (density[0] - density[1]) / (top - bottom)


class Coding:
    """From a schema's model values (n, D) to features (n, F) and back, fitted to observed cells.

    ``scores`` codes numbers by normal scores.  ``cells`` (F,) says which cell a feature belongs to, ``numbers`` which cells
    are numbers, ``classes`` maps a class cell to its features and number of levels.
    """

    def __init__(self, schema: Schema, values: np.ndarray, observed: np.ndarray, scores: bool):
        self.schema, self.scores = schema, scores
        self._last: tuple[Tensor, Tensor, Tensor, Tensor] | None = None
        kinds = {int(c): f for group in schema.groups for c, f in zip(group.cells, _each(group), strict=True)}
        self.numbers = np.array(
            [j for j in range(schema.n_cells) if kinds[j].kind not in ("binary", "categorical")], int
        )
        data = scaling.to_data(schema, values)
        self.loc, self.scale = np.zeros(schema.n_cells), np.ones(schema.n_cells)
        self.rare = np.ones(schema.n_cells, bool)
        self.columns: dict[int, Scores] = {}
        for j in self.numbers:
            v = data[observed[:, j], j]
            if len(v):
                repeated = np.unique(v, return_counts=True)[1].max() / len(v)
                self.rare[j] = repeated < SPIKE or len(v) < 2 / SPIKE
                self.loc[j], self.scale[j] = v.mean(), max(v.std(), SMALL * max(abs(v.mean()), SMALL))
                if scores:
                    self.columns[int(j)] = Scores.of(v)
        self.classes: dict[int, tuple[slice, np.ndarray, float]] = {}
        cells: list[int] = list(self.numbers)
        for j in range(schema.n_cells):
            if kinds[j].kind not in ("binary", "categorical"):
                continue
            levels = len(kinds[j].categories or (0, 1))
            seen = values[observed[:, j], j].astype(int)
            share = (np.bincount(seen, minlength=levels) + 0.5) / (len(seen) + 0.5 * levels)
            start = len(cells)
            width = 1 if levels == 2 else levels
            block = slice(start, start + width)
            self.classes[j] = (
                block,
                share,
                float(np.sqrt((share * (1 - share)).sum() / (2 if levels == 2 else 1))),
            )
            cells += [j] * width
        self.cells = np.array(cells, int)

    @property
    def smooth(self) -> np.ndarray:
        """Which numbers seldom repeat a value, bool (D',)."""
        return self.rare[self.numbers]

    @property
    def n_features(self) -> int:
        """How many features F a row has."""
        return len(self.cells)

    # ------------------------------------------------------------------ in

    def code(self, values: np.ndarray, observed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Features (n, F), 0 at blanks, and which are observed."""
        data = scaling.to_data(self.schema, values)
        out = np.empty((len(values), self.n_features))
        for i, j in enumerate(self.numbers):
            if j in self.columns:
                out[:, i] = self.columns[j].code(data[:, j])
            else:
                out[:, i] = (data[:, j] - self.loc[j]) / self.scale[j]
        for j, (block, share, scale) in self.classes.items():
            levels = np.arange(len(share))[-(block.stop - block.start) :]
            out[:, block] = ((values[:, [j]] == levels) - share[levels]) / scale
        seen = observed[:, self.cells]
        return np.where(seen, out, 0.0), seen

    def features(self, x: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
        """:meth:`code` of tensors; the rows asked about last are kept, as several models may read the same."""
        if self._last is None or self._last[0] is not x or self._last[1] is not observed:
            coded = self.code(x.numpy(), observed.numpy())
            self._last = (x, observed, *map(torch.from_numpy, coded))
        return self._last[2], self._last[3]

    def log_slope(self, values: np.ndarray, observed: np.ndarray) -> np.ndarray:
        """Σ log |d feature / d value in data units| over observed numbers, (n,); dates in days."""
        data = scaling.to_data(self.schema, values)
        out = np.zeros(len(values))
        for j in self.numbers:
            if j in self.columns:
                slope = self.columns[j].log_slope(data[:, j])
            else:
                slope = np.full(len(data), -np.log(self.scale[j]))
            out += np.where(observed[:, j], slope, 0.0)
        return out

    # ------------------------------------------------------------------ out

    def decode_numbers(self, features: np.ndarray) -> np.ndarray:
        """Number cells in data units (..., D') of features (..., F), in the order of ``numbers``."""
        out = np.empty((*features.shape[:-1], len(self.numbers)))
        for i, j in enumerate(self.numbers):
            z = features[..., i]
            out[..., i] = self.columns[j].decode(z) if j in self.columns else z * self.scale[j] + self.loc[j]
        return out

    def probabilities(self, features: np.ndarray, j: int, floor: float) -> np.ndarray:
        """p(level) (n, L) of class cell j from the conditional means of its indicators (n, F), each at least ``floor``."""
        block, share, scale = self.classes[j]
        p = features[:, block] * scale + share[-(block.stop - block.start) :]
        if p.shape[1] == 1:
            p = np.concatenate([1 - p, p], 1)
        p = np.maximum(p, floor)
        return p / p.sum(1, keepdims=True)

    def to_model(self, data: np.ndarray) -> np.ndarray:
        """Model values of number cells given in data units (..., D'); positive ones are kept above zero."""
        out = np.array(data)
        place = {int(j): i for i, j in enumerate(self.numbers)}
        for group in self.schema.groups:
            for j, field in zip(group.cells, _each(group), strict=True):
                if int(j) not in place:
                    continue
                v = out[..., place[int(j)]]
                if group.kind in ("real", "pixel"):
                    v[...] = (v - field.loc) / field.scale
                elif group.kind == "positive":
                    least = 0.5 * field.low if field.low > 0 else 1e-12
                    v[...] = (np.log(np.maximum(v, least)) - field.loc) / field.scale
        return out

    # ------------------------------------------------------------------ keep

    def to_arrays(self) -> dict[str, np.ndarray]:
        """What was fitted, as named arrays."""
        out = {"loc": self.loc, "scale": self.scale, "rare": self.rare.astype(float)}
        for j, (_, share, scale) in self.classes.items():
            out[f"class.{j}"] = np.append(share, scale)
        for j, column in self.columns.items():
            out[f"column.{j}"] = np.stack([column.values, column.scores])
            out[f"back.{j}"] = np.stack([column.back_scores, column.back_values])
        return out

    @classmethod
    def from_arrays(cls, schema: Schema, arrays: dict[str, np.ndarray], scores: bool) -> Coding:
        """Rebuild from :meth:`to_arrays`."""
        nothing = np.zeros((1, schema.n_cells))
        self = cls(schema, nothing, nothing > 0, scores)
        self.loc, self.scale, self.rare = arrays["loc"], arrays["scale"], arrays["rare"] > 0
        for key, value in arrays.items():
            what, _, j = key.partition(".")
            if what == "class":
                self.classes[int(j)] = (self.classes[int(j)][0], value[:-1], float(value[-1]))
            elif what == "column":
                self.columns[int(j)] = Scores(*value, *arrays[f"back.{j}"])
        return self


def _each(group: Any) -> tuple:
    """One field a cell: images share one."""
    return group.fields if len(group.fields) == len(group.cells) else group.fields * len(group.cells)
