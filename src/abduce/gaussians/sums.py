"""Sums over rows that a step of EM for a mixture of Gaussians is made of, one part of the rows at a time.

    n,   Σ log p(x_obs),   N_k = Σ r_k,   Σ r_k E[x],   Σ r_k E[x xᵀ]

They add up: over parts of the rows, whatever the cut and the order of merging, they are those of all rows.  So a step needs a
part of the rows in memory, and parts may be summed anywhere.  A :class:`SumTree` merges those of numbered parts in one form,
so that they are the same to the bit too whoever summed which.

Source: Dempster, Laird & Rubin 1977; Neal & Hinton 1998 (steps by parts of the data).
"""

from __future__ import annotations

from typing import Any, Generic, Literal, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from abduce.data.seen import Seen
from abduce.gaussians.gaussian_law import GaussianMixtureLaw

CovarianceType = Literal["full", "tied", "diag", "spherical"]
S = TypeVar("S", bound="RowSums")


class RowSums(Protocol):
    """Sums over rows under a law."""

    @property
    def rows(self) -> int:
        """How many they are."""
        ...

    @classmethod
    def zero(cls: type[S], law: Any, /) -> S:
        """Sums over no row."""
        ...

    def add(self: S, law: Any, seen: Seen, /) -> S:
        """The sums with some rows more."""
        ...

    def merge(self: S, other: S, /) -> S:
        """The sums over the rows of both."""
        ...

    @property
    def value(self) -> float:
        """What no step lowers, a row: the mean log p, of k-means less the mean energy."""
        ...


class Node(NamedTuple, Generic[S]):
    """Sums over the 2^``level`` parts that end before part (``place`` + 1) 2^``level``."""

    level: int
    place: int
    sums: S


class SumTree(Generic[S]):
    """Sums of parts 0, 1, 2, ... that come in this order, merged two by two: 0 with 1, 2 with 3, these four, and so on.

    What merges with what follows from their numbers alone, so a run of parts may be merged elsewhere as far as it goes, and
    its ``nodes`` added here: the whole is the same to the bit.  Of n parts at most about 2 log₂ n sums are held.

    >>> law = GaussianMixtureLaw.gaussian(torch.zeros(1).double(), torch.ones(1, 1).double())
    >>> here, there = SumTree[MixtureSums](), SumTree[MixtureSums]()
    >>> for k, tree in ((0, here), (1, there), (2, there)):
    ...     tree.add(Node(0, k, MixtureSums.zero(law).add(law, Seen.whole(torch.tensor([[0.1 * k]]).double()))))
    >>> for node in there.nodes:
    ...     here.add(node)
    >>> [(node.level, node.place) for node in here.nodes], here.whole().rows
    ([(1, 0), (0, 2)], 3)
    """

    def __init__(self) -> None:
        self.nodes: list[Node[S]] = []

    def add(self, node: Node[S]) -> None:
        """Take what comes next, and merge what has both halves."""
        while self.nodes and self.nodes[-1][:2] == (node.level, node.place - 1) and node.place % 2:
            node = Node(node.level + 1, node.place // 2, self.nodes.pop().sums.merge(node.sums))
        self.nodes.append(node)

    def whole(self) -> S:
        """The sums over all parts."""
        *before, last = (node.sums for node in self.nodes)
        for sums in reversed(before):
            last = sums.merge(last)
        return last


class MixtureSums(NamedTuple):
    """``rows`` summed over, their ``log_prob`` () in nats, ``size`` (K,), ``first`` (K, D) and ``second`` (K, D, D) moments.

    >>> law = GaussianMixtureLaw.gaussian(torch.zeros(1).double(), torch.ones(1, 1).double())
    >>> x = torch.tensor([[1.0], [2.0], [6.0]]).double()
    >>> one, other = (MixtureSums.zero(law).add(law, Seen.whole(part)) for part in (x[:1], x[1:]))
    >>> fitted = other.merge(one).solve("full", 0.0)
    >>> fitted.means.item(), round(fitted.covariances.item(), 3)  # 14/3 is the variance of 1, 2 and 6
    (3.0, 4.667)
    """

    rows: int
    log_prob: Tensor
    size: Tensor
    first: Tensor
    second: Tensor

    @classmethod
    def zero(cls, law: GaussianMixtureLaw) -> MixtureSums:
        """Sums over no row, for a mixture like ``law``."""
        like = (law.log_weights, law.means, law.covariances)
        return cls(0, law.means.new_zeros(()), *(torch.zeros_like(t) for t in like))

    def add(self, law: GaussianMixtureLaw, seen: Seen) -> MixtureSums:
        """The sums with some rows more, their blanks integrated out under ``law``: the E-step of EM."""
        size, first, second, log_prob = law.statistics(seen)
        return self.merge(MixtureSums(len(seen.y), log_prob.sum(), size, first, second))

    def merge(self, other: MixtureSums) -> MixtureSums:
        """The sums over the rows of both."""
        moments = (one + two for one, two in zip(self[1:], other[1:], strict=True))
        return MixtureSums(self.rows + other.rows, *moments)  # pyright: ignore[reportArgumentType]

    @property
    def value(self) -> float:
        """Mean log p of a row under the law that the sums were made with, nats."""
        return float(self.log_prob) / self.rows

    def solve(self, covariance_type: CovarianceType, reg_covar: float) -> GaussianMixtureLaw:
        """The mixture that makes the rows most probable: the M-step of EM; ``reg_covar`` is added to variances."""
        size = self.size.clamp_min(1e-10)
        means = self.first / size.unsqueeze(1)
        covariances = self.second / size[:, None, None] - means.unsqueeze(2) * means.unsqueeze(1)
        k, d = means.shape
        if covariance_type == "tied":
            covariances = torch.einsum("k,kij->ij", size / size.sum(), covariances)
        elif covariance_type != "full":
            covariances = torch.diagonal(covariances, dim1=1, dim2=2)
            covariances = covariances.mean(1) if covariance_type == "spherical" else covariances
        covariances = full(covariances, covariance_type, k, d) + reg_covar * torch.eye(d, dtype=means.dtype)
        return GaussianMixtureLaw(size.log(), means, 0.5 * (covariances + covariances.mT))


def full(covariances: Tensor, covariance_type: CovarianceType, k: int, d: int) -> Tensor:
    """Covariances (K, D, D) from the shape that their type has: (K, D, D), (D, D), (K, D) or (K,)."""
    if covariance_type in ("full", "tied"):
        return covariances.expand(k, d, d)
    return torch.diag_embed(covariances.view(k, -1).expand(k, d))
