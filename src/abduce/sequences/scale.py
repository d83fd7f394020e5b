"""Numbers of series in units in which they have about unit variance, and back.

    shared   a mean and standard deviation a feature, of all series: windows of one process
    own      each series' own, from what is seen of it: series that measure different things

Series are taken to be of one process unless their levels or spreads differ by far more than a series varies.  Features may be
coded by normal scores instead (:class:`~abduce.data.transform.NormalScores`).  What never was negative stays so.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from abduce.data.transform import NormalScores

LONG = 100  # steps from which on a series has a level of its own rather than a moment's
# From here on each series has its own scale, of short series and of long ones: the variance of their means in variances within
# series, and the standard deviation of the logarithms of their standard deviations.
APART = (25.0, 2.0)
UNLIKE = (1.0, 0.5)
CONSTANT = 1e-9
RARE = 0.1  # least deviation of an indicator


class Scaling:
    """``own`` or, for each feature, ``loc`` and ``scale`` (F,); ``scores`` by feature; ``positive`` (F,): never negative;
    ``roots`` (F,): counts that are coded by roots; ``fixed`` (F,): features whose scale no series has of its own."""

    def __init__(
        self,
        own: bool,
        loc: np.ndarray,
        scale: np.ndarray,
        positive: np.ndarray,
        scores: dict[int, NormalScores] | None = None,
        roots: np.ndarray | None = None,
        fixed: np.ndarray | None = None,
    ):
        self.own, self.loc, self.scale, self.positive, self.scores = own, loc, scale, positive, scores or {}
        nothing = np.zeros(len(loc), dtype=bool)
        self.roots, self.fixed = nothing if roots is None else roots, nothing if fixed is None else fixed

    @classmethod
    def of(
        cls,
        values: np.ndarray,
        mask: np.ndarray,
        own: bool | None,
        fixed: np.ndarray | None = None,
        classes: int = 0,
    ) -> Scaling:
        """Of series (N, T, F) with their mask; ``own`` None: by how far they lie apart, in what is not ``fixed``.

        The last ``classes`` features are positions of levels.
        """
        loc, scale = _measures(values.reshape(1, -1, values.shape[2]), mask.reshape(1, -1, values.shape[2]))
        loc, scale = loc[0, 0], scale[0, 0]
        positive = np.where(mask, values, np.inf).min((0, 1)) >= 0
        fixed = np.zeros(len(loc), dtype=bool) if fixed is None else fixed
        if own is None:
            own = not fixed.all() and _far_apart(values[..., ~fixed], mask[..., ~fixed])
        scale[fixed] = np.maximum(scale[fixed], RARE)
        if classes:
            loc[-classes:], scale[-classes:] = 0.0, 1.0
        return cls(own, loc, scale, positive, fixed=fixed)

    def with_roots(self, columns: list[int], values: np.ndarray, mask: np.ndarray) -> Scaling:
        """The same with features coded by roots."""
        roots = self.roots.copy()
        roots[columns] = True
        x = rooted(values[..., roots])
        loc, scale = self.loc.copy(), self.scale.copy()
        m = mask[..., roots].reshape(1, -1, x.shape[2])
        found = _measures(x.reshape(m.shape), m)
        loc[roots], scale[roots] = (part[0, 0] for part in found)
        return Scaling(self.own, loc, scale, self.positive, self.scores, roots, self.fixed)

    def with_scores(self, columns: list[int], values: np.ndarray, mask: np.ndarray) -> Scaling:
        """The same with features coded by the normal scores of what was seen of them."""
        scores = {j: NormalScores.of(values[..., j][mask[..., j]]) for j in columns}
        return Scaling(self.own, self.loc, self.scale, self.positive, scores, self.roots, self.fixed)

    def fitted(self, values: np.ndarray, mask: np.ndarray) -> Scaler:
        """The way there and back for series (N, T, F)."""
        loc, scale = self.loc[None, None], self.scale[None, None]
        if self.own:
            own = _measures(
                np.where(self.roots, rooted(values), values) if self.roots.any() else values, mask
            )
            loc, scale = (np.where(self.fixed, a, b) for a, b in zip((loc, scale), own, strict=True))
        return Scaler(self, loc, scale)

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "own": self.own,
            "loc": self.loc.tolist(),
            "scale": self.scale.tolist(),
            "positive": self.positive.tolist(),
            "roots": self.roots.tolist(),
            "fixed": self.fixed.tolist(),
            "scores": {
                str(j): [getattr(s, name).tolist() for name in _PARTS] for j, s in sorted(self.scores.items())
            },
        }

    @classmethod
    def from_json(cls, body: dict[str, Any]) -> Scaling:
        """From JSON."""
        scores = {
            int(j): NormalScores(*(np.asarray(p) for p in parts)) for j, parts in body["scores"].items()
        }
        loc, scale = (np.asarray(body[name], dtype=np.float64) for name in ("loc", "scale"))
        flags = (np.asarray(body[name], dtype=bool) for name in ("positive", "roots", "fixed"))
        positive, roots, fixed = flags
        return cls(body["own"], loc, scale, positive, scores, roots, fixed)


OFFSET = 0.375
_PARTS = ("values", "scores", "back_scores", "back_values", "knots")


class Scaler:
    """Data units to model units and back, for some series: ``loc`` and ``scale`` (N or 1, 1, F)."""

    def __init__(self, scaling: Scaling, loc: np.ndarray, scale: np.ndarray):
        self.scaling, self.loc, self.scale = scaling, loc, scale

    def to(self, values: np.ndarray, mask: np.ndarray) -> Tensor:
        """Model values, 0 where blank."""
        roots = self.scaling.roots
        x = np.where(roots, rooted(values), values) if roots.any() else values
        out = np.where(mask, (x - self.loc) / self.scale, 0.0)
        for j, scores in self.scaling.scores.items():
            z = scores.to(np.where(mask[..., j], values[..., j], 0.0).reshape(-1, 1)).reshape(mask.shape[:-1])
            out[..., j] = np.where(mask[..., j], z, 0.0)
        return torch.from_numpy(out)

    def back(self, z: np.ndarray, rows: Any = slice(None)) -> np.ndarray:
        """Data values (..., n, T, F) of model values of some of the series."""
        pick = (lambda a: a) if len(self.loc) == 1 else (lambda a: a[rows])
        out = z * pick(self.scale) + pick(self.loc)
        if self.scaling.roots.any():
            out = np.where(self.scaling.roots, 0.25 * out * np.abs(out) - OFFSET, out)
        for j, scores in self.scaling.scores.items():
            out[..., j] = scores.back(z[..., j].reshape(-1, 1)).reshape(z.shape[:-1])
        return np.where(self.scaling.positive, np.maximum(out, 0.0), out)

    def additive(self, z: np.ndarray, level: np.ndarray) -> np.ndarray:
        """What ``z`` adds to model values ``level``, in data units."""
        if not self.scaling.roots.any():
            return z * self.scale
        return np.where(self.scaling.roots, self.back(level + z) - self.back(level), z * self.scale)

    def log_slope(self, z: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """log |dz/dx| of observed cells, 0 at blanks, as z."""
        out = np.broadcast_to(-np.log(self.scale), z.shape).copy()
        if self.scaling.roots.any():  # of 2 √(x + ⅜) with respect to x
            root = np.maximum(np.abs(z * self.scale + self.loc), 2 * OFFSET**0.5)
            out = np.where(self.scaling.roots, out + np.log(2 / root), out)
        for j, scores in self.scaling.scores.items():
            out[..., j] = scores.log_slope(z[..., j].reshape(-1, 1)).reshape(z.shape[:-1])
        return np.where(mask, out, 0.0)


def rooted(x: np.ndarray) -> np.ndarray:
    """2 √(x + ⅜), odd about −⅜.

    >>> rooted(np.array([0.625, -1.375]))
    array([ 2., -2.])
    """
    return 2 * np.sign(x + OFFSET) * np.sqrt(np.abs(x + OFFSET))


def _measures(values: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means and standard deviations (N, 1, F) of what was seen; a feature of which nothing was seen takes those of all."""
    count = mask.sum(1, keepdims=True)
    x = np.where(mask, values, 0.0)
    loc = x.sum(1, keepdims=True) / np.maximum(count, 1)
    variance = (np.where(mask, values - loc, 0.0) ** 2).sum(1, keepdims=True) / np.maximum(count, 1)
    if (count == 0).any() and (count > 0).any():
        weight = np.maximum(count.sum(0, keepdims=True), 1)
        loc = np.where(count > 0, loc, (loc * count).sum(0, keepdims=True) / weight)
        variance = np.where(count > 0, variance, (variance * count).sum(0, keepdims=True) / weight)
    least = CONSTANT * np.maximum(1.0, np.abs(loc))
    return loc, np.maximum(np.sqrt(variance), least)


def _far_apart(values: np.ndarray, mask: np.ndarray) -> bool:
    if len(values) < 2:
        return False
    loc, scale = _measures(values, mask)
    enough = (mask.sum(1) >= 3).all(1)
    if enough.sum() < 2:
        return False
    loc, scale = loc[enough, 0], scale[enough, 0]
    long = int(np.median(mask.any(2).sum(1)) >= LONG)
    varying = scale > 10 * CONSTANT * np.maximum(1.0, np.abs(loc))
    logs = np.where(varying, np.log(scale), np.nan)
    between, within = loc.var(0), np.median(scale**2, 0)
    with np.errstate(invalid="ignore"):
        unlike = (
            np.nanmax(np.append(np.nanstd(logs, 0) if varying.any(0).all() else [0.0], 0.0)) > UNLIKE[long]
        )
    return bool(unlike or (between > APART[long] * np.maximum(within, 1e-300)).any())
