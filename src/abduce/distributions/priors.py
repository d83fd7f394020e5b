"""Priors p(z): what the latents look like before any x is seen."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

LOG_2PI = math.log(2 * math.pi)


class StandardNormal(nn.Module):
    """Standard normal prior, p(z) = N(z; 0, I).

    >>> prior = StandardNormal(2)
    >>> round(prior.log_prob(torch.zeros(1, 2)).item(), 4)
    -1.8379
    """

    def __init__(self, latent_dim: int):
        super().__init__()
        self.latent_dim = latent_dim

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density in nats, summed over the last axis."""
        return -0.5 * (z.square().sum(-1) + self.latent_dim * LOG_2PI)

    def sample(self, n: int, generator: torch.Generator | None = None, **factory) -> Tensor:
        """Draw ``(n, latent)``."""
        return torch.randn(n, self.latent_dim, generator=generator, **factory)


class GaussianMixture(nn.Module):
    """Mixture prior p(z) = Σ_c π_c N(z; m_c, S_c): latents in clusters.

    ``weights`` (C,), ``means`` (C, k), ``covariances`` (C, k, k); kept fixed in training.
    """

    weights: Tensor
    means: Tensor
    roots: Tensor
    whitening: Tensor

    def __init__(self, weights: Tensor, means: Tensor, covariances: Tensor):
        super().__init__()
        self.latent_dim = means.shape[1]
        self.register_buffer("weights", weights.float())
        self.register_buffer("means", means.float())
        self.register_buffer("roots", torch.linalg.cholesky(covariances).float())
        eye = torch.eye(self.latent_dim, dtype=covariances.dtype).expand_as(covariances)
        inverse = torch.linalg.solve_triangular(torch.linalg.cholesky(covariances), eye, upper=False)
        self.register_buffer("whitening", inverse.float())  # whitening_c (z − m_c) is standard normal

    def component_log_prob(self, z: Tensor) -> Tensor:
        """log π_c + log N(z; m_c, S_c), nats, ``(..., C)``."""
        components, k = self.means.shape
        offset = (self.whitening @ self.means.unsqueeze(-1)).flatten()
        white = (z.reshape(-1, k) @ self.whitening.flatten(0, 1).T - offset).unflatten(1, (components, k))
        log_det = torch.diagonal(self.whitening, dim1=-2, dim2=-1).log().sum(-1)
        constant = self.weights.log() + log_det - 0.5 * k * LOG_2PI
        return (constant - 0.5 * white.square().sum(-1)).view(*z.shape[:-1], components)

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density in nats."""
        return torch.logsumexp(self.component_log_prob(z), -1)

    def sample(self, n: int, generator: torch.Generator | None = None, **factory) -> Tensor:
        """Draw ``(n, latent)``."""
        c = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        noise = torch.randn(n, self.latent_dim, generator=generator, **factory)
        return self.means[c] + (self.roots[c] @ noise.unsqueeze(-1)).squeeze(-1)
