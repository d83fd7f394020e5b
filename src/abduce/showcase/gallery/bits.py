"""Points of the plane as rows of bits, so that methods for binary data can draw an energy surface too.

    cell of the axis     i = ⌊2^b (x − low) / (high − low)⌋,  0 ≤ i < 2^b
    its Gray code        g = i ⊕ ⌊i / 2⌋,  written as b bits, the highest first
    density              p(x) = p(bits of both axes) / side²,  side = (high − low) / 2^b

In a Gray code neighbouring cells differ in one bit: a flip of one bit, which is all that ratio matching, pseudo-likelihood
and probability flow look at, reaches the cells next door, besides others far away.

Source: Gray 1953 (US patent 2,632,058).
"""

from __future__ import annotations

from typing import Any

import numpy as np


class BitCoded:
    """Put a model of binary rows on the plane: ``bits`` Gray-coded bits an axis, between ``low`` and ``high``.

    ``model`` is an estimator of binary rows.  Points beyond the box have the energy of the cell that is nearest, and
    probability zero.

    >>> coded = BitCoded(None, bits=2)
    >>> coded.encode(np.array([[-0.9, -0.4], [0.1, 0.6]]))
    array([[0., 0., 0., 1.], [1., 1., 1., 0.]])
    """

    def __init__(self, model: Any, bits: int = 6, low: float = -1.0, high: float = 1.0):
        self.model, self.bits, self.low, self.high = model, bits, low, high

    @property
    def side(self) -> float:
        """Side of a cell."""
        return (self.high - self.low) / 2**self.bits

    def encode(self, X: np.ndarray) -> np.ndarray:
        """Bits of points (n, 2), as zeros and ones (n, 2 bits)."""
        cell = np.floor((np.asarray(X) - self.low) / self.side).clip(0, 2**self.bits - 1).astype(np.int64)
        gray = cell ^ (cell >> 1)
        places = np.arange(self.bits - 1, -1, -1)
        return (gray[:, :, None] >> places & 1).reshape(len(gray), -1).astype(np.float64)

    def fit(self, X: np.ndarray) -> BitCoded:
        """Fit the model to the bits of points (n, 2), and find log Z."""
        self.model.fit(self.encode(X))
        if self.model.log_z_ is None:
            self.model.normalize()
        return self

    def energy(self, X: np.ndarray) -> np.ndarray:
        """Energy of the cell of each point, nats, (n,)."""
        return self.model.energy(self.encode(X))

    def score_samples(self, X: np.ndarray) -> np.ndarray:
        """log p of each point, nats, (n,): the cell's probability spread evenly over it, −∞ beyond the box."""
        inside = ((np.asarray(X) >= self.low) & (np.asarray(X) < self.high)).all(axis=1)
        log_p = self.model.score_samples(self.encode(X)) - 2 * np.log(self.side)
        return np.where(inside, log_p, -np.inf)
