"""The members that a table's pool has by default: one Gaussian, mixtures of factor analysers, Parzen windows, latent classes.

Gaussians and windows read the features of one coding, numbers themselves or their normal scores; a table without numbers has
latent classes beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from abduce.data.coding import Coding
from abduce.data.fields import CODED
from abduce.data.schema import Schema
from abduce.data.seen import Seen
from abduce.fit.latent_classes import fit_latent_classes
from abduce.fit.pool import Family, GivenMember, Members
from abduce.gaussians.em import Scatter, principal_factors, varying
from abduce.gaussians.factor_fit import FLOOR, factor_mixture
from abduce.gaussians.factor_law import FactorMixtureLaw
from abduce.gaussians.parzen_law import ParzenLaw, row_keys
from abduce.models.energy_model import EnergyModel
from abduce.models.mixture import FactorAnalyzersEnergy, ParzenEnergy
from abduce.models.model import Model
from abduce.models.transformed import Transformed

BANDWIDTHS = (0.5, 0.7, 1.0, 1.4, 2.0)
COMPONENTS = (1, 5, 20)
FACTORS = 20
FEW_COMPONENTS = 5
# of each of more components: as good in a third of the time, but in wide tables one for so many cells
FEW_FACTORS, CELLS_A_FACTOR = 10, 3
MISSED_ROWS = 500  # rows, at most, whose hidden cells say when EM of mixtures has gone far enough
ROWS_A_COMPONENT = 15
ROWS_A_FACTOR = 20
MOST_FACTORS = 64


def table_families(
    schema: Schema,
    values: np.ndarray,
    observed: np.ndarray,
    components: Sequence[int] = COMPONENTS,
    seed: int = 0,
    every: bool = True,
) -> list[Family]:
    """The families for rows in model space (n, D); without ``every`` that of one Gaussian of numbers alone."""
    if not every:
        coding = Coding(schema, values, observed, False)
        return [GaussianFamily(coding, values, observed, components[:1], seed, windows=False)]
    codings = [Coding(schema, values, observed, scores) for scores in (False, True)]
    if not codings[1].columns:  # no numbers: both codings are one
        codings = codings[:1]
    families: list[Family] = [
        GaussianFamily(coding, values, observed, components, seed) for coding in codings
    ]
    if {f.kind for f in schema.fields} <= set(CODED):
        families.append(
            GivenMember("latent classes", values, partial(_latent_classes, schema, seed), repeats=True)
        )
    return families


def _latent_classes(schema: Schema, seed: int, values: np.ndarray, observed: np.ndarray) -> Model:
    levels = [f.levels or 2 for f in schema.cell_fields]
    energy = fit_latent_classes(torch.from_numpy(values), torch.from_numpy(observed), levels, "auto", seed)
    return EnergyModel(energy.double(), levels=tuple(levels))


class GaussianFamily:
    """Mixtures of factor analysers of several sizes, and windows round rows completed by the largest, in one coding."""

    def __init__(
        self,
        coding: Coding,
        values: np.ndarray,
        observed: np.ndarray,
        components: Sequence[int],
        seed: int,
        windows: bool = True,
    ):
        self.coding, self.values, self.known = coding, values, observed
        self.components, self.seed = components, seed
        self.about = "scores" if coding.scores else "numbers"
        self.repeats = coding.scores
        coded = (torch.from_numpy(a) for a in coding.code(values, observed))
        self.varying = varying(*coded)  # features that differ; the rest stand by themselves
        self.windows = {f"Parzen windows of {self.about}, h = {h:g}": h for h in BANDWIDTHS if windows}
        self.alternatives: Sequence[Sequence[str]] = [list(self.windows)] if windows else []

    def fit(self, observed: np.ndarray, start: Members | None, only: Members | None) -> Members:
        features, mask = (torch.from_numpy(a) for a in self.coding.code(self.values, observed))
        seen = Seen(features, mask)
        n, f = len(features), int(self.varying.sum())
        q = max(1, min(FACTORS, f - 1))
        # one Gaussian has the rows for more factors
        wide = max(1, min(f - 1, max(FACTORS, min(MOST_FACTORS, n // ROWS_A_FACTOR))))
        many = min(q, max(FEW_FACTORS, f // CELLS_A_FACTOR))
        miss = self._miss(features, mask, observed)
        laws: dict[str, FactorMixtureLaw] = {}
        windows = [t for t in self.windows if only is None or t in only]
        sizes = {self._title(k): k for k in (min(s, max(1, n // ROWS_A_COMPONENT)) for s in self.components)}
        # windows need the largest mixture and a small one, mixtures that start anew the Gaussian
        largest = list(sizes)[-1]
        small = [t for i, (t, k) in enumerate(sizes.items()) if not i or k <= FEW_COMPONENTS][-1]
        beside = {largest, small} if windows else set()
        one = few = None
        for title, k in sizes.items():
            if not (only is None or title in {*only, *beside} or (k == 1 and not start)):
                continue
            # a mixture that stops early predicts as well, and is done in half the time
            iterations, tolerance = (40, 1e-3) if k == 1 else (20, 2e-3)
            factors = wide if k == 1 else q if k <= FEW_COMPONENTS else many
            old = _inner(start[title]).law if start else None
            how = (k, factors, 20.0, FLOOR, iterations, tolerance, self.seed)
            law = factor_mixture(features, mask, *how, one=one, start=old, miss=miss)
            one = law if k == 1 else one
            few = law if few is None or k <= FEW_COMPONENTS else few
            laws[title] = law
        out = {
            t: self._member(FactorAnalyzersEnergy.of(law))
            for t, law in laws.items()
            if only is None or t in only
        }
        if not windows:
            return out
        assert few is not None
        # windows around rows completed by the largest mixture, with the covariance within the clusters of a small one
        centres = list(laws.values())[-1].mean(seen)
        inner = few.cells(self.varying)
        share = inner.log_weights.exp()
        directions = inner.loadings.mT.flatten(0, 1)
        each = share.repeat_interleave(inner.loadings.shape[2])
        within = Scatter(directions, each.unsqueeze(0), (share @ inner.noise).unsqueeze(0))
        window = FactorMixtureLaw(
            inner.log_weights[:1], inner.means[:1], *principal_factors(within, q, FLOOR)
        ).among(self.varying, few.means[0], few.noise[0])
        keys = row_keys(features, mask)
        for title in windows:
            law = ParzenLaw(centres, window.loadings[0], window.noise[0], self.windows[title], keys)
            out[title] = self._member(ParzenEnergy.of(law))
        return out

    def _miss(
        self, features: Tensor, mask: Tensor, observed: np.ndarray
    ) -> Callable[[FactorMixtureLaw], float] | None:
        """By how much a law misses cells that were hidden, of some rows: the mean squared error of their features; None where
        all that is known is ``observed``."""
        hidden = self.known & ~observed
        rows = np.flatnonzero(hidden.any(1))
        if not len(rows):
            return None
        rows = rows[:: -(-len(rows) // MISSED_ROWS)]
        truth, known = (torch.from_numpy(a) for a in self.coding.code(self.values[rows], self.known[rows]))
        seen = Seen(features[rows], mask[rows])
        place = known & ~seen.mask
        return lambda law: float((law.mean(seen) - truth)[place].square().mean())

    def _title(self, k: int) -> str:
        return f"Gaussian of {self.about}" if k == 1 else f"{k} factor analysers of {self.about}"

    def blind(self, members: Members, observed: np.ndarray) -> Members:
        """Knots of scores at cells that were hidden would make densities of these look too good."""
        coding = Coding(self.coding.schema, self.values, observed, self.coding.scores)
        return {t: Transformed.of(_inner(m), coding) for t, m in members.items()}

    def _member(self, energy: FactorAnalyzersEnergy | ParzenEnergy) -> Model:
        return Transformed.of(EnergyModel(energy.double()), self.coding)


def _inner(member: Model) -> Any:
    """A member without its coding."""
    return cast(Transformed, member).model
