"""Parzen windows with correlated kernels as an energy: E(x) = −log (1/n) Σ_i N(x; c_i, h² (W Wᵀ + Ψ)), log Z = 0 at β = 1."""

from __future__ import annotations

import torch
from torch import Tensor

from abduce.data.seen import Seen
from abduce.gaussians.parzen_law import ParzenLaw
from abduce.inference.energy import Normalised, arguments
from abduce.models.model import filled


class ParzenEnergy(Normalised):
    """Gaussian kernels around ``rows`` centres, ``factors`` columns of loadings; ``keyed`` ones know their own rows.

    See :class:`~abduce.gaussians.parzen_law.ParzenLaw`.  ``represent`` gives shares of the centres, (batch, rows).
    """

    centres: Tensor
    loadings: Tensor
    noise: Tensor
    bandwidth: Tensor
    keys: Tensor | None

    def __init__(self, n_cells: int, rows: int, factors: int, keyed: bool):
        super().__init__()
        self.config = arguments(locals())
        self.n_cells = n_cells
        self.register_buffer("centres", torch.zeros(rows, n_cells))
        self.register_buffer("loadings", torch.zeros(n_cells, factors))
        self.register_buffer("noise", torch.ones(n_cells))
        self.register_buffer("bandwidth", torch.ones(1, dtype=torch.float64))
        self.register_buffer("keys", torch.zeros(rows, dtype=torch.int64) if keyed else None)

    @classmethod
    def of(cls, law: ParzenLaw) -> ParzenEnergy:
        """Build from a fitted law."""
        rows, cells = law.means.shape
        model = cls(cells, rows, law.loadings.shape[1], law.keys is not None).to(law.means)
        bandwidth = torch.tensor([law.bandwidth], dtype=torch.float64)
        keys = {} if law.keys is None else {"keys": law.keys}
        parts = {"centres": law.means, "loadings": law.loadings, "noise": law.noise, "bandwidth": bandwidth}
        return filled(model, **parts, **keys)

    def represent(self, x: Tensor) -> Tensor:
        return self.distribution().neighbours(Seen.whole(x)).shares

    def distribution(self) -> ParzenLaw:
        return ParzenLaw(self.centres, self.loadings, self.noise, float(self.bandwidth), self.keys)
