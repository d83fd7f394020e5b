"""How odd each sample of a recording is, given those around it, by autoregressions of short frames.

    -log p(x_t | past)   of e_t,           e = a * x
    -log p(x_t | rest)   of d_t = Σ_k a_k e_{t+k} / Σ a²,   the error of a sample predicted from both sides

The second has the smaller variance, v / Σ a², and tells a click from what only began to sound.  Scales are medians of a frame,
so that what is odd does not hide itself; as a frame is scored by a filter that was fitted to it, they are widened as by
Akaike's final prediction error, √((n + p) / (n - p)).
"""

from __future__ import annotations

import numpy as np
from scipy.signal import fftconvolve

from abduce.distributions.cells import LOG_2PI

FRAME = 0.064  # seconds
ORDER = 0.004
RIDGE = 1e-7
SOME = 256  # frames at a time
HALF = 0.6745  # the median of |N(0, 1)|
LEAST = 1e-4  # of a channel's deviation: the least scale that a frame may have


def oddness(x: np.ndarray, missing: np.ndarray, rate: int, two_sided: bool) -> np.ndarray:
    """−log p of each sample of x (T, C), in nats of its unit, given those around it or those before it; NaN where missing.

    Samples have values where they are missing too, which others are predicted from.
    """
    order, core = max(2, round(ORDER * rate)), max(32, round(FRAME * rate / 2))
    out = np.full(x.shape, np.nan)
    for c in range(x.shape[1]):
        seen = ~missing[:, c]
        level = x[:, c] - x[seen, c].mean()
        floor = LEAST * level[seen].std() or 1.0
        count = -(-len(level) // core)
        padded = np.concatenate([np.zeros(core), level, np.zeros(count * core - len(level) + core)])
        hidden = np.concatenate([np.zeros(core, bool), seen, np.zeros(count * core - len(seen) + core, bool)])
        for first in range(0, count, SOME):
            at = np.arange(first, min(count, first + SOME))[:, None] * core + np.arange(3 * core)
            odd = _frames(padded[at], hidden[at], order, floor, two_sided)[:, core : 2 * core].ravel()
            begin = first * core
            out[begin : begin + len(odd), c] = odd[: len(out) - begin]
    out[missing] = np.nan
    return out


def _frames(frames: np.ndarray, seen: np.ndarray, order: int, floor: float, two_sided: bool) -> np.ndarray:
    """−log p of samples of frames (N, n)."""
    taper = np.hanning(frames.shape[1] + 2)[1:-1]
    a = levinson(frames * taper, order)
    n = np.square(taper).sum() ** 2 / (taper**4).sum()  # samples that the taper leaves
    widen = np.sqrt((n + order) / max(n - order, 1.0))
    errors = fftconvolve(frames, a, axes=1)
    if two_sided:
        errors = fftconvolve(errors, a[:, ::-1], axes=1)[:, order : order + frames.shape[1]]
        errors = errors / np.square(a).sum(1, keepdims=True)
    else:
        errors = errors[:, : frames.shape[1]]
    known = np.where(seen, np.abs(errors), np.nan)
    known[~seen.any(1)] = 0.0
    scale = np.maximum(widen * np.nanmedian(known, 1, keepdims=True) / HALF, floor)
    return 0.5 * (np.square(errors / scale) + LOG_2PI) + np.log(scale)


def levinson(frames: np.ndarray, order: int) -> np.ndarray:
    """Prediction-error filters (N, order + 1) of frames (N, n), by their autocorrelations; the loop is over orders alone.

    Source: N. Levinson 1947, J. Durbin 1960.

    >>> levinson(0.5 ** np.arange(20.0)[None], 2).round(3).tolist()
    [[1.0, -0.5, 0.0]]
    """
    size = 1 << int(2 * frames.shape[1]).bit_length()
    r = np.fft.irfft(np.abs(np.fft.rfft(frames, size)) ** 2, size)[:, : order + 1]
    left = r[:, 0] * (1 + RIDGE)
    left = np.where(left > 0, left, 1.0)
    a = np.zeros((len(frames), order + 1))
    a[:, 0] = 1.0
    for m in range(1, order + 1):
        k = -(a[:, :m] * r[:, m:0:-1]).sum(1) / left
        a[:, 1 : m + 1] += k[:, None] * a[:, m - 1 :: -1][:, :m]
        left = left * (1 - k * k)
    return a
