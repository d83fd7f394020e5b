"""Mixtures: round or stretched wells around a few centres.

    Gaussian mixture   E(y) = −log Σ_k π_k N(y; μ_k, C_k)        log Z = 0 at β = 1
    k-means            E(y) = min_k ‖y − w_k‖²                   log Z finite, (π/β)^{D/2} Σ_k P_k

k-means is the limit of the mixture of equal round components, −(1/β) log Σ_k exp(−β ‖y − w_k‖²), as β → ∞; the probability it
stands for at a finite β is :class:`~abduce.models.hard_mixture_law.HardMixtureLaw`.

Sources: Dempster, Laird & Rubin 1977 (EM for mixtures); Lloyd 1957 (published 1982), MacQueen 1967 (k-means).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from abduce.checks import check_count
from abduce.gaussians.gaussian_law import GaussianMixtureLaw, whole_log_density
from abduce.inference.energy import Base, Energy, Normalised, Traits, check_whole
from abduce.models.hard_mixture_law import HardMixtureLaw
from abduce.models.model import filled


class GaussianMixtureEnergy(Normalised):
    """Gaussian mixture, E(y) = −log Σ_k π_k N(y; μ_k, C_k), of a row or of the cells of it that were observed.

    ``n_cells`` D, ``components`` K.  ``represent`` gives the responsibilities p(k | y), (batch, K).

    >>> model = GaussianMixtureEnergy(n_cells=3, components=2)  # starts as a standard Gaussian
    >>> model.energy(torch.zeros(1, 3))  # 3/2 log 2π
    tensor([2.7568])
    """

    log_weights: Tensor
    means: Tensor
    roots: Tensor

    def __init__(self, n_cells: int, components: int):
        super().__init__()
        check_count("components", components)
        self.config = {"n_cells": n_cells, "components": components}
        self.n_cells = n_cells
        self.register_buffer("log_weights", torch.full((components,), -math.log(components)))
        self.register_buffer("means", torch.zeros(components, n_cells))
        self.register_buffer("roots", torch.eye(n_cells).repeat(components, 1, 1))

    @classmethod
    def of(cls, log_weights: Tensor, means: Tensor, covariances: Tensor) -> GaussianMixtureEnergy:
        """Build from log weights (K,) up to a constant, means (K, D) and covariances (K, D, D)."""
        law = GaussianMixtureLaw(log_weights, means, covariances)
        model = cls(means.shape[1], len(means)).to(means)
        return filled(model, log_weights=law.log_weights, means=law.means, roots=law.roots)

    def energy(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        if observed is not None and not bool(observed.all()):
            return super().energy(x, observed)
        return -torch.logsumexp(self._log_joint(x.reshape(-1, self.n_cells)), -1).view(x.shape[:-1])

    def represent(self, x: Tensor) -> Tensor:
        return torch.softmax(self._log_joint(x), -1)

    def distribution(self) -> GaussianMixtureLaw:
        return GaussianMixtureLaw(self.log_weights, self.means, self.roots @ self.roots.mT)

    def _log_joint(self, x: Tensor) -> Tensor:
        """log π_k N(x; μ_k, C_k), (batch, D) -> (batch, K)."""
        return self.log_weights + whole_log_density(self.means, self.roots, x)


class KMeansEnergy(Energy):
    """k-means, E(y) = min_k ‖y − w_k‖², in squared units of the cells, so that β is free.

    ``n_cells`` D, ``components`` K.  ``represent`` gives the distances ‖y − w_k‖, (batch, K).

    >>> model = KMeansEnergy.of(torch.tensor([[-1.0], [1.0]]))
    >>> model.energy(torch.tensor([[0.5], [-3.0]])).tolist()
    [0.25, 4.0]
    """

    traits = Traits(in_nats=False, bounded_volume=True, smooth=False)

    def __init__(self, n_cells: int, components: int):
        super().__init__()
        check_count("components", components)
        self.config = {"n_cells": n_cells, "components": components}
        self.n_cells = n_cells
        self.centres = nn.Parameter(torch.randn(components, n_cells))  # apart, so that each can learn its own

    @classmethod
    def of(cls, centres: Tensor) -> KMeansEnergy:
        """Build from centres w (K, D)."""
        return filled(cls(centres.shape[1], len(centres)).to(centres), centres=centres)

    def energy(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        check_whole(observed, "KMeans")
        with torch.no_grad():  # which centre; its distance then without cancellation
            nearest = (self.centres.square().sum(1) - 2 * x @ self.centres.mT).argmin(-1)
        return (x - self.centres[nearest]).square().sum(-1)

    def log_z(self, beta: float = 1.0, base: Base | None = None) -> Tensor | None:
        """(D/2) log(π/β) for one centre; None for more, where ``law(beta).log_z()`` estimates it."""
        if base is not None or len(self.centres) > 1:
            return None
        return self.centres.new_tensor(0.5 * self.n_cells * math.log(math.pi / beta))

    def law(self, beta: float = 1.0, base: Base | None = None) -> HardMixtureLaw | None:
        """exp(−β E) / Z; None with a base."""
        return None if base is not None else HardMixtureLaw(self.centres.detach(), beta)

    def represent(self, x: Tensor) -> Tensor:
        return torch.cdist(x, self.centres)
