"""Base measures: normalised densities to start an annealing from, and to make an energy's integral finite with.

    NormalBase(mean, covariance)     fitted to data, widened by a factor
    RatesBase(rates)                 independent binary cells at the data's rates
    BoxBase(low, high)               uniform

Each also gives its conditional on some cells, for inference over blanks: a base of the blank cells of each row, whose draws
and densities are over whole rows with the observed cells clamped.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn

from abduce.distributions.cells import LOG_2PI, normal_like


class Conditional(NamedTuple):
    """A base given some cells of each row.

    ``log_marginal`` (rows,) is log b of the observed cells; ``draw(n, generator, shared)`` gives whole rows ``(n, rows, D)``,
    observed cells as they are, the others from b given them; with ``shared`` by the same random numbers for every row.
    """

    log_marginal: Tensor
    draw: Callable[[int, Generator, bool], Tensor]


class _Base(nn.Module):
    """What the base measures share: draws of the cells that are blank."""

    def sample(self, n: int, generator: Generator | None = None) -> Tensor:
        """Draw (n, D)."""
        raise NotImplementedError

    def _each(self, n: int, rows: int, generator: Generator, shared: bool) -> Tensor:
        """Free draws (n, rows, D), the same for every row if ``shared``."""
        drawn = self.sample(n if shared else n * rows, generator)
        return drawn.view(n, -1, drawn.shape[-1]).expand(n, rows, -1)

    def _clamped(self, x: Tensor, observed: Tensor) -> Callable[[int, Generator, bool], Tensor]:
        """How to draw independent cells with the observed ones put back."""
        return lambda n, generator, shared=False: torch.where(
            observed, x, self._each(n, len(x), generator, shared)
        )


class NormalBase(_Base):
    """N(mean, covariance), full covariance."""

    mean: Tensor
    root: Tensor
    name = "normal"
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
    def covariance(self) -> Tensor:
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

    def sample(self, n: int, generator: Generator | None = None) -> Tensor:
        return self.mean + normal_like(self.mean.expand(n, -1), generator) @ self.root.mT

    def condition(self, x: Tensor, observed: Tensor) -> Conditional:
        seen = observed.to(x.dtype)
        covariance = self.covariance
        # the covariance of what is seen, with ones for what is not
        inner = covariance * seen.unsqueeze(-1) * seen.unsqueeze(-2) + torch.diag_embed(1 - seen)
        root = torch.linalg.cholesky(inner)
        off = (seen * (x - self.mean)).unsqueeze(-1)
        half = torch.linalg.solve_triangular(root, off, upper=False).squeeze(-1)
        log_det = torch.diagonal(root, dim1=-2, dim2=-1).log().sum(-1)
        log_marginal = -0.5 * half.square().sum(-1) - log_det - 0.5 * seen.sum(-1) * LOG_2PI

        def draw(n: int, generator: Generator, shared: bool = False) -> Tensor:
            # a free draw, moved by the regression of all cells on how far the seen ones are off (Matheron's rule)
            free = self._each(n, len(x), generator, shared)
            gap = (seen * (x - free)).permute(1, 2, 0)
            moved = covariance @ (torch.cholesky_solve(gap, root) * seen.unsqueeze(-1))
            return torch.where(observed, x, free + moved.permute(2, 0, 1))

        return Conditional(log_marginal, draw)


class RatesBase(_Base):
    """Independent binary cells, cell i one with probability rates[i]."""

    logits: Tensor
    name = "rates"
    support = "binary"

    def __init__(self, logits: Tensor):
        super().__init__()
        self.register_buffer("logits", logits)

    @classmethod
    def fit(cls, x: Tensor, pseudo: float = 1.0) -> RatesBase:
        """Fit to rows (n, D): shares of ones with ``pseudo`` pseudo-rows of a half."""
        rate = (x.sum(0) + 0.5 * pseudo) / (len(x) + pseudo)
        return cls(torch.logit(rate))

    def log_prob(self, x: Tensor) -> Tensor:
        return x @ self.logits - torch.nn.functional.softplus(self.logits).sum()

    def sample(self, n: int, generator: Generator | None = None) -> Tensor:
        u = torch.rand(
            n, len(self.logits), generator=generator, dtype=self.logits.dtype, device=self.logits.device
        )
        return (u < torch.sigmoid(self.logits)).to(self.logits.dtype)

    def condition(self, x: Tensor, observed: Tensor) -> Conditional:
        each = x * self.logits - torch.nn.functional.softplus(self.logits)
        log_marginal = torch.where(observed, each, 0.0).sum(-1)
        return Conditional(log_marginal, self._clamped(x, observed))


class BoxBase(_Base):
    """Uniform on the box low < x < high; log density −∞ outside."""

    low: Tensor
    high: Tensor
    name = "box"
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
    def scale(self) -> Tensor:
        return (self.high - self.low) / math.sqrt(12)

    def log_prob(self, x: Tensor) -> Tensor:
        inside = ((x > self.low) & (x < self.high)).all(-1)
        log_volume = (self.high - self.low).log().sum()
        return torch.where(inside, -log_volume, -torch.inf)

    def sample(self, n: int, generator: Generator | None = None) -> Tensor:
        u = torch.rand(n, len(self.low), generator=generator, dtype=self.low.dtype, device=self.low.device)
        return self.low + (self.high - self.low) * u

    def condition(self, x: Tensor, observed: Tensor) -> Conditional:
        inside = ((x > self.low) & (x < self.high) | ~observed).all(-1)
        log_volume = (observed * (self.high - self.low).log()).sum(-1)
        log_marginal = torch.where(inside, -log_volume, -torch.inf)
        return Conditional(log_marginal, self._clamped(x, observed))
