"""Rows of mixed kinds as real features, for models of Gaussians: numbers in their own units or as normal scores, classes as
indicators.

    number v      (v − mean) / standard deviation,  or its normal score  (:class:`~abduce.data.transform.NormalScores`)
    class c       one indicator a level, 1[c = l] − p_l, all divided by √Σ p_l (1 − p_l); a binary cell needs one only, and
                  rare levels of a class of very many share one

Features come straight from model values, by the fields' transforms chained with these: a real column's by one line.
"""

from __future__ import annotations

from dataclasses import fields
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from abduce.data.infer import location_scale
from abduce.data.schema import Schema
from abduce.data.transform import Affine, NormalScores, chained, joined, over_observed, stacked

MOST = 17  # indicators of a class cell: its most frequent levels, and one for all others
SPIKE = 0.05  # share of rows from which on a repeated value is no accident


class Indicators(NamedTuple):
    """A class cell's features, the share of each of its levels, and what its indicators are divided by.

    Levels beyond the `MOST` most frequent share one indicator: ``group`` (L,) says which each level has, ``total`` (G,) what
    share of rows it is on in.
    """

    block: slice
    share: np.ndarray
    scale: float
    group: np.ndarray
    total: np.ndarray

    @classmethod
    def of(cls, share: np.ndarray, start: int) -> Indicators:
        """Of a cell whose levels have these shares, with features from ``start`` on; a binary cell needs one only."""
        group = np.arange(len(share))
        if len(share) > MOST:
            order = np.argsort(-share, kind="stable")
            group[order] = np.minimum(group, MOST - 1)
        total = np.bincount(group, share)
        width = 1 if len(share) == 2 else len(total)
        spread = (total * (1 - total)).sum() / (2 if width == 1 else 1)
        return cls(slice(start, start + width), share, float(np.sqrt(spread)), group, total)

    @property
    def groups(self) -> np.ndarray:
        """The group of levels of each feature: all of them, of a binary cell the second."""
        return np.arange(len(self.total))[self.block.start - self.block.stop :]


class Read(NamedTuple):
    """Rows that were coded last: their features, which of them are observed, and their slope once it is known."""

    x: Tensor
    observed: Tensor
    features: Tensor
    seen: Tensor
    slope: list[Tensor]


