"""Approximate posteriors q(z|x): the proposals that the encoder learns."""

from __future__ import annotations

import math

import torch
from torch import Tensor

LOG_2PI = math.log(2 * math.pi)


class DiagonalNormal:
    """Diagonal Gaussian N(z; mean, diag(scale²)), one for each row.

    ``mean`` and ``log_scale`` have shape ``(batch, latent)``; draws carry a leading samples axis.
    """

    def __init__(self, mean: Tensor, log_scale: Tensor):
        self.mean = mean
        self.log_scale = log_scale

    @classmethod
    def from_parameters(cls, h: Tensor) -> DiagonalNormal:
        """Read ``[mean, log_scale]`` off an encoder's output ``(batch, 2 latent)``; log-scales are kept in [-7, 3]."""
        mean, log_scale = h.chunk(2, -1)
        return cls(mean, log_scale.clamp(-7.0, 3.0))

    def detach(self) -> DiagonalNormal:
        """The same distribution with no gradient to its parameters."""
        return DiagonalNormal(self.mean.detach(), self.log_scale.detach())

    def transport(self, noise: Tensor) -> Tensor:
        """Reparameterised draws: mean + scale · noise, for standard normal ``noise`` broadcast to (samples, batch, latent)."""
        return self.mean + self.log_scale.exp() * noise

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density in nats, summed over the last axis."""
        standard = (z - self.mean) * torch.exp(-self.log_scale)
        return -(0.5 * standard.square() + self.log_scale).sum(-1) - 0.5 * self.mean.shape[-1] * LOG_2PI

    def kl_to_standard_normal(self) -> Tensor:
        """KL(q || N(0, I)) of each latent unit in closed form, shape ``(batch, latent)``, nats."""
        return 0.5 * (self.mean.square() + torch.exp(2 * self.log_scale) - 1) - self.log_scale
