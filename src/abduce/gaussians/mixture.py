"""What all mixtures of Gaussians share, whatever their covariances: log p, responsibilities and means, and how draws are made.

    p(y) = Σ_k π_k N(y; k),     R_k ∝ π_k N(y; k),     E[x | y] = Σ_k R_k E[x | y, k]

A structure of covariances gives blocks of rows conditioned on what was seen of them (:class:`Given`); the rest is written
here once.  Where covariances are written out, a conditional draw chooses a component k by R and moves a draw u of whole rows
of it,

    x = u + cov(x, y) cov(y)⁻¹ (y − A u − noise · e),     u ~ N(μ_k, C_k),  e ~ N(0, I),

which has the law of x given y (A = I without noise where cells are seen as they are).

Sources: Journel & Huijbregts 1978, Doucet 2010 (conditional draws).
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from abduce.data.seen import Seen
from abduce.gaussians.law import ANY, Law

BUDGET = 2**22  # numbers in one block's largest tensor
BITS = 52  # that a float64 keeps exactly
Look = tuple[Callable[[Tensor], Tensor], Tensor]  # A as a function, and the noise's standard deviations


class Given(NamedTuple):
    """A block of R rows given what was seen of them, under c of the components.

    ``log_joint`` (R, c) is log π_k N(y; k), ``regress`` gives Σ_k s_k E[x | y, k], (R, D), for shares s (R, c).  ``members``
    are the components, and ``log_share`` (R, c) is what shares are proportional to where that is not ``log_joint``.
    """

    rows: Tensor | slice
    log_joint: Tensor
    regress: Callable[[Tensor], Tensor]
    members: Tensor | slice = slice(None)
    log_share: Tensor | None = None

    def log_shares(self) -> Tensor:
        """Log of what shares are proportional to, (R, c)."""
        return self.log_joint if self.log_share is None else self.log_share


class Mixture(Law, abc.ABC):
    """A mixture of Gaussians over D cells.

    ``log_weights`` (K,), normalised; ``means`` (K, D).  Numbers are given back in the type of the rows.
    """

    views = ANY
    partial = False  # whether a block has only some components of its rows, which then come in several blocks
    log_weights: Tensor
    means: Tensor

    @abc.abstractmethod
    def given(self, seen: Seen, singly: bool = False) -> Iterator[Given]:
        """Condition on what was seen, a block of rows at a time; ``singly``: a row by itself, where the law can."""

    def log_prob(self, seen: Seen) -> Tensor:
        out = self.means.new_full((len(seen.y),), -torch.inf)
        for block in self.given(seen, singly=True):
            value = torch.logsumexp(block.log_joint, 1)
            out[block.rows] = torch.logaddexp(out[block.rows], value) if self.partial else value
        return out.to(seen.y)

    def responsibilities(self, seen: Seen) -> Tensor:
        """R, p(k | seen), (rows, K)."""
        return self.shares(seen).to(seen.y)

    def shares(self, seen: Seen) -> Tensor:
        """The same in the type of the law's own numbers."""
        out = self.means.new_full((len(seen.y), len(self.log_weights)), -torch.inf)
        for block in self.given(seen):
            if self.partial:
                assert isinstance(block.rows, Tensor)
                out[block.rows.unsqueeze(1), block.members] = block.log_shares()
            else:
                out[block.rows] = torch.softmax(block.log_shares(), 1)
        return torch.softmax(out, 1) if self.partial else out

    def mean(self, seen: Seen) -> Tensor:
        out = (self._summed if self.partial else self._averaged)(seen).to(seen.y)
        return torch.where(seen.mask, seen.y, out) if seen.exact else out

    def _averaged(self, seen: Seen) -> Tensor:
        out = self.means.new_empty(len(seen.y), self.means.shape[1])
        for block in self.given(seen):
            out[block.rows] = block.regress(torch.softmax(block.log_shares(), 1))
        return out

    def _summed(self, seen: Seen) -> Tensor:
        """Sums over components, each relative to the greatest term met so far."""
        top = self.means.new_full((len(seen.y),), -torch.inf)
        total = torch.zeros_like(top)
        out = self.means.new_zeros(len(seen.y), self.means.shape[1])
        for block in self.given(seen):
            rows, log_share = block.rows, block.log_shares()
            highest = torch.maximum(top[rows], log_share.amax(1))
            fade = (top[rows] - highest).exp()
            share = (log_share - highest.unsqueeze(1)).exp()
            total[rows] = fade * total[rows] + share.sum(1)
            out[rows] = fade.unsqueeze(1) * out[rows] + block.regress(share)
            top[rows] = highest
        return out / total.unsqueeze(1)


class Sight(NamedTuple):
    """What is seen of rows, as a mixture of its own.

    ``shares`` (rows, K) of the components; ``pull`` gives cov(x, y) cov(y)⁻¹ r for components and residuals (n, rows, d);
    ``look`` is A as a function, and the noise's standard deviations; None where cells are seen as they are.
    """

    shares: Tensor
    pull: Callable[[Tensor, Tensor], Tensor]
    look: Look | None


