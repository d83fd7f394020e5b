"""Base measures: normalised densities to start an annealing from, and to make an energy's integral finite with.

    NormalBase(mean, covariance)     fitted to data, widened by a factor
    RatesBase(rates)                 independent binary cells at the data's rates
    BoxBase(low, high)               uniform

Each also gives its conditional on some cells, for inference over blanks: a base of the blank cells of each row, whose draws
and densities are over whole rows with the observed cells clamped.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

LOG_2PI = math.log(2 * math.pi)


class NormalBase(nn.Module):
    """N(mean, covariance), full covariance."""

    mean: Tensor
    root: Tensor
    support = "real"

    def __init__(self, mean: Tensor, covariance: Tensor):
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("root", torch.linalg.cholesky(covariance))

    @classmethod
    def fit(cls, x: Tensor, widen: float = 1.0, floor: float = 1e-3) -> NormalBase:
        """Fit to rows (n, D): their mean, and their covariance drawn a little to its diagonal, times ``widen``²."""
        n, d = x.shape
        mean = x.mean(0)
        centred = x - mean
        covariance = centred.T @ centred / n
        diagonal = torch.diagonal(covariance).clamp_min(floor)
        share = min(1.0, d / max(n, 1) * 0.5 + 0.01)
        covariance = (1 - share) * covariance + share * torch.diag(diagonal)
        covariance = covariance + floor * torch.eye(d, dtype=x.dtype, device=x.device)
        return cls(mean, covariance * widen**2)

    @property
    def config(self) -> dict[str, Any]:
        return {"base": "normal", "n_cells": len(self.mean)}

    @property
    def covariance(self) -> Tensor:
        """The covariance."""
        return self.root @ self.root.mT

    @property
    def scale(self) -> Tensor:
        """Standard deviation of each cell, (D,)."""
        return self.root.square().sum(-1).sqrt()

    def log_prob(self, x: Tensor) -> Tensor:
        rows = (x - self.mean).reshape(-1, len(self.mean))
        z = torch.linalg.solve_triangular(self.root, rows.mT, upper=False).mT.reshape(x.shape)
        log_det = torch.diagonal(self.root).log().sum()
        return -0.5 * z.square().sum(-1) - log_det - 0.5 * len(self.mean) * LOG_2PI

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        noise = torch.randn(
            n, len(self.mean), generator=generator, dtype=self.mean.dtype, device=self.mean.device
        )
        return self.mean + noise @ self.root.mT


class RatesBase(nn.Module):
    """Independent binary cells, cell i one with probability rates[i]."""

    logits: Tensor
    support = "binary"

    def __init__(self, logits: Tensor):
        super().__init__()
        self.register_buffer("logits", logits)

    @classmethod
    def fit(cls, x: Tensor, pseudo: float = 1.0) -> RatesBase:
        """Fit to rows (n, D): shares of ones with ``pseudo`` pseudo-rows of a half."""
        rate = (x.sum(0) + 0.5 * pseudo) / (len(x) + pseudo)
        return cls(torch.logit(rate))

    @property
    def config(self) -> dict[str, Any]:
        return {"base": "rates", "n_cells": len(self.logits)}

    def log_prob(self, x: Tensor) -> Tensor:
        return x @ self.logits - torch.nn.functional.softplus(self.logits).sum()

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        u = torch.rand(
            n, len(self.logits), generator=generator, dtype=self.logits.dtype, device=self.logits.device
        )
        return (u < torch.sigmoid(self.logits)).to(self.logits.dtype)


class BoxBase(nn.Module):
    """Uniform on the box low < x < high; log density −∞ outside."""

    low: Tensor
    high: Tensor
    support = "real"

    def __init__(self, low: Tensor, high: Tensor):
        super().__init__()
        if not bool((low < high).all()):
            raise ValueError(f"low must be below high in every cell, got {low.tolist()} and {high.tolist()}")
        self.register_buffer("low", low)
        self.register_buffer("high", high)

    @classmethod
    def fit(cls, x: Tensor, margin: float = 0.25) -> BoxBase:
        """The range of rows (n, D), wider by ``margin`` of itself on both sides."""
        low, high = x.amin(0), x.amax(0)
        more = margin * (high - low).clamp_min(1e-3)
        return cls(low - more, high + more)

    @property
    def config(self) -> dict[str, Any]:
        return {"base": "box", "n_cells": len(self.low)}

    @property
    def scale(self) -> Tensor:
        """Standard deviation of each cell, (D,)."""
        return (self.high - self.low) / math.sqrt(12)

    def log_prob(self, x: Tensor) -> Tensor:
        inside = ((x > self.low) & (x < self.high)).all(-1)
        log_volume = (self.high - self.low).log().sum()
        return torch.where(inside, -log_volume, -torch.inf)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        u = torch.rand(n, len(self.low), generator=generator, dtype=self.low.dtype, device=self.low.device)
        return self.low + (self.high - self.low) * u
