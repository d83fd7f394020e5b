"""Give draws another mean by taking some of them more often and others less: no value is made up.

    w_i ∝ exp(λ z_i),      λ such that Σ w_i z_i is the mean

Of all weights with that mean these have the least relative entropy to equal ones.  Moving all draws by as much would leave
the values that data repeat, so that an interval of whole numbers would end at 0.03 and hold no zero.

Source: Csiszár 1975 (I-divergence projections on linear constraints).
"""

from __future__ import annotations

import torch
from torch import Tensor

ROUNDS = 25  # of Newton's method
CLOSE = 1e-3  # deviations that a mean may be off
INSIDE = 0.95  # share of the way to the outermost draw that a mean may lie at


def tilted(draws: Tensor, mean: Tensor) -> Tensor:
    """Draws (n, cells) with about the ``mean`` (cells,), each value one of those drawn; a mean beyond them is brought inside.

    Draws keep their order: the lowest stays the lowest.

    >>> tilted(torch.tensor([[0.0], [3.0], [0.0], [0.0], [3.0], [3.0]]), torch.tensor([2.0])).flatten()
    tensor([0., 3., 0., 3., 3., 3.])
    """
    n = len(draws)
    if n < 2 or not draws.numel():
        return draws
    low_to_high, order = draws.sort(0)
    centre, deviation = low_to_high.mean(0), low_to_high.std(0, correction=0)
    some = (deviation > 1e-12 * (1 + centre.abs())).nonzero().squeeze(1)
    if not len(some):
        return draws
    x = low_to_high[:, some]
    z = (x - centre[some]) / deviation[some]
    asked = (mean[some] - centre[some]) / deviation[some]
    weights = _weights(z, asked.clamp(INSIDE * z[0], INSIDE * z[-1]))
    upto = weights.cumsum(0).mT.contiguous()
    middles = (torch.arange(n, dtype=upto.dtype) + 0.5) / n
    taken = torch.searchsorted(upto, middles.expand(len(upto), n).contiguous()).clamp_max(n - 1).mT
    out = low_to_high.clone()
    out[:, some] = x.gather(0, taken)
    return torch.empty_like(out).scatter_(0, order, out)


def _weights(z: Tensor, mean: Tensor) -> Tensor:
    """exp(λ z) normalised (n, cells), with Σ w z = ``mean``, by Newton's method kept between what was too low and too high."""
    steep = torch.zeros_like(mean)
    low, high = torch.full_like(mean, -torch.inf), torch.full_like(mean, torch.inf)
    weights = torch.full_like(z, 1 / len(z))
    for _ in range(ROUNDS):
        now = (weights * z).sum(0)
        off = mean - now
        if bool((off.abs() < CLOSE).all()):
            break
        low, high = torch.where(off > 0, steep, low), torch.where(off > 0, high, steep)
        newton = steep + off / ((weights * z * z).sum(0) - now * now).clamp_min(0.05)
        halved = torch.where((low + high).isfinite(), (low + high) / 2, newton)
        steep = torch.where((newton > low) & (newton < high), newton, halved)
        weights = torch.softmax(steep * z, 0)
    return weights
