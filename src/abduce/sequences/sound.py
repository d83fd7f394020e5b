"""Gaps of recordings: autoregressions of several orders, from stretches of several lengths on both sides, pooled.

    p(gap | sound) = Σ_m w_m N(gap; mean_m, v_m Λ_m⁻¹)

Each member is an autoregression, by Burg's method, of the samples around a gap, those near to it weighing most; what it says
of the gap is exact.  Its Gaussians are pooled with weights that come from gaps hidden in the recordings: those that make
the mean signal-to-distortion ratio of the pooled means highest.  The channels of a recording share the filter, each at its
own level.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy.special import ndtr

from abduce.sequences.burg import Autoregression, burg
from abduce.sequences.infill import MOST, Infill, infill

LEAST_WEIGHT = 1e-3  # members below it are not asked
STEPS = 60  # of a bisection


class Around(NamedTuple):
    """A member: the length of the stretch on each side, and the order, in seconds."""

    context: float
    order: float


MEMBERS = tuple(  # in samples at 44,100 a second; an order of 1 hardly says more than silence
    Around(context / 44100, order / 44100)
    for context, orders in (
        (1024, (256, 512)),
        (2048, (512, 1024)),
        (4096, (1, 512, 1024, 2048)),
        (8192, (512, 1024, 2048, 3072, 4096)),
        (16384, (1024, 2048, 3072, 4096)),
    )
    for order in orders
)


class Hole(NamedTuple):
    """Missing samples from ``start`` to ``stop``, gaps close together and what lies between them, in some ``channels``."""

    start: int
    stop: int
    channels: tuple[int, ...]


class Spanned(NamedTuple):
    """What the members say of a hole: ``means`` (M, L, C) and ``deviations`` (M, L, C) at its missing samples ``at`` (L,).

    Deviations of the pool are stretched about its mean, as far as hidden gaps asked for.
    """

    hole: Hole
    at: np.ndarray
    weights: np.ndarray
    means: np.ndarray
    deviations: np.ndarray
    solved: list[
        tuple[Infill, np.ndarray, np.ndarray]
    ]  # the way, which of its samples are asked for, the scales (C,)
    stretch: float

    def mean(self) -> np.ndarray:
        """Pooled means (L, C)."""
        return np.tensordot(self.weights, self.means, 1)

    def spread(self) -> np.ndarray:
        """Standard deviations of the mixture (L, C)."""
        mean = self.mean()
        second = np.tensordot(self.weights, self.deviations**2 + (self.means - mean) ** 2, 1)
        return self.stretch * np.sqrt(second)

    def quantile(self, level: float) -> np.ndarray:
        """Quantiles (L, C) of the mixture, by bisection."""
        mean, weights = self.mean(), self.weights[:, None, None]
        centres = mean + self.stretch * (self.means - mean)
        scales = np.maximum(self.stretch * self.deviations, 1e-300)
        low, high = (centres - 40 * scales).min(0), (centres + 40 * scales).max(0)
        for _ in range(STEPS):
            middle = 0.5 * (low + high)
            below = (weights * ndtr((middle - centres) / scales)).sum(0) < level
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        return 0.5 * (low + high)

    def draws(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Whole gaps (count, L, C) that could have been."""
        out = np.empty((count, *self.means.shape[1:]))
        members = rng.choice(len(self.weights), count, p=self.weights)
        mean, channels = self.mean(), self.means.shape[2]
        for k, (way, asked, scales) in enumerate(self.solved):
            rows = np.flatnonzero(members == k)
            if len(rows):
                noise = way.deviations(len(rows) * channels, rng)[:, asked]
                noise = noise.reshape(len(rows), channels, -1).swapaxes(1, 2) * scales
                out[rows] = mean + self.stretch * (self.means[k] + noise - mean)
        return out


