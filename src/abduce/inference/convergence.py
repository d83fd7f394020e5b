"""Have chains converged, and how many draws are they worth?

    split R̂      each chain is cut in half; R̂ = √(((n − 1)/n · W + B/n) / W), W the mean variance within the halves and B/n
                 the variance of their means: near 1 when all halves tell the same, above about 1.05 when they do not
    ESS          m n / (1 + 2 Σ_t ρ_t) over m chains of n draws; ρ_t the autocorrelation of all halves together, summed in
                 pairs until a pair is negative (Geyer's initial positive, monotone sequence)

Source: Gelman et al. 2013, Bayesian Data Analysis, ch. 11; Vehtari et al. 2021 (arXiv:1903.08008).
"""

from __future__ import annotations

import torch
from torch import Tensor


def _halves(trace: Tensor) -> Tensor:
    """(draws, chains) -> (draws / 2, 2 chains)."""
    n = len(trace) // 2
    return torch.cat([trace[:n], trace[len(trace) - n :]], 1).double()


def split_r_hat(trace: Tensor) -> float:
    """R̂ of a scalar's trace, ``(draws, chains)``; NaN with fewer than four draws, 1 where nothing varies.

    >>> g = torch.Generator().manual_seed(0)
    >>> steady = torch.randn(500, 4, generator=g)
    >>> round(split_r_hat(steady), 2), split_r_hat(steady + torch.tensor([0.0, 0.0, 0.0, 3.0])) > 1.3
    (1.0, True)
    """
    if len(trace) < 4:
        return float("nan")
    halves = _halves(trace)
    n = len(halves)
    within = halves.var(0).mean()
    between = halves.mean(0).var()
    if float(within) == 0:
        return 1.0 if float(between) == 0 else float("inf")
    return float((((n - 1) / n * within + between) / within).sqrt())


def chain_sample_size(trace: Tensor) -> float:
    """Effective number of independent draws in a scalar's trace, ``(draws, chains)``; NaN with fewer than four draws.

    >>> g = torch.Generator().manual_seed(0)
    >>> bool(abs(chain_sample_size(torch.randn(1000, 4, generator=g)) / 4000 - 1) < 0.1)
    True
    """
    if len(trace) < 4:
        return float("nan")
    halves = _halves(trace)
    n, m = halves.shape
    centred = halves - halves.mean(0)
    spectrum = torch.fft.rfft(centred, n=2 * n, dim=0)
    covariance = torch.fft.irfft(spectrum.abs().square(), n=2 * n, dim=0)[:n].mean(1) / n
    within = covariance[0] * n / (n - 1)
    total = (n - 1) / n * within + (halves.mean(0).var() if m > 1 else 0.0)
    if float(total) == 0:
        return float("nan")
    rho = 1 - (within - covariance * n / (n - 1)) / total
    rho[0] = 1.0
    pairs = rho[: n - n % 2].view(-1, 2).sum(1)
    negative = (pairs < 0).nonzero()
    pairs = pairs[: int(negative[0])] if len(negative) else pairs
    time = -1 + 2 * float(torch.cummin(pairs, 0).values.sum()) if len(pairs) else 1.0
    return m * n / max(time, 1 / max(1.0, torch.log10(torch.tensor(float(m * n))).item()))
