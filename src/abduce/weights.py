"""Log importance weights and their reductions: the derivation of the VAE, as code.

Start from the evidence and multiply and divide by a proposal q that we can draw from:

    p(x) = ∫ p(x|z) p(z) dz = E_q[w],      w = p(x|z) p(z) / q(z|x).

One tensor of ``log_w``, shape ``(samples, batch)``, then answers every question; each result is a reduction over
samples:

    mean            ≤ log p(x) by Jensen: the evidence lower bound (ELBO)
    log-mean-exp    ≤ log p(x), tighter with more samples: the multi-sample bound, and the estimate of log p(x)
    softmax         posterior expectations, resampling, effective sample size

All values are in nats.  Sources: Kingma & Welling 2014 (arXiv:1312.6114); Burda, Grosse & Salakhutdinov 2016
(arXiv:1509.00519).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Weights(NamedTuple):
    """Draws from a proposal with the log of their importance weights.

    ``log_w`` has shape ``(samples, batch)``, ``z`` has shape ``(samples, batch, latent)``.
    """

    log_w: Tensor
    z: Tensor


def elbo(log_w: Tensor) -> Tensor:
    """Average the log weights: the ELBO of each row, shape ``(batch,)``.

    >>> elbo(torch.tensor([[0.0, -1.0], [2.0, -3.0]]))
    tensor([ 1., -2.])
    """
    return log_w.mean(0)


def multi_sample(log_w: Tensor) -> Tensor:
    """Log of the average weight, log (1/S) Σ_s w_s, of each row, shape ``(batch,)``.

    >>> multi_sample(torch.tensor([[0.5], [0.5]]))
    tensor([0.5000])
    """
    return torch.logsumexp(log_w, 0) - math.log(log_w.shape[0])


def normalized(log_w: Tensor) -> Tensor:
    """Normalise the weights to sum to one over samples, shape ``(samples, batch)``."""
    return torch.softmax(log_w, 0)


def expectation(log_w: Tensor, values: Tensor) -> Tensor:
    """Average ``values`` (samples, batch, ...) under the normalised weights: E[values | x], shape (batch, ...)."""
    return torch.einsum("sb,sb...->b...", normalized(log_w), values)


def effective_sample_size(log_w: Tensor) -> Tensor:
    """Effective number of equally weighted draws, (Σw)² / Σw², of each row: between 1 and ``samples``.

    >>> effective_sample_size(torch.zeros(4, 1))
    tensor([4.])
    """
    return torch.exp(2 * torch.logsumexp(log_w, 0) - torch.logsumexp(2 * log_w, 0))


def standard_error(log_w: Tensor) -> Tensor:
    """Standard error, in nats, of :func:`multi_sample` by the delta method: sd(w) / (mean(w) √S)."""
    relative = (
        log_w.shape[0] / effective_sample_size(log_w) - 1
    )  # the weights' variance over their squared mean
    return (relative.clamp_min(0) / max(log_w.shape[0] - 1, 1)).sqrt()


def resample(log_w: Tensor, n: int, generator: torch.Generator | None = None) -> Tensor:
    """Draw ``n`` sample indices per row in proportion to the weights, shape ``(n, batch)``.

    Systematic resampling: one uniform number a row, ``n`` evenly spaced points; each sample is taken ⌊n w⌋ or ⌈n w⌉
    times, so the resampled average varies less than with independent draws.
    """
    samples, batch = log_w.shape
    start = torch.rand(batch, 1, generator=generator, dtype=log_w.dtype, device=log_w.device)
    points = (torch.arange(n, dtype=log_w.dtype, device=log_w.device) + start) / n
    cumulative = normalized(log_w).cumsum(0).T.contiguous()
    return torch.searchsorted(cumulative, points).clamp_max(samples - 1).T


def take(values: Tensor, index: Tensor) -> Tensor:
    """Pick ``values[index[n, b], b]`` for every row b: (samples, batch, ...) by (n, batch) gives (n, batch, ...)."""
    return values[index, torch.arange(index.shape[1], device=index.device)]