class SoundPool(NamedTuple):
    """Members, their weights, and how far deviations are stretched."""

    members: tuple[Around, ...]
    weights: np.ndarray
    stretch: float = 1.0

    def ask(self, x: np.ndarray, missing: np.ndarray, rate: int, at: int | None = None) -> list[Spanned]:
        """What is missing of a recording x (T, C), a hole at a time; ``at`` a sample, only the hole that holds it."""
        centre = np.array([column[~gone].mean() for column, gone in zip(x.T, missing.T, strict=True)])
        level = np.where(missing, 0.0, x - centre)
        reach = max(1, round(rate * max(m.order for m in self.members)))
        asked = [h for h in holes(missing, reach) if at is None or h.start <= at < h.stop]
        found = [self._fill(level, missing, hole, rate) for hole in asked]
        return [f._replace(means=f.means + centre[list(f.hole.channels)]) for f in found]

    def _fill(self, x: np.ndarray, missing: np.ndarray, hole: Hole, rate: int) -> Spanned:
        asked = self.weights > LEAST_WEIGHT
        members = [m for m, a in zip(self.members, asked, strict=True) if a]
        weights = self.weights[asked] / self.weights[asked].sum()
        gone = missing[:, hole.channels[0]]
        at = hole.start + np.flatnonzero(gone[hole.start : hole.stop])
        cap = room(gone, hole)
        solved, means, deviations = [], [], []
        wanted = [(max(2, round(rate * m.context)), max(1, min(cap, round(rate * m.order)))) for m in members]
        models = {
            near: nearby(x, missing, hole, near, {order for n, order in wanted if n == near})
            for near in {near for near, _ in wanted}
        }
        for near, order in wanted:
            known, powers = models[near]
            model = known[order]
            begin, end = window(gone, hole, model.order)
            part = gone[begin:end]
            way, mine = infill(model.a, part), np.isin(begin + np.flatnonzero(part), at)
            scales = np.sqrt(model.variance * powers[list(hole.channels)])
            means.append(np.stack([way.mean(x[begin:end, c])[mine] for c in hole.channels], 1))
            deviations.append(np.sqrt(way.variance()[mine].clip(0))[:, None] * scales)
            solved.append((way, mine, scales))
        return Spanned(hole, at, weights, np.stack(means), np.stack(deviations), solved, self.stretch)


def placed(shape: tuple[int, ...], found: list[Spanned], parts: list[np.ndarray]) -> np.ndarray:
    """Values (T, C), each hole's part (L, C) where its samples are missing."""
    out = np.zeros(shape)
    for filling, part in zip(found, parts, strict=True):
        out[filling.at[:, None], list(filling.hole.channels)] = part
    return out


# ---------------------------------------------------------------- where the holes are, and what is around them


def runs(missing: np.ndarray) -> np.ndarray:
    """Runs of True of (T,), as rows (start, stop).

    >>> runs(np.array([True, False, True, True])).tolist()
    [[0, 1], [2, 4]]
    """
    edges = np.diff(np.concatenate([[0], missing.astype(np.int8), [0]]))
    return np.stack([np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)], 1)


def holes(missing: np.ndarray, reach: int) -> list[Hole]:
    """Gaps of (T, C), those within ``reach`` of one another together unless they are too many to be solved at once."""
    channels: dict[tuple[int, int, bytes], list[int]] = {}
    for c in range(missing.shape[1]):
        groups: list[list[int]] = []  # start, stop, count
        for start, stop in runs(missing[:, c]).tolist():
            count = stop - start
            if groups and start - groups[-1][1] < reach and groups[-1][2] + count <= MOST // 2:
                groups[-1][1:] = stop, groups[-1][2] + count
            else:
                groups.append([start, stop, count])
        for start, stop, _ in groups:
            around = missing[max(0, start - reach) : stop + reach, c].tobytes()
            channels.setdefault((start, stop, around), []).append(c)
    return [Hole(start, stop, tuple(which)) for (start, stop, _), which in channels.items()]


