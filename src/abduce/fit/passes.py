"""Fit by passes over all rows of a table in files, a part of them in memory at a time, from what a sample was fitted to.

Each pass sums what the next parameters follow from, and no row is kept:

    mixture of Gaussians     one step of EM over all rows                         MixtureSums
    principal components     the same of one Gaussian, of whose covariance
                             q directions and a σ² are kept: EM for PPCA where
                             the blanks alone are hidden, exact without blanks    MixtureSums
    factor analysers         one step of EM over all rows                         FactorSums
    k-means                  one round of Lloyd's algorithm                       CentreSums

Passes end where one raised the mean log p by less than ``TOLERANCE`` nats a row (of k-means: lowered the mean energy by less).
Cells that do not vary in the sample are left as the sample has them.  Ctrl-C leaves what the last whole pass came to, which no
earlier one was better than; with a checkpoint that is kept after each pass, and a run that was cut goes on from there to the
same numbers.

Sources: Dempster, Laird & Rubin 1977; Tipping & Bishop 1999; Ghahramani & Hinton 1996; Lloyd 1957.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from abduce.data.seen import Seen
from abduce.fit.all_rows import AllRows, Build, Tensors, itself
from abduce.fit.checkpoint import TrainingState
from abduce.fit.classical import LEAST_NOISE, among
from abduce.gaussians.centre_sums import CentreSums
from abduce.gaussians.em import alone, one_thread, varying
from abduce.gaussians.factor_fit import FLOOR, maximised
from abduce.gaussians.factor_law import FactorMixtureLaw
from abduce.gaussians.factor_sums import FactorSums
from abduce.gaussians.gaussian_law import GaussianMixtureLaw
from abduce.gaussians.sums import CovarianceType, MixtureSums, S
from abduce.models.gaussian import PrincipalComponentsEnergy, gaussian_of
from abduce.models.mixture import FactorAnalyzersEnergy, GaussianMixtureEnergy, KMeansEnergy

MOST, TOLERANCE = 100, 1e-4


class Passes:
    """How a law is fitted by passes over ``rows``: who is told of them by ``report``, and where their ``state`` is kept.

    ``history`` has a record of each whole pass: ``pass``, its number, and ``train``, the mean log p that it started from, of
    the cells that vary.  ``interrupted`` says whether Ctrl-C ended them.
    """

    def __init__(self, rows: AllRows, report: Callable[[dict[str, Any]], Any], state: TrainingState | None):
        self.rows, self.report, self.state = rows, report, state
        self.history: list[dict[str, Any]] = []
        self.interrupted = False

    def climb(
        self,
        law: Tensors,
        kind: type[S],
        build: Build,
        solve: Callable[[S, Tensors], Tensors],
        some: Tensor,
    ) -> Tensors:
        """The tensors of the law that passes lead to: each sums as ``kind`` over the cells marked in ``some`` (D,), under the
        law that ``build`` makes of its tensors, and ``solve`` gives those of the next one."""
        ended = False
        if self.state is not None and self.state.exists():
            progress, tensors = self.state.load()
            law = tuple(tensors["law"][str(i)] for i in range(len(tensors["law"])))
            self.history, ended = progress["history"], progress["ended"]
        try:
            with one_thread():
                while not ended and len(self.history) < MOST:
                    number = len(self.history) + 1
                    before = self.history[-1]["train"] if self.history else None
                    told = {"pass": number, "passes": MOST, "of": self.rows.rows, "train": before}
                    sums = self.rows.summed(
                        kind, build, law, some, lambda rows, told=told: self.report({**told, "rows": rows})
                    )
                    law, value = solve(sums, law), sums.value
                    self.history.append({"pass": number, "train": value})
                    ended = before is not None and value - before < TOLERANCE
                    if self.state is not None:
                        kept = {str(i): tensor for i, tensor in enumerate(law)}
                        self.state.save({"history": self.history, "ended": ended}, law=kept)
        except KeyboardInterrupt:
            self.interrupted = True
        return law


def gaussian_mixture(
    start: GaussianMixtureEnergy,
    passes: Passes,
    sample: Seen,
    covariance_type: CovarianceType,
    reg_covar: float,
) -> GaussianMixtureEnergy:
    """Go on from a mixture fitted to a ``sample`` by steps of EM over all rows."""
    law, some = start.distribution(), varying(sample.y, sample.mask)

    def solve(sums: MixtureSums, before: Tensors) -> Tensors:
        found = sums.solve(covariance_type, reg_covar)
        return found.log_weights, found.means, found.covariances

    inner = law.log_weights, law.means[:, some], law.covariances[:, some][:, :, some]
    found = passes.climb(inner, MixtureSums, GaussianMixtureLaw, solve, some)
    fitted = GaussianMixtureEnergy.of(*found)
    return fitted if bool(some.all()) else among(fitted, some, *alone(sample.y, sample.mask, reg_covar))


def factor_analyzers(
    start: FactorAnalyzersEnergy, passes: Passes, sample: Seen, pseudo_rows: float
) -> FactorAnalyzersEnergy:
    """Go on from a mixture of factor analysers fitted to a ``sample`` by steps of EM over all rows, in double precision."""
    some = varying(sample.y, sample.mask)

    def solve(sums: FactorSums, before: Tensors) -> Tensors:
        return maximised(FactorMixtureLaw(*before), sums.expected.whole(True), pseudo_rows, FLOOR).tensors

    inner = start.distribution().cells(some)
    law = FactorMixtureLaw(*passes.climb(inner.tensors, FactorSums, FactorMixtureLaw, solve, some))
    if not bool(some.all()):
        law = law.among(some, *alone(sample.y, sample.mask, FLOOR**2))
    return FactorAnalyzersEnergy.of(law)


def principal_components(
    start: PrincipalComponentsEnergy, passes: Passes, sample: Seen
) -> PrincipalComponentsEnergy:
    """Go on from principal components of a ``sample`` to those of all rows; directions keep their signs.

    Where cells are blank EM would end in no noise at all for rows of too few directions: as in memory, some is left.
    """
    some, energy = varying(sample.y, sample.mask), start.config["energy"]
    inner = start.mean[some], start.directions[some], start.variances, start.noise
    floor = 0.0 if bool(sample.mask[:, some].all()) else LEAST_NOISE**2

    def solve(sums: MixtureSums, before: Tensors) -> Tensors:
        return principal(sums, before, floor)

    found = passes.climb(inner, MixtureSums, gaussian_of, solve, some)
    mean, directions = start.mean.clone(), torch.zeros_like(start.directions)
    mean[some], directions[some], variances, noise = found
    return PrincipalComponentsEnergy.of(mean, directions, variances, noise, energy)


def principal(sums: MixtureSums, before: Tensors, floor: float) -> Tensors:
    """Principal components of rows that one Gaussian was summed over, as many and of the same signs as ``before``: their mean,
    directions, variances and the noise across.

    Variances are those of the sample covariance (n − 1); across the directions it is the mean of those left out, at least
    ``floor``, as all are.
    """
    q = before[1].shape[1]
    mean = sums.first[0] / sums.size[0]
    covariance = sums.second[0] / sums.size[0] - torch.outer(mean, mean)
    values, vectors = torch.linalg.eigh(covariance * (sums.rows / (sums.rows - 1)))
    values, vectors = values.flip(0), vectors.flip(1)[:, :q]
    turned = torch.where((vectors * before[1]).sum(0) < 0, -1.0, 1.0).to(vectors)
    noise = values[q:].mean() if q < len(values) else values[-1].clone()
    return mean, vectors * turned, values[:q].clamp_min(floor), noise.clamp_min(floor)


def k_means(start: KMeansEnergy, passes: Passes) -> KMeansEnergy:
    """Go on from the centres of a sample by rounds over all rows."""
    centres = start.centres.detach()

    def solve(sums: CentreSums, before: Tensors) -> Tensors:
        return (sums.solve(before[0]),)

    every = torch.ones(centres.shape[1], dtype=torch.bool)
    return KMeansEnergy.of(*passes.climb((centres,), CentreSums, itself, solve, every))
