"""Masses: how much of a likelihood lies between two edges of a cell's lattice, and what a symbol costs.

A ``Masses`` takes edges ``(m, j + 1)`` in symbols 0..size and the slice of the m cells that they belong to, and gives the
mass between neighbours ``(m, j)``; the first symbol and the last take the tails.  Only shares count: a coder divides by the
sum.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.special import betainc, gammaincc, gammaln, log_ndtr

from abduce.compress.lattice import Lattice
from abduce.distributions.cells import LOG_2PI

FLAT = 2.0**-6  # a digit whose cells span less than this many standard deviations is uniform
ENTRIES = 2**20  # probabilities of bounded counts made at once: bounds memory

Masses = Callable[[np.ndarray, slice], np.ndarray]


# ------------------------------------------------------------------ laws of location and scale


def laplace(t: np.ndarray) -> np.ndarray:
    """Distribution function of the Laplace law of unit scale."""
    tail = 0.5 * np.exp(-np.abs(t))
    return np.where(t > 0, 1 - tail, tail)


def interval(cdf: Callable[[np.ndarray], np.ndarray], t: np.ndarray) -> np.ndarray:
    """Mass of a symmetric law between t[i] and t[i + 1] along the last axis, exact in both tails."""
    a, b = t[..., :-1], t[..., 1:]
    flip = a > 0  # F(b) − F(a) = F(−a) − F(−b): subtract small numbers, not numbers close to one
    return cdf(np.where(flip, -a, b)) - cdf(np.where(flip, -b, a))


def line_masses(
    cdf: Callable[[np.ndarray, slice], np.ndarray],
    lattice: Lattice,
    cells: np.ndarray,
    loc: np.ndarray,
    scale: np.ndarray,
    size: np.ndarray,
) -> Masses:
    """Mass of lattice intervals under a law of location and scale in model space; uniform where it is flat.

    ``cdf(t, part)`` is the distribution function, at unit scale, of some of the cells.
    """

    def masses(edges: np.ndarray, part: slice) -> np.ndarray:
        t = (lattice.edges(cells[part], edges) - loc[part, None]) / scale[part, None]
        flat = t[:, -1] - t[:, 0] < FLAT
        t = np.where(edges <= 0, -np.inf, np.where(edges >= size[part, None], np.inf, t))
        cut = np.where(edges[:, 1:] > edges[:, :-1], interval(lambda t: cdf(t, part), t), 0.0)
        return np.where(flat[:, None], np.diff(edges).astype(np.float64), cut)

    return masses


def normal_bits(
    k: np.ndarray, observed: np.ndarray, loc: np.ndarray, scale: np.ndarray, lattice: Lattice
) -> np.ndarray:
    """Bits −log₂ of the mass of codes k (n, D) under independent Gaussian cells in model space, (n,)."""
    s = k - lattice.low
    left, right = ((lattice.edges(np.arange(len(lattice.low)), e.T).T - loc) / scale for e in (s, s + 1))
    left[s <= 0] = -np.inf
    right[s >= lattice.size - 1] = np.inf
    flip = left > 0  # as in `interval`
    a, b = np.where(flip, -right, left), np.where(flip, -left, right)
    upper, lower = log_ndtr(b), log_ndtr(a)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_mass = upper + np.log(-np.expm1(np.where(np.isfinite(lower), lower - upper, -np.inf)))
    # the density times the width, where the difference would cancel
    step = np.where(lattice.log, 1.0 / np.maximum(k, 1), 1.0 / lattice.denominator)
    with np.errstate(invalid="ignore"):
        t = 0.5 * (a + b)
        density = -0.5 * t**2 - 0.5 * LOG_2PI + np.log(step / (lattice.scale * scale))
    log_mass = np.where(b - a < 1e-6, density, log_mass)
    return -np.where(observed, log_mass, 0.0).sum(1) / np.log(2.0)


# ------------------------------------------------------------------ counts


def count_masses(log_mean: np.ndarray, log_dispersion: np.ndarray, size: np.ndarray) -> Masses:
    """Mass of intervals of counts under the negative binomial: P(X < e) = I_p(r, e) with p = r / (r + μ)."""
    r = np.exp(log_dispersion)
    p = 1.0 / (1.0 + np.exp(log_mean - log_dispersion))
    return _counted(lambda e, part: betainc(r[part, None], e, p[part, None]), size)


def poisson_masses(log_rate: np.ndarray, size: np.ndarray) -> Masses:
    """Mass of intervals of counts under the Poisson: P(X < e) = Q(e, μ), the regularised upper gamma function."""
    rate = np.exp(log_rate)
    return _counted(lambda e, part: gammaincc(e, rate[part, None]), size)


def _counted(below: Callable[[np.ndarray, slice], np.ndarray], size: np.ndarray) -> Masses:
    """Mass of intervals of counts from ``below``, P(X < e) for e >= 1."""

    def masses(edges: np.ndarray, part: slice) -> np.ndarray:
        inside = below(np.maximum(edges, 1).astype(np.float64), part)
        return np.diff(np.where(edges <= 0, 0.0, np.where(edges >= size[part, None], 1.0, inside)))

    return masses


def beta_binomial_masses(a: np.ndarray, b: np.ndarray, n: np.ndarray) -> Masses:
    """Mass of intervals of counts 0..n under the beta-binomial of shapes a and b, by enumeration; none beyond n."""

    def block(edges: np.ndarray, a: np.ndarray, b: np.ndarray, n: np.ndarray) -> np.ndarray:
        k = edges[:, :1] + np.arange(max(1, int((edges[:, -1] - edges[:, 0]).max())))
        inside = (k <= n) & (k < edges[:, -1:])
        k = np.minimum(k, n)
        log_p = gammaln(k + a) - gammaln(k + 1) + gammaln(n - k + b) - gammaln(n - k + 1)
        log_p = np.where(inside, log_p, -np.inf)
        top = log_p.max(1, keepdims=True)
        p = np.exp(log_p - np.where(np.isfinite(top), top, 0.0))  # shares: the largest is 1
        below = np.concatenate([np.zeros((len(p), 1)), np.cumsum(p, 1)], 1)
        return np.diff(np.take_along_axis(below, edges - edges[:, :1], 1))

    def masses(edges: np.ndarray, part: slice) -> np.ndarray:
        rows = max(1, ENTRIES // max(1, int((edges[:, -1] - edges[:, 0]).max())))
        columns = [edges, *(v[part, None] for v in (a, b, n))]
        starts = range(0, len(edges), rows)
        return np.concatenate([block(*(v[i : i + rows] for v in columns)) for i in starts])

    return masses


# ------------------------------------------------------------------ pixels


def continuous_bernoulli_masses(logits: np.ndarray, levels: int) -> Masses:
    """Mass of intervals of grey levels under the continuous Bernoulli, whose two end levels are half as wide."""
    a = np.maximum(np.abs(logits), 1e-9)

    def masses(edges: np.ndarray, part: slice) -> np.ndarray:
        u = np.clip((edges - 0.5) / (levels - 1), 0.0, 1.0)
        # mirrored so that the density falls: e^{−a v} a / (1 − e^{−a})
        v = np.where(logits[part, None] > 0, 1 - u, u)
        low, width, rate = np.minimum(v[:, 1:], v[:, :-1]), np.abs(np.diff(v)), a[part, None]
        return np.exp(-rate * low) * np.expm1(-rate * width) / np.expm1(-rate)

    return masses