def room(gone: np.ndarray, hole: Hole) -> int:
    """The highest order that a hole can be asked with: half of the observed samples, or what lies beside a long gap."""
    length = hole.stop - hole.start
    most = int((~gone).sum()) // 2
    if length <= MOST // 2:
        return most
    left, right = sides(gone, hole)
    return min([most, *(side for side in (left, right) if side)])


def sides(gone: np.ndarray, hole: Hole) -> tuple[int, int]:
    """Observed samples on either side of a hole up to the next missing one."""
    before, after = np.flatnonzero(gone[: hole.start]), np.flatnonzero(gone[hole.stop :])
    left = hole.start - (int(before[-1]) + 1 if len(before) else 0)
    return left, int(after[0]) if len(after) else len(gone) - hole.stop


def window(gone: np.ndarray, hole: Hole, order: int) -> tuple[int, int]:
    """What tells of a hole: ``order`` samples on either side, those missing among them too, unless they are too many."""
    begin, end = max(0, hole.start - order), min(len(gone), hole.stop + order)
    if gone[begin:end].sum() > MOST or hole.stop - hole.start > MOST // 2:
        left, right = sides(gone, hole)
        begin, end = max(begin, hole.start - left), min(end, hole.stop + right)
    short = order + 1 - (end - begin)  # at an end of a short recording
    return max(0, begin - max(0, short)), min(len(gone), end + max(0, short))


