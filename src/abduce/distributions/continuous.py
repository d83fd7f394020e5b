"""Likelihoods of numbers: densities on the real line, or on an interval of it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from abduce.distributions.cells import LOG_2PI, masked_sum, normal_like


class Gaussian:
    """Gaussian N(x; mean, diag(scale²) + F Fᵀ), its cells correlated through a low-rank factor F ``(..., d, rank)``.

    Without a factor the cells are independent.  With one, the density of the observed cells and the law of the others
    given them are exact (Woodbury): with S = diag(scale²) and P = I + Fᵀ S⁻¹ F over observed cells,

        log N = −½ [rᵀS⁻¹r − ‖chol(P)⁻¹ Fᵀ S⁻¹ r‖² + log det P + Σ log(2π scale²)],     r = x − mean
        u | x_obs ~ N(P⁻¹ Fᵀ S⁻¹ r, P⁻¹),     x = mean + F u + scale · noise.

    Source: factor analysis, e.g. Ghahramani & Hinton 1996.
    """

    def __init__(self, mean: Tensor, scale: Tensor, factor: Tensor | None = None):
        self.mean = mean
        self.scale = scale
        self.factor = factor

    def log_prob(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        standard = (x - self.mean) / self.scale
        cells = -0.5 * (standard.square() + LOG_2PI) - torch.log(self.scale)
        total = masked_sum(cells, observed)
        if self.factor is None:
            return total
        chol, projected = self._precision(standard, observed)
        half = torch.linalg.solve_triangular(chol, projected.unsqueeze(-1), upper=False).squeeze(-1)
        log_det = torch.diagonal(chol, dim1=-2, dim2=-1).log().sum(-1)
        return total + 0.5 * half.square().sum(-1) - log_det

    def _precision(self, standard: Tensor, observed: Tensor | None) -> tuple[Tensor, Tensor]:
        """Cholesky factor of P and the projection Fᵀ S⁻¹ r over observed cells."""
        assert self.factor is not None
        scaled = self.factor / self.scale.unsqueeze(-1)
        if observed is not None:
            scaled = scaled * observed.unsqueeze(-1)
        gram = scaled.mT @ scaled
        identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
        projected = (scaled.mT @ standard.unsqueeze(-1)).squeeze(-1)
        return torch.linalg.cholesky(gram + identity), projected

    def factor_posterior(self, x: Tensor, observed: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mean ``(..., rank)`` and a square root R (R Rᵀ = P⁻¹) of the factors' law given the observed cells."""
        chol, projected = self._precision((x - self.mean) / self.scale, observed)
        mean = torch.cholesky_solve(projected.unsqueeze(-1), chol).squeeze(-1)
        identity = torch.eye(chol.shape[-1], dtype=chol.dtype, device=chol.device).expand_as(chol)
        return mean, torch.linalg.solve_triangular(chol.mT, identity, upper=True)

    def condition(self, x: Tensor, observed: Tensor) -> Gaussian:
        if self.factor is None:
            return self
        mean, root = self.factor_posterior(x, observed)
        return Gaussian(
            self.mean + (self.factor @ mean.unsqueeze(-1)).squeeze(-1), self.scale, self.factor @ root
        )

    def moments(self) -> Tensor:
        return self.mean.unsqueeze(-1)

    def variance(self) -> Tensor:
        """Marginal variance of each cell, (..., d)."""
        total = self.scale.square()
        return total if self.factor is None else total + self.factor.square().sum(-1)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        x = self.mean + self.scale * normal_like(self.mean, generator)
        if self.factor is not None:
            shape = (*self.mean.shape[:-1], self.factor.shape[-1])
            u = torch.randn(shape, generator=generator, dtype=x.dtype, device=x.device)
            x = x + (self.factor @ u.unsqueeze(-1)).squeeze(-1)
        return x

    def gaussian(self) -> Gaussian:
        return self


class RoundedGaussian:
    """Gaussian cells known to have been rounded to a lattice of step 2·half: pixels of few grey values.

        P(x) = Φ((x + half − mean)/scale) − Φ((x − half − mean)/scale),

    the probability of the rounding interval; a density would grow without bound on values that repeat.
    """

    factor = None

    def __init__(self, mean: Tensor, scale: Tensor, half: float):
        self.mean, self.scale, self.half = mean, scale, half

    def log_prob(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        # from the nearer tail, where the difference of two tail probabilities does not cancel
        distance = (x - self.mean).abs()
        unit = 1 / (math.sqrt(2) * self.scale)
        mass = 0.5 * (torch.erfc((distance - self.half) * unit) - torch.erfc((distance + self.half) * unit))
        return masked_sum(mass.clamp_min(torch.finfo(mass.dtype).tiny).log(), observed)

    def condition(self, x: Tensor, observed: Tensor) -> RoundedGaussian:
        return self

    def moments(self) -> Tensor:
        return self.mean.unsqueeze(-1)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        x = self.mean + self.scale * normal_like(self.mean, generator)
        return torch.round((x.clamp(-1, 1) + 1) / (2 * self.half)) * (2 * self.half) - 1

    def gaussian(self) -> Gaussian:
        return Gaussian(self.mean, self.scale)
