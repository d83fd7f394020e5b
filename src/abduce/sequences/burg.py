"""Autoregressions of very high order from a short stretch of a series, by Burg's method; their lower orders come with them.

    e_t = x_t + a_1 x_{t-1} + ... + a_p x_{t-p},   e_t ~ N(0, v)

Burg's method takes a reflection coefficient at a time: the one that leaves least of the forward and backward prediction errors
together.  Here the errors of several stretches are summed, as the two sides of a gap are stretches of one process, and samples
may be weighed.  Whatever the data, the autoregression is stable.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.linalg import solve_toeplitz
from scipy.signal import fftconvolve, lfilter

RIDGE = 1e-9  # white noise that is added, as a share of the power: pure tones stay invertible


class Autoregression(NamedTuple):
    """Prediction-error filter ``a`` (p + 1,), a_0 = 1, and the ``variance`` of what it leaves."""

    a: np.ndarray
    variance: float

    @property
    def order(self) -> int:
        """Samples before a sample that tell of it."""
        return len(self.a) - 1


def burg(
    stretches: Sequence[np.ndarray], orders: Sequence[int], weights: Sequence[np.ndarray] | None = None
) -> dict[int, Autoregression]:
    """Autoregressions of each of ``orders`` that stretches (n_i,) of one process have in common.

        k_m = -2 Σ w f b / Σ w (f² + b²),   f ← f + k b,   b ← b + k f

    The pair of errors of order m at t - m .. t has the weight of its middle.  Time is Σ n_i x the highest order.  Orders
    beyond what the stretches can tell are those of the longest one.

    Source: J. P. Burg, Maximum entropy spectral analysis, 1975; the weights: D. N. Swingler, Proc. IEEE 67, 1979.

    >>> x = simulate(Autoregression(np.array([1.0, -1.2, 0.5]), 1.0), 20_000, np.random.default_rng(0))
    >>> burg([x], [2])[2].a.round(2).tolist()
    [1.0, -1.2, 0.5]
    """
    forward = [np.array(s, dtype=float) for s in stretches if len(s)]
    if not forward:
        raise ValueError("burg needs at least one sample, got none")
    weighs = [np.ones(len(s)) for s in forward] if weights is None else [w for w in weights if len(w)]
    highest, longest = max(orders), max(map(len, forward))
    backward = list(forward)
    total = float(sum(w.sum() for w in weighs))
    power = float(sum(w @ f**2 for w, f in zip(weighs, forward, strict=True)) / total)
    a = np.zeros(highest + 1)
    a[0] = 1.0
    found = {0: Autoregression(a[:1].copy(), power)}
    variance: float = power
    for m in range(min(highest, longest - 1) if power > 0 else 0):
        above, below = 0.0, 2 * RIDGE * power * total
        half = (m + 1) // 2
        for i, weight in enumerate(weighs):
            f, b = forward[i][1:], backward[i][:-1]
            forward[i], backward[i] = f, b
            w = weight[half : half + len(f)]
            wf = w * f
            above += 2 * (wf @ b)
            below += wf @ f + (w * b) @ b
        k = -above / below
        for i in range(len(weighs)):
            f, b = forward[i], backward[i]
            forward[i], backward[i] = f + k * b, b + k * f
        a[: m + 2] += k * a[: m + 2][::-1].copy()
        variance = float(variance * (1 - k * k))
        if m + 1 in orders:
            found[m + 1] = Autoregression(a[: m + 2].copy(), variance)
    last = Autoregression(a[: min(highest, longest - 1) + 1].copy() if power > 0 else a[:1].copy(), variance)
    return {order: found.get(order, last) for order in orders}


def yule_walker(x: np.ndarray, order: int) -> Autoregression:
    """The autoregression that has the stretch's own autocorrelations up to ``order``: quicker than Burg's, and less sharp.

    >>> x = simulate(Autoregression(np.array([1.0, -1.2, 0.5]), 1.0), 20_000, np.random.default_rng(0))
    >>> yule_walker(x, 2).a.round(2).tolist()
    [1.0, -1.2, 0.5]
    """
    size = 1 << int(2 * len(x) - 1).bit_length()
    r = np.fft.irfft(np.abs(np.fft.rfft(x, size)) ** 2, size)[: order + 1] / len(x)
    r[0] *= 1 + RIDGE
    if r[0] == 0 or order == 0:
        return Autoregression(np.ones(1), float(r[0]))
    a = np.concatenate([[1.0], -solve_toeplitz(r[:-1], r[1:])])
    return Autoregression(a, float(a @ r))


def simulate(model: Autoregression, n: int, rng: np.random.Generator) -> np.ndarray:
    """Draw ``n`` samples, after as many as the process takes to forget that it began."""
    settle = max(1000, 10 * model.order)
    noise = rng.normal(0, np.sqrt(model.variance), settle + n)
    return np.asarray(lfilter([1.0], model.a, noise))[settle:]


def residuals(model: Autoregression, x: np.ndarray) -> np.ndarray:
    """What each sample (..., n) is beyond its prediction from those before it; the first ``order`` are left out."""
    a = model.a.reshape((1,) * (x.ndim - 1) + (-1,))
    return fftconvolve(x, a, "full", axes=-1)[..., model.order : x.shape[-1]]
