"""Sums over rows that a step of EM for a mixture of factor analysers is made of, for each component of factors z

    Σ r,   Σ r x²,   Σ r x E[(z, 1)],   Σ r E[(z, 1) (z, 1)ᵀ] over the rows where a cell was seen, and over all rows,

with r the row's share in it, x = 0 where not seen.  Shares below a thousandth are left out.  :class:`FactorSums` add up over
parts of the rows as those of :mod:`abduce.gaussians.sums` do.

Sources: Ghahramani & Hinton 1996; Rubin & Thayer 1982.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from abduce.data.seen import Seen
from abduce.distributions.cells import LOG_2PI
from abduce.gaussians.em import heed
from abduce.gaussians.factor_law import FEW, FactorMixtureLaw
from abduce.gaussians.mixture import patterns_of, slices

NEGLIGIBLE = 1e-3  # share of a row from which on a component learns from it
NEAR = 20.0  # nats below a row's likeliest component from which on the next steps do without


def many_patterns(mask: Tensor) -> bool:
    """Tell whether rows with a mask (n, D) have so many patterns of blanks that each is summed by itself."""
    return not bool(mask.all()) and len(patterns_of(mask)[0]) > FEW


class Expected(NamedTuple):
    """What an M-step asks of the rows: for each component the rows (K,), Σ x² (K, D), Σ x E[(z, 1)] (K, D, q + 1), and
    Σ E[(z, 1) (z, 1)ᵀ], flattened, over the rows where a cell was seen (K, D or 1, ·) and over all (K, ·)."""

    size: Tensor
    design: Tensor
    target: Tensor
    power: Tensor
    every: Tensor

    @classmethod
    def zero(cls, law: FactorMixtureLaw, blanks: bool) -> Expected:
        k, d, q = law.loadings.shape
        zeros, square = law.means.new_zeros, (q + 1) ** 2
        return cls(
            zeros(k), zeros(k, d if blanks else 1, square), zeros(k, d, q + 1), zeros(k, d), zeros(k, square)
        )

    def add(self, c: int, x: Tensor, weight: Tensor, mean: Tensor) -> Tensor:
        """Add rows x (b, D), zero where not seen, that belong to a component by ``weight`` (b, 1): (E[z], 1), (b, q + 1)."""
        one = torch.cat([mean, torch.ones_like(weight)], 1)
        self.target[c] += x.mT @ (weight * one)
        self.power[c] += (weight * x * x).sum(0)
        return one

    def whole(self, blanks: bool) -> tuple[Tensor, ...]:
        """In double precision, as matrices."""
        d, width = self.target.shape[1:]
        design = self.design if blanks else self.every.unsqueeze(1).expand(-1, d, -1)
        square = (width, width)
        parts = (
            self.size,
            design.unflatten(2, square),
            self.target,
            self.power,
            self.every.unflatten(1, square),
        )
        return tuple(t.double() for t in parts)


def each_apart(
    law: FactorMixtureLaw, seen: Seen, sums: Expected, near: Tensor | None
) -> tuple[float, Tensor]:
    """An E-step of rows that each have their own blanks, over the components that are ``near``, bool (n, K), None for all.

    Gives Σ log p, and which components are near in the end.
    """
    k, d, q = law.loadings.shape
    precision = 1 / law.noise
    scaled = law.loadings * precision.unsqueeze(-1)
    constant = law.noise.log() + LOG_2PI
    eye = torch.eye(q, dtype=law.means.dtype)
    outer = (scaled.unsqueeze(-1) * law.loadings.unsqueeze(-2)).flatten(2)  # (K, D, q²)
    total = 0.0
    found = torch.empty(len(seen.y), k, dtype=torch.bool)
    for rows in slices(len(seen.y), k * max(q * q, d)):
        x, mask = seen.y[rows], seen.mask[rows].to(seen.y)
        log_joint = x.new_full((len(x), k), -torch.inf)
        kept = []
        for c in range(k):
            heed()
            own = torch.arange(len(x)) if near is None else near[rows, c].nonzero().squeeze(1)
            observed, known = mask[own], x[own]
            root = torch.linalg.cholesky((observed @ outer[c]).unflatten(1, (q, q)) + eye)
            residual = known - observed * law.means[c]
            pulled = (residual @ scaled[c]).unsqueeze(-1)
            half = torch.linalg.solve_triangular(root, pulled, upper=False)
            log_det = 2 * torch.diagonal(root, dim1=1, dim2=2).log().sum(1) + observed @ constant[c]
            distance = residual.square() @ precision[c] - half.square().sum((1, 2))
            log_joint[own, c] = law.log_weights[c] - 0.5 * (distance + log_det)
            kept.append((own, root, half))
        total += float(torch.logsumexp(log_joint, 1).double().sum())
        found[rows] = log_joint > log_joint.amax(1, keepdim=True) - NEAR
        shares = torch.softmax(log_joint, 1)
        sums.size.add_(shares.sum(0))
        for c, (own, root, half) in enumerate(kept):
            some = shares[own, c] > NEGLIGIBLE
            own, root, half = own[some], root[some], half[some]
            mean = torch.linalg.solve_triangular(root.mT, half, upper=True).squeeze(-1)
            weight = shares[own, c].unsqueeze(1)
            sums.add(c, x[own], weight, mean)
            # E[(z, 1) (z, 1)ᵀ] = Bᵀ B with B of rows (root⁻¹, 0) and (E[z], 1)
            both = x.new_zeros(len(own), q + 1, q + 1)
            both[:, :q, :q] = torch.linalg.solve_triangular(root, eye, upper=False)
            both[:, q, :q], both[:, q, q] = mean, 1.0
            second = (both.mT @ both).flatten(1)
            sums.every[c] += weight[:, 0] @ second
            sums.design[c] += (weight * mask[own]).mT @ second
    return total, found


def patternwise(law: FactorMixtureLaw, seen: Seen, sums: Expected, blanks: bool) -> float:
    """An E-step of rows of a few patterns of blanks: those with the same blanks are summed by one product.  Gives Σ log p."""
    q, total = law.loadings.shape[2], 0.0
    for rows, f in law.chunks(seen):
        heed()
        r, x = f.shares, seen.y[rows]
        total += float(torch.logsumexp(f.log_joint, 1).double().sum())
        sums.size.add_(r.sum(0))
        patterns = x.new_empty(len(f.root), x.shape[1])
        patterns[f.which] = seen.mask[rows].to(x)
        for c in range(len(law.means)):
            heed()
            own = (r[:, c] > NEGLIGIBLE).nonzero().squeeze(1)
            weight = r[own, c].unsqueeze(1)
            one = sums.add(c, x[own], weight, f.mean[own, c])
            if not blanks:
                second = (weight * one).mT @ one
                second[:q, :q] += weight.sum() * torch.cholesky_inverse(f.root[0, c])
                sums.every[c] += second.flatten()
                continue
            alike = f.which[own].argsort()
            counts = torch.bincount(f.which[own], minlength=len(patterns)).tolist()
            parts = zip(one[alike].split(counts), weight[alike].split(counts), strict=True)
            second = torch.stack([(w * o).mT @ o for o, w in parts])
            second[:, :q, :q] += second[:, q:, q:] * torch.cholesky_inverse(f.root[:, c])
            second = second.flatten(1)
            sums.every[c] += second.sum(0)
            sums.design[c] += patterns.mT @ second
    return total


class FactorSums(NamedTuple):
    """``rows`` summed over, their ``log_prob`` () in nats, and what is ``expected`` of them, cell by cell.

    >>> law = FactorMixtureLaw(torch.zeros(1), torch.zeros(1, 2), torch.ones(1, 2, 1), torch.ones(1, 2))
    >>> one, other = (FactorSums.zero(law).add(law, Seen.whole(torch.tensor([[v, v]]))) for v in (1.0, 3.0))
    >>> both = one.merge(other)
    >>> both.rows, both.expected.power.tolist()
    (2, [[10.0, 10.0]])
    """

    rows: int
    log_prob: Tensor
    expected: Expected  # what an M-step asks of them

    @classmethod
    def zero(cls, law: FactorMixtureLaw) -> FactorSums:
        """Sums over no row, for a mixture like ``law``."""
        return cls(0, law.means.new_zeros(()), Expected.zero(law, True))

    def add(self, law: FactorMixtureLaw, seen: Seen) -> FactorSums:
        """The sums with some rows more, their blanks integrated out under ``law``: the E-step of EM."""
        sums = Expected.zero(law, True)
        if many_patterns(seen.mask):
            total, _ = each_apart(law, seen, sums, None)
        else:
            total = patternwise(law, seen, sums, True)
        return self.merge(FactorSums(len(seen.y), law.means.new_tensor(total), sums))

    def merge(self, other: FactorSums) -> FactorSums:
        """The sums over the rows of both."""
        both = Expected(*(one + two for one, two in zip(self.expected, other.expected, strict=True)))
        return FactorSums(self.rows + other.rows, self.log_prob + other.log_prob, both)

    @property
    def value(self) -> float:
        """Mean log p of a row under the law that the sums were made with, nats."""
        return float(self.log_prob) / self.rows
