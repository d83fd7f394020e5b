"""Penalties of the aggregate posterior q(z) = (1/N) Σ_n q(z|x_n), estimated from a batch.

Sources: Chen et al. 2018, β-TC-VAE (arXiv:1802.04942); Zhao et al. 2019, InfoVAE (arXiv:1706.02262); Tolstikhin et al. 2018,
the kernel (arXiv:1711.01558); Kumar et al. 2018, DIP-VAE (arXiv:1711.00848).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from abduce.distributions.cells import LOG_2PI
from abduce.distributions.posteriors import DiagonalNormal, Posterior
from abduce.together import gathered, mine


def _diagonal(q: Posterior, name: str) -> DiagonalNormal:
    if not isinstance(q, DiagonalNormal):
        raise ValueError(f"{name} needs posterior='diagonal', got {type(q).__name__}")
    return q


def total_correlation(q: Posterior, z: Tensor, rows: int | None) -> Tensor:
    """Total correlation KL(q(z) ‖ Π_d q(z_d)) at each row's draw z ``(batch, latent)``, nats, ``(batch,)``.

    q(z_i) is estimated without bias from the batch by stratified weights: the row's own posterior counts 1/N, each of the
    batch's others (N − 1) / (N (B − 1)), with N = ``rows`` the size of the data.
    """
    q, draws = _diagonal(q, "total_correlation"), gathered(z)
    mean, log_scale, batch = gathered(q.mean), gathered(q.log_scale), len(draws)
    if rows is None:
        raise ValueError("total_correlation takes the size of the data: rows must be given, got None")
    if batch < 2:
        raise ValueError(f"total_correlation needs a batch of at least 2 rows, got {batch}")
    standard = (draws.unsqueeze(1) - mean) * torch.exp(-log_scale)
    cells = -0.5 * (standard.square() + LOG_2PI) - log_scale  # (i, j, d): log q(z_id | x_j)
    rows = max(rows, batch)
    other = math.log((rows - 1) / (rows * (batch - 1)))
    log_share = torch.full((batch, batch), other, dtype=z.dtype, device=z.device)
    log_share.fill_diagonal_(-math.log(rows))
    joint = torch.logsumexp(cells.sum(-1) + log_share, 1)
    return mine(joint - torch.logsumexp(cells + log_share.unsqueeze(-1), 1).sum(-1))


def mmd(z: Tensor, prior: Tensor) -> Tensor:
    """Squared maximum mean discrepancy between draws of q(z) and of p(z), each ``(batch, latent)``; unbiased, a scalar.

    The kernel is a sum of inverse multiquadrics C / (C + ‖z − z'‖²), C = 2 · latent · {0.1, 0.2, 0.5, 1, 2, 5, 10}.
    """
    n, m, k = len(z), len(prior), z.shape[-1]
    if min(n, m) < 2:
        raise ValueError(f"mmd needs a batch of at least 2 rows, got {min(n, m)}")

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        distance = (a.square().sum(-1).unsqueeze(1) + b.square().sum(-1) - 2 * a @ b.T).clamp_min(0.0)
        return sum(
            (c / (c + distance) for c in (2.0 * k * s for s in (0.1, 0.2, 0.5, 1, 2, 5, 10))), z.new_zeros(())
        )

    def apart(a: Tensor) -> Tensor:
        gram = kernel(a, a)
        return (gram.sum() - torch.diagonal(gram).sum()) / (len(a) * (len(a) - 1))

    return apart(z) + apart(prior) - 2 * kernel(z, prior).mean()


def dip(q: Posterior) -> Tensor:
    """Σ_{i≠j} C_ij² + Σ_i (C_ii − 1)², C the covariance of q(z): of the means, plus the mean of the variances; a scalar."""
    q = _diagonal(q, "dip")
    mean, log_scale = gathered(q.mean), gathered(q.log_scale)
    if len(mean) < 2:
        raise ValueError(f"dip needs a batch of at least 2 rows, got {len(mean)}")
    covariance = torch.cov(mean.T, correction=0).view(mean.shape[1], -1)
    covariance = covariance + torch.diag(torch.exp(2 * log_scale).mean(0))
    return (covariance - torch.eye(len(covariance)).to(covariance)).square().sum()
