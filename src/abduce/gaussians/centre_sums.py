"""Sums over rows that a round of k-means is made of, one part of the rows at a time.

    n,   Σ min_k ‖x_obs − w_k‖²,   n_k,   Σ x

A row goes to the centre that is nearest by its observed cells, and takes that centre's value in the others, so that a round
never raises the sum of squares.  They add up, as those of :mod:`abduce.gaussians.sums` do.

Source: Lloyd 1957; MacQueen 1967; Chi, Chi & Baraniuk 2016 (blanks).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from abduce.data.seen import Seen


class CentreSums(NamedTuple):
    """``rows`` summed over, ``energy`` () their squared distances from their centres, ``size`` (K,) and ``first`` (K, D).

    >>> centres = torch.tensor([[0.0], [9.0]]).double()
    >>> sums = CentreSums.zero(centres).add(centres, Seen.whole(torch.tensor([[1.0], [3.0], [8.0]]).double()))
    >>> sums.solve(centres).flatten().tolist(), sums.energy.item()
    ([2.0, 8.0], 11.0)
    """

    rows: int
    energy: Tensor
    size: Tensor
    first: Tensor

    @classmethod
    def zero(cls, centres: Tensor) -> CentreSums:
        """Sums over no row, for ``centres`` (K, D)."""
        return cls(0, centres.new_zeros(()), centres.new_zeros(len(centres)), torch.zeros_like(centres))

    def add(self, centres: Tensor, seen: Seen) -> CentreSums:
        """The sums with some rows more."""
        y, known = torch.where(seen.mask, seen.y, 0.0), seen.mask.to(seen.y)
        own = y.square().sum(1, keepdim=True)
        distance = own - 2 * y @ centres.mT + known @ centres.square().mT
        nearest = distance.argmin(1)
        x = torch.where(seen.mask, y, centres[nearest])
        member = torch.nn.functional.one_hot(nearest, len(centres)).to(y)
        energy = (x - centres[nearest]).square().sum()  # without cancellation
        return self.merge(CentreSums(len(y), energy, member.sum(0), member.mT @ x))

    def merge(self, other: CentreSums) -> CentreSums:
        """The sums over the rows of both."""
        return CentreSums(
            self.rows + other.rows,
            self.energy + other.energy,
            self.size + other.size,
            self.first + other.first,
        )

    @property
    def value(self) -> float:
        """Less the mean squared distance of a row from its centre."""
        return -float(self.energy) / self.rows

    def solve(self, centres: Tensor) -> Tensor:
        """The means of the rows of each of the ``centres`` that they were summed with; one without rows stays."""
        moved = self.first / self.size.clamp_min(1).unsqueeze(1)
        return torch.where((self.size > 0).unsqueeze(1), moved, centres)
