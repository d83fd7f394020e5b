"""Sums over rows that a step of EM for a mixture of Gaussians is made of, one part of the rows at a time.

    n,   Σ log p(x_obs),   N_k = Σ r_k,   Σ r_k E[x],   Σ r_k E[x xᵀ]

They add up: over parts of the rows, whatever the cut and the order of merging, they are those of all rows.  So a step needs a
part of the rows in memory, and parts may be summed anywhere.

Source: Dempster, Laird & Rubin 1977; Neal & Hinton 1998 (steps by parts of the data).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from abduce.data.seen import Seen
from abduce.gaussians.gaussian_law import GaussianMixtureLaw

CovarianceType = Literal["full", "tied", "diag", "spherical"]
S = TypeVar("S", bound="RowSums")


class RowSums(Protocol):
    """Sums over rows under a law, to which rows may be added."""

    def add(self: S, law: Any, seen: Seen, /) -> S:
        """The sums with some rows more."""
        ...


def summed(zero: S, law: Any, parts: Iterable[Seen]) -> S:
    """Sums over the rows of all parts, beginning with ``zero``, those over none."""
    for seen in parts:
        zero = zero.add(law, seen)
    return zero


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
    def mean_log_prob(self) -> float:
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
