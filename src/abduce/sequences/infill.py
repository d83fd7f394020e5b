"""Missing samples of an autoregression given all that were seen, exactly: the Gaussian that they have.

The precision of n samples of a stationary autoregression of order p < n, with filter a and variance 1, is

    Λ = T - H'H - G'G,   T_ij = Σ_k a_k a_{k+|i-j|},   H_sj = a_{s+j+1},   G_sj = a_{s+n-j}

(Gohberg and Semencul): a Toeplitz matrix, but for the first and the last p samples.  Samples that are missing have mean
-Λ_mm⁻¹ Λ_mo x_o and covariance Λ_mm⁻¹.  A gap with p observed samples on either side needs T alone, which Levinson's recursion
inverts in time L²; what follows the last sample or precedes the first is a filter's output; any other pattern is
factorised.  Nothing depends on observed samples that lie further away than p.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from scipy.linalg import cho_solve, cholesky, get_lapack_funcs, solve_toeplitz, solve_triangular
from scipy.signal import fftconvolve, lfilter

LONGEST = 50_000  # samples of one gap
MOST = 6_000  # missing samples that are solved together by their matrix


class Infill(ABC):
    """What missing samples have in common for all series of a pattern, in units of the innovations' deviation."""

    @abstractmethod
    def mean(self, x: np.ndarray) -> np.ndarray:
        """Means (L,) of the missing samples of x (n,), whose values there are not read."""

    @abstractmethod
    def variance(self) -> np.ndarray:
        """Variances (L,) for innovations of variance 1."""

    @abstractmethod
    def deviations(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Draws (count, L) of the missing samples less their mean, for innovations of variance 1."""


def infill(a: np.ndarray, missing: np.ndarray) -> Infill:
    """The way to the missing samples of series of the length and pattern of ``missing`` (n,), by the filter a (p + 1,).

    Raises ValueError where more are missing than can be solved for.

    >>> missing = np.array([False, True, False])
    >>> found = infill(np.array([1.0, -0.5]), missing)
    >>> found.mean(np.array([1.0, 0.0, 2.0])).round(3).tolist(), found.variance().round(3).tolist()
    ([1.2], [0.8])
    """
    at = np.flatnonzero(missing)
    n, p, count = len(missing), len(a) - 1, len(at)
    if not count:
        raise ValueError("nothing is missing: expected at least one missing sample")
    whole = at[-1] - at[0] + 1 == count
    before, after = at[0], n - 1 - at[-1]
    if whole and before >= p and after >= p:
        if count > LONGEST:
            raise ValueError(f"a gap of {count} samples is longer than can be filled ({LONGEST})")
        return Within(a, int(at[0]), count)
    if whole and after == 0 and before >= p:
        return Beyond(a, count)
    if whole and before == 0 and after >= p:
        return Beyond(a, count, back=True)
    if count > MOST:
        raise ValueError(f"{count} samples are missing close together, more than can be filled ({MOST})")
    return Scattered(a, missing)


class Within(Infill):
    """A gap of ``length`` samples from ``start``, with at least p observed on either side.

    With u = T⁻¹ e_1, T⁻¹ = (U U' - V V') / u_1 where U and V are lower triangular Toeplitz matrices of u and of
    (0, u_L, ..., u_2): products cost L log L, and its diagonal is a running sum.
    """

    def __init__(self, a: np.ndarray, start: int, length: int):
        self.a, self.start, self.length = a, start, length
        size = 1 << int(len(a) + length).bit_length()
        self.column = np.fft.irfft(np.abs(np.fft.rfft(a, size)) ** 2, size)[:length].copy()
        self.column[len(a) :] = 0.0
        first = np.zeros(length)
        first[0] = 1.0
        self.u = np.asarray(solve_toeplitz(self.column, first))
        self.v = np.concatenate([[0.0], self.u[:0:-1]])

    def mean(self, x):
        p, begin, end = len(self.a) - 1, self.start, self.start + self.length
        near = np.array(x[begin - p : end + p], dtype=float)
        near[p : p + self.length] = 0.0
        errors = fftconvolve(near, self.a)[
            p : p + self.length + p
        ]  # of every equation that has a missing sample
        return -self._solve(self._gathered(errors))

    def variance(self):
        return np.cumsum(self.u**2 - self.v**2) / self.u[0]

    def deviations(self, count, rng):
        noise = rng.standard_normal((count, self.length + len(self.a) - 1))
        return self._solve(self._gathered(noise))

    def _gathered(self, errors: np.ndarray) -> np.ndarray:
        """B'e of errors (..., L + p), where B e = the errors that missing samples make."""
        p = len(self.a) - 1
        return _convolved(errors, self.a[::-1])[..., p : p + self.length]

    def _solve(self, right: np.ndarray) -> np.ndarray:
        """T⁻¹ of columns (..., L), refined once."""
        found = self._inverse(right)
        two_sided = np.concatenate([self.column[:0:-1], self.column])
        product = _convolved(found, two_sided)[..., self.length - 1 : 2 * self.length - 1]
        return found + self._inverse(right - product)

    def _inverse(self, right: np.ndarray) -> np.ndarray:
        out = np.zeros_like(right)
        for factor, sign in ((self.u, 1.0), (self.v, -1.0)):
            turned = _convolved(right[..., ::-1], factor)[..., : self.length][..., ::-1]
            out += sign * _convolved(turned, factor)[..., : self.length]
        return out / self.u[0]


class Beyond(Infill):
    """What follows the last of at least p samples, or with ``back`` precedes the first: the process runs on without news."""

    def __init__(self, a: np.ndarray, length: int, back: bool = False):
        self.a, self.length, self.back = a, length, back

    def mean(self, x):
        p = len(self.a) - 1
        known = np.asarray(x, dtype=float)[::-1] if self.back else np.asarray(x, dtype=float)
        past = known[len(known) - self.length - p : len(known) - self.length]
        start = (
            -fftconvolve(past, self.a)[p : 2 * p] if p else np.zeros(0)
        )  # what the past says of what comes
        push = np.zeros(self.length)
        push[: min(p, self.length)] = start[: self.length]
        return self._turned(np.asarray(lfilter([1.0], self.a, push)))

    def variance(self):
        impulse = np.zeros(self.length)
        impulse[0] = 1.0
        return self._turned(np.cumsum(np.asarray(lfilter([1.0], self.a, impulse)) ** 2))

    def deviations(self, count, rng):
        return self._turned(np.asarray(lfilter([1.0], self.a, rng.standard_normal((count, self.length)))))

    def _turned(self, x: np.ndarray) -> np.ndarray:
        return x[..., ::-1] if self.back else x


class Scattered(Infill):
    """Any pattern: the precision of what is missing, factorised."""

    def __init__(self, a: np.ndarray, missing: np.ndarray):
        self.a, self.missing = a, missing
        n, p = len(missing), len(a) - 1
        if n <= p:
            raise ValueError(f"an autoregression of order {p} needs more than {p} samples, got {n}")
        at = np.flatnonzero(missing)
        size = 1 << int(2 * p + 1).bit_length()
        column = np.zeros(max(n, p + 1))
        column[: p + 1] = np.fft.irfft(np.abs(np.fft.rfft(a, size)) ** 2, size)[: p + 1]
        precision = column[np.abs(at[:, None] - at)]
        self.edges = []
        padded = np.concatenate([a[1:], np.zeros(p + 1)])
        for place in (at, n - 1 - at):  # missing samples near the beginning, and near the end
            near = place < p
            edge = padded[np.minimum(np.arange(p)[:, None] + place[near], 2 * p)]
            precision[np.ix_(near, near)] -= edge.T @ edge
            self.edges.append((near, edge))
        self.root = cholesky(precision, lower=True, overwrite_a=True, check_finite=False)

    def mean(self, x):
        p = len(self.a) - 1
        known = np.where(self.missing, 0.0, np.asarray(x, dtype=float))
        right = fftconvolve(fftconvolve(known, self.a), self.a[::-1])[p : p + len(known)][self.missing]
        if p:
            for (near, edge), side in zip(self.edges, (known, known[::-1]), strict=True):
                reach = fftconvolve(side[:p][::-1], self.a[1:])[p - 1 :]  # Σ_j a_{s+j+1} x_j
                right[near] -= edge.T @ reach
        return -cho_solve((self.root, True), right)

    def variance(self):
        (invert,) = get_lapack_funcs(("trtri",), (self.root,))
        inverse, _ = invert(self.root, lower=1)
        return np.square(np.tril(inverse)).sum(0)

    def deviations(self, count, rng):
        noise = rng.standard_normal((len(self.root), count))
        return solve_triangular(self.root, noise, lower=True, trans=1, check_finite=False).T


def _convolved(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Full convolution of the last axis."""
    return fftconvolve(x, kernel.reshape((1,) * (x.ndim - 1) + (-1,)), axes=-1)
