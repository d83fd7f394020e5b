"""Give draws another mean by taking some of them more often and others less: no value is made up.

    w_i ∝ exp(λ z_i),      λ such that Σ w_i z_i is the mean

Of all weights with that mean these have the least relative entropy to equal ones.  Moving all draws by as much would leave
the values that data repeat, so that an interval of whole numbers would end at 0.03 and hold no zero.

Sources: Csiszár 1975 (I-divergence projections on linear constraints); Kitagawa 1996 (systematic resampling).
"""

from __future__ import annotations

import torch
from torch import Tensor

ROUNDS = 25  # of Newton's method
CLOSE = 3e-3  # deviations that a mean may be off
INSIDE = 0.95  # share of the way to the outermost draw that a mean may lie at
CACHE = 2**18  # draws that are looked at together


def tilted(draws: Tensor, mean: Tensor) -> Tensor:
    """Draws (n, cells) with about the ``mean`` (cells,), each value one of those drawn; a mean beyond them is brought inside.

    >>> tilted(torch.tensor([[0.0], [3.0], [0.0], [0.0], [3.0], [3.0]]), torch.tensor([2.0])).flatten()
    tensor([0., 3., 0., 3., 3., 3.])
    """
    n, cells = draws.shape
    if n < 2 or not cells:
        return draws
    size = max(1, CACHE // n)
    parts = zip(draws.split(size, 1), mean.split(size), strict=True)
    return torch.cat([_resampled(x.mT.contiguous(), m).mT for x, m in parts], 1)


def _resampled(x: Tensor, mean: Tensor) -> Tensor:
    """The same of draws (cells, n)."""
    cells, n = x.shape
    centre, deviation = x.mean(1, keepdim=True), x.std(1, correction=0, keepdim=True)
    varied = deviation > 1e-12 * (1 + centre.abs())
    z = (x - centre) / torch.where(varied, deviation, 1.0)
    asked = (mean.unsqueeze(1) - centre) / torch.where(varied, deviation, torch.inf)
    weights = _weights(z, asked.clamp(INSIDE * z.amin(1, keepdim=True), INSIDE * z.amax(1, keepdim=True)))
    # the middles of n equal parts of the unit interval, in which each draw has the share that it weighs
    upto = (n * weights.cumsum(1) + 0.5).floor_().clamp_(max=n)
    upto[:, -1] = n
    copies = upto.diff(dim=1, prepend=upto.new_zeros(cells, 1)).long()
    return x.flatten().repeat_interleave(copies.flatten()).view(cells, n)


def _weights(z: Tensor, mean: Tensor) -> Tensor:
    """exp(λ z) normalised (cells, n), with Σ w z = ``mean`` (cells, 1), by Newton's method kept between what was too low and
    too high."""
    out = torch.full_like(z, 1 / z.shape[1])
    open_ = torch.arange(len(z))  # cells whose mean is not there yet
    steep, weights = torch.zeros_like(mean), out
    low, high = torch.full_like(mean, -torch.inf), torch.full_like(mean, torch.inf)
    for _ in range(ROUNDS):
        now = (weights * z).sum(1, keepdim=True)
        left = ((mean - now).abs() >= CLOSE).squeeze(1)
        if not bool(left.any()):
            break
        if not bool(left.all()):
            open_, z, weights, mean, now = open_[left], z[left], weights[left], mean[left], now[left]
            steep, low, high = steep[left], low[left], high[left]
        off = mean - now
        low, high = torch.where(off > 0, steep, low), torch.where(off > 0, high, steep)
        newton = steep + off / ((weights * z * z).sum(1, keepdim=True) - now * now).clamp_min(0.05)
        halved = torch.where((low + high).isfinite(), (low + high) / 2, newton)
        steep = torch.where((newton > low) & (newton < high), newton, halved)
        weights = torch.softmax(steep * z, 1)
        out[open_] = weights
    return out
