"""A mixture of Gaussians, each with a full covariance of its own: exact marginals, conditionals and draws.

    p(x) = Σ_k π_k N(x; μ_k, C_k)

Cells o observed and b blank, a residual r = x_o − μ_o, and for every component

    log N(x_o; μ_o, C_oo) = −½ rᵀ C_oo⁻¹ r − ½ log det C_oo − ½ |o| log 2π,     E[x_b | x_o] = μ_b + C_bo C_oo⁻¹ r.

All patterns of blanks are treated alike: with M = diag(observed), the matrix M C M + I − M holds C_oo, and ones on the
diagonal for the blanks; its Cholesky factor serves every row with that pattern, and rows are taken in blocks of patterns
that few or many rows share.  What is seen through y = A x + noise is such a mixture too, with cov(x, y) = C Aᵀ and
cov(y) = A C Aᵀ + diag(noise²).

Source: Ghahramani & Jordan 1994 (mixtures with missing cells).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property, partial
from typing import NamedTuple

import torch
from torch import Tensor

from abduce.data.seen import CELLS, Seen
from abduce.distributions.cells import LOG_2PI
from abduce.gaussians.mixture import BUDGET, DenseMixture, Given, Look, Sight, patterns_of, slices
from abduce.gaussians.precisions import Precisions, apart


class Statistics(NamedTuple):
    """Expected sufficient statistics of a table: N_k (K,), Σ r x (K, D), Σ r E[x xᵀ] (K, D, D), and log p of each row."""

    size: Tensor
    first: Tensor
    second: Tensor
    log_prob: Tensor


class GaussianMixtureLaw(DenseMixture):
    """Mixture of K Gaussians over D cells; K = 1 is a plain Gaussian.

    ``log_weights`` (K,) up to a constant, ``means`` (K, D), ``covariances`` (K, D, D), positive definite.

    >>> law = GaussianMixtureLaw.gaussian(torch.zeros(2), torch.tensor([[1.0, 0.8], [0.8, 1.0]]))
    >>> law.mean(Seen(torch.tensor([[1.0, torch.nan]]), torch.tensor([[True, False]])))
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
        self.means, self.covariances, self.group = means, covariances, torch.arange(k)
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

    def given(self, seen: Seen, singly: bool = False) -> Iterator[Given]:
        y, mask = seen.y.to(self.means), seen.mask
        if not seen.exact:
            image, cross, _ = self._image(seen)
            for block in image._blocks(y, mask):
                yield block.given(self.means, cross)
            return
        shared, blocks = apart(self._precisions, y, mask, singly)
        for block in blocks:
            yield block.given(y)
        if bool(mask[shared].all()):
            for part in slices(len(shared), self.means.numel()):
                rows = shared[part]
                log_joint = self.log_weights + whole_log_density(self.means, self.roots, y[rows])
                yield Given(rows, log_joint, lambda shares, x=y[rows]: x)
            return
        for block in self._blocks(y[shared], mask[shared]):
            found = block.given(self.means, self.covariances)
            yield found._replace(rows=shared[found.rows])

    @property
    def rowwise(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._precisions is not None

    @cached_property
    def _precisions(self) -> Precisions | None:
        return Precisions.of(self.log_weights, self.means, self.covariances, self.roots)

    def root(self, g: int) -> Tensor:
        return self.roots[g]

    def sight(self, seen: Seen) -> Sight:
        image, cross, look = self._image(seen)
        pull = partial(image._pull, mask=seen.mask, cross=cross)
        return Sight(image.shares(seen._replace(view=CELLS)), pull, look)

    def statistics(self, seen: Seen) -> Statistics:
        """Expected sufficient statistics of rows, blanks integrated out: the E-step of EM."""
        size, first, second = (torch.zeros_like(t) for t in (self.log_weights, self.means, self.covariances))
        k, d = self.means.shape
        log_prob = seen.y.new_empty(len(seen.y))
        shared, blocks = apart(self._precisions, seen.y, seen.mask)
        for block in blocks:
            log_prob[block.rows] = torch.logsumexp(block.log_joint, 1)
            r = torch.softmax(block.log_joint, 1)
            filled = block.completed(seen.y)
            weighted = (r.unsqueeze(2) * filled).transpose(0, 1)  # (K, R, D)
            size += r.sum(0)
            first += weighted.sum(1)
            second += weighted.mT @ filled.transpose(0, 1)
            if block.cells.shape[1]:
                place = d * block.cells.unsqueeze(2) + block.cells.unsqueeze(1)
                left = (r[..., None, None] * block.spread()).transpose(0, 1)  # cov[x | x_obs], at the blanks
                second.view(k, -1).index_add_(1, place.flatten(), left.flatten(1))
        y, mask = seen.y[shared], seen.mask[shared]
        for block in self._blocks(y, mask) if len(shared) else ():
            log_prob[shared[block.rows[block.first]]] = torch.logsumexp(block.log_joint, 1)[block.first]
            r = torch.softmax(block.log_joint, 1) * block.first.unsqueeze(1)  # a padded row counts once
            known = block.pattern[:, None, :, None]
            filled = self.means.unsqueeze(-1) + self.covariances @ block.solved()
            filled = torch.where(known, y[block.rows].mT.unsqueeze(1), filled)
            weighted = r.unsqueeze(2) * filled
            explained = torch.linalg.solve_triangular(block.root, known * self.covariances, upper=False)
            left = self.covariances - explained.mT @ explained  # cov[x | x_obs]
            left = left * (~known) * (~known).mT  # exactly zero where a cell is observed
            size += r.sum((0, 2))
            first += weighted.sum((0, 3))
            second += (weighted @ filled.mT + r.sum(2)[..., None, None] * left).sum(0)
        return Statistics(size, first, second, log_prob)

    def _blocks(self, y: Tensor, mask: Tensor) -> Iterator[_Block]:
        """Factorise each pattern of blanks once, and solve for all rows that have it."""
        k, d = self.means.shape
        patterns, which = patterns_of(mask)
        whole = bool(patterns.all())
        for group, rows, first in _grouped(which, k * d * d, k * d):
            pattern = patterns[group]
            root = self.roots.unsqueeze(0) if whole else _masked_root(self.covariances, pattern.unsqueeze(1))
            residual = y[rows].unsqueeze(2) - self.means  # (G, R, K, D)
            residual = torch.where(pattern[:, None, None], residual, 0.0)
            half = torch.linalg.solve_triangular(root, residual.permute(0, 2, 3, 1), upper=False)
            log_det = 2 * torch.diagonal(root, dim1=-2, dim2=-1).log().sum(-1)
            constant = log_det + LOG_2PI * pattern.to(y.dtype).sum(-1, keepdim=True)
            log_joint = (self.log_weights - 0.5 * constant).unsqueeze(-1) - 0.5 * half.square().sum(2)
            yield _Block(rows, first, pattern, root, half, log_joint)

    def _pull(self, chosen: Tensor, residual: Tensor, mask: Tensor, cross: Tensor) -> Tensor:
        """cross_k C_oo⁻¹ residual_o for chosen components k (draws, rows) and residuals (draws, rows, d)."""
        patterns, which = patterns_of(mask)
        count, d = self.means.shape
        width = cross.shape[1]
        flat = residual.flatten(0, 1)
        out = flat.new_empty(len(flat), width)
        for group, rows, first in _grouped((which * count + chosen).flatten(), d * (d + width), d + width):
            pattern, component = patterns[group // count], group % count
            root = _masked_root(self.covariances[component], pattern)
            pulled = torch.cholesky_solve(flat[rows].mT, root).mT @ cross[component].mT
            out[rows[first]] = pulled[first]
        return out.unflatten(0, chosen.shape)

    def _image(self, seen: Seen) -> tuple[GaussianMixtureLaw, Tensor, Look | None]:
        """The law of what is seen, cov(x, y) of each component, (K, D, d), and how it is seen."""
        if seen.exact:
            return self, self.covariances, None
        apply, noise = seen.view.affine(seen.y)
        eye = torch.eye(self.means.shape[1]).to(self.means)
        A_t = apply(eye) - apply(torch.zeros_like(eye))  # Aᵀ, (D, d)
        cross = self.covariances @ A_t
        covariances = A_t.mT @ cross + torch.diag(noise.to(eye).square())
        covariances = 0.5 * (covariances + covariances.mT)
        try:
            image = GaussianMixtureLaw(self.log_weights, apply(self.means), covariances)
        except ValueError as error:
            raise ValueError(
                "noise must be positive where cells of y repeat one another: what is seen has a singular covariance"
            ) from error
        return image, cross, (apply, noise)


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

    def solved(self) -> Tensor:
        """C_oo⁻¹ residual, zero at the blanks, (G, K, D, R)."""
        return torch.linalg.solve_triangular(self.root.mT, self.half, upper=True)

    def given(self, means: Tensor, cross: Tensor) -> Given:
        """The same without the padding; means (K, F) of what is regressed, and its covariances (K, F, D) with what is seen."""
        real = self.first.flatten()
        padded = not bool(real.all())

        def trim(values: Tensor) -> Tensor:
            """(G, R, ...) -> (rows, ...)."""
            return values.flatten(0, 1)[real] if padded else values.flatten(0, 1)

        def regress(shares: Tensor) -> Tensor:
            if padded:
                shares = shares.new_zeros(len(real), shares.shape[1]).index_put((real,), shares)
            r = shares.unflatten(0, self.first.shape).mT  # (G, K, R)
            pulled = (r.unsqueeze(2) * self.solved()).flatten(1, 2)  # (G, K D, R)
            return trim((cross.transpose(0, 1).flatten(1) @ pulled + means.mT @ r).mT)

        return Given(trim(self.rows), trim(self.log_joint.mT), regress)


def whole_log_density(means: Tensor, roots: Tensor, x: Tensor) -> Tensor:
    """log N(x; μ_k, L_k L_kᵀ) of whole rows (n, D), by Cholesky factors ``roots`` (K, D, D): (n, K)."""
    z = torch.linalg.solve_triangular(roots, (x - means.unsqueeze(1)).mT, upper=False)
    log_det = torch.diagonal(roots, dim1=-2, dim2=-1).log().sum(-1)
    return -log_det - 0.5 * (z.square().sum(-2).mT + x.shape[-1] * LOG_2PI)


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
