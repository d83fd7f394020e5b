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
