"""Fit a mixture of Gaussians to rows with blanks by EM, its covariances full, tied, diagonal or spherical.

Each E-step integrates the blanks out: with C̃_k the covariance of the blank cells given the others, and zero elsewhere,

    N_k = Σ r_k,     μ_k = Σ r_k E[x] / N_k,     S_k = Σ r_k (E[x] E[x]ᵀ + C̃_k) / N_k − μ_k μ_kᵀ

and the M-step takes S_k itself (full), Σ_k N_k S_k / n (tied), its diagonal (diag), or the mean of that (spherical).

Source: Ghahramani & Jordan 1994.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from abduce.data.seen import Seen
from abduce.gaussians.em import climb, one_thread
from abduce.gaussians.gaussian_law import GaussianMixtureLaw, Statistics

CovarianceType = Literal["full", "tied", "diag", "spherical"]


def gaussian_mixture(
    start: GaussianMixtureLaw,
    seen: Seen,
    covariance_type: CovarianceType,
    reg_covar: float,
    iterations: int = 100,
    tolerance: float = 1e-4,
) -> GaussianMixtureLaw:
    """EM from ``start`` until the mean log p rises by less than ``tolerance`` nats; ``reg_covar`` is added to variances."""

    def step(law: GaussianMixtureLaw) -> tuple[GaussianMixtureLaw, float]:
        expected = law.statistics(seen)
        return _maximised(expected, covariance_type, reg_covar), float(expected.log_prob.mean())

    with one_thread():
        return climb(start, step, iterations, tolerance)


def _maximised(expected: Statistics, covariance_type: CovarianceType, reg_covar: float) -> GaussianMixtureLaw:
    """The M-step."""
    size, first, second, _ = expected
    size = size.clamp_min(1e-10)
    means = first / size.unsqueeze(1)
    covariances = second / size[:, None, None] - means.unsqueeze(2) * means.unsqueeze(1)
    k, d = means.shape
    if covariance_type == "tied":
        covariances = torch.einsum("k,kij->ij", size / size.sum(), covariances)
    elif covariance_type != "full":
        covariances = torch.diagonal(covariances, dim1=1, dim2=2)
        covariances = covariances.mean(1) if covariance_type == "spherical" else covariances
    covariances = full(covariances, covariance_type, k, d) + reg_covar * torch.eye(d, dtype=means.dtype)
    return GaussianMixtureLaw(size.log(), means, 0.5 * (covariances + covariances.mT))


def full(covariances: Tensor, covariance_type: CovarianceType, k: int, d: int) -> Tensor:
    """Covariances (K, D, D) from the shape that their type has: (K, D, D), (D, D), (K, D) or (K,)."""
    if covariance_type in ("full", "tied"):
        return covariances.expand(k, d, d)
    return torch.diag_embed(covariances.view(k, -1).expand(k, d))
