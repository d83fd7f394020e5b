"""An ensemble of mixtures of Gaussians with full covariances: one density, and answers that are averaged over the members.

    E(y) = −log Σ_m w_m Σ_i π_mi N(y; c_mi, C_g(mi))          log Z = 0 at β = 1

What a mixture answers depends on how it cut the rows into clusters; averages over cuts of different kinds are better than
any.  See :mod:`abduce.gaussians.ensemble_law` for what is averaged, :mod:`abduce.gaussians.ensemble_fit` for how members are
fitted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from abduce.data.seen import Seen
from abduce.gaussians.ensemble_fit import Member
from abduce.gaussians.ensemble_law import EnsembleLaw
from abduce.gaussians.grouped_law import GroupedMixtureLaw
from abduce.gaussians.law import energy
from abduce.inference.energy import Base, Energy

DOUBLE = 256  # up to as many cells, numbers are computed in double precision: it costs little


class MixtureEnsemble(Energy):
    """Grouped mixtures of Gaussians, equally weighted.

    ``n_cells`` D, ``members`` a pair (centres, covariances) of each, ``keep`` how many groups of each member a row with
    blanks is answered by (None: all), ``temper`` how far posteriors of components are flattened: see
    :class:`~abduce.gaussians.grouped_law.GroupedMixtureLaw`.  Parameters stay in single precision whatever the module is
    cast to.  ``represent`` gives each member's responsibilities by group, (batch, Σ G).

    >>> model = MixtureEnsemble(n_cells=3, members=[(2, 1)])  # starts as a standard Gaussian
    >>> model.energy(torch.zeros(1, 3, dtype=torch.float64))  # 3/2 log 2π
    tensor([2.7568], dtype=torch.float64)
    """

    bounded_volume = True  # it is normalised

    def __init__(
        self,
        n_cells: int,
        members: Sequence[Sequence[int]],
        keep: Sequence[int | None] | None = None,
        temper: float = 1.0,
    ):
        super().__init__()
        keep = [None] * len(members) if keep is None else list(keep)
        if not members or len(keep) != len(members):
            raise ValueError(
                f"members must hold at least one pair (centres, covariances) and keep one number for each, "
                f"got {len(members)} and {len(keep)}"
            )
        self.config = {
            "n_cells": n_cells, "members": [list(m) for m in members], "keep": keep, "temper": temper
        }  # fmt: skip
        self.n_cells, self.keep, self.temper = n_cells, keep, temper
        self.members = nn.ModuleList(_Single(n_cells, *sizes) for sizes in members)
        self._made: tuple[tuple[int, ...], EnsembleLaw] | None = None

    @classmethod
    def of(
        cls, members: Sequence[Member], keep: Sequence[int | None] | None = None, temper: float = 1.0
    ) -> MixtureEnsemble:
        """Build from fitted members, see :mod:`abduce.gaussians.ensemble_fit`."""
        sizes = [(len(m.centres), len(m.covariances)) for m in members]
        model = cls(members[0].centres.shape[1], sizes, keep, temper)
        for own, given in zip(model.members, members, strict=True):
            own.load_state_dict(given._asdict())
        return model

    def energy(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        return energy(self._law(), x, observed)

    def log_z(self, beta: float = 1.0, base: Base | None = None) -> Tensor | None:
        return torch.zeros((), dtype=torch.float64) if beta == 1 and base is None else None

    def law(self, beta: float = 1.0, base: Base | None = None) -> EnsembleLaw | None:
        """The ensemble itself at β = 1 without a base; None elsewhere."""
        return self._law() if beta == 1 and base is None else None

    def represent(self, x: Tensor) -> Tensor:
        parts = []
        for member in self._law().members:
            share = member.responsibilities(Seen.whole(x))
            groups = share.new_zeros(len(x), len(member.covariances))
            parts.append(groups.index_add_(1, member.group, share))
        return torch.cat(parts, 1)

    def _law(self) -> EnsembleLaw:
        """The law, with the factors that it has come to keep, until a parameter changes."""
        version = tuple(v for t in self.buffers() for v in (t.data_ptr(), t._version))
        if self._made is None or self._made[0] != version:
            dtype = torch.float64 if self.n_cells <= DOUBLE else torch.float32
            members = [
                cast(_Single, member).law(dtype, self.temper, keep)
                for member, keep in zip(self.members, self.keep, strict=True)
            ]
            self._made = version, EnsembleLaw(members)
        return self._made[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_made": None}  # copies and pickles do without the law


class _Single(nn.Module):
    """A member's parameters, which move with the module but stay in single precision."""

    log_weights: Tensor
    centres: Tensor
    group: Tensor
    covariances: Tensor

    def __init__(self, n_cells: int, centres: int, groups: int):
        super().__init__()
        self.register_buffer("log_weights", torch.zeros(centres))
        self.register_buffer("centres", torch.zeros(centres, n_cells))
        self.register_buffer("group", torch.arange(centres) % groups)
        self.register_buffer("covariances", torch.eye(n_cells).repeat(groups, 1, 1))

    def law(self, dtype: torch.dtype, temper: float, keep: int | None) -> GroupedMixtureLaw:
        covariances = self.covariances.to(dtype)
        return GroupedMixtureLaw(self.log_weights, self.centres, self.group, covariances, temper, keep)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> _Single:
        return super()._apply(lambda t: t.to(fn(t[:0]).device), recurse)
