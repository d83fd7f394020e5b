"""A mixture of factor analysers as an energy: Gaussians whose covariances are a few factors and noise.

    E(y) = −log Σ_k π_k N(y; μ_k, W_k W_kᵀ + Ψ_k)        log Z = 0 at β = 1

Between a Gaussian mixture, whose covariances need many rows each, and a mixture of independent cells.  Everything is exact,
rows with blanks included: see :class:`~abduce.gaussians.factor_law.FactorMixtureLaw`.

Sources: Ghahramani & Hinton 1996; McLachlan & Peel 2000.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from abduce.checks import check_count
from abduce.data.seen import Seen
from abduce.gaussians.factor_law import FactorMixtureLaw
from abduce.inference.energy import Normalised
from abduce.models.model import filled


class FactorAnalyzersEnergy(Normalised):
    """Mixture of ``components`` K factor analysers with ``factors`` q each, of rows of ``n_cells`` D.

    ``represent`` gives the factors E[z | y] of one component, (batch, q), or the responsibilities p(k | y), (batch, K).

    >>> model = FactorAnalyzersEnergy(n_cells=3, components=2, factors=1)  # starts as a standard Gaussian
    >>> model.energy(torch.zeros(1, 3))  # 3/2 log 2π
    tensor([2.7568])
    """

    log_weights: Tensor
    means: Tensor
    loadings: Tensor
    noise: Tensor

    def __init__(self, n_cells: int, components: int, factors: int):
        super().__init__()
        check_count("components", components)
        check_count("factors", factors)
        self.config = {"n_cells": n_cells, "components": components, "factors": factors}
        self.n_cells = n_cells
        self.register_buffer("log_weights", torch.full((components,), -math.log(components)))
        self.register_buffer("means", torch.zeros(components, n_cells))
        self.register_buffer("loadings", torch.zeros(components, n_cells, factors))
        self.register_buffer("noise", torch.ones(components, n_cells))

    @classmethod
    def of(cls, law: FactorMixtureLaw) -> FactorAnalyzersEnergy:
        """Build from a fitted law."""
        k, d, q = law.loadings.shape
        parts = {name: getattr(law, name) for name in ("log_weights", "means", "loadings", "noise")}
        return filled(cls(d, k, q).to(law.means), **parts)

    def represent(self, x: Tensor) -> Tensor:
        found = self.distribution().factors(Seen.whole(x))
        return found.mean[:, 0] if len(self.means) == 1 else found.shares

    def distribution(self) -> FactorMixtureLaw:
        return FactorMixtureLaw(self.log_weights, self.means, self.loadings, self.noise)
