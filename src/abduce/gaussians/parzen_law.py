"""Parzen windows: one Gaussian kernel around every row, all of one covariance, which is that of factors and noise.

    p(x) = 1/n Σ_i N(x; c_i, h² (W Wᵀ + Ψ))

The kernel's correlations matter: given cells o, a blank cell is not only averaged over the rows that are close in o, each
of them is also regressed, c_ib + C_bo C_oo⁻¹ (x_o − c_io): local linear regression, if C is the covariance within clusters.

A row that is itself a centre, blanks and all, does not count as its own neighbour (it is recognised by a hash of its cells):
so the rows that the law was made of can be filled and scored as new ones would be.

Sources: Parzen 1962; Vincent & Bengio 2003 (windows along the manifold); Cleveland 1979 (local regression).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from abduce.gaussians.gaussian_law import LOG_2PI

BUDGET = 2**22  # numbers in one chunk's largest tensor


class Neighbours(NamedTuple):
    """A chunk of rows: log of the kernels (B, n), and the regression onto what was observed.

    ``pull`` (U, F, F) are C_·o C_oo⁻¹ of the patterns of blanks, ``which`` (B,) of them each row has, ``variance`` (U, F) of
    cells given those observed.
    """

    log_joint: Tensor
    pull: Tensor
    variance: Tensor
    which: Tensor

    @property
    def shares(self) -> Tensor:
        """p(i | x_o), (B, n)."""
        return torch.softmax(self.log_joint, 1)


class ParzenLaw:
    """Gaussian kernels around ``centres`` (n, F), with loadings W (F, q), noise variances Ψ (F,) and bandwidth h.

    ``keys`` (n,) are the hashes of the rows that the centres came from (see :func:`row_keys`), or None.

    >>> law = ParzenLaw(torch.tensor([[-1.0, -1.0], [1.0, 1.0]]), torch.zeros(2, 1), torch.full((2,), 0.01), 1.0)
    >>> law.mean(torch.tensor([[1.0, torch.nan]]), torch.tensor([[True, False]])).round(decimals=3)
    tensor([[1., 1.]])
    """

    def __init__(
        self, centres: Tensor, loadings: Tensor, noise: Tensor, bandwidth: float, keys: Tensor | None = None
    ):
        if not bandwidth > 0:
            raise ValueError(f"bandwidth must be above zero, got {bandwidth}")
        self.centres, self.loadings, self.noise = centres, loadings, noise
        self.bandwidth, self.keys = float(bandwidth), keys

    def neighbours(self, x: Tensor, observed: Tensor) -> Neighbours:
        """Kernels of rows that fit into memory at once."""
        patterns, which = torch.unique(observed, dim=0, return_inverse=True)
        pattern = patterns.to(x)
        W = self.loadings
        q = W.shape[1]
        precision = pattern / self.noise  # (U, F)
        gram = (precision.unsqueeze(-1) * W).mT @ W + torch.eye(q, dtype=x.dtype)
        root = torch.linalg.cholesky(gram)
        half = torch.linalg.solve_triangular(root, (precision.unsqueeze(-1) * W).mT, upper=False)  # (U, q, F)
        known = torch.where(observed, x, 0.0)
        scaled = precision[which]  # (B, F)
        # (x − c)ᵀ Ψ_o⁻¹ (x − c) − ‖half (x − c)‖², expanded so that rows meet centres in matrix products only
        quadratic = (scaled * known.square()).sum(1, keepdim=True)
        quadratic = quadratic - 2 * (scaled * known) @ self.centres.mT + scaled @ self.centres.square().mT
        own = (half[which] @ known.unsqueeze(-1)).squeeze(-1)  # (B, q)
        if len(patterns) == 1:
            seen_centres = (half[0] @ self.centres.mT).unsqueeze(0)
        else:
            seen_centres = (half @ self.centres.mT)[which]  # (B, q, n)
        quadratic = quadratic - (own.unsqueeze(-1) - seen_centres).square().sum(1)
        h = self.bandwidth
        count = pattern.sum(1)
        log_det = 2 * torch.diagonal(root, dim1=-2, dim2=-1).log().sum(-1) + pattern @ self.noise.log()
        constant = 0.5 * (log_det + count * (LOG_2PI + 2 * math.log(h)))
        log_joint = -0.5 * quadratic.clamp_min(0) / h**2 - constant[which].unsqueeze(1)
        size = torch.full((len(x), 1), float(len(self.centres)), dtype=x.dtype)
        if self.keys is not None and len(self.centres) > 1:  # the only centre must do for itself
            mine = self._own(known, observed)
            rows = (mine >= 0).nonzero().squeeze(1)
            log_joint[rows, mine[rows]] = -math.inf
            size[rows] -= 1
        inner = torch.linalg.solve_triangular(root.mT, half, upper=True)  # P⁻¹ W_oᵀ Ψ_o⁻¹, (U, q, F)
        left = torch.linalg.solve_triangular(root, W.mT.expand(len(root), -1, -1), upper=False)
        variance = (self.noise + left.square().sum(1)) * h**2
        return Neighbours(log_joint - size.log(), W @ inner, variance, which)

    def _own(self, known: Tensor, observed: Tensor) -> Tensor:
        """Which centre a row is itself, −1 for none."""
        assert self.keys is not None
        order = self.keys.argsort()
        key = row_keys(known, observed)
        place = torch.searchsorted(self.keys[order], key).clamp_max(len(order) - 1)
        found = order[place]
        return torch.where(self.keys[found] == key, found, -1)

    def chunks(self, x: Tensor, observed: Tensor | None = None) -> Iterator[tuple[slice, Neighbours]]:
        """Neighbours of all rows, a chunk at a time."""
        if observed is None:
            observed = torch.ones_like(x, dtype=torch.bool)
        n, f = self.centres.shape
        size = max(1, BUDGET // max(n * self.loadings.shape[1], f * f))
        for i in range(0, len(x), size):
            rows = slice(i, i + size)
            yield rows, self.neighbours(x[rows], observed[rows])

    def log_prob(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        """log p(x_obs), nats, (batch,)."""
        parts = [torch.logsumexp(found.log_joint, 1) for _, found in self.chunks(x, observed)]
        return torch.cat(parts) if parts else x.new_zeros(0)

    def mean(self, x: Tensor, observed: Tensor) -> Tensor:
        """E[x | x_obs], (batch, F); observed cells as they are."""
        out = torch.empty_like(x)
        for rows, found in self.chunks(x, observed):
            centre = found.shares @ self.centres
            off = torch.where(observed[rows], x[rows] - centre, 0.0)
            out[rows] = centre + (found.pull[found.which] @ off.unsqueeze(-1)).squeeze(-1)
        return torch.where(observed, x, out)

    def points(self, x: Tensor, observed: Tensor, count: int) -> Tensor:
        """``count`` points that stand for the law of each cell given the row, (count, batch, F), equally likely.

        Neighbours are chosen systematically by their shares, each with another quantile of its Gaussian.
        """
        out = x.new_empty(count, len(x), x.shape[1])
        nodes = spread_quantiles(count).to(x)
        grid = (torch.arange(count, dtype=x.dtype) + 0.5) / count
        for rows, found in self.chunks(x, observed):
            shares = found.shares
            chosen = torch.searchsorted(shares.cumsum(1), grid.expand(len(shares), -1).contiguous())
            out[:, rows] = self._moved(
                found, chosen.clamp_max(len(self.centres) - 1), x[rows], observed[rows]
            )
            deviation = found.variance[found.which].sqrt()
            out[:, rows] += nodes[:, None, None] * deviation
        return torch.where(observed, x, out)

    def complete(
        self, x: Tensor, observed: Tensor, draws: int, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw whole rows from p(x | x_obs), (draws, batch, F)."""
        out = x.new_empty(draws, len(x), x.shape[1])
        for rows, found in self.chunks(x, observed):
            chosen = torch.multinomial(found.shares, draws, replacement=True, generator=generator)
            size = (draws, len(chosen))
            z = torch.randn(*size, self.loadings.shape[1], generator=generator, dtype=x.dtype)
            e = torch.randn(*size, x.shape[1], generator=generator, dtype=x.dtype)
            # a draw of a whole row around its centre, moved to agree with what was observed
            u = self.centres[chosen.mT] + self.bandwidth * (z @ self.loadings.mT + self.noise.sqrt() * e)
            off = torch.where(observed[rows], x[rows] - u, 0.0)
            out[:, rows] = u + (found.pull[found.which] @ off.permute(1, 2, 0)).permute(2, 0, 1)
        return torch.where(observed, x, out)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw (n, F)."""
        chosen = torch.randint(len(self.centres), (n,), generator=generator)
        z = torch.randn(n, self.loadings.shape[1], generator=generator, dtype=self.centres.dtype)
        e = torch.randn(n, self.centres.shape[1], generator=generator, dtype=self.centres.dtype)
        return self.centres[chosen] + self.bandwidth * (z @ self.loadings.mT + self.noise.sqrt() * e)

    def _moved(self, found: Neighbours, chosen: Tensor, x: Tensor, observed: Tensor) -> Tensor:
        """Chosen centres (B, S) regressed onto what was observed, (S, B, F)."""
        c = self.centres[chosen]
        off = torch.where(observed.unsqueeze(1), x.unsqueeze(1) - c, 0.0)
        return (c + off @ found.pull[found.which].mT).transpose(0, 1)


def row_keys(x: Tensor, observed: Tensor) -> Tensor:
    """A 64-bit hash of each row's observed cells and of which they are, (n,) int64: multilinear, modulo 2⁶⁴."""
    bits = torch.where(observed, x.double() + 0.0, torch.nan).contiguous().view(torch.int64)
    generator = torch.Generator().manual_seed(1)
    factor = torch.randint(-(2**62), 2**62, (x.shape[1],), generator=generator) * 2 + 1
    bits = (bits ^ (bits >> 29)) * factor
    return ((bits ^ (bits >> 31)) * factor.flip(0)).sum(1)


def spread_quantiles(count: int) -> Tensor:
    """Standard normal quantiles at (i + ½) / count, in an order that a run of any length covers evenly."""
    order = torch.arange(count)
    order = torch.argsort(torch.remainder(order * 0.6180339887498949, 1.0))
    return torch.special.ndtri((order.double() + 0.5) / count)
