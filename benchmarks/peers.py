"""Gaussian peers of the benchmarks: conditional means, densities and intervals that are exact given blanks.

`Mixture` covers both: one component is a full Gaussian, more are clusters with a full covariance each. Blanks
are handled without a loop over rows: with M = diag(observed), M S M + (I − M) has the inverse and the
determinant of the observed block.
"""

from __future__ import annotations

import numpy as np
from scipy.special import logsumexp
from scipy.stats import norm
from sklearn.cluster import KMeans

LOG_2PI = np.log(2 * np.pi)
ROWS = 256


class Mixture:
    """A mixture of full-covariance Gaussians: weights (K,), means (K, d), covariances (K, d, d)."""

    def __init__(self, weights: np.ndarray, means: np.ndarray, covariances: np.ndarray):
        self.weights, self.means, self.covariances = weights, means, covariances

    @classmethod
    def clusters(cls, X: np.ndarray, k: int, ridge: float, seed: int) -> Mixture:
        """k-means clusters, each covariance shrunk by its size: (1 − a) S + a C / 2, a = d / (d + n_k).

        C is the covariance of all rows. With k = 1, the sample's mean and covariance. `ridge` is added to
        the variances.
        """
        n, d = X.shape
        C = np.cov(X.T) + ridge * np.eye(d)
        if k == 1:
            return cls(np.ones(1), X.mean(0)[None], C[None])
        label = KMeans(k, n_init=3, random_state=seed).fit_predict(X)
        size = np.bincount(label, minlength=k)
        covariances = []
        for j in range(k):
            part = X[label == j]
            a = d / (d + len(part))
            S = np.cov(part.T, bias=True) if len(part) > 1 else C
            covariances.append((1 - a) * S + a * C / 2 + ridge * np.eye(d))
        means = np.stack([X[label == j].mean(0) for j in range(k)])
        return cls(size / n, means, np.stack(covariances))

    def log_prob(self, X: np.ndarray) -> np.ndarray:
        """log p of the observed cells of each row, nats, (n,)."""
        return logsumexp(
            np.concatenate([self._condition(X[i : i + ROWS])[0] for i in range(0, len(X), ROWS)]), axis=1
        )

    def fill(self, X: np.ndarray) -> np.ndarray:
        """Blanks replaced by their conditional means."""
        out = X.copy()
        for i in range(0, len(X), ROWS):
            log_joint, mean, _ = self._condition(X[i : i + ROWS])
            share = np.exp(log_joint - logsumexp(log_joint, axis=1, keepdims=True))
            blank = np.isnan(X[i : i + ROWS])
            out[i : i + ROWS][blank] = np.einsum("nk,nkd->nd", share, mean)[blank]
        return out

    def interval(self, X: np.ndarray, level: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
        """Ends of the central interval of each blank cell, (n, d) each, by bisection of the distribution."""
        lows, highs = [], []
        for i in range(0, len(X), ROWS):
            log_joint, mean, sd = self._condition(X[i : i + ROWS])
            share = np.exp(log_joint - logsumexp(log_joint, axis=1, keepdims=True))[:, :, None]
            for q, ends in ((0.5 - level / 2, lows), (0.5 + level / 2, highs)):
                a, b = (mean - 8 * sd).min(1), (mean + 8 * sd).max(1)
                for _ in range(25):
                    middle = (a + b) / 2
                    below = (share * norm.cdf((middle[:, None] - mean) / sd)).sum(1) < q
                    a, b = np.where(below, middle, a), np.where(below, b, middle)
                ends.append((a + b) / 2)
        return np.concatenate(lows), np.concatenate(highs)

    def _condition(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """log π_k N(x_obs; k) (n, K), and each component's conditional means and deviations (n, K, d)."""
        seen = (~np.isnan(X)).astype(float)
        values = np.nan_to_num(X)
        parts = []
        for weight, m, S in zip(self.weights, self.means, self.covariances, strict=True):
            inverse, log_det, gain, residual = condition(values, seen, m, S)
            energy = np.einsum("ni,nij,nj->n", residual, inverse, residual)
            log_p = np.log(weight) - 0.5 * (energy + log_det + seen.sum(1) * LOG_2PI)
            variance = np.diag(S) - np.einsum("nij,ji->ni", gain, S)
            parts.append((log_p, m + np.einsum("nij,nj->ni", gain, residual), np.sqrt(variance.clip(1e-12))))
        log_p, mean, sd = (np.stack(column, 1) for column in zip(*parts, strict=True))
        return log_p, mean, sd


def condition(values: np.ndarray, seen: np.ndarray, m: np.ndarray, S: np.ndarray):
    """Of each row: inverse of the observed block (zero elsewhere), its log-determinant, gain, residual."""
    blank = 1 - seen
    A = seen[:, :, None] * S * seen[:, None, :]
    A[:, np.arange(len(m)), np.arange(len(m))] += blank
    inverse = np.linalg.inv(A) * (seen[:, :, None] * seen[:, None, :])
    return inverse, np.linalg.slogdet(A)[1], S @ inverse, seen * (values - m)


def em_gaussian(X: np.ndarray, iterations: int = 100, ridge: float = 1.0, tolerance: float = 1e-4) -> Mixture:
    """Fit one full Gaussian to rows with blanks by expectation-maximisation.

    X should be standardised; the covariance is shrunk by `ridge` pseudo-rows of unit covariance.
    Source: Little & Rubin, Statistical Analysis with Missing Data.
    """
    n, d = X.shape
    seen = (~np.isnan(X)).astype(float)
    values = np.nan_to_num(X)
    m = values.sum(0) / seen.sum(0).clip(1)
    S = np.diag(((values - m) ** 2 * seen).sum(0) / seen.sum(0).clip(1) + 1e-3)
    before = np.full_like(values, np.inf)
    for _ in range(iterations):
        filled, second = np.empty_like(values), ridge * np.eye(d)
        for i in range(0, n, ROWS):
            _, _, gain, residual = condition(values[i : i + ROWS], seen[i : i + ROWS], m, S)
            filled[i : i + ROWS] = m + np.einsum("nij,nj->ni", gain, residual)
            second = second + len(gain) * S - gain.sum(0) @ S
        m = filled.mean(0)
        S = ((filled - m).T @ (filled - m) + second) / (n + ridge)
        S = (S + S.T) / 2 + 1e-9 * np.eye(d)
        if np.sqrt(np.mean((filled - before) ** 2)) < tolerance:
            break
        before = filled
    return Mixture(np.ones(1), m[None], S[None])
