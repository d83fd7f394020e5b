"""Parzen windows: a kernel of factors and noise around each row; apart, as 1,000 factor analysers would take 9 times as long.

All kernels have one covariance, so that rows meet centres in matrix products only.

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
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from abduce.data.seen import Seen
from abduce.distributions.cells import LOG_2PI
from abduce.gaussians.grouped_law import GroupedMixtureLaw
from abduce.gaussians.mixture import (
    Given,
    Mixture,
    choose,
    choose_evenly,
    patterns_of,
    slices,
    standard_normal,
)

PAIRS = 2**23  # products of two features of all centres that may be kept
CACHE = 2**17  # numbers of a tensor that stays in the cache


class Neighbours(NamedTuple):
    """A chunk of rows: log of the kernels (B, n), and the regression onto what was observed.

    ``factors`` (U, q, F) give the factors' means of what was observed, for each pattern of blanks, so that C_·o C_oo⁻¹ is
    W times them; ``which`` (B,) of the patterns each row has, ``variance`` (U, F) of cells given those observed.
    """

    log_joint: Tensor
    factors: Tensor
    variance: Tensor
    which: Tensor

    @property
    def shares(self) -> Tensor:
        """p(i | x_o), (B, n)."""
        return torch.softmax(self.log_joint, 1)


class ParzenLaw(Mixture):
    """Gaussian kernels around ``centres`` (n, F), with loadings W (F, q), noise variances Ψ (F,) and bandwidth h.

    ``keys`` (n,) are the hashes of the rows that the centres came from (see :func:`row_keys`), or None.

    >>> law = ParzenLaw(torch.tensor([[-1.0, -1.0], [1.0, 1.0]]), torch.zeros(2, 1), torch.full((2,), 0.01), 1.0)
    >>> law.mean(Seen(torch.tensor([[1.0, torch.nan]]), torch.tensor([[True, False]]))).round(decimals=3)
    tensor([[1., 1.]])
    """

    rowwise = False

    def __init__(
        self, centres: Tensor, loadings: Tensor, noise: Tensor, bandwidth: float, keys: Tensor | None = None
    ):
        if not bandwidth > 0:
            raise ValueError(f"bandwidth must be above zero, got {bandwidth}")
        self.means, self.loadings, self.noise = centres, loadings, noise
        self.bandwidth, self.keys = float(bandwidth), keys
        self.log_weights = centres.new_full((len(centres),), -math.log(len(centres)))

    def shared(self) -> GroupedMixtureLaw:
        """The same law with the covariance written out; no row is left out."""
        covariance = self.loadings @ self.loadings.mT + torch.diag(self.noise)
        group = torch.zeros(len(self.means), dtype=torch.long)
        return GroupedMixtureLaw(
            self.log_weights, self.means, group, self.bandwidth**2 * covariance.unsqueeze(0)
        )

    @cached_property
    def _ordered(self) -> tuple[Tensor, Tensor]:
        """The centres in the order of their keys, and these."""
        assert self.keys is not None
        order = self.keys.argsort()
        return order, self.keys[order]

    def neighbours(self, seen: Seen) -> Neighbours:
        """Kernels of rows that fit into memory at once."""
        x, observed = seen.y, seen.mask
        patterns, which = patterns_of(observed)
        pattern = patterns.to(x)
        W = self.loadings
        q = W.shape[1]
        precision = pattern / self.noise  # (U, F)
        gram = (precision.unsqueeze(-1) * W).mT @ W + torch.eye(q, dtype=x.dtype)
        root = torch.linalg.cholesky(gram)
        half = torch.linalg.solve_triangular(root, (precision.unsqueeze(-1) * W).mT, upper=False)  # (U, q, F)
        known = torch.where(observed, x, 0.0)
        scaled = precision[which] * known  # (B, F)
        own = (half[which] @ known.unsqueeze(-1)).squeeze(-1)  # (B, q)
        # (x − c)ᵀ Q (x − c) = xᵀ Q x − 2 xᵀ Q c + cᵀ Q c with Q = Ψ_o⁻¹ − halfᵀ half: rows meet centres in one product
        met = scaled - (own.unsqueeze(1) @ half[which]).squeeze(1)  # Q x
        log_joint = torch.addmm((met * known).sum(1, keepdim=True), met, self.means.mT, alpha=-2)
        log_joint += self._squared(precision, half, which)
        h = self.bandwidth
        count = pattern.sum(1)
        log_det = 2 * torch.diagonal(root, dim1=-2, dim2=-1).log().sum(-1) + pattern @ self.noise.log()
        constant = 0.5 * (log_det + count * (LOG_2PI + 2 * math.log(h)))
        log_joint = log_joint.clamp_min_(0).mul_(-0.5 / h**2).sub_(constant[which].unsqueeze(1))
        size = torch.full((len(x), 1), float(len(self.means)), dtype=x.dtype)
        if self.keys is not None and len(self.means) > 1:  # the only centre must do for itself
            key, (order, keys) = row_keys(known, observed), self._ordered
            found = order[torch.searchsorted(keys, key).clamp_max(len(order) - 1)]
            mine = torch.where(self.keys[found] == key, found, -1)  # which centre a row is itself
            rows = (mine >= 0).nonzero().squeeze(1)
            log_joint[rows, mine[rows]] = -math.inf
            size[rows] -= 1
        inner = torch.linalg.solve_triangular(root.mT, half, upper=True)  # P⁻¹ W_oᵀ Ψ_o⁻¹, (U, q, F)
        left = torch.linalg.solve_triangular(root, W.mT.expand(len(root), -1, -1), upper=False)
        variance = (self.noise + left.square().sum(1)) * h**2
        return Neighbours(log_joint - size.log(), inner, variance, which)

    def _squared(self, precision: Tensor, half: Tensor, which: Tensor) -> Tensor:
        """cᵀ Q c of all centres for each row, (1 or B, n), where pattern u has Q = diag(precision_u) − half_uᵀ half_u."""
        if len(half) > 1 and self._pairs is not None:
            i, j = self._places
            Q = torch.diag_embed(precision) - half.mT @ half
            return (Q[:, i, j] * torch.where(i == j, 1.0, 2.0))[which] @ self._pairs.mT
        # a few patterns at a time, so that what is squared stays in the cache
        few = half.split(max(1, CACHE // (half.shape[1] * len(self.means))))
        explained = torch.cat([(part @ self.means.mT).square_().sum(1) for part in few])
        out = precision @ self._squares - explained
        return out if len(out) == 1 else out[which]

    @cached_property
    def _squares(self) -> Tensor:
        """The centres' features squared, (F, n)."""
        return self.means.square().mT.contiguous()

    @cached_property
    def _places(self) -> tuple[Tensor, Tensor]:
        """Pairs of features, each pair once."""
        i, j = torch.triu_indices(self.means.shape[1], self.means.shape[1])
        return i, j

    @cached_property
    def _pairs(self) -> Tensor | None:
        """Products of the centres' features, (n, pairs), with which cᵀ Q c is one product; None where these are too many."""
        n, f = self.means.shape
        pairs = f * (f + 1) // 2
        if pairs > 1.5 * f * self.loadings.shape[1] or n * pairs > PAIRS:
            return None
        i, j = self._places
        return self.means[:, i] * self.means[:, j]

    def _regressed(self, found: Neighbours, off: Tensor) -> Tensor:
        """C_·o C_oo⁻¹ times distances (B, m, F) of what was observed from centres, 0 where nothing was: (B, m, F)."""
        return off @ found.factors[found.which].mT @ self.loadings.mT

    def chunks(self, seen: Seen) -> Iterator[tuple[slice, Seen]]:
        """Rows that fit into memory at once."""
        n, f = self.means.shape
        for rows in slices(len(seen.y), max(4 * n, f * max(f, self.loadings.shape[1]))):
            yield rows, seen.rows(rows)

    def given(self, seen: Seen, singly: bool = False) -> Iterator[Given]:
        for rows, part in self.chunks(seen):
            if not seen.exact:
                for block in self.shared().given(part):
                    yield block._replace(rows=rows.start + block.rows)
                continue
            found = self.neighbours(part)

            def regress(shares: Tensor, found: Neighbours = found, part: Seen = part) -> Tensor:
                centre = shares @ self.means
                off = torch.where(part.mask, part.y - centre, 0.0)
                return centre + self._regressed(found, off.unsqueeze(1)).squeeze(1)

            yield Given(rows, found.log_joint, regress)

    def points(self, seen: Seen, count: int) -> Tensor:
        """``count`` points that stand for the law of each cell given the row, (count, rows, F), equally likely.

        Neighbours are chosen systematically by their shares, each with another quantile of its Gaussian.
        """
        out = seen.y.new_empty(count, *seen.y.shape)
        for rows, part in self.chunks(seen):
            found = self.neighbours(part)
            chosen, nodes = choose_evenly(found.shares, count)
            centres = self.means[chosen]  # (B, count, F)
            off = torch.where(part.mask.unsqueeze(1), part.y.unsqueeze(1) - centres, 0.0)
            out[:, rows] = (centres + self._regressed(found, off)).transpose(0, 1)
            out[:, rows] += nodes[:, None, None] * found.variance[found.which].sqrt()
        return torch.where(seen.mask, seen.y, out)

    def draws(self, seen: Seen, n: int, generator: Generator | None = None, shared: bool = False) -> Tensor:
        if not seen.exact:
            return self.shared().draws(seen, n, generator, shared)
        out = seen.y.new_empty(n, *seen.y.shape)
        source = torch.default_generator if generator is None else generator
        start = source.get_state()
        for rows, part in self.chunks(seen):
            found = self.neighbours(part)
            if shared:
                source.set_state(start)
                chosen = choose(found.shares, n, generator, shared)
            else:
                chosen = torch.multinomial(found.shares, n, replacement=True, generator=generator).mT
            # a draw of a whole row around its centre, moved to agree with what was observed
            u = self._around(chosen, 1 if shared else len(part.y), generator)
            off = torch.where(part.mask, part.y - u, 0.0)
            out[:, rows] = u + self._regressed(found, off.transpose(0, 1)).transpose(0, 1)
        return torch.where(seen.mask, seen.y, out)

    def sample(self, n: int, generator: Generator | None = None) -> Tensor:
        chosen = torch.randint(len(self.means), (n,), generator=generator)
        return self._around(chosen.unsqueeze(0), n, generator)[0]

    def _around(self, chosen: Tensor, rows: int, generator: Generator | None) -> Tensor:
        """Draw around centres (draws, rows), with the noise of so many ``rows``: (draws, rows, F)."""
        f, q = self.loadings.shape
        z = standard_normal((len(chosen), rows, q), self.means, generator)
        e = standard_normal((len(chosen), rows, f), self.means, generator)
        return self.means[chosen] + self.bandwidth * (z @ self.loadings.mT + self.noise.sqrt() * e)


def row_keys(x: Tensor, observed: Tensor) -> Tensor:
    """A 64-bit hash of each row's observed cells and of which they are, (n,) int64: multilinear, modulo 2⁶⁴."""
    bits = torch.where(observed, x.double() + 0.0, torch.nan).contiguous().view(torch.int64)
    generator = Generator().manual_seed(1)
    factor = torch.randint(-(2**62), 2**62, (x.shape[1],), generator=generator) * 2 + 1
    bits = (bits ^ (bits >> 29)) * factor
    return ((bits ^ (bits >> 31)) * factor.flip(0)).sum(1)
