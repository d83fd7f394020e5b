"""Maximum likelihood: push the energy down at the data and up everywhere else, as much as it says rows are there.

    loss(x) = E(x) + log Z,        ∇ mean loss = mean over data of ∇E − E_model[∇E]

exact where log Z is a differentiable number: in closed form; as a sum over all states of up to 20 binary cells; or, for one
or two real cells, as an integral over a box around the data on a grid.  Off that box nothing holds the energy up but the
model itself.

Source: LeCun et al. 2006, A Tutorial on Energy-Based Learning, section 2.2.4 (negative log-likelihood loss).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from abduce.checks import check_count, check_number
from abduce.fit.loss import EnergyObjective, Loss, RowLoss
from abduce.inference.energy import Energy
from abduce.inference.flips import ENUMERABLE
from abduce.inference.integration import log_z_by_enumeration, log_z_on_grid
from abduce.inference.kernels import Kernel

POINTS = {1: 512, 2: 128}  # an axis


@dataclass(frozen=True)
class MaximumLikelihood(EnergyObjective):
    """Minimise −log p(x) = E(x) + log Z with an exact log Z.

    Where log Z is a sum over a grid, ``points`` an axis (None: 512 for one cell, 128 for two) are spread over the data's range
    and ``margin`` times that on both sides.  While training the grid moves by a random part of its spacing at every step, so
    that no well can hide between its points; without a generator it does not.

    >>> MaximumLikelihood(points=64)
    MaximumLikelihood(points=64, margin=0.5)
    """

    points: int | None = None
    margin: float = 0.5

    def __post_init__(self):
        if self.points is not None:
            check_count("points", self.points)
        check_number("margin", self.margin, 0, 100)

    def bind(self, model: Energy, x: Tensor, generator: Generator, kernel: Kernel | None) -> Loss:
        if not model.proper:
            raise self.illegal(
                model, "a finite log Z, and the integral of exp(−E) is infinite; take MeanEnergy"
            )
        if model.log_z() is not None:
            return RowLoss(model, lambda model, x, _: model.energy(x) + model.log_z())  # pyright: ignore[reportOperatorIssue]
        if model.support == "binary" and model.n_cells <= ENUMERABLE:
            return RowLoss(model, lambda model, x, _: model.energy(x) + log_z_by_enumeration(model))
        if model.support != "real" or model.n_cells > 2:
            raise self.illegal(
                model,
                f"a differentiable log Z: a closed form, at most {ENUMERABLE} binary cells or at most 2 real ones, and this "
                f"model has {model.n_cells} {model.support} ones; take ContrastiveDivergence",
            )
        low, high = x.amin(0), x.amax(0)
        more = self.margin * (high - low).clamp_min(1e-3)
        return Gridded(model, low - more, high + more, self.points or POINTS[model.n_cells])


class Gridded(Loss):
    """E(x) + log Z by the integral over a box."""

    low: Tensor
    high: Tensor

    def __init__(self, model: Energy, low: Tensor, high: Tensor, points: int):
        super().__init__(model)
        self.register_buffer("low", low)
        self.register_buffer("high", high)
        self.points = points

    def forward(self, x: Tensor, generator: Generator | None = None) -> Tensor:
        shift = None
        if self.training and generator is not None:
            shift = torch.rand(len(self.low), generator=generator, dtype=x.dtype, device=x.device) - 0.5
        log_z = log_z_on_grid(self.model, self.low, self.high, self.points, shift=shift)
        return self.model.energy(x) + log_z
