"""Log importance weights and their reductions: the derivation of the VAE, as code.

Start from the evidence and multiply and divide by a proposal q that we can draw from:

    p(x) = ∫ p(x|z) p(z) dz = E_q[w],      w = p(x|z) p(z) / q(z|x).

One tensor of ``log_w``, shape ``(samples, batch)``, then answers every question; each result is a reduction over
samples:

    mean            ≤ log p(x) by Jensen: the evidence lower bound (ELBO)
    log-mean-exp    ≤ log p(x), tighter with more samples: the multi-sample bound, and the estimate of log p(x)
    power mean      log-mean-exp of (1 − α) log w, over 1 − α: the Rényi bounds, rising as α falls
    softmax         posterior expectations, resampling, effective sample size

Over time, where each step adds a weight, the same reductions a step at a time are the likelihood of a particle filter.

Rényi's family joins the ELBO (α = 1) through the multi-sample bound (α = 0) to the largest weight (α = −∞).

All values are in nats.  Sources: Kingma & Welling 2014 (arXiv:1312.6114); Burda et al. 2016 (arXiv:1509.00519);
Gordon, Salmond & Smith 1993 (particle filters).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from abduce.together import of_rows


class Weights(NamedTuple):
    """Draws from a proposal with the log of their importance weights."""

    log_w: Tensor  # (samples, batch)
    z: Tensor  # (samples, batch, latent)


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


def renyi(log_w: Tensor, alpha: float) -> Tensor:
    """Rényi bound of each row, (1/(1−α)) · log (1/S) Σ_s w_s^(1−α), shape ``(batch,)``.

    α = 1 is the ELBO (the limit), α = 0 the multi-sample bound, α = −∞ the largest log weight and α = ∞ the smallest.
    Source: Li & Turner 2016 (arXiv:1602.02311).

    >>> log_w = torch.tensor([[0.0], [math.log(3.0)]])
    >>> [round(renyi(log_w, alpha).item(), 4) for alpha in (-math.inf, 0, 1, 2, math.inf)]
    [1.0986, 0.6931, 0.5493, 0.4055, 0.0]
    """
    power = 1.0 - alpha
    if math.isinf(alpha):
        return log_w.amax(0) if alpha < 0 else log_w.amin(0)
    if abs(power) < 1e-4:  # where the general form cancels: its expansion around the ELBO
        return log_w.mean(0) + 0.5 * power * log_w.var(0, correction=0)
    return (torch.logsumexp(power * log_w, 0) - math.log(log_w.shape[0])) / power


def sequential(log_w: Tensor, resampled: Tensor) -> Tensor:
    """Estimate log p of each step given those before it from the weights of particles; the sum over steps is log p̂.

        log p̂ = Σ_t log (1/S) Σ_s w_t^s                    where particles are resampled after every step

    ``log_w`` (steps, samples, batch) holds what each step adds to a particle's log weight, and ``resampled`` (steps, batch)
    says after which steps particles were resampled, which sets their weights equal again.  Between these, weights multiply
    along each particle's path; never resampled, log p̂ is the multi-sample bound of whole paths.  Shape (steps, batch).

    >>> log_w = torch.tensor([[[1.0], [3.0]], [[1.0], [5.0]]]).log()
    >>> sequential(log_w, torch.tensor([[True], [False]])).exp().T, sequential(log_w, torch.zeros(2, 1).bool()).exp().T
    (tensor([[2., 3.]]), tensor([[2., 4.]]))
    """
    total = log_w.cumsum(0)
    before = torch.cat([torch.zeros_like(total[:1]), total[:-1]])
    step = torch.arange(len(log_w), device=log_w.device).unsqueeze(1)
    last = (
        torch.where(resampled, step + 1, 0).cummax(0).values
    )  # one after the last resampling up to each step
    last = torch.cat([torch.zeros_like(last[:1]), last[:-1]])
    index = last.unsqueeze(1).expand_as(log_w)
    path = torch.logsumexp(total - torch.gather(before, 0, index), 1) - math.log(log_w.shape[1])
    equal = torch.cat([torch.ones_like(resampled[:1]), resampled[:-1]])
    return path - torch.where(equal, 0.0, torch.cat([torch.zeros_like(path[:1]), path[:-1]]))


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
    relative = log_w.shape[0] / effective_sample_size(log_w) - 1  # var(w) / mean(w)²
    return (relative.clamp_min(0) / max(log_w.shape[0] - 1, 1)).sqrt()


def pareto_k(log_w: Tensor) -> Tensor:
    """Fit the shape k̂ of the weights' upper tail by a generalised Pareto law, of each row, shape ``(batch,)``.

    Weights with a tail of shape k have finite moments up to order 1/k: from k̂ = 0.5 on their variance, and with it
    :func:`standard_error`, does not exist; above about 0.7 the estimate itself should not be trusted.  The fit is to the
    min(S/5, 3√S) largest weights: with exceedances y_1 ≤ ... ≤ y_n over the next smaller weight, and y* their quartile,

        θ_j = 1/y_n + (1 − √(m/(j − ½))) / (3 y*),  j = 1..m = 30 + ⌊√n⌋,     k(θ) = mean log(1 − θ y),
        k̂ = k(Σ_j θ_j softmax_j L(θ_j)),     L(θ) = n [log(−θ/k(θ)) − k(θ) − 1],

    drawn to ½ with the weight of ten observations.  NaN where fewer than five weights are in the tail (S ≤ 20), −inf where
    these are all equal.  Source: Zhang & Stephens 2009; Vehtari et al. 2024 (arXiv:1507.02646).

    >>> u = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    >>> pareto_k(-0.8 * u.log().unsqueeze(1))  # a Pareto tail of shape 0.8
    tensor([0.7...], dtype=torch.float64)
    """
    samples, batch = log_w.shape
    n = math.ceil(min(samples / 5, 3 * math.sqrt(samples)))
    if n < 5:
        return log_w.new_full((batch,), torch.nan, dtype=torch.float64)
    top = torch.topk(log_w.double(), n + 1, dim=0).values.flip(0).T  # (batch, n + 1), rising
    w = torch.exp(top - top[:, -1:])
    y = (w[:, 1:] - w[:, :1]).clamp_min(1e-300)  # ties and underflow must not divide by zero
    m = 30 + math.isqrt(n)
    j = torch.arange(1, m + 1, dtype=y.dtype, device=y.device)
    quartile = y[:, int(n / 4 + 0.5) - 1 : int(n / 4 + 0.5)]
    theta = 1 / y[:, -1:] + (1 - torch.sqrt(m / (j - 0.5))) / (3 * quartile)
    k = torch.log1p(-theta.unsqueeze(-1) * y.unsqueeze(1)).mean(-1)
    likelihood = n * (torch.log(-theta / k) - k - 1)
    best = (theta * torch.softmax(likelihood.nan_to_num(nan=-torch.inf), 1)).sum(1, keepdim=True)
    shape = (n * torch.log1p(-best * y).mean(1) + 5) / (n + 10)
    return shape.masked_fill(top[:, 0] == top[:, -1], -torch.inf)


def resample(log_w: Tensor, n: int, generator: Generator | None = None, shared: bool = False) -> Tensor:
    """Draw ``n`` sample indices per row in proportion to the weights, shape ``(n, batch)``.

    Systematic resampling: one uniform number a row, ``n`` evenly spaced points; each sample is taken ⌊n w⌋ or ⌈n w⌉
    times, so the resampled average varies less than with independent draws.  With ``shared`` all rows use the same
    uniform number, so that a row's draws do not depend on which rows come along.
    """
    samples, batch = log_w.shape
    how = {"generator": generator, "dtype": log_w.dtype, "device": log_w.device}
    start = torch.rand(1, 1, **how) if shared else of_rows(torch.rand, (batch, 1), 0, **how)
    points = (torch.arange(n, dtype=log_w.dtype, device=log_w.device) + start.expand(batch, 1)) / n
    cumulative = normalized(log_w).cumsum(0).T.contiguous()
    return torch.searchsorted(cumulative, points).clamp_max(samples - 1).T


def take(values: Tensor, index: Tensor) -> Tensor:
    """Pick ``values[index[n, b], b]`` for every row b: (samples, batch, ...) by (n, batch) gives (n, batch, ...)."""
    return values[index, torch.arange(index.shape[1], device=index.device)]
