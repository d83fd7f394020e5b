"""Fit a mixture of Gaussians to rows with blanks by EM, its covariances full, tied, diagonal or spherical.

Each E-step integrates the blanks out: with C̃_k the covariance of the blank cells given the others, and zero elsewhere,

    N_k = Σ r_k,     μ_k = Σ r_k E[x] / N_k,     S_k = Σ r_k (E[x] E[x]ᵀ + C̃_k) / N_k − μ_k μ_kᵀ

and the M-step takes S_k itself (full), Σ_k N_k S_k / n (tied), its diagonal (diag), or the mean of that (spherical).  The sums
are :class:`~abduce.gaussians.sums.MixtureSums`, so rows may come in parts.

Source: Ghahramani & Jordan 1994.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from abduce.data.seen import Seen
from abduce.gaussians.em import climb, one_thread
from abduce.gaussians.gaussian_law import GaussianMixtureLaw
from abduce.gaussians.sums import CovarianceType, MixtureSums, summed


def gaussian_mixture(
    start: GaussianMixtureLaw,
    parts: Callable[[], Iterable[Seen]],
    covariance_type: CovarianceType,
    reg_covar: float,
    iterations: int = 100,
    tolerance: float = 1e-4,
) -> GaussianMixtureLaw:
    """EM from ``start`` until the mean log p rises by less than ``tolerance`` nats; ``reg_covar`` is added to variances.

    ``parts()`` gives the rows anew for each step, a part at a time; how they are cut changes rounding alone.
    """

    def step(law: GaussianMixtureLaw) -> tuple[GaussianMixtureLaw, float]:
        sums = summed(MixtureSums.zero(law), law, parts())
        return sums.solve(covariance_type, reg_covar), sums.mean_log_prob

    with one_thread():
        return climb(start, step, iterations, tolerance)
