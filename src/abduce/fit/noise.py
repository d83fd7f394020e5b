"""Noise for noise-contrastive estimation: normalised densities fitted to the data, a little wider than they are.

    normal     N(mean, 1.5² covariance), full covariance
    mixture    ¾ Σ_k π_k N(μ_k, Σ_k), full covariances by expectation-maximisation, + ¼ of a normal twice as wide as the data
    rates      independent binary cells at the data's rates

Noise that is close to the data teaches details, noise that is wide where the energy must not be low; the mixture does both.
Source: Gutmann & Hyvärinen 2012 (JMLR 13), section 2.4, on the choice of noise.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn

from abduce.distributions.bases import NormalBase, RatesBase
from abduce.distributions.cells import LOG_2PI

BROAD = 0.25  # share of the mixture's wide component
WIDE = 2.0  # and its width, in that of the data
FLOOR = 0.05  # least standard deviation of a component, in that of the data
STEPS = 30  # of expectation-maximisation


class MixtureNoise(nn.Module):
    """Mixture of Gaussians, a base: weights (K,), means (K, D) and Cholesky factors of the covariances (K, D, D)."""

    log_weights: Tensor
    means: Tensor
    roots: Tensor

    def __init__(self, weights: Tensor, means: Tensor, covariances: Tensor):
        super().__init__()
        self.register_buffer("log_weights", weights.log())
        self.register_buffer("means", means)
        self.register_buffer("roots", torch.linalg.cholesky(covariances))

    @classmethod
    def fit(cls, x: Tensor, generator: Generator, components: int | None = None) -> MixtureNoise:
        """Fit to rows (n, D); None: as many components as leave 10 D rows to each, at most 20."""
        rows = x.double()
        n, d = rows.shape
        k = components or max(1, min(20, n // (10 * d)))
        broad = NormalBase.fit(rows, widen=WIDE)
        whole = broad.covariance / WIDE**2
        floor = FLOOR**2 * torch.diag(torch.diagonal(whole))
        means = rows[torch.randperm(n, generator=generator, device=x.device)[:k]]
        weights, covariances = rows.new_full((k,), 1 / k), whole.expand(k, d, d) / k ** (2 / d)
        for _ in range(STEPS):
            share = torch.softmax(cls(weights, means, covariances)._log_joint(rows), -1)
            size = share.sum(0) + 1.0  # with one pseudo-row of the whole, so that no component dies
            means = (share.T @ rows + broad.mean) / size.unsqueeze(-1)
            second = torch.einsum("nk,ni,nj->kij", share, rows - broad.mean, rows - broad.mean) + whole
            moved = means - broad.mean
            covariances = second / size[:, None, None] - moved.unsqueeze(-1) * moved.unsqueeze(-2) + floor
            weights = size / size.sum()
        weights = torch.cat([(1 - BROAD) * weights, weights.new_tensor([BROAD])])
        means = torch.cat([means, broad.mean.unsqueeze(0)])
        return cls(weights, means, torch.cat([covariances, broad.covariance.unsqueeze(0)])).to(x.dtype)

    def _log_joint(self, x: Tensor) -> Tensor:
        """log π_k N(x; μ_k, Σ_k), (n, D) -> (n, K)."""
        moved = (x - self.means.unsqueeze(1)).mT  # (K, D, n)
        z = torch.linalg.solve_triangular(self.roots, moved, upper=False)
        log_det = torch.diagonal(self.roots, dim1=-2, dim2=-1).log().sum(-1)
        constant = self.log_weights - log_det - 0.5 * x.shape[-1] * LOG_2PI
        return (constant.unsqueeze(-1) - 0.5 * z.square().sum(-2)).T

    def log_prob(self, x: Tensor) -> Tensor:
        return torch.logsumexp(self._log_joint(x.reshape(-1, x.shape[-1])), -1).view(x.shape[:-1])

    def sample(self, n: int, generator: Generator | None = None) -> Tensor:
        which = torch.multinomial(self.log_weights.exp(), n, replacement=True, generator=generator)
        shape, means = (n, self.means.shape[1]), self.means
        z = torch.randn(shape, generator=generator, dtype=means.dtype, device=means.device)
        return self.means[which] + (self.roots[which] @ z.unsqueeze(-1)).squeeze(-1)


Noise = NormalBase | MixtureNoise | RatesBase


def fit_noise(name: str, x: Tensor, generator: Generator) -> Noise:
    """Fit the noise called ``name`` ("normal", "mixture", "rates") to rows (n, D)."""
    if name == "normal":
        return NormalBase.fit(x, widen=1.5)
    return RatesBase.fit(x) if name == "rates" else MixtureNoise.fit(x, generator)