class Coding:
    """From a schema's model values (n, D) to features (n, F) and back, fitted to observed cells.

    ``scores`` codes numbers by normal scores.  ``cells`` (F,) says which cell a feature belongs to, ``numbers`` which cells
    are numbers (their features come first), ``classes`` maps a class cell to its features, shares and scale; ``loc`` and
    ``scale`` (D,) are the numbers' means and standard deviations in data units.
    """

    def __init__(self, schema: Schema, values: np.ndarray, observed: np.ndarray, scores: bool):
        numbers = _numbers(schema)
        data = joined([schema.cell_fields[j].transform for j in numbers]).back(values[:, numbers])
        loc, scale = np.zeros(schema.n_cells), np.ones(schema.n_cells)
        rare = np.ones(schema.n_cells, bool)
        columns: dict[int, NormalScores] = {}
        for i, j in enumerate(numbers):
            v = data[observed[:, j], i]
            if len(v):
                repeated = np.unique(v, return_counts=True)[1].max() / len(v)
                rare[j] = repeated < SPIKE or len(v) < 2 / SPIKE
                (loc[j],), (scale[j],) = location_scale(v[:, None], None)
                if scores:
                    columns[int(j)] = NormalScores.of(v)
        shares = {}
        for j in sorted(set(range(schema.n_cells)) - set(numbers.tolist())):
            levels = len(schema.cell_fields[j].categories or (0, 1))
            seen = values[observed[:, j], j].astype(int)
            shares[j] = (np.bincount(seen, minlength=levels) + 0.5) / (len(seen) + 0.5 * levels)
        self._set(schema, scores, loc, scale, rare, columns, shares)

    def _set(self, schema: Schema, scores: bool, loc, scale, rare, columns, shares) -> None:
        self.schema, self.scores, self.loc, self.scale, self.rare = schema, scores, loc, scale, rare
        self._last: Read | None = None
        self.columns: dict[int, NormalScores] = columns
        self.numbers = _numbers(schema)
        known = [schema.cell_fields[j] for j in self.numbers]
        least = [(0.5 * f.low if f.low > 0 else 1e-12) if f.kind == "positive" else -np.inf for f in known]
        self._least = np.array(least)
        # over the numbers alone, (..., D'): from data to model values, from data to features, from model values to features
        inner = [f.transform for f in known]
        outer = [columns.get(int(j)) or Affine.of(loc[j], scale[j]) for j in self.numbers]
        self._inner, self._outer, self._features = joined(inner), joined(outer), chained(inner, outer)
        self.classes: dict[int, Indicators] = {}
        cells = list(self.numbers)
        for j, share in shares.items():
            self.classes[j] = known = Indicators.of(share, len(cells))
            cells += [j] * len(known.groups)
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
        out = np.empty((len(values), self.n_features))
        out[:, : len(self.numbers)] = self._features.to(values[:, self.numbers])
        for j, known in self.classes.items():
            group = known.group[values[:, j].astype(int)]
            out[:, known.block] = ((group[:, None] == known.groups) - known.total[known.groups]) / known.scale
        seen = observed[:, self.cells]
        out[~seen] = 0.0
        return out, seen

    def features(self, x: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
        """:meth:`code` of tensors; the rows asked about last are kept, as several models may read the same."""
        if self._last is None or self._last.x is not x or self._last.observed is not observed:
            features, seen = self.code(x.numpy(), observed.numpy())
            self._last = Read(x, observed, torch.from_numpy(features), torch.from_numpy(seen), [])
        return self._last.features, self._last.seen

    def slope(self, x: Tensor, observed: Tensor) -> Tensor:
        """Σ log |d feature / d model value| over observed numbers of the same rows, (n,)."""
        features, _ = self.features(x, observed)
        assert self._last is not None
        if not self._last.slope:
            values, mask = x.numpy(), observed.numpy()
            inner = over_observed(self._inner.log_slope(values[:, self.numbers]), mask[:, self.numbers])
            self._last.slope.append(torch.from_numpy(self.log_slope_at(features.numpy(), mask) - inner))
        return self._last.slope[0]

    def log_slope(self, values: np.ndarray, observed: np.ndarray) -> np.ndarray:
        """Σ log |d feature / d value in data units| over observed numbers, (n,); dates in days."""
        known = values[:, self.numbers]
        features = (
            self._features.to(known) if self.columns else known
        )  # lines have one slope wherever they are
        return self.log_slope_at(features, observed)

    def log_slope_at(self, features: np.ndarray, observed: np.ndarray) -> np.ndarray:
        """The same where the features (n, F) are known already."""
        slope = self._outer.log_slope(features[:, : len(self.numbers)])
        return over_observed(slope, observed[:, self.numbers])

    def log_slope_in_model(self, values: np.ndarray, observed: np.ndarray) -> np.ndarray:
        """Σ log |d feature / d model value| over observed numbers, (n,); counts and grades are their own model values."""
        return self.slope(torch.from_numpy(values), torch.from_numpy(observed)).numpy()

    # ------------------------------------------------------------------ out

    def decode_numbers(self, features: np.ndarray) -> np.ndarray:
        """Number cells in data units (..., D') of features (..., F), in the order of ``numbers``."""
        return self._outer.back(features[..., : len(self.numbers)])

    def to_model(self, data: np.ndarray) -> np.ndarray:
        """Model values of number cells given in data units (..., D'); positive ones are kept above zero."""
        return self._inner.to(np.maximum(data, self._least))

    def probabilities(self, features: np.ndarray, j: int, floor: float) -> np.ndarray:
        """p(level) (n, L) of class cell j from the conditional means of its indicators (n, F), each at least ``floor``."""
        known = self.classes[j]
        p = features[:, known.block] * known.scale + known.total[known.groups]
        if p.shape[1] == 1:
            p = np.concatenate([1 - p, p], 1)
        if len(known.total) < len(known.share):
            p = p[:, known.group] * (known.share / known.total[known.group])
        p = np.maximum(p, floor)
        return p / p.sum(1, keepdims=True)

    # ------------------------------------------------------------------ keep

    def to_arrays(self) -> dict[str, np.ndarray]:
        """What was fitted, as named arrays."""
        out = {"loc": self.loc, "scale": self.scale, "rare": self.rare.astype(float)}
        out |= {f"class.{j}": known.share for j, known in self.classes.items()}
        if self.columns:
            out["scored"] = np.array(list(self.columns))
            every = stacked(list(self.columns.values()))
            out |= {f"scores.{f.name}": getattr(every, f.name) for f in fields(every)}
        return out

    @classmethod
    def from_arrays(cls, schema: Schema, arrays: dict[str, np.ndarray], scores: bool) -> Coding:
        """Rebuild from :meth:`to_arrays`; ValueError naming an array that holds what nothing was fitted to."""
        parts: dict[str, dict[str, np.ndarray]] = {"class": {}, "scores": {}}
        for key, value in arrays.items():
            what, _, name = key.partition(".")
            if name:
                parts[what][name] = value
        columns = {}
        if parts["scores"]:
            every = NormalScores(**parts["scores"])
            columns = {int(j): every.column(i) for i, j in enumerate(arrays["scored"])}
        shares = {int(j): share for j, share in parts["class"].items()}
        if not (arrays["scale"] > 0).all():
            raise ValueError(f"scale of a coding must be above 0, got {arrays['scale']}")
        for j, share in shares.items():
            if share.min() < 0 or abs(share.sum() - 1) > 1e-6:
                raise ValueError(f"class.{j} of a coding must be shares that sum to 1, got {share}")
        self = cls.__new__(cls)
        self._set(schema, scores, arrays["loc"], arrays["scale"], arrays["rare"] > 0, columns, shares)
        return self


def _numbers(schema: Schema) -> np.ndarray:
    """Cells that are numbers: all but classes without an order."""
    kinds = [f.kind for f in schema.cell_fields]
    return np.array([j for j, kind in enumerate(kinds) if kind not in ("binary", "categorical")], int)
