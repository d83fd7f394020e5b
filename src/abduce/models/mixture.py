"""Mixtures: round or stretched wells around centres, a few or many.

    Gaussian mixture       E(y) = −log Σ_k π_k N(y; μ_k, C_k)                 log Z = 0 at β = 1
    factor analysers       E(y) = −log Σ_k π_k N(y; μ_k, W_k W_kᵀ + Ψ_k)      the same
    grouped mixture        E(y) = −log Σ_i π_i N(y; c_i, C_g(i))              the same
    Parzen windows         E(y) = −log (1/n) Σ_i N(y; c_i, h² (W Wᵀ + Ψ))     the same
    k-means                E(y) = min_k ‖y − w_k‖²                            log Z finite, (π/β)^{D/2} Σ_k P_k

Everything that is asked of the first four is exact, rows with blanks included, see :mod:`abduce.gaussians`.  Covariances of a
few factors and noise stand between a Gaussian mixture, whose covariances need many rows each, and a mixture of independent
cells.

k-means is the limit of the mixture of equal round components, −(1/β) log Σ_k exp(−β ‖y − w_k‖²), as β → ∞; the probability it
stands for at a finite β is :class:`~abduce.models.hard_mixture_law.HardMixtureLaw`.

Sources: Dempster, Laird & Rubin 1977 (EM for mixtures); Ghahramani & Hinton 1996, McLachlan & Peel 2000 (factor analysers);
Lloyd 1957 (published 1982), MacQueen 1967 (k-means).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from abduce.checks import check_count
from abduce.data.seen import Seen
from abduce.gaussians.ensemble_fit import Member
from abduce.gaussians.factor_law import FactorMixtureLaw
from abduce.gaussians.gaussian_law import GaussianMixtureLaw, whole_log_density
from abduce.gaussians.grouped_law import GroupedMixtureLaw
from abduce.gaussians.parzen_law import ParzenLaw
from abduce.inference.energy import Base, Energy, Normalised, Traits, arguments, check_whole
from abduce.models.hard_mixture_law import HardMixtureLaw
from abduce.models.model import filled, versions

DOUBLE = 256  # up to as many cells, numbers of a grouped mixture are in double precision: it costs little


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


class GroupedMixtureEnergy(Normalised):
    """``centres`` Gaussians in ``groups`` of one covariance each, of ``n_cells`` cells.

    ``keep`` is how many groups a row with blanks is answered by (None: all), ``temper`` how far posteriors of components are
    flattened: see :class:`~abduce.gaussians.grouped_law.GroupedMixtureLaw`.  Parameters stay in single precision whatever
    the module is cast to.  ``represent`` gives responsibilities by group, (batch, G).

    >>> model = GroupedMixtureEnergy(n_cells=3, centres=2, groups=1)  # starts as a standard Gaussian
    >>> model.energy(torch.zeros(1, 3, dtype=torch.float64))  # 3/2 log 2π
    tensor([2.7568], dtype=torch.float64)
    """

    log_weights: Tensor
    centres: Tensor
    group: Tensor
    covariances: Tensor

    def __init__(self, n_cells: int, centres: int, groups: int, keep: int | None = None, temper: float = 1.0):
        super().__init__()
        self.config = arguments(locals())
        self.n_cells, self.keep, self.temper = n_cells, keep, temper
        self.register_buffer("log_weights", torch.zeros(centres))
        self.register_buffer("centres", torch.zeros(centres, n_cells))
        self.register_buffer("group", torch.arange(centres) % groups)
        self.register_buffer("covariances", torch.eye(n_cells).repeat(groups, 1, 1))
        self._made: tuple[Any, GroupedMixtureLaw] | None = None

    @classmethod
    def of(cls, member: Member, keep: int | None = None, temper: float = 1.0) -> GroupedMixtureEnergy:
        """Build from fitted parameters, see :mod:`abduce.gaussians.ensemble_fit`."""
        n, d = member.centres.shape
        return filled(cls(d, n, len(member.covariances), keep, temper), **member._asdict())

    def represent(self, x: Tensor) -> Tensor:
        law = self.distribution()
        share = law.responsibilities(Seen.whole(x))
        return share.new_zeros(len(x), len(law.covariances)).index_add_(1, law.group, share)

    def distribution(self) -> GroupedMixtureLaw:
        """The law, with the factors that it has come to keep, until a parameter changes."""
        version = versions(self)
        if self._made is None or self._made[0] != version:
            dtype = torch.float64 if self.n_cells <= DOUBLE else torch.float32
            parts = self.log_weights, self.centres, self.group, self.covariances.to(dtype)
            self._made = version, GroupedMixtureLaw(*parts, self.temper, self.keep)
        return self._made[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_made": None}  # copies and pickles do without the law

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> GroupedMixtureEnergy:
        return super()._apply(lambda t: t.to(fn(t[:0]).device), recurse)


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
