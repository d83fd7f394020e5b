"""The most that log p of rows can be by the energy of a few states: what shows that a training ran away whose loss does not.

For any states s, and for draws s of any density q,

    binary cells    log Z ≥ log Σ exp(−E(s))                    over different states
    real cells      log Z ≥ E[log mean exp(−E(s)) / q(s)]       (Jensen; above log Z + t by a chance below exp(−t))

so that log p(x) = −E(x) − log Z is at most what the right sides leave.  A model of which even that lies below log p of
columns that do not depend on each other is worse than they are, however badly its chains mix.  The states are those of the
chains, where an energy that ran away is lowest, and the rows themselves; on real cells q is a mixture of Gaussians of several
widths around them.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from abduce.distributions.bases import RatesBase
from abduce.distributions.cells import LOG_2PI
from abduce.inference.energy import Energy
from abduce.inference.kernels import normal

# of the Gaussians, in standard deviations of the data; wells may lie where no chain came
WIDTHS = (0.1, 0.3, 1.0, 3.0)
CONSTANT = 1e-6  # a smaller variance is that of a constant column, which any density may be infinite on


@torch.no_grad()
def most_log_prob(model: Energy, x: Tensor, states: Tensor, generator: Generator | None) -> float:
    """Upper bound on the mean log p of rows x (n, D), nats, by the energy at and around ``states`` (m, D)."""
    states = torch.cat([states, x])
    if model.support == "binary":
        log_z = torch.logsumexp(-model.energy(torch.unique(states, dim=0)), 0)
    else:
        scale = x.new_tensor(WIDTHS)
        around = states.repeat(len(scale), 1)
        drawn = around + scale.repeat_interleave(len(states)).unsqueeze(-1) * normal(around, generator)
        distance = torch.cdist(drawn, states).square().unsqueeze(-1) / scale.square()
        log_q = -0.5 * distance - x.shape[1] * (scale.log() + 0.5 * LOG_2PI)
        log_q = torch.logsumexp(log_q.flatten(1), 1) - math.log(log_q[0].numel())
        log_z = torch.logsumexp(-model.energy(drawn) - log_q, 0) - math.log(len(drawn))
    return float(-model.energy(x).mean() - log_z)


def independent_log_prob(model: Energy, x: Tensor) -> float:
    """Mean log p of rows x (n, D) by columns that do not depend on each other, nats: shares of ones, or normal."""
    if model.support == "binary":
        return float(RatesBase.fit(x).log_prob(x).mean())
    spread = x.var(0, unbiased=False)
    spread = torch.where(spread > CONSTANT, spread, 1.0)
    return float(-0.5 * (spread.log() + LOG_2PI + 1).sum())
