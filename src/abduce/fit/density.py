"""Maximum likelihood of a density that can be evaluated: what a refitted prior is trained by."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from abduce.fit.loop import train
from abduce.fit.settings import Settings
from abduce.fit.steps import Step


class DensityStep(Step):
    """The negative log-likelihood of a module with ``log_prob``, of complete rows."""

    comparable = True

    def __init__(self, density: nn.Module):
        super().__init__()
        self.density = density

    def forward(self, x, observed, progress, generator):
        loss = -self.density.log_prob(x).mean()  # pyright: ignore[reportCallIssue]
        return loss, -loss.detach()

    @torch.no_grad()
    def value(self, x, observed, seed):
        return float(self.density.log_prob(x).mean())  # pyright: ignore[reportCallIssue]

    def validate(self, x, observed, seed):
        return {"valid": self.value(x, observed, seed)}


def fit_density(density: nn.Module, z: Tensor, epochs: int, seed: int) -> None:
    """Fit a density in place to rows z (n, dim) by maximum likelihood; the best epoch on a held-out tenth is kept."""
    settings = Settings(epochs, batch_size=512, learning_rate=2e-3, masking=False, device="cpu", seed=seed)
    train(DensityStep(density), z, None, settings)
