"""Likelihoods of numbers: densities on the real line, or on an interval of it.

Numbers that were rounded to a lattice (pixels) have a ``half``, half the lattice's step: the log-probability is then that
of the rounding interval [x − half, x + half], as a density would grow without bound on values that repeat.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor

from abduce.distributions.cells import LOG_2PI, masked_sum, normal_like, put, to_lattice, uniform_like

NODES, WEIGHTS = (a.tolist() for a in np.polynomial.legendre.leggauss(6))


@dataclass(eq=False)
class Gaussian:
    """Independent Gaussian cells, N(x; mean, scale²)."""

    mean: Tensor
    scale: Tensor

    def log_prob(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        standard = (x - self.mean) / self.scale
        return masked_sum(-0.5 * (standard.square() + LOG_2PI) - torch.log(self.scale), observed)

    def moments(self) -> Tensor:
        return self.mean.unsqueeze(-1)

    def moved(self, u: Tensor, cells: list[int]) -> Tensor:
        """Draws of some cells as a function of standard normal ``u``, which a gradient passes through."""
        return self.mean[..., cells] + self.scale[..., cells] * u

    def fixed(self, cells: list[int], values: Tensor) -> Self:
        """The distribution with some cells at given values and no spread."""
        mean, scale = put(self.mean, cells, values), put(self.scale, cells, torch.zeros_like(values))
        return replace(self, mean=mean, scale=scale)

    def variance(self) -> Tensor:
        """Variance of each cell, (..., d)."""
        return self.scale.square()

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        return self.mean + self.scale * normal_like(self.mean, generator)

    def gaussian(self) -> Gaussian:
        return self


@dataclass(eq=False)
class RoundedGaussian(Gaussian):
    """Gaussian cells known to have been rounded to a lattice of step 2·half: pixels of few grey values.

        P(x) = Φ((x + half − mean)/scale) − Φ((x − half − mean)/scale),

    the probability of the rounding interval.
    """

    half: float

    def log_prob(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        # from the nearer tail, where the difference of two tail probabilities does not cancel
        distance = (x - self.mean).abs()
        unit = 1 / (math.sqrt(2) * self.scale)
        mass = 0.5 * (torch.erfc((distance - self.half) * unit) - torch.erfc((distance + self.half) * unit))
        return masked_sum(mass.clamp_min(torch.finfo(mass.dtype).tiny).log(), observed)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        return to_lattice(super().sample(generator), self.half)

    def gaussian(self) -> Gaussian:
        return Gaussian(self.mean, self.scale)


class Laplace:
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
        loc = put(self.loc, cells, values)
        return Laplace(loc, put(self.scale, cells, torch.zeros_like(values)), self.half)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        u = 2 * uniform_like(self.loc, generator) - 1
        x = self.loc - self.scale * u.sign() * torch.log1p(-u.abs())
        return to_lattice(x, self.half)

    def gaussian(self) -> Gaussian:
        return Gaussian(self.loc, math.sqrt(2) * self.scale)


class StudentT:
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


class ContinuousBernoulli:
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
