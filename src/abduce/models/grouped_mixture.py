"""A mixture of many Gaussians of which groups share a covariance, as an energy.

    E(y) = −log Σ_i π_i N(y; c_i, C_g(i)),        log Z = 0

See :mod:`abduce.gaussians.grouped_law` for what is asked of it, :mod:`abduce.gaussians.ensemble_fit` for how it is fitted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from abduce.data.seen import Seen
from abduce.gaussians.ensemble_fit import Member
from abduce.gaussians.grouped_law import GroupedMixtureLaw
from abduce.inference.energy import Normalised, arguments
from abduce.models.model import filled

DOUBLE = 256  # up to as many cells, numbers are computed in double precision: it costs little


class GroupedMixtureEnergy(Normalised):
    """``centres`` Gaussians in ``groups`` of one covariance each, of ``n_cells`` cells.

    ``keep`` is how many groups a row with blanks is answered by (None: all), ``temper`` how far posteriors of components are
    flattened: see :class:`~abduce.gaussians.grouped_law.GroupedMixtureLaw`.  Parameters stay in single precision whatever
    the module is cast to.  ``represent`` gives responsibilities by group, (batch, G).

    >>> model = GroupedMixtureEnergy(n_cells=3, centres=2, groups=1)  # starts as a standard Gaussian
    >>> model.energy(torch.zeros(1, 3, dtype=torch.float64))  # 3/2 log 2π
    tensor([2.7568], dtype=torch.float64)
    """

    log_weights: Tensor
    centres: Tensor
    group: Tensor
    covariances: Tensor

    def __init__(self, n_cells: int, centres: int, groups: int, keep: int | None = None, temper: float = 1.0):
        super().__init__()
        self.config = arguments(locals())
        self.n_cells, self.keep, self.temper = n_cells, keep, temper
        self.register_buffer("log_weights", torch.zeros(centres))
        self.register_buffer("centres", torch.zeros(centres, n_cells))
        self.register_buffer("group", torch.arange(centres) % groups)
        self.register_buffer("covariances", torch.eye(n_cells).repeat(groups, 1, 1))
        self._made: tuple[tuple[int, ...], GroupedMixtureLaw] | None = None

    @classmethod
    def of(cls, member: Member, keep: int | None = None, temper: float = 1.0) -> GroupedMixtureEnergy:
        """Build from fitted parameters, see :mod:`abduce.gaussians.ensemble_fit`."""
        n, d = member.centres.shape
        return filled(cls(d, n, len(member.covariances), keep, temper), **member._asdict())

    def represent(self, x: Tensor) -> Tensor:
        law = self.distribution()
        share = law.responsibilities(Seen.whole(x))
        return share.new_zeros(len(x), len(law.covariances)).index_add_(1, law.group, share)

    def distribution(self) -> GroupedMixtureLaw:
        """The law, with the factors that it has come to keep, until a parameter changes."""
        version = tuple(v for t in self.buffers() for v in (t.data_ptr(), t._version))
        if self._made is None or self._made[0] != version:
            dtype = torch.float64 if self.n_cells <= DOUBLE else torch.float32
            parts = self.log_weights, self.centres, self.group, self.covariances.to(dtype)
            self._made = version, GroupedMixtureLaw(*parts, self.temper, self.keep)
        return self._made[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_made": None}  # copies and pickles do without the law

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> GroupedMixtureEnergy:
        return super()._apply(lambda t: t.to(fn(t[:0]).device), recurse)
