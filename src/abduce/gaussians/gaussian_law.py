"""A mixture of Gaussians as a distribution with exact marginals, conditionals and draws.

    p(x) = Σ_k π_k N(x; μ_k, C_k)

Cells o observed and b blank, a residual r = x_o − μ_o, and for every component

    log N(x_o; μ_o, C_oo) = −½ rᵀ C_oo⁻¹ r − ½ log det C_oo − ½ |o| log 2π,     E[x_b | x_o] = μ_b + C_bo C_oo⁻¹ r.

All patterns of blanks are treated alike: with M = diag(observed), the matrix M C M + I − M holds C_oo, and ones on the
diagonal for the blanks; its Cholesky factor serves every row with that pattern, and rows are taken in blocks of patterns
that few or many rows share.

A conditional draw moves a draw u of the whole row: u + C_·o C_oo⁻¹ (x_o − u_o) has the conditional law.  The same holds for
what is seen through y = A x + noise, with cov(x, y) = C Aᵀ and cov(y) = A C Aᵀ + diag(noise²).

Sources: Ghahramani & Jordan 1994 (mixtures with missing cells); Journel & Huijbregts 1978, Doucet 2010 (conditional draws).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from abduce.distributions.cells import LOG_2PI

BUDGET = 2**22  # numbers in one block's largest tensor


class Statistics(NamedTuple):
    """Expected sufficient statistics of a table: N_k (K,), Σ r x (K, D), Σ r E[x xᵀ] (K, D, D), and log p of each row."""

    size: Tensor
    first: Tensor
    second: Tensor
    log_prob: Tensor


class GaussianMixtureLaw:
    """Mixture of K Gaussians over D cells; K = 1 is a plain Gaussian.

    ``log_weights`` (K,) up to a constant, ``means`` (K, D), ``covariances`` (K, D, D), positive definite.

    >>> law = GaussianMixtureLaw.gaussian(torch.zeros(2), torch.tensor([[1.0, 0.8], [0.8, 1.0]]))
    >>> law.mean(torch.tensor([[1.0, torch.nan]]), torch.tensor([[True, False]]))
    tensor([[1.0000, 0.8000]])
    """

    def __init__(self, log_weights: Tensor, means: Tensor, covariances: Tensor):
        k, d = means.shape
        if log_weights.shape != (k,) or covariances.shape != (k, d, d):
            raise ValueError(
                f"log_weights and covariances must have shapes ({k},) and ({k}, {d}, {d}) for means of shape "
                f"({k}, {d}), got {tuple(log_weights.shape)} and {tuple(covariances.shape)}"
            )
        self.log_weights = torch.log_softmax(log_weights, 0)
        self.means = means
        self.covariances = covariances
        self.roots, failed = torch.linalg.cholesky_ex(covariances)
        if bool(failed.any()):
            bad = failed.nonzero().flatten().tolist()
            raise ValueError(
                f"covariances must be positive definite, those of components {bad} are singular; "
                "use fewer components, a larger reg_covar, or drop constant columns"
            )

    @classmethod
    def gaussian(cls, mean: Tensor, covariance: Tensor) -> GaussianMixtureLaw:
        """N(mean, covariance)."""
        return cls(mean.new_zeros(1), mean.unsqueeze(0), covariance.unsqueeze(0))

    def log_prob(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        """log p(x_obs), nats, (batch, D) -> (batch,); 0 for a row with nothing observed.  Differentiable in x."""
        out = x.new_empty(len(x))
        for block in self._blocks(x, observed):
            block.put(torch.logsumexp(block.log_joint, 1), out)
        return out

    def responsibilities(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        """p(k | x_obs), (batch, K)."""
        out = x.new_empty(len(x), len(self.means))
        for block in self._blocks(x, observed):
            block.put(torch.softmax(block.log_joint, 1).mT, out)
        return out

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw (n, D)."""
        weights = self.log_weights.exp().unsqueeze(0)
        return self._draw(choose(weights, n, generator, shared=False)[:, 0], generator)

    def mean(self, x: Tensor, observed: Tensor) -> Tensor:
        """E[x | x_obs], (batch, D); observed cells as they are."""
        return torch.where(observed, x, self._regress(x, observed, self.covariances, self.means))

    def complete(
        self, x: Tensor, observed: Tensor, draws: int, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw whole rows from p(x | x_obs), (draws, batch, D)."""
        k = choose(self.responsibilities(x, observed), draws, generator, shared=False)
        u = self._draw(k, generator)
        moved = u + self._pull(k, torch.where(observed, x - u, 0.0), observed, self.covariances)
        return torch.where(observed, x, moved)

    def through(self, seen: Callable[[Tensor], Tensor], noise: Tensor, y: Tensor, known: Tensor) -> Tensor:
        """E[x | y] for y = A x + noise · N(0, I), (batch, d) -> (batch, D).

        ``seen`` applies A (and an offset, if any) to the last axis, ``noise`` (d,) is a standard deviation, ``known``
        (batch, d) marks the cells of y that count.
        """
        image, cross = self._image(seen, noise)
        return image._regress(y, known, cross, self.means)

    def log_prob_through(
        self, seen: Callable[[Tensor], Tensor], noise: Tensor, y: Tensor, known: Tensor
    ) -> Tensor:
        """log p(y), nats, (batch, d) -> (batch,), arguments as in :meth:`through`."""
        return self._image(seen, noise)[0].log_prob(y, known)

    def complete_through(
        self,
        seen: Callable[[Tensor], Tensor],
        noise: Tensor,
        y: Tensor,
        known: Tensor,
        draws: int,
        generator: torch.Generator | None = None,
        shared: bool = False,
    ) -> Tensor:
        """Draw from p(x | y), arguments as in :meth:`through`: (draws, batch, D).

        With ``shared`` all rows use the same random numbers, so that a row's draws do not depend on which rows come along.
        """
        image, cross = self._image(seen, noise)
        k = choose(image.responsibilities(y, known), draws, generator, shared)
        u = self._draw(k, generator, shared)
        v = seen(u) + noise * standard_normal(draws, 1 if shared else len(y), noise, generator)
        return u + image._pull(k, torch.where(known, y - v, 0.0), known, cross)

    def statistics(self, x: Tensor, observed: Tensor | None = None) -> Statistics:
        """Expected sufficient statistics of rows (n, D), blanks integrated out: the E-step of EM."""
        size, first, second = (torch.zeros_like(t) for t in (self.log_weights, self.means, self.covariances))
        log_prob = x.new_empty(len(x))
        for block in self._blocks(x, observed):
            block.put(torch.logsumexp(block.log_joint, 1), log_prob)
            r = torch.softmax(block.log_joint, 1) * block.first.unsqueeze(1)  # a padded row counts once
            known = block.pattern[:, None, :, None]
            filled = self.means.unsqueeze(-1) + self.covariances @ block.solved()
            filled = torch.where(known, x[block.rows].mT.unsqueeze(1), filled)
            weighted = r.unsqueeze(2) * filled
            explained = torch.linalg.solve_triangular(block.root, known * self.covariances, upper=False)
            left = (
                self.covariances - explained.mT @ explained
            )  # cov[x | x_obs], zero where a cell is observed
            left = left * (~known) * (~known).mT
            size += r.sum((0, 2))
            first += weighted.sum((0, 3))
            second += (weighted @ filled.mT + r.sum(2)[..., None, None] * left).sum(0)
        return Statistics(size, first, second, log_prob)

    def _blocks(self, x: Tensor, observed: Tensor | None) -> Iterator[_Block]:
        """Factorise each pattern of blanks once, and solve for all rows that have it."""
        k, d = self.means.shape
        if observed is None:
            observed = torch.ones_like(x, dtype=torch.bool)
        patterns, which = torch.unique(observed, dim=0, return_inverse=True)
        for group, rows, first in _grouped(which, k * d * d, k * d):
            pattern = patterns[group]
            root = _masked_root(self.covariances, pattern.unsqueeze(1))
            residual = torch.where(
                pattern[:, None, None], x[rows].unsqueeze(2) - self.means, 0.0
            )  # (G, R, K, D)
            half = torch.linalg.solve_triangular(root, residual.permute(0, 2, 3, 1), upper=False)
            log_det = 2 * torch.diagonal(root, dim1=-2, dim2=-1).log().sum(-1)
            constant = log_det + LOG_2PI * pattern.to(x.dtype).sum(-1, keepdim=True)
            log_joint = (self.log_weights - 0.5 * constant).unsqueeze(-1) - 0.5 * half.square().sum(2)
            yield _Block(rows, first, pattern, root, half, log_joint)

    def _regress(self, y: Tensor, known: Tensor, cross: Tensor, means: Tensor) -> Tensor:
        """E[x | y_known] for x with component means (K, F) and cov(x, y) = ``cross`` (K, F, D): (batch, F)."""
        out = y.new_empty(len(y), means.shape[1])
        for block in self._blocks(y, known):
            r = torch.softmax(block.log_joint, 1)
            each = means.unsqueeze(-1) + cross @ block.solved()  # (G, K, F, R)
            block.put((r.unsqueeze(2) * each).sum(1).mT, out)
        return out

    def _pull(self, k: Tensor, residual: Tensor, known: Tensor, cross: Tensor) -> Tensor:
        """cross_k C_oo⁻¹ residual_o for chosen components k (draws, batch), residual (draws, batch, D)."""
        patterns, which = torch.unique(known, dim=0, return_inverse=True)
        count, d = self.means.shape
        key = (which * count + k).flatten()
        flat = residual.flatten(0, 1)
        out = flat.new_empty(len(flat), cross.shape[1])
        for group, rows, first in _grouped(key, d * (d + cross.shape[1]), d + cross.shape[1]):
            pattern, component = patterns[group // count], group % count
            root = _masked_root(self.covariances[component], pattern)
            pulled = torch.cholesky_solve(flat[rows].mT, root).mT @ cross[component].mT
            out[rows[first]] = pulled[first]
        return out.unflatten(0, k.shape)

    def _draw(self, k: Tensor, generator: torch.Generator | None, shared: bool = False) -> Tensor:
        """Draw from components k, (...) -> (..., D); with ``shared`` the same noise along the last axis of k."""
        own = 1 if shared else k.shape[-1]
        z = standard_normal(math.prod(k.shape[:-1]), own, self.means[0], generator)
        z = z.expand(-1, k.shape[-1], -1).reshape(-1, self.means.shape[1])
        out = torch.empty_like(z)
        d = self.means.shape[1]
        for group, rows, first in _grouped(k.flatten(), d * d, d):
            out[rows[first]] = (self.means[group].unsqueeze(1) + z[rows] @ self.roots[group].mT)[first]
        return out.view(*k.shape, d)

    def _image(self, seen: Callable[[Tensor], Tensor], noise: Tensor) -> tuple[GaussianMixtureLaw, Tensor]:
        """The law of y = A x + noise, and cov(x, y) of each component, (K, D, d)."""
        d = self.means.shape[1]
        eye = torch.eye(d, dtype=self.means.dtype, device=self.means.device)
        A_t = seen(eye) - seen(torch.zeros_like(eye))  # Aᵀ, (D, d)
        cross = self.covariances @ A_t
        covariances = A_t.mT @ cross + torch.diag(noise.to(eye).square())
        covariances = 0.5 * (covariances + covariances.mT)
        try:
            image = GaussianMixtureLaw(self.log_weights, seen(self.means), covariances)
        except ValueError as error:
            raise ValueError(
                "noise must be positive where cells of y repeat one another: what is seen has a singular covariance"
            ) from error
        return image, cross


class _Block(NamedTuple):
    """Rows (G, R) that share G patterns (G, D); Cholesky factors (G, K, D, D), root⁻¹ residual (G, K, D, R), and
    log π_k N(x_obs) (G, K, R).  Short groups are padded with copies of their last row; ``first`` (G, R) marks the rest.
    """

    rows: Tensor
    first: Tensor
    pattern: Tensor
    root: Tensor
    half: Tensor
    log_joint: Tensor

    def put(self, values: Tensor, out: Tensor) -> None:
        """Write values (G, R, ...) to their rows of ``out`` (batch, ...), each once, so that gradients count once too."""
        out[self.rows[self.first]] = values[self.first]

    def solved(self) -> Tensor:
        """C_oo⁻¹ residual, zero at the blanks, (G, K, D, R)."""
        return torch.linalg.solve_triangular(self.root.mT, self.half, upper=True)


def _grouped(key: Tensor, square: int, line: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield blocks of keys (G,), the rows (G, R) that have them, and a mask (G, R) without the padding.

    A key costs ``square`` numbers and each of its rows ``line``; a block keeps to BUDGET.  The groups of one block are of
    like size, so at most half of it is padding; a group too large for one block is split.
    """
    cap = max(1, BUDGET // line)
    keys, which, count = torch.unique(key, return_inverse=True, return_counts=True)
    order = torch.argsort(which, stable=True)
    pieces = (count + cap - 1) // cap
    owner = torch.repeat_interleave(pieces)
    offset = cap * (torch.arange(len(owner), device=key.device) - (pieces.cumsum(0) - pieces)[owner])
    length, by = torch.sort((count[owner] - offset).clamp_max(cap), descending=True, stable=True)
    start = ((count.cumsum(0) - count)[owner] + offset)[by]
    owner = owner[by]
    i = 0
    while i < len(length):
        longest = int(length[i])
        alike = int((length[i:] > longest // 2).sum())
        part = slice(i, i + min(alike, max(1, BUDGET // (square + longest * line))))
        place = torch.arange(longest, device=key.device)
        last = length[part].unsqueeze(1) - 1
        yield keys[owner[part]], order[start[part].unsqueeze(1) + torch.minimum(place, last)], place <= last
        i = part.stop


def _masked_root(covariances: Tensor, pattern: Tensor) -> Tensor:
    """Cholesky factor of M C M + I − M, for covariances (..., D, D) and patterns (..., D) that broadcast."""
    both = pattern.unsqueeze(-1) & pattern.unsqueeze(-2)
    blank = torch.diag_embed((~pattern).to(covariances.dtype))
    return torch.linalg.cholesky(covariances * both + blank)


def standard_normal(draws: int, rows: int, like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal (draws, rows, D), D the length of ``like``."""
    return torch.randn(draws, rows, len(like), generator=generator, dtype=like.dtype, device=like.device)


def choose(weights: Tensor, draws: int, generator: torch.Generator | None, shared: bool) -> Tensor:
    """Choose a component for each row in proportion to its weights (batch, K): (draws, batch)."""
    batch, k = weights.shape
    rows = 1 if shared else batch
    u = torch.rand(draws, rows, generator=generator, dtype=weights.dtype, device=weights.device)
    cumulative = weights.cumsum(1)
    points = (u.expand(draws, batch) * cumulative[:, -1]).mT.contiguous()
    return torch.searchsorted(cumulative, points, right=True).clamp_max(k - 1).mT
