"""Fit a mixture of Gaussians to rows with blanks by EM, its covariances full, tied, diagonal or spherical.

Each E-step integrates the blanks out: with C̃_k the covariance of the blank cells given the others, and zero elsewhere,

    N_k = Σ r_k,     μ_k = Σ r_k E[x] / N_k,     S_k = Σ r_k (E[x] E[x]ᵀ + C̃_k) / N_k − μ_k μ_kᵀ

and the M-step takes S_k itself (full), Σ_k N_k S_k / n (tied), its diagonal (diag), or the mean of that (spherical).  The sums
are :class:`~abduce.gaussians.sums.MixtureSums`, by which :mod:`abduce.fit.passes` fits to more rows than memory holds.

Source: Ghahramani & Jordan 1994.
"""

from __future__ import annotations

from abduce.data.seen import Seen
from abduce.gaussians.em import climb, one_thread
from abduce.gaussians.gaussian_law import GaussianMixtureLaw
from abduce.gaussians.sums import CovarianceType, MixtureSums


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
        sums = MixtureSums.zero(law).add(law, seen)
        return sums.solve(covariance_type, reg_covar), sums.value

    with one_thread():
        return climb(start, step, iterations, tolerance)
