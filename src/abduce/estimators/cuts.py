"""Where oddness begins, for rows with any cells blank: like is compared with like.

A log p of two cells and one of five are on different scales, and so are log densities per gram and per tonne.  What a row
should have is read off the model itself: of its own samples, seen through the same blanks m, log p has a mean μ(m) and a
variance v(m).  Where rows are Gaussian, −log p is half a χ² of k = 2 v degrees of freedom, up to a constant; so

    χ²(x) = k + 2 (μ(m) − log p(x)),        z(x) = (∛(χ²/k) − 1 + 2/9k) / √(2/9k)

is a standard normal score of oddness whatever was seen, and rows are odd beyond one z.  The cut for blanks m is the log p at
that z; complete rows have the cut ``offset_``.

Where cells are few, μ and v are means over samples; where many, a regression on which cells are seen and on the entropy of a
Gaussian of them, fitted once to samples with cells blanked at random.  Either way they depend on the row alone, not on which
rows come along.

Source: Wilson & Hilferty 1931 (the cube root of χ² is nearly normal).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.special import gammaincc

EXACT = 4  # cells up to which each pattern of blanks has samples of its own
SAMPLES = 500  # of each such pattern
WIDE = 300  # cells beyond which entropies of Gaussians take too long
LEAST = 0.25  # nats², of a variance: few levels or none make log p stand still
RIDGE = 1e-3


class Cuts:
    """Mean and variance of log p over the model's own rows, by what is seen of them.

    ``rows`` (n, D) are samples in model space; ``score(rows, mask)`` gives log p of their seen cells, nats (n,), and
    ``slopes`` (D,) the mean of what a change of units adds to it for each cell.
    """

    def __init__(
        self,
        rows: np.ndarray,
        score: Callable[[np.ndarray, np.ndarray], np.ndarray],
        slopes: np.ndarray,
        seed: int,
    ):
        self.rows, self.score, self.slopes = rows, score, slopes
        self.known: dict[bytes, tuple[float, float]] = {}
        self.few = rows.shape[1] <= EXACT
        if not self.few:
            self._regress(seed)

    def z(self, log_p: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Oddness of rows (n,) as a standard normal score, from their log p and what was seen of them (n, D)."""
        mean, variance = self._moments(mask)
        k = 2 * variance
        return (np.cbrt((k + 2 * (mean - log_p)) / k) - 1 + 2 / (9 * k)) / np.sqrt(2 / (9 * k))

    def odder(self, log_p: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Share of the model's own rows, so seen, that are odder than each row (n,), by χ² itself."""
        mean, variance = self._moments(mask)
        return gammaincc(variance, np.maximum(variance + mean - log_p, 0.0))

    def log_p(self, z: float, mask: np.ndarray) -> np.ndarray:
        """The log p (n,) that has the oddness z where ``mask`` (n, D) was seen."""
        mean, variance = self._moments(mask)
        k = 2 * variance
        return mean + (k - k * (1 - 2 / (9 * k) + z * np.sqrt(2 / (9 * k))) ** 3) / 2

    def _moments(self, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance of log p for each row's blanks, (n,) each."""
        patterns, which = np.unique(mask, axis=0, return_inverse=True)
        keys = [pattern.tobytes() for pattern in patterns]
        new = [i for i, key in enumerate(keys) if key not in self.known]
        if new:
            found = self._sampled(patterns[new]) if self.few else self._predicted(patterns[new])
            self.known |= {keys[i]: pair for i, pair in zip(new, found, strict=True)}
        mean, variance = np.array([self.known[key] for key in keys]).reshape(-1, 2).T
        which = which.reshape(-1)
        return mean[which], variance[which]

    def _sampled(self, patterns: np.ndarray) -> list[tuple[float, float]]:
        """Moments of each pattern, by scoring samples through it."""
        rows = self.rows[:SAMPLES]
        values = self.score(np.tile(rows, (len(patterns), 1)), np.repeat(patterns, len(rows), 0))
        values = values.reshape(len(patterns), len(rows))
        return list(zip(values.mean(1).tolist(), np.maximum(values.var(1), LEAST).tolist(), strict=True))

    def _regress(self, seed: int) -> None:
        """Fit mean and variance of log p to what is seen, over samples of which a share of the cells is blank."""
        n, d = self.rows.shape
        rng = np.random.default_rng(seed)
        share = np.where(rng.random((n, 1)) < 0.25, 1.0, rng.random((n, 1)))
        mask = rng.random((n, d)) < share
        self.covariance = np.cov(self.rows.T) if d <= WIDE else None
        value = self.score(self.rows, mask) - mask @ self.slopes
        features = self._features(mask)
        self.mean = _ridge(features, value)
        square = (value - features @ self.mean) ** 2
        self.variance = _ridge(features[:, :2], square)

    def _features(self, mask: np.ndarray) -> np.ndarray:
        """One, the number of cells seen, the entropy of a Gaussian of them, and which they are: (n, D + 3)."""
        seen = mask.astype(float)
        count = seen.sum(1, keepdims=True)
        entropy = (
            np.zeros_like(count) if self.covariance is None else _entropy(self.covariance, mask)[:, None]
        )
        return np.concatenate([np.ones_like(count), count, entropy, seen], 1)

    def _predicted(self, patterns: np.ndarray) -> list[tuple[float, float]]:
        features = self._features(patterns)
        mean = features @ self.mean + patterns @ self.slopes
        variance = np.maximum(features[:, :2] @ self.variance, LEAST)
        return list(zip(mean.tolist(), variance.tolist(), strict=True))


def _ridge(features: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Least squares with a small ridge on all but the first feature, the constant; with fewer rows than features by rows."""
    n, d = features.shape
    middle, level = features[:, 1:].mean(0), target.mean()
    moved, away = features[:, 1:] - middle, target - level
    if n < d:
        slope = moved.T @ np.linalg.solve(moved @ moved.T + RIDGE * n * np.eye(n), away)
    else:
        slope = np.linalg.solve(moved.T @ moved + RIDGE * n * np.eye(d - 1), moved.T @ away)
    return np.concatenate([[level - middle @ slope], slope])


def _entropy(covariance: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Half the log determinant of the covariance of the seen cells of each row, (n,)."""
    d = len(covariance)
    whole = covariance + 1e-6 * np.eye(d) * max(1e-12, float(np.trace(covariance)) / d)
    out = np.empty(len(mask))
    block = max(1, 2**22 // d**2)
    for i in range(0, len(mask), block):
        seen = mask[i : i + block]
        both = seen[:, :, None] & seen[:, None, :]
        out[i : i + block] = 0.5 * np.linalg.slogdet(np.where(both, whole, np.eye(d)))[1]
    return out
