"""Coloured sequences of actions: noise whose power falls with frequency, so that plans push one way for a while.

    power(f) ∝ f^(−β)        β = 0 white, 1 pink, 2 brown, 3 smoother still

Frequencies below 1/H are taken for 1/H.  Each sequence has variance 1 at each step, on average.  All starts get the same
sequences, so that a start's plan does not depend on which come along.  Source: Timmer & König 1995; Pinneri et al. 2020
(arXiv:2008.06389).
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from abduce.world.actions import Box

COLOURS = ((1.0, 1.0), (2.0, 1.0), (3.0, 2.0), (2.0, 0.3))  # (β, deviation in half widths of the box)


def coloured(n: int, horizon: int, size: int, beta: float, generator: Generator) -> Tensor:
    """Draw sequences (n, horizon, size) of float64.

    >>> x = coloured(4000, 30, 1, 2.0, torch.Generator().manual_seed(0))
    >>> round(float(x.var()), 1), round(float((x[:, 1:] - x[:, :-1]).var()), 1)  # white noise: 1.0 and 2.0
    (1.0, 0.2)
    """
    bins = horizon // 2 + 1
    frequency = torch.arange(bins, dtype=torch.float64).clamp_min(1.0)
    height = frequency ** (-beta / 2)
    parts = torch.randn(2, n, size, bins, generator=generator, dtype=torch.float64) * height
    parts[1, ..., 0] = 0.0
    parts[0, ..., 0] *= 2**0.5
    if horizon % 2 == 0:
        parts[1, ..., -1] = 0.0
        parts[0, ..., -1] *= 2**0.5
    # the variance of one step: both parts of every frequency, the highest of an even length once
    power = 2 * height.square()
    if horizon % 2 == 0:
        power[-1] /= 2
    power[0] /= 2
    whole = torch.fft.irfft(torch.complex(parts[0], parts[1]), n=horizon) * horizon
    return (whole / (2 * power.sum()).sqrt()).transpose(1, 2)


def root(horizon: int, beta: float) -> Tensor:
    """Lower root L (horizon, horizon) of the covariance of coloured sequences, which are L ε.

    >>> root(3, 0.0)
    tensor([[1., 0., 0.],
            [0., 1., 0.],
            [0., 0., 1.]], dtype=torch.float64)
    """
    cycle = torch.fft.fftfreq(horizon, 1 / horizon, dtype=torch.float64).abs().round()
    power = cycle.clamp_min(1.0) ** -beta
    line = torch.fft.ifft(power).real / power.mean()  # covariance over 0, 1, 2, ... steps
    step = torch.arange(horizon)
    return torch.linalg.cholesky(line[(step.view(-1, 1) - step).abs()])


def sequences(n: int, horizon: int, box: Box, like: Tensor, generator: Generator) -> Tensor:
    """Draw ``n`` plans (n, 1, horizon, A) inside the box, a quarter of each colour."""
    parts = []
    for i, (beta, deviation) in enumerate(COLOURS):
        share = (n + len(COLOURS) - 1 - i) // len(COLOURS)
        if share:
            parts.append(deviation * coloured(share, horizon, box.size, beta, generator))
    return box.clip(box.middle + box.half * torch.cat(parts)).unsqueeze(1).to(like)
