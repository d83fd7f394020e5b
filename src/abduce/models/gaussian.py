"""Principal and independent components: one linear map away from a density that factorises.

Principal components, with orthonormal directions U (D, q), variances λ (q,) along them and σ² across:

    probabilistic    E(y) = ½ (y−μ)ᵀ C⁻¹ (y−μ),   C = U diag(λ) Uᵀ + σ² (I − UUᵀ) = W Wᵀ + σ² I,   W = U √(λ − σ²)
    reconstruction   E(y) = ‖(I − UUᵀ)(y−μ)‖²

Both are ½ ‖R (y−μ)‖² with R = U diag(a) Uᵀ + b (I − UUᵀ): a² = 1/λ, b² = 1/σ² for the first; a = 0, b² = 2 for the second,
which is zero all along the principal subspace, so that its integral is infinite without a base measure.  With a Gaussian
base N(m, S), and R taken for β E,

    log Z = −½ log det(I + RSR) − ½ gᵀ (I + RSR)⁻¹ g,   g = R (m − μ),     p = N(m − G g, S − G R S),   G = S R (I + RSR)⁻¹.

Independent components, with an unmixing matrix W (D, D):

    E(y) = Σ_i log cosh(w_iᵀ (y−μ)),     log Z = D log(√π Γ(β/2) / Γ((β+1)/2)) − log|det W|,

at β = 1 D log π − log|det W|: sources with the density of a hyperbolic secant, 1/(π cosh u).

Sources: Tipping & Bishop 1999 (PPCA); Pearson 1901; Bell & Sejnowski 1995, MacKay 1996 (ICA as maximum likelihood).
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Generator, Tensor, nn

from abduce.checks import check_choice
from abduce.distributions.bases import NormalBase
from abduce.distributions.cells import LOG_2PI
from abduce.gaussians.gaussian_law import GaussianMixtureLaw
from abduce.gaussians.law import energy
from abduce.inference.energy import Base, Energy, Traits, check_whole
from abduce.models.model import filled

PrincipalEnergy = Literal["probabilistic", "reconstruction"]


class PrincipalComponentsEnergy(Energy):
    """Principal components as a Gaussian ("probabilistic") or as the distance to their subspace ("reconstruction").

    ``n_cells`` D, ``components`` q of 1..D.  The first is in nats; the second is in squared units of the cells, so that β
    is free.  ``represent`` gives the posterior mean of the latents, diag(√(λ − σ²)/λ) Uᵀ (y−μ), or the scores Uᵀ (y−μ).

    >>> model = PrincipalComponentsEnergy.of(torch.zeros(2), torch.eye(2)[:, :1], torch.tensor([4.0]), torch.tensor(1.0))
    >>> model.energy(torch.tensor([[2.0, 1.0]]))  # ½ (4/4 + 1/1)
    tensor([1.])
    """

    mean: Tensor
    directions: Tensor
    variances: Tensor
    noise: Tensor

    def __init__(self, n_cells: int, components: int, energy: PrincipalEnergy = "probabilistic"):
        super().__init__()
        check_choice("energy", energy, get_args(PrincipalEnergy))
        if not 1 <= components <= n_cells:
            raise ValueError(
                f"components must be between 1 and the number of cells, {n_cells}, got {components}"
            )
        self.config = {"n_cells": n_cells, "components": components, "energy": energy}
        self.n_cells = n_cells
        if energy == "reconstruction":
            self.traits = Traits(in_nats=False, proper=False, bounded_volume=True)
        self.register_buffer("mean", torch.zeros(n_cells))
        self.register_buffer("directions", torch.eye(n_cells)[:, :components].clone())
        self.register_buffer("variances", torch.ones(components))
        self.register_buffer("noise", torch.ones(()))

    @classmethod
    def of(
        cls,
        mean: Tensor,
        directions: Tensor,
        variances: Tensor,
        noise: Tensor,
        energy: PrincipalEnergy = "probabilistic",
    ) -> PrincipalComponentsEnergy:
        """Build from μ (D,), orthonormal U (D, q), variances λ (q,) of the data along U, and σ² () across."""
        model = cls(*directions.shape, energy=energy).to(mean)
        if model.proper and not (bool((variances > 0).all()) and float(noise) > 0):
            raise ValueError(
                f"variances and noise must be positive, got {variances.tolist()} and {float(noise)}: the covariance is "
                "singular; use fewer components or drop constant columns"
            )
        return filled(model, mean=mean, directions=directions, variances=variances, noise=noise)

    def energy(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        if observed is not None and not bool(observed.all()):
            if not self.proper:
                check_whole(observed, "PrincipalComponents(energy='reconstruction')")
            return energy(self._gaussian(), x, observed) - self._log_volume()
        within, beyond = self._precisions()
        residual = x - self.mean
        score = residual @ self.directions
        across = residual - score @ self.directions.mT
        return 0.5 * ((score.square() * within).sum(-1) + beyond * across.square().sum(-1))

    def log_z(self, beta: float = 1.0, base: Base | None = None) -> Tensor | None:
        if base is None:
            self._check_finite()
            return self._log_volume(beta)
        if not isinstance(base, NormalBase):
            return None
        g, _, root = self._through(beta, base)
        half = torch.linalg.solve_triangular(root, g.unsqueeze(-1), upper=False)
        return -torch.diagonal(root).log().sum() - 0.5 * half.square().sum()

    def law(self, beta: float = 1.0, base: Base | None = None) -> GaussianMixtureLaw | None:
        if base is None:
            self._check_finite()
            return self._gaussian(beta)
        if not isinstance(base, NormalBase):
            return None
        g, cross, root = self._through(beta, base)  # g, S R and the root of I + RSR
        gain = torch.cholesky_solve(cross.mT, root).mT
        covariance = base.covariance.to(self.mean) - gain @ cross.mT
        covariance = 0.5 * (covariance + covariance.mT)
        return GaussianMixtureLaw.gaussian(base.mean.to(self.mean) - gain @ g, covariance)

    def represent(self, x: Tensor) -> Tensor:
        score = (x - self.mean) @ self.directions
        if not self.proper:
            return score
        return score * (self.variances - self.noise).clamp_min(0).sqrt() / self.variances

    @property
    def covariance(self) -> Tensor:
        """C = W Wᵀ + σ² I, (D, D)."""
        along = (self.directions * (self.variances - self.noise)) @ self.directions.mT
        return along + self.noise * torch.eye(self.n_cells).to(along)

    def _gaussian(self, beta: float = 1.0) -> GaussianMixtureLaw:
        """N(μ, C/β)."""
        return GaussianMixtureLaw.gaussian(self.mean, self.covariance / beta)

    def _log_volume(self, beta: float = 1.0) -> Tensor:
        """½ (D log 2π/β + log det C)."""
        across = (self.n_cells - len(self.variances)) * self.noise.log()
        return 0.5 * (self.n_cells * (LOG_2PI - math.log(beta)) + self.variances.log().sum() + across)

    def _precisions(self) -> tuple[Tensor, Tensor]:
        """a² (q,) along the directions and b² () across them."""
        if self.proper:
            return 1 / self.variances, 1 / self.noise
        return torch.zeros_like(self.variances), torch.full_like(self.noise, 2.0)

    def _through(self, beta: float, base: NormalBase) -> tuple[Tensor, Tensor, Tensor]:
        """g = R (m − μ), S R, and the Cholesky factor of I + R S R, with R the root of β E's precision."""
        within, beyond = self._precisions()
        a, b = (beta * within).sqrt(), (beta * beyond).sqrt()
        eye = torch.eye(self.n_cells).to(self.mean)
        R = (self.directions * (a - b)) @ self.directions.mT + b * eye
        cross = base.covariance.to(self.mean) @ R
        return R @ (base.mean.to(self.mean) - self.mean), cross, torch.linalg.cholesky(eye + R @ cross)

    def _check_finite(self) -> None:
        if not self.proper:
            raise ValueError(
                "PrincipalComponents(energy='reconstruction') is zero all along its subspace, so ∫ exp(−β E) is infinite; "
                "give a base measure, for example NormalBase.fit(x)"
            )


