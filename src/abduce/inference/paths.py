"""Which path leads to a density: what inference works on, and the kernel that fits its support.

A :class:`Density` is exp(−β E(x)) b(x) with a *start*, a normalised density near the data that annealing begins from.

    real cells                  geometric path, Hamiltonian Monte Carlo
    a restricted machine        β grows on all weights, block Gibbs (Salakhutdinov & Murray 2008)
    other binary energies       geometric path, Gibbs with gradients

For the posterior over a row's blanks, or over the clean row behind what was seen, the same path leads from the start given
the observed cells to the density with those cells clamped, times the likelihood of what was seen.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Generator, Tensor

from abduce.distributions.bases import NormalBase, RatesBase
from abduce.inference.binary_paths import BinaryPath, BlockGibbsPath
from abduce.inference.energy import Base, Bipartite, Energy, log_density
from abduce.inference.tempering import GeometricPath, Path

Likelihood = Callable[[Tensor], Tensor]  # x (..., rows, D) -> log p(seen | x) (..., rows)


@dataclass(frozen=True)
class Density:
    """exp(−β E(x)) b(x), up to its constant, and where to start from."""

    model: Energy
    start: Any  # a base with condition(): NormalBase, RatesBase or BoxBase, fitted to the data
    beta: float = 1.0
    base: Base | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """−β E(x) + log b(x), nats."""
        return log_density(self.model, x, self.beta, self.base)

    def float(self) -> Density:
        """The same in single precision, a copy."""
        parts: Any = copy.deepcopy((self.model, self.start, self.base))
        single: list[Any] = [None if part is None else part.float() for part in parts]
        return Density(single[0], single[1], self.beta, single[2])

    def widened(self) -> Density:
        """The same from a start half as wide again: rates half as far from ½."""
        if isinstance(self.start, NormalBase):
            return replace(self, start=NormalBase(self.start.mean, 2.25 * self.start.covariance))
        if isinstance(self.start, RatesBase):
            return replace(self, start=RatesBase(0.5 * self.start.logits))
        return self


def path_to(density: Density) -> Path:
    """Lay a path from the density's start to itself."""
    model, start = density.model, density.start
    if model.support == "real":

        def draw(particles: int, populations: int, generator: Generator) -> Tensor:
            return start.sample(particles * populations, generator).view(particles, populations, -1)

        return GeometricPath(start.log_prob, density, start.scale.unsqueeze(0), draw)
    if isinstance(model, Bipartite) and density.beta == 1:
        return BlockGibbsPath(model, start)
    return BinaryPath(density, start)


def path_given(
    density: Density,
    x: Tensor,
    observed: Tensor,
    likelihood: Likelihood | None = None,
    field: Tensor | None = None,
    leapfrogs: int = 5,
) -> Path:
    """Lay a path for each row of x: from the start given its observed cells to the density with these clamped.

    The target may be multiplied by a ``likelihood`` of what was seen, or, on binary cells, by exp(fieldᵀx), ``field`` (rows,
    D).  Its integral over the blank cells is the marginal exp(−F(x_obs)) of the observed ones.  All rows use the same random
    numbers, so that a row's answer does not depend on which rows come with it.
    """
    model, start = density.model, density.start

    def target(z: Tensor) -> Tensor:
        return density(z) if likelihood is None else density(z) + likelihood(z)

    if model.support == "real":
        given = start.condition(x, observed)
        scale = torch.where(observed, 0.0, start.scale)

        def base(z: Tensor) -> Tensor:
            return start.log_prob(z) - given.log_marginal

        def draw(particles: int, _: int, generator: Generator) -> Tensor:
            return given.draw(particles, generator, True)

        return GeometricPath(base, target, scale, draw, leapfrogs, shared=True)
    if isinstance(model, Bipartite) and density.beta == 1 and likelihood is None:
        return BlockGibbsPath(model, start, x, observed, field, shared=True)
    return BinaryPath(target, start, x, observed, field, shared=True)
