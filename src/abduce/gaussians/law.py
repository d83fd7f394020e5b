"""The interface of distributions that answer in closed form: log p, means and draws of clean rows given what was seen of them.

law                                    structure                                       file
GaussianMixtureLaw                     a full covariance for each component            gaussian_law
FactorMixtureLaw                       q factors and noise for each component          factor_law
ParzenLaw                              a kernel round each row, of factors and noise   parzen_law
GroupedMixtureLaw                      full covariances, each of many components       grouped_law
"""

from __future__ import annotations

import abc
from typing import Protocol

from torch import Generator, Tensor

from abduce.data.seen import Seen

ANY = frozenset({"blanks", "linear"})  # names of the views that laws of Gaussians answer


class Law(Protocol):
    """A normalised distribution over rows of D cells; a view that it does not answer raises ``Unanswerable``."""

    views: frozenset[str]  # names of the views that it answers
    rowwise: bool  # whether a row's log_prob is the same to the bit whatever rows come along, for any number of them

    @abc.abstractmethod
    def log_prob(self, seen: Seen) -> Tensor:
        """log p of what was seen of each row, nats, (rows,); 0 where that is nothing.  Differentiable in ``seen.y``."""

    @abc.abstractmethod
    def mean(self, seen: Seen) -> Tensor:
        """E[x | seen], (rows, D); cells that were seen exactly as they are."""

    @abc.abstractmethod
    def draws(self, seen: Seen, n: int, generator: Generator | None = None, shared: bool = False) -> Tensor:
        """Draw whole rows from p(x | seen), (n, rows, D).

        With ``shared`` all rows use the same random numbers, so that a row's draws do not depend on which rows come along.
        """

    @abc.abstractmethod
    def sample(self, n: int, generator: Generator | None = None) -> Tensor:
        """Draw (n, D)."""


def energy(law: Law, x: Tensor, observed: Tensor | None = None) -> Tensor:
    """−log p of rows (..., D), or of the cells of them that were observed, nats, (...)."""
    rows = x.reshape(-1, x.shape[-1])
    seen = Seen.whole(rows) if observed is None else Seen(rows, observed.expand_as(x).reshape(rows.shape))
    return -law.log_prob(seen).view(x.shape[:-1])