def gaussian_of(mean: Tensor, directions: Tensor, variances: Tensor, noise: Tensor) -> GaussianMixtureLaw:
    """The Gaussian whose principal components these are."""
    law = PrincipalComponentsEnergy.of(mean, directions, variances, noise).law()
    assert law is not None
    return law


class IndependentComponentsEnergy(Energy):
    """Independent components, E(y) = Σ_i log cosh(w_iᵀ (y−μ)), with W square; ``represent`` gives the sources W (y−μ).

    ``n_cells`` D.  In nats: at β = 1 it is the likelihood of sources 1/(π cosh u).  Marginals of mixed sources have no closed
    form: there is no law, but :meth:`sample` draws whole rows.

    >>> model = IndependentComponentsEnergy(2)
    >>> round(model.log_z().item(), 4), round(2 * math.log(math.pi), 4)
    (2.2895, 2.2895)
    """

    def __init__(self, n_cells: int):
        super().__init__()
        self.config = {"n_cells": n_cells}
        self.n_cells = n_cells
        self.mean = nn.Parameter(torch.zeros(n_cells))
        self.unmixing = nn.Parameter(torch.eye(n_cells))

    @classmethod
    def of(cls, mean: Tensor, unmixing: Tensor) -> IndependentComponentsEnergy:
        """Build from μ (D,) and W (D, D)."""
        return filled(cls(len(mean)).to(mean), mean=mean, unmixing=unmixing)

    def energy(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        check_whole(observed, "IndependentComponents")
        u = self.represent(x)
        # log cosh u with two derivatives everywhere
        return (nn.functional.softplus(2 * u, threshold=40) - u - math.log(2)).sum(-1)

    def log_z(self, beta: float = 1.0, base: Base | None = None) -> Tensor | None:
        if base is not None:
            return None
        each = 0.5 * math.log(math.pi) + math.lgamma(beta / 2) - math.lgamma((beta + 1) / 2)
        return self.n_cells * each - torch.linalg.slogdet(self.unmixing)[1]

    @torch.no_grad()
    def sample(self, n: int, generator: Generator | None = None) -> Tensor:
        """Draw (n, D) at β = 1, exactly: sources by their quantiles u = log tan(π v/2), then y = μ + W⁻¹ u."""
        factory = {"dtype": self.mean.dtype, "device": self.mean.device}
        tiny = torch.finfo(self.mean.dtype).eps
        v = torch.rand(n, self.n_cells, generator=generator, **factory).clamp(tiny, 1 - tiny)
        u = torch.tan(0.5 * math.pi * v).log()
        return self.mean + torch.linalg.solve(self.unmixing, u.mT).mT

    def represent(self, x: Tensor) -> Tensor:
        return (x - self.mean) @ self.unmixing.mT
