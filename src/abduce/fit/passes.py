"""Fit by passes over all rows of a table in files, a part of them in memory at a time, from what a sample was fitted to.

Each pass sums what the next parameters follow from, and no row is kept:

    mixture of Gaussians     one step of EM over all rows                         MixtureSums
    principal components     the same of one Gaussian, of whose covariance
                             q directions and a σ² are kept: EM for PPCA where
                             the blanks alone are hidden, exact without blanks    MixtureSums
    k-means                  one round of Lloyd's algorithm                       CentreSums

Passes end where one raised the mean log p by less than ``TOLERANCE`` nats a row (of k-means: lowered the mean energy by less).
Cells that do not vary in the sample are left as the sample has them.

Sources: Dempster, Laird & Rubin 1977; Tipping & Bishop 1999; Lloyd 1957.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from abduce.data.seen import Seen
from abduce.fit.classical import among
from abduce.gaussians import gaussian_fit
from abduce.gaussians.centre_sums import CentreSums
from abduce.gaussians.em import alone, climb, one_thread, varying
from abduce.gaussians.gaussian_law import GaussianMixtureLaw
from abduce.gaussians.sums import CovarianceType, MixtureSums, summed
from abduce.models.gaussian import PrincipalComponentsEnergy
from abduce.models.mixture import GaussianMixtureEnergy, KMeansEnergy

Parts = Callable[[], Iterable[Seen]]  # all rows anew, a part at a time
MOST, TOLERANCE = 100, 1e-4


def gaussian_mixture(
    start: GaussianMixtureEnergy,
    parts: Parts,
    sample: Seen,
    covariance_type: CovarianceType,
    reg_covar: float,
) -> GaussianMixtureEnergy:
    """Go on from a mixture fitted to a ``sample`` by steps of EM over all rows."""
    law, some = start.distribution(), varying(sample.y, sample.mask)
    inner = GaussianMixtureLaw(law.log_weights, law.means[:, some], law.covariances[:, some][:, :, some])
    inner = gaussian_fit.gaussian_mixture(
        inner, _cells(parts, some), covariance_type, reg_covar, MOST, TOLERANCE
    )
    fitted = GaussianMixtureEnergy.of(inner.log_weights, inner.means, inner.covariances)
    return fitted if bool(some.all()) else among(fitted, some, *alone(sample.y, sample.mask, reg_covar))


def principal_components(
    start: PrincipalComponentsEnergy, parts: Parts, sample: Seen
) -> PrincipalComponentsEnergy:
    """Go on from principal components of a ``sample`` to those of all rows; directions keep their signs."""
    some, energy = varying(sample.y, sample.mask), start.config["energy"]
    rows = _cells(parts, some)
    known = PrincipalComponentsEnergy.of(
        start.mean[some], start.directions[some], start.variances, start.noise
    )

    def step(model: PrincipalComponentsEnergy) -> tuple[PrincipalComponentsEnergy, float]:
        law = model.law()
        assert law is not None
        sums = summed(MixtureSums.zero(law), law, rows())
        return principal(sums, model), sums.mean_log_prob

    with one_thread():
        found = climb(known, step, MOST, TOLERANCE)
    mean, directions = start.mean.clone(), torch.zeros_like(start.directions)
    mean[some], directions[some] = found.mean, found.directions
    return PrincipalComponentsEnergy.of(mean, directions, found.variances, found.noise, energy)


def principal(sums: MixtureSums, before: PrincipalComponentsEnergy) -> PrincipalComponentsEnergy:
    """Principal components of rows that one Gaussian was summed over, as many and of the same signs as ``before``.

    Variances are those of the sample covariance (n − 1); across the directions it is the mean of those left out.
    """
    q = before.directions.shape[1]
    mean = sums.first[0] / sums.size[0]
    covariance = sums.second[0] / sums.size[0] - torch.outer(mean, mean)
    values, vectors = torch.linalg.eigh(covariance * (sums.rows / (sums.rows - 1)))
    values, vectors = values.flip(0), vectors.flip(1)[:, :q]
    turned = torch.where((vectors * before.directions).sum(0) < 0, -1.0, 1.0).to(vectors)
    noise = values[q:].mean() if q < len(values) else values[-1]
    return PrincipalComponentsEnergy.of(mean, vectors * turned, values[:q], noise)


def k_means(start: KMeansEnergy, parts: Parts) -> KMeansEnergy:
    """Go on from the centres of a sample by rounds over all rows."""

    def step(centres: Tensor) -> tuple[Tensor, float]:
        sums = summed(CentreSums.zero(centres), centres, parts())
        return sums.solve(centres), -sums.mean_energy

    with one_thread():
        return KMeansEnergy.of(climb(start.centres.detach(), step, MOST, TOLERANCE))


def _cells(parts: Parts, some: Tensor) -> Parts:
    """The same rows, of them the cells marked in ``some`` (D,)."""
    if bool(some.all()):
        return parts

    def inner() -> Iterator[Seen]:
        return (Seen(seen.y[:, some], seen.mask[:, some]) for seen in parts())

    return inner
