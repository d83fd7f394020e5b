"""How much noise there is: the level of the highest likelihood, and a rule of thumb for images without a model."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

GOLDEN = (math.sqrt(5) - 1) / 2


def most_likely(
    value: Callable[[float], float], low: float, high: float, grid: int = 10, steps: int = 12
) -> float:
    """The level in [low, high] of the highest value: a grid of logarithms, then golden section around its best point.

    Good to (high/low)^(2 · 0.618^steps / (grid − 1)) where there is one peak between the best point's neighbours.

    >>> round(most_likely(lambda s: -((s - 0.3) ** 2), 1e-3, 10.0), 2)
    0.3
    """
    points = np.linspace(math.log(low), math.log(high), grid)
    best = int(np.argmax([value(math.exp(p)) for p in points]))
    a, b = points[max(best - 1, 0)], points[min(best + 1, grid - 1)]
    c, d = b - GOLDEN * (b - a), a + GOLDEN * (b - a)
    at_c, at_d = value(math.exp(c)), value(math.exp(d))
    for _ in range(steps):
        if at_c > at_d:
            b, d, at_d = d, c, at_c
            c = b - GOLDEN * (b - a)
            at_c = value(math.exp(c))
        else:
            a, c, at_c = c, d, at_d
            d = a + GOLDEN * (b - a)
            at_d = value(math.exp(d))
    return math.exp(0.5 * (a + b))


def robust_noise(images: np.ndarray) -> float:
    """Standard deviation of the noise in images (n, H, W, C), NaN for blanks, from their finest diagonal detail.

        d = ½ (x_00 − x_01 − x_10 + x_11) over blocks of 2 x 2 pixels,      σ̂ = median |d| / 0.6745

    Smooth parts of an image have d = 0, edges move the median little.  ValueError where no block is complete.

    Source: Donoho & Johnstone 1994.

    >>> noisy = np.random.default_rng(0).normal(0, 2, (10, 32, 32, 1))
    >>> abs(robust_noise(noisy) - 2) < 0.1
    True
    """
    h, w = images.shape[1] // 2 * 2, images.shape[2] // 2 * 2
    blocks = images[:, :h, :w].reshape(len(images), h // 2, 2, w // 2, 2, -1)
    detail = 0.5 * (
        blocks[:, :, 0, :, 0] - blocks[:, :, 0, :, 1] - blocks[:, :, 1, :, 0] + blocks[:, :, 1, :, 1]
    )
    size = np.abs(detail[np.isfinite(detail)])
    if not size.size:
        raise ValueError(
            "X has no complete block of 2 x 2 pixels to estimate the noise from; give noise as a number"
        )
    return float(np.median(size)) / 0.6745