def nearby(
    x: np.ndarray, missing: np.ndarray, hole: Hole, context: int, orders: set[int]
) -> tuple[dict[int, Autoregression], np.ndarray]:
    """Autoregressions of all channels around a hole, for unit power, and each channel's power (C,).

    A sample that is d away, of ``context``, weighs sin²(π/2 (1 - d / context)).
    """
    begin, end = max(0, hole.start - context), min(len(x), hole.stop + context)
    t = np.arange(begin, end)
    distance = np.maximum(np.maximum(hole.start - t, t - hole.stop + 1), 0.5) - 0.5
    taper = np.sin(np.pi / 2 * (1 - distance / context)) ** 2
    stretches, weights, powers = [], [], np.zeros(x.shape[1])
    for c in range(x.shape[1]):
        seen = ~missing[begin:end, c]
        weight = taper * seen
        powers[c] = weight @ x[begin:end, c] ** 2 / max(weight.sum(), 1e-300)
        if powers[c] > 0:
            for start, stop in runs(seen):
                stretches.append(x[begin + start : begin + stop, c] / np.sqrt(powers[c]))
                weights.append(taper[start:stop])
    if not stretches:  # silence
        return {order: Autoregression(np.ones(1), 0.0) for order in orders}, powers
    most = max(1, sum(map(len, stretches)) // 3)
    capped = {order: min(order, most) for order in orders}
    models = burg(stretches, sorted(set(capped.values())), weights)
    return {order: models[capped[order]] for order in orders}, powers


# ---------------------------------------------------------------- what hidden gaps teach


class Hidden(NamedTuple):
    """What members made of a hidden gap: their means and deviations (M, L, C), and the ``truth`` (L, C)."""

    truth: np.ndarray
    means: np.ndarray
    deviations: np.ndarray

    def products(self) -> np.ndarray:
        """Products of errors (M, M) over the energy of the truth."""
        errors = (self.means - self.truth).reshape(len(self.means), -1)
        return errors @ errors.T / (self.truth**2).sum()


def hidden_gaps(
    recordings: list[Any], lengths: list[float], count: int, rng: np.random.Generator
) -> list[tuple[int, int, int]]:
    """Where to hide gaps: (recording, start, stop), spread evenly over what was seen and was no silence.

    Recordings have ``values`` (T, C), ``missing`` and ``rate``; ``lengths`` in seconds take turns.
    """
    sizes = np.array([len(r.values) / r.rate for r in recordings])
    ends = np.cumsum(sizes)
    found = []
    for i in range(count):
        for _ in range(20):
            second = ends[-1] * (i + rng.random()) / count
            which = min(int(np.searchsorted(ends, second, side="right")), len(recordings) - 1)
            r = recordings[which]
            n = min(round(r.rate * lengths[i % len(lengths)]), len(r.values) // 6)
            middle = int((second - ends[which] + sizes[which]) * r.rate)
            start = min(max(middle - n // 2, n), len(r.values) - 2 * n)
            stop = start + n
            if n < 1 or start < n or r.missing[start - n : stop + n].any():
                continue
            loud = np.nanmean(np.square(r.values - np.nanmean(r.values, 0)))
            if np.square(r.values[start:stop] - np.nanmean(r.values, 0)).mean() > 1e-3 * loud:
                found.append((which, start, stop))
                break
    return found


def fit_pool(
    members: tuple[Around, ...],
    recordings: list[Any],
    places: list[tuple[int, int, int]],
    show: Callable[[str, float], None],
) -> tuple[SoundPool, np.ndarray]:
    """A pool whose weights and stretch are right for hidden gaps, and the members' SDR (cells, M) on each, in dB."""
    uniform = SoundPool(members, np.full(len(members), 1 / len(members)))
    hidden: list[Hidden] = []
    for i, (which, start, stop) in enumerate(places):
        r = recordings[which]
        reach = 2 * max(1, round(r.rate * max(m.context for m in members))) + stop - start
        begin, end = max(0, start - reach), min(len(r.values), stop + reach)
        x, missing = r.values[begin:end], r.missing[begin:end].copy()
        missing[start - begin : stop - begin] = True
        if (~missing).sum(0).min() < 2:
            continue
        for found in uniform.ask(x, missing, r.rate, start - begin):
            mine = (found.at >= start - begin) & (found.at < stop - begin)
            truth = x[found.at[mine]][:, list(found.hole.channels)]
            hidden.append(Hidden(truth, found.means[:, mine], found.deviations[:, mine]))
        show("hiding gaps", (i + 1) / len(places))
    if not hidden:
        return uniform, np.zeros((0, len(members)))
    products = np.stack([h.products() for h in hidden])
    pool = SoundPool(members, stacked(products))
    scores = []
    for i, h in enumerate(hidden):  # by weights that the others teach: those of its own would flatter
        others = stacked(np.delete(products, i, 0)) if len(hidden) > 1 else pool.weights
        filling = Spanned(Hole(0, 0, ()), np.zeros(0), others, h.means, h.deviations, [], 1.0)
        scores.append(np.abs(h.truth - filling.mean()) / np.maximum(filling.spread(), 1e-300))
    stretch = np.quantile(np.concatenate([s.ravel() for s in scores]), 0.9) / 1.6449
    errors = np.maximum(np.einsum("imm->im", products), 1e-300)
    return pool._replace(stretch=float(np.clip(stretch, 0.2, 5.0))), -10 * np.log10(errors)


def stacked(products: np.ndarray, ridge: float = 0.02, steps: int = 500) -> np.ndarray:
    """Weights (M,), none negative and of sum 1, of least mean log w' P w over ``products`` (cells, M, M) of errors.

    A ``ridge`` draws them towards equal ones; found by exponentiated gradients.

    >>> stacked(np.array([[[1.0, 0.0], [0.0, 4.0]]]), ridge=0.0).round(2).tolist()
    [0.8, 0.2]
    """
    equal = np.full(products.shape[1], 1 / products.shape[1])
    logs = np.zeros(len(equal))
    for _ in range(steps):
        weights = np.exp(logs - logs.max())
        weights /= weights.sum()
        turned = products @ weights
        slope = (2 * turned / np.maximum(turned @ weights, 1e-300)[:, None]).mean(0) + ridge * (
            weights - equal
        ) / equal
        logs -= 0.2 * (slope - weights @ slope)
    weights = np.exp(logs - logs.max())
    return weights / weights.sum()
