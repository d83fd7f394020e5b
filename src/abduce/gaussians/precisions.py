"""Mixtures of Gaussians given some cells of a row, found from precisions Λ = C⁻¹: for rows whose blanks are all different.

For a residual r = x − μ with zeros at the blanks b, and g = Λ r,

    E[x_b | x_o] = μ_b − Λ_bb⁻¹ g_b,      cov[x_b | x_o] = Λ_bb⁻¹,
    log N(x_o) = −½ [rᵀ g − g_bᵀ Λ_bb⁻¹ g_b + log det C + log det Λ_bb + |o| log 2π].

No pattern of blanks has to be factorised, which costs (cells)³ each: a row costs (blanks)³, and rows with the same number of
blanks are solved for at once, in a third to a fifth of the time (20 to 100 cells, a tenth to half of them blank).  A pattern
that many rows share is better factorised once.  What is lost to rounding grows with the condition of C, so covariances that
are nearly singular are left to factorisations of C_oo.

Source: Lauritzen 1996, appendix C (partitioned precisions).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from abduce.distributions.cells import LOG_2PI
from abduce.gaussians.mixture import Given, patterns_of, slices

SHARED = 64  # rows of one pattern up to which each is solved for by itself
ROWS = 64  # of one matrix product; of one shape, so that a row's bits do not depend on how many come along
WIDEST = 128  # cells of a row
LARGEST = 2**20  # numbers that the precisions of all components may take
CONDITION = 1e6  # of a covariance, in the 1-norm


class Conditioned(NamedTuple):
    """Rows (R,) with the same number m of blanks, given what was seen of them, under K components.

    ``cells`` (R, m) are the blanks, ``means`` (R, K, m) E[x_b | x_o, k], ``roots`` (R, K, m, m) the Cholesky factors of Λ_bb,
    and ``log_joint`` (R, K) log π_k N(x_o; k).
    """

    rows: Tensor
    cells: Tensor
    means: Tensor
    roots: Tensor
    log_joint: Tensor

    def given(self, y: Tensor) -> Given:
        """The same as any mixture has it, for all rows ``y`` (B, D)."""

        def regress(shares: Tensor) -> Tensor:
            return y[self.rows].scatter(1, self.cells, (shares.unsqueeze(-1) * self.means).sum(1))

        return Given(self.rows, self.log_joint, regress)

    def completed(self, y: Tensor) -> Tensor:
        """Rows with their blanks at each component's mean, (R, K, D), of all rows ``y`` (B, D)."""
        k = self.means.shape[1]
        cells = self.cells.unsqueeze(1).expand(-1, k, -1)
        return y[self.rows].unsqueeze(1).repeat(1, k, 1).scatter_(2, cells, self.means)

    def spread(self) -> Tensor:
        """cov[x_b | x_o] under each component, (R, K, m, m)."""
        return torch.cholesky_inverse(self.roots)


class Precisions:
    """Precisions (K, D, D) of Gaussians with ``means`` (K, D), and the terms of log π_k N that no row changes, (K,)."""

    def __init__(self, log_weights: Tensor, means: Tensor, roots: Tensor):
        self.log_weights, self.means, self.precisions = log_weights, means, torch.cholesky_inverse(roots)
        log_det = 2 * torch.diagonal(roots, dim1=-2, dim2=-1).log().sum(-1)
        self.constant = log_weights - 0.5 * (log_det + means.shape[1] * LOG_2PI)

    @classmethod
    def of(cls, log_weights: Tensor, means: Tensor, covariances: Tensor, roots: Tensor) -> Precisions | None:
        """Those of Gaussians with Cholesky factors ``roots``; None for those that :func:`may_have` or condition refuses."""
        if not may_have(means):
            return None
        found = cls(log_weights, means, roots)
        size = torch.linalg.matrix_norm(covariances, 1) * torch.linalg.matrix_norm(found.precisions, 1)
        return found if bool((size < CONDITION).all()) else None

    def given(self, y: Tensor, mask: Tensor) -> Iterator[Conditioned]:
        """Condition rows (B, D), in blocks of one number of blanks that fit into memory."""
        k, d = self.means.shape
        for rows in slices(len(y), 2 * k * d):
            yield from self._conditioned(y[rows], ~mask[rows], rows.start)

    def _conditioned(self, y: Tensor, blank: Tensor, start: int) -> Iterator[Conditioned]:
        residual = torch.where(blank, 0.0, y - self.means.unsqueeze(1))  # (K, B, D)
        padded = torch.nn.functional.pad(residual, (0, 0, 0, -len(y) % ROWS)).unflatten(1, (-1, ROWS))
        pull = (padded @ self.precisions.unsqueeze(1)).flatten(1, 2)[:, : len(y)]
        quadratic = (residual * pull).sum(-1).mT  # (B, K)
        count = blank.sum(1)
        order = torch.argsort(count, stable=True)
        counts, sizes = torch.unique_consecutive(count[order], return_counts=True)
        cells = blank[order].nonzero()[:, 1].split((counts * sizes).tolist())
        for m, own, among in zip(counts.tolist(), order.split(sizes.tolist()), cells, strict=True):
            for part in slices(len(own), len(pull) * max(1, m * m)):
                rows, blanks = own[part], among.view(len(own), m)[part]
                log_joint = self.constant - 0.5 * (quadratic[rows] - m * LOG_2PI)
                # Λ r at the blanks, (R, K, m)
                pulled = pull[:, rows].gather(2, blanks.expand(len(pull), -1, -1)).transpose(0, 1)
                if not m:
                    yield Conditioned(
                        start + rows, blanks, pulled, pulled.new_empty(*pulled.shape, 0), log_joint
                    )
                    continue
                inner = self.precisions[:, blanks.unsqueeze(2), blanks.unsqueeze(1)].transpose(0, 1)
                roots = torch.linalg.cholesky(inner)
                half = torch.linalg.solve_triangular(roots, pulled.unsqueeze(-1), upper=False)
                moved = torch.linalg.solve_triangular(roots.mT, half, upper=True).squeeze(-1)
                log_det = 2 * torch.diagonal(roots, dim1=-2, dim2=-1).log().sum(-1)
                log_joint = log_joint + 0.5 * (half.square().sum((-2, -1)) - log_det)
                means = self.means.T[blanks].mT - moved
                if m == blank.shape[1]:  # nothing was seen, exactly
                    log_joint = self.log_weights.expand(len(rows), -1)
                yield Conditioned(start + rows, blanks, means, roots, log_joint)


def may_have(means: Tensor) -> bool:
    """Whether Gaussians with these means (K, D) are solved for by precisions at all: in double precision, and not too wide."""
    k, d = means.shape
    return means.dtype == torch.float64 and d <= WIDEST and k * d * d <= LARGEST


def apart(
    precisions: Precisions | None, y: Tensor, mask: Tensor, singly: bool = False
) -> tuple[Tensor, Iterator[Conditioned]]:
    """Which rows (B, D) are better taken by their patterns of blanks, and the others, conditioned: all of them ``singly``.

    In a chunk of at most SHARED rows there are none of the first, so that what becomes of a row does not depend on the others.
    """
    rows = torch.arange(len(mask), device=mask.device)
    if precisions is None:
        return rows, iter(())
    many = torch.zeros_like(rows, dtype=torch.bool)
    if len(mask) > SHARED and not singly:
        _, which = patterns_of(mask)
        many = torch.bincount(which)[which] > SHARED
    single = rows[~many]
    blocks = precisions.given(y[single], mask[single])
    return rows[many], (block._replace(rows=single[block.rows]) for block in blocks)