class DenseMixture(Mixture):
    """A mixture with covariances written out, each of a group of components: ``group`` (K,)."""

    group: Tensor

    @abc.abstractmethod
    def root(self, g: int) -> Tensor:
        """Cholesky factor of a group's covariance, (D, D)."""

    @abc.abstractmethod
    def sight(self, seen: Seen) -> Sight:
        """The mixture that what was seen is of, given it."""

    def draws(self, seen: Seen, n: int, generator: Generator | None = None, shared: bool = False) -> Tensor:
        y, own = seen.y, 1 if shared else len(seen.y)
        sight = self.sight(seen)
        chosen = choose(sight.shares, n, generator, shared)
        u = v = self._drawn(chosen, own, generator)
        if sight.look is not None:
            apply, noise = sight.look
            v = apply(u)
            v = v + noise * standard_normal((n, own, v.shape[-1]), v, generator)
        out = (u + sight.pull(chosen, torch.where(seen.mask, y.to(v) - v, 0.0))).to(y)
        return torch.where(seen.mask, y, out) if seen.exact else out

    def sample(self, n: int, generator: Generator | None = None) -> Tensor:
        chosen = choose(self.log_weights.exp().unsqueeze(0), n, generator, shared=False)
        return self._drawn(chosen, 1, generator)[:, 0]

    def _drawn(self, chosen: Tensor, own: int, generator: Generator | None) -> Tensor:
        """Draw from components (n, rows), with the noise of so many ``own`` rows: (n, rows, D)."""
        (n, rows), d = chosen.shape, self.means.shape[1]
        z = standard_normal((n, own, d), self.means, generator).expand(n, rows, d).reshape(-1, d)
        out = self.means[chosen.flatten()]
        for g, place in alike(torch.arange(len(z)), self.group[chosen].flatten()):
            out[place] += z[place] @ self.root(g).mT
        return out.view(n, rows, d)


def slices(rows: int, width: int) -> Iterator[slice]:
    """Blocks of rows of ``width`` numbers each that fit into memory at once."""
    size = max(1, BUDGET // width)
    return (slice(i, i + size) for i in range(0, rows, size))


def patterns_of(mask: Tensor) -> tuple[Tensor, Tensor]:
    """The patterns of blanks in a mask, (U, d), and which of them each row has, (rows,)."""
    if len(mask) == 1 or (len(mask) and bool((mask == mask[0]).all())):
        return mask[:1], torch.zeros(len(mask), dtype=torch.long, device=mask.device)
    which = torch.zeros(len(mask), dtype=torch.long, device=mask.device)
    # rows as whole numbers, which sort in a tenth of the time
    for part in mask.double().split(BITS, 1):
        key = part @ 2.0 ** torch.arange(part.shape[1], dtype=torch.float64, device=mask.device)
        if mask.shape[1] > BITS:  # beside what columns before have told apart
            key = torch.unique(key, return_inverse=True)[1] * len(mask) + which
        which = torch.unique(key, return_inverse=True)[1]
    first = torch.zeros(int(which.max()) + 1, dtype=torch.long, device=mask.device)
    first[which] = torch.arange(len(which), device=mask.device)
    return mask[first], which


def alike(rows: Tensor, which: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Split rows by the value that ``which`` has for each."""
    key, order = torch.sort(which[rows], stable=True)
    keys, count = torch.unique_consecutive(key, return_counts=True)
    yield from zip(keys.tolist(), rows[order].split(count.tolist()), strict=True)


def standard_normal(shape: tuple[int, ...], like: Tensor, generator: Generator | None) -> Tensor:
    """Standard normal numbers of the type and on the device of ``like``."""
    return torch.randn(shape, generator=generator, dtype=like.dtype, device=like.device)


def choose(weights: Tensor, draws: int, generator: Generator | None, shared: bool) -> Tensor:
    """Choose a component for each row in proportion to its weights (rows, K): (draws, rows)."""
    rows, k = weights.shape
    own = 1 if shared else rows
    u = torch.rand(draws, own, generator=generator, dtype=weights.dtype, device=weights.device)
    cumulative = weights.cumsum(1)
    points = (u.expand(draws, rows) * cumulative[:, -1]).mT.contiguous()
    return torch.searchsorted(cumulative, points, right=True).clamp_max(k - 1).mT


def choose_evenly(shares: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Choose ``count`` components of each row systematically by shares (rows, K): (rows, count).

    With them comes a standard normal quantile for each, (count,), so that together they stand for a mixture of Gaussians.
    """
    grid = (torch.arange(count, dtype=shares.dtype) + 0.5) / count
    chosen = torch.searchsorted(shares.cumsum(1), grid.expand(len(shares), -1).contiguous())
    return chosen.clamp_max(shares.shape[1] - 1), spread_quantiles(count).to(shares)


@lru_cache(16)
def spread_quantiles(count: int) -> Tensor:
    """Standard normal quantiles at (i + ½) / count, in an order that a run of any length covers evenly."""
    order = torch.arange(count)
    order = torch.argsort(torch.remainder(order * 0.6180339887498949, 1.0))
    return torch.special.ndtri((order.double() + 0.5) / count)
