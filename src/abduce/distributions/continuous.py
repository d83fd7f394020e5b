"""Likelihoods of numbers: densities on the real line, or on an interval of it.

Numbers that were rounded to a lattice (pixels) have a ``half``, half the lattice's step: the log-probability is then that
of the rounding interval [x − half, x + half], as a density would grow without bound on values that repeat.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from abduce.distributions.cells import (
    LOG_2PI,
    Independent,
    masked_sum,
    normal_like,
    put,
    to_lattice,
    uniform_like,
)

NODES, WEIGHTS = (a.tolist() for a in np.polynomial.legendre.leggauss(6))


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

    def moved(self, u: Tensor, cells: list[int]) -> Tensor:
        """Draws of some cells as a function of standard normal ``u``, which a gradient passes through."""
        assert self.factor is None, "cells that are correlated are not drawn one by one"
        return self.mean[..., cells] + self.scale[..., cells] * u

    def fixed(self, cells: list[int], values: Tensor) -> Gaussian:
        """The distribution with some cells at given values and no spread."""
        return Gaussian(put(self.mean, cells, values), put(self.scale, cells, torch.zeros_like(values)))

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


class RoundedGaussian(Independent):
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

    def moments(self) -> Tensor:
        return self.mean.unsqueeze(-1)

    def moved(self, u: Tensor, cells: list[int]) -> Tensor:
        """Draws of some cells, as :meth:`Gaussian.moved` gives them."""
        return self.gaussian().moved(u, cells)

    def fixed(self, cells: list[int], values: Tensor) -> RoundedGaussian:
        """The distribution with some cells at given values and no spread."""
        law = self.gaussian().fixed(cells, values)
        return RoundedGaussian(law.mean, law.scale, self.half)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        return to_lattice(self.mean + self.scale * normal_like(self.mean, generator), self.half)

    def gaussian(self) -> Gaussian:
        return Gaussian(self.mean, self.scale)


class Laplace(Independent):
    """Laplace cells, p(x) = exp(−|x − loc| / scale) / (2 scale): the mean absolute error as a likelihood.

    For numbers with sharp peaks and tails wider than a Gaussian's; its maximum-likelihood centre is the median, so a
    few gross errors move it little.  The variance is 2 scale².

    >>> law = Laplace(torch.zeros(1), torch.ones(1))
    >>> round(law.log_prob(torch.tensor([0.0])).item(), 4)
    -0.6931

    Source: Laplace 1774; Johnson, Kotz & Balakrishnan 1995, Continuous Univariate Distributions 2, chapter 24.
    """

    def __init__(self, loc: Tensor, scale: Tensor, half: float = 0.0):
        self.loc, self.scale, self.half = loc, scale, half

    def log_prob(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        distance = (x - self.loc).abs() / self.scale
        if not self.half:
            return masked_sum(-distance - torch.log(2 * self.scale), observed)
        # the interval lies on one side of the peak, e^{−t} sinh w, or holds it, 1 − e^{−w} cosh t
        width = self.half / self.scale
        beside = width - distance + torch.log(-torch.expm1(-2 * width)) - math.log(2)
        holds = distance < width
        t = torch.where(holds, distance, distance.new_zeros(()))
        around = -torch.expm1(-width) - 2 * torch.exp(-width) * torch.sinh(t / 2).square()
        return masked_sum(torch.where(holds, around.log(), beside), observed)

    def moments(self) -> Tensor:
        return self.loc.unsqueeze(-1)

    def moved(self, u: Tensor, cells: list[int]) -> Tensor:
        """Draws of some cells from standard normal ``u``, by the quantile function: a gradient passes through."""
        half = u.abs() / math.sqrt(2)  # −log of twice the tail beyond |u|
        depth = half.square() - torch.special.erfcx(half).log()
        return self.loc[..., cells] + self.scale[..., cells] * u.sign() * depth

    def fixed(self, cells: list[int], values: Tensor) -> Laplace:
        """The distribution with some cells at given values and no spread."""
        loc = put(self.loc, cells, values)
        return Laplace(loc, put(self.scale, cells, torch.zeros_like(values)), self.half)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        u = 2 * uniform_like(self.loc, generator) - 1
        x = self.loc - self.scale * u.sign() * torch.log1p(-u.abs())
        return to_lattice(x, self.half)

    def gaussian(self) -> Gaussian:
        return Gaussian(self.loc, math.sqrt(2) * self.scale)


class StudentT(Independent):
    """Student-t cells with ``df`` = ν degrees of freedom: a Gaussian whose precision was drawn from a gamma law,

        p(x) = Γ((ν+1)/2) / (Γ(ν/2) √(νπ) scale) · (1 + ((x − loc)/scale)² / ν)^{−(ν+1)/2}.

    For numbers with heavy tails: an outlier's pull on loc falls off as 1/distance.  ν → ∞ is the Gaussian; the variance
    scale² ν/(ν − 2) exists for ν > 2.  The mass of a rounding interval is taken by Gauss-Legendre quadrature with six
    nodes, good to 1e-6 where scale is not below half.

    Source: Student 1908; Lange, Little & Taylor 1989 (robust modelling); Takahashi et al. 2018 (the Student-t VAE).
    """

    def __init__(self, loc: Tensor, scale: Tensor, df: Tensor, half: float = 0.0):
        self.loc, self.scale, self.half = loc, scale, half
        self.df = df.expand_as(loc)

    def log_prob(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        power = 0.5 * (self.df + 1)
        norm = torch.lgamma(power) - torch.lgamma(0.5 * self.df) - 0.5 * torch.log(math.pi * self.df)
        standard = (x - self.loc) / self.scale
        if not self.half:
            kernel = -power * torch.log1p(standard.square() / self.df)
        else:
            width = self.half / self.scale
            kernel = standard.new_full((), -torch.inf)
            for node, weight in zip(NODES, WEIGHTS, strict=True):
                at = -power * torch.log1p((standard + node * width).square() / self.df)
                kernel = torch.logaddexp(kernel, at + math.log(weight * self.half))
        return masked_sum(norm - torch.log(self.scale) + kernel, observed)

    def moments(self) -> Tensor:
        return self.loc.unsqueeze(-1)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        half_df = (0.5 * self.df).contiguous()
        precision = torch._standard_gamma(half_df, generator=generator) / half_df  # pyright: ignore[reportPrivateImportUsage]
        x = self.loc + self.scale * normal_like(self.loc, generator) * precision.rsqrt()
        return to_lattice(x, self.half)

    def gaussian(self) -> Gaussian:
        return Gaussian(self.loc, self.scale * (self.df / (self.df - 2)).sqrt())


class ContinuousBernoulli(Independent):
    """Continuous Bernoulli on pixels x in [−1, 1] by their logits η: with u = (x + 1)/2 and λ = σ(η),

        p(u) = C(λ) λ^u (1 − λ)^{1−u},   C = η / tanh(η/2),   p(x) = p(u) / 2 = ½ exp(ηx/2 − g(η)),

    where g(η) = log(sinh(η/2) / (η/2)), which is smooth through η = 0 (λ = ½, the uniform law) and linear far out.  The
    mean of x is coth(η/2) − 2/η.  For grey values taken as shares of light: the law that the binary cross-entropy on
    greys stands for once it is normalised.

    >>> ContinuousBernoulli(torch.zeros(1)).log_prob(torch.tensor([0.3])).exp().item()  # uniform over [−1, 1]
    0.5

    Source: Loaiza-Ganem & Cunningham 2019 (arXiv:1907.06845).
    """

    def __init__(self, logits: Tensor, half: float = 0.0):
        self.logits, self.half = logits, half

    def log_prob(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        if not self.half:
            return masked_sum(0.5 * x * self.logits - log_sinhc(self.logits) - math.log(2), observed)
        # over an interval of centre m and half-width w: exp(ηm/2 − g(η)) · w · exp(g(wη)); the outer two end at ±1
        x = x.clamp(-1, 1)
        low, high = (x - self.half).clamp_min(-1), (x + self.half).clamp_max(1)
        centre, width = 0.5 * (low + high), 0.5 * (high - low)
        cells = 0.5 * centre * self.logits - log_sinhc(self.logits) + log_sinhc(width * self.logits)
        return masked_sum(cells + width.log(), observed)

    def moments(self) -> Tensor:
        return self.gaussian().mean.unsqueeze(-1)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        # F⁻¹ for the half of the laws that lean to −1, mirrored for the others
        a = self.logits.abs().clamp_min(1e-5)
        u = -torch.log1p(uniform_like(a, generator) * torch.expm1(-a)) / a
        x = torch.where(self.logits > 0, 1 - 2 * u, 2 * u - 1)
        return to_lattice(x, self.half)

    def gaussian(self) -> Gaussian:
        a = self.logits.abs()
        near, far = a < 0.3, a.clamp_min(0.3)
        e = torch.exp(-far)
        s = self.logits.clamp(-0.3, 0.3)
        mean = self.logits.sign() * ((1 + e) / (1 - e) - 2 / far)
        mean = torch.where(near, s / 6 - s**3 / 360 + s**5 / 15120, mean)
        variance = 4 / far.square() - 4 * e / (1 - e).square()
        variance = torch.where(near, 1 / 3 - s**2 / 60 + s**4 / 1512, variance)
        return Gaussian(mean, variance.clamp_min(1e-8).sqrt())


def log_sinhc(x: Tensor) -> Tensor:
    """log(sinh(x/2) / (x/2)), by its series where x is small and by logarithms where sinh would overflow."""
    a = x.abs()
    far = a.clamp_min(0.3)
    y = (0.5 * x.clamp(-0.3, 0.3)).square()
    near = y / 6 - y**2 / 180 + y**3 / 2835 - y**4 / 37800
    return torch.where(a < 0.3, near, 0.5 * far + torch.log1p(-torch.exp(-far)) - far.log())
