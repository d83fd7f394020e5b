"""Maximum likelihood of a density that can be evaluated: what a refitted prior is trained by."""

from __future__ import annotations

import copy
import math

import torch
from torch import Generator, Tensor, nn

from abduce.fit.optimizer import rate


def fit_density(
    density: nn.Module, z: Tensor, epochs: int, seed: int, batch: int = 512, learning_rate: float = 2e-3
) -> None:
    """Fit a density in place to rows z (n, dim) by maximum likelihood; the best epoch on a held-out tenth is kept."""
    generator = Generator().manual_seed(seed)
    order = torch.randperm(len(z), generator=generator)
    held, rows = z[order[: len(z) // 10]], z[order[len(z) // 10 :]]
    optimizer = torch.optim.Adam(density.parameters(), learning_rate)
    best, kept = -math.inf, copy.deepcopy(density.state_dict())
    for epoch in range(epochs):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * rate((epoch + 0.5) / epochs)
        for index in torch.randperm(len(rows), generator=generator).split(batch):
            optimizer.zero_grad()
            loss = -density.log_prob(rows[index]).mean()  # pyright: ignore[reportCallIssue]
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            value = float(density.log_prob(held if len(held) else rows).mean())  # pyright: ignore[reportCallIssue]
        if value > best:
            best, kept = value, copy.deepcopy(density.state_dict())
    density.load_state_dict(kept)
