"""Points of the plane as rows that an estimator takes: images of two pixels, or bits, for methods of binary data.

    cell of the axis     i = ⌊2^b (x − low) / (high − low)⌋,  0 ≤ i < 2^b
    its Gray code        g = i ⊕ ⌊i / 2⌋,  written as b bits, the highest first
    density              p(x) = p(bits of both axes) / side²,  side = (high − low) / 2^b

In a Gray code neighbouring cells differ in one bit: a flip of one bit, which is all that ratio matching, pseudo-likelihood
and probability flow look at, reaches the cells next door, besides others far away.

Source: Gray 1953 (US patent 2,632,058).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


class Planar:
    """An estimator asked about points (n, 2) of the plane, which it is shown as images (n, 1, 2).

    ``energy`` is a function of the estimator and such images, in the method's own units; by default the estimator's own.
    """

    def __init__(self, model: Any, energy: Callable[[Any, np.ndarray], np.ndarray] | None = None):
        self.model = model
        self._energy = energy or (lambda model, rows: model.energy(rows))

    def encode(self, X: np.ndarray) -> np.ndarray:
        """Points (n, 2) as the estimator's rows."""
        return np.asarray(X).reshape(-1, 1, 2)

    def fit(self, X: np.ndarray) -> Planar:
        """Fit the estimator to points (n, 2), and find log Z."""
        self.model.fit(self.encode(X))
        if getattr(self.model, "log_z_", ()) is None:
            self.model.normalize()
        return self

    def energy(self, X: np.ndarray) -> np.ndarray:
        """Energy of points, (n,)."""
        return self._energy(self.model, self.encode(X))

    def score_samples(self, X: np.ndarray) -> np.ndarray:
        """log p of points, nats, (n,)."""
        return self.model.score_samples(self.encode(X))


class BitCoded(Planar):
    """Put a model of binary rows on the plane: ``bits`` Gray-coded bits an axis, between ``low`` and ``high``.

    ``model`` is an estimator of binary rows.  Points beyond the box have the energy of the cell that is nearest, and
    probability zero.

    >>> coded = BitCoded(None, bits=2)
    >>> coded.encode(np.array([[-0.9, -0.4], [0.1, 0.6]]))
    array([[0., 0., 0., 1.], [1., 1., 1., 0.]])
    """

    def __init__(self, model: Any, bits: int = 6, low: float = -1.0, high: float = 1.0):
        super().__init__(model)
        self.bits, self.low, self.high = bits, low, high

    @property
    def side(self) -> float:
        return (self.high - self.low) / 2**self.bits

    def encode(self, X: np.ndarray) -> np.ndarray:
        """Bits of points (n, 2), as zeros and ones (n, 2 bits)."""
        cell = np.floor((np.asarray(X) - self.low) / self.side).clip(0, 2**self.bits - 1).astype(np.int64)
        gray = cell ^ (cell >> 1)
        places = np.arange(self.bits - 1, -1, -1)
        return (gray[:, :, None] >> places & 1).reshape(len(gray), -1).astype(np.float64)

    def score_samples(self, X: np.ndarray) -> np.ndarray:
        """log p of each point, nats, (n,): the cell's probability spread evenly over it, −∞ beyond the box."""
        inside = ((np.asarray(X) >= self.low) & (np.asarray(X) < self.high)).all(axis=1)
        log_p = super().score_samples(X) - 2 * np.log(self.side)
        return np.where(inside, log_p, -np.inf)
