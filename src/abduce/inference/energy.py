"""The interface of every model: an energy in nats, low on the data and higher elsewhere.

An energy is a probability once its partition function is known,

    p(x) = exp(−β E(x)) b(x) / Z,        Z = ∫ exp(−β E(x)) b(x) dx      (a sum where x is binary)

with an inverse temperature β and, where the integral would be infinite without one, a base measure b.  ``log_z`` gives
log Z where it has a closed form; :mod:`abduce.inference.partition` estimates it elsewhere.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Generator, Tensor, nn

from abduce.data.seen import Unanswerable
from abduce.gaussians.law import Law, energy

VIEWS = {
    "real": frozenset({"blanks", "linear"}),
    "binary": frozenset({"blanks", "flips", "linear"}),
    "mixed": frozenset({"blanks"}),
}  # by what a cell may hold: the views, by name, that any energy of such cells answers


class NotNormalized(ValueError):
    """A probability was asked of an energy whose partition function could not be found; the message says what to do."""


class Diverged(FloatingPointError):
    """A chain or a training run left every reasonable range; the message says what to do."""


@dataclass(frozen=True)
class LogZ:
    """log Z in nats with the interval that holds it with 90 % probability.

    ``kind`` is "exact" (a closed form or a sum over all states), "quadrature", "estimate" (sampling) or "bound";
    ``diagnostics`` says how it came about: method, effective sample size, acceptance, ...
    """

    value: float
    low: float
    high: float
    kind: str = "exact"
    diagnostics: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def exact(cls, value: float, method: str = "closed form") -> LogZ:
        """log Z that is known."""
        return cls(float(value), float(value), float(value), "exact", {"method": method})


@dataclass(frozen=True)
class Traits:
    """What an energy is, as far as training and inference need to know; declared by each family.

    >>> Traits("binary").views == {"blanks", "flips", "linear"}
    True
    """

    support: str = "real"  # what a cell may hold: "real", "binary" or "mixed"
    in_nats: bool = True  # β = 1 is what training meant; else β is free and is fitted
    proper: bool = True  # ∫ exp(−β E) is finite for every β > 0; else a base measure is needed
    bounded_volume: bool = False  # low energy cannot spread everywhere: the mean energy alone may be trained
    smooth: bool = True  # two derivatives in x where support is real
    views: frozenset[str] = frozenset()  # names of the views that it answers; none: those of its support

    def __post_init__(self):
        if self.support not in VIEWS:
            raise ValueError(f"support must be {' or '.join(map(repr, VIEWS))}, got {self.support!r}")
        object.__setattr__(self, "views", self.views or VIEWS[self.support])


class Base(Protocol):
    """A measure to start from, or to multiply an energy with: a normalised density over whole rows.

    Implemented in :mod:`abduce.distributions.bases`; each is an ``nn.Module``.
    """

    def log_prob(self, x: Tensor) -> Tensor:
        """log b(x), nats, (..., D) -> (...)."""
        ...

    def sample(self, n: int, generator: Generator | None = None) -> Tensor:
        """Draw (n, D)."""
        ...


class Energy(nn.Module, abc.ABC):
    """A function E(x) with p(x) ∝ exp(−β E(x)).

    ``x`` has shape ``(..., cells)`` in model space, ``observed`` is a bool mask of the same shape (None: all observed).
    Families that can integrate cells out exactly give a row with blanks the energy −log ∫ exp(−E) of its blank cells; the
    others refuse a mask, and inference over the blanks is left to :mod:`abduce.inference`.
    """

    n_cells: int
    traits: Traits = Traits()
    config: dict[str, Any]  # constructor arguments, JSON-able

    support = property(lambda self: self.traits.support)
    in_nats = property(lambda self: self.traits.in_nats)
    proper = property(lambda self: self.traits.proper)
    bounded_volume = property(lambda self: self.traits.bounded_volume)
    smooth = property(lambda self: self.traits.smooth)

    @abc.abstractmethod
    def energy(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        """Energy of each row, shape ``(...,)``; differentiable in x where support is real."""

    def log_z(self, beta: float = 1.0, base: Base | None = None) -> Tensor | None:
        """log Z for β and b where it has a closed form, a differentiable scalar; None elsewhere."""
        return None

    def law(self, beta: float = 1.0, base: Base | None = None) -> Law | None:
        """exp(−β E) b / Z as a distribution with exact marginals, conditionals and draws, where it is one; None elsewhere."""
        return None

    @abc.abstractmethod
    def represent(self, x: Tensor) -> Tensor:
        """What the model makes of whole rows, ``(batch, features)``: codes, responsibilities, hidden units."""

    def decode(self, z: Tensor) -> Tensor:
        """Rows (n, D) of codes, for families with a decoder."""
        raise Unanswerable(f"{type(self).__name__} has no decoder from its features to rows")

    def sample(self, n: int, generator: Generator | None = None) -> Tensor | None:
        """New rows (n, D) at β = 1 without a base, of families that have exact draws; None of the others."""
        return None


class Normalised(Energy):
    """−log p of a distribution whose marginals, conditionals and draws are exact: log Z = 0 at β = 1 without a base."""

    traits = Traits(bounded_volume=True)

    @abc.abstractmethod
    def distribution(self) -> Any:
        """The distribution, a `Law`."""

    def energy(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        return energy(self.distribution(), x, observed)

    def log_z(self, beta: float = 1.0, base: Base | None = None) -> Tensor | None:
        return torch.zeros((), dtype=torch.float64) if beta == 1 and base is None else None

    def law(self, beta: float = 1.0, base: Base | None = None) -> Any:
        return self.distribution() if beta == 1 and base is None else None


class Bipartite(Energy):
    """An energy whose hidden units, {0, 1}, are independent given the cells, and the cells given the hidden units."""

    @abc.abstractmethod
    def hidden_logits(self, v: Tensor) -> Tensor:
        """Log-odds of the hidden units given cells (..., D), (..., hidden)."""

    @abc.abstractmethod
    def visible(self, h: Tensor) -> Tensor:
        """Log-odds of binary cells, means of real ones, given hidden units (..., hidden): (..., D)."""

    @abc.abstractmethod
    def visible_scale(self) -> Tensor:
        """Standard deviation of real cells given the hidden units, (D,); of binary cells nothing: ValueError."""

    def represent(self, x: Tensor) -> Tensor:
        """P(h_j = 1 | v), (batch, hidden)."""
        return torch.sigmoid(self.hidden_logits(x))


class Pairwise(Energy):
    """A quadratic energy of binary cells: log-odds of each cell are linear in the others."""

    @property
    @abc.abstractmethod
    def coupling(self) -> Tensor:
        """How the log-odds of a cell move with the others, symmetric, zero on the diagonal, (D, D)."""

    @abc.abstractmethod
    def local_fields(self, x: Tensor) -> Tensor:
        """Log-odds of each cell given the others, nats, (..., D)."""


def arguments(scope: Mapping[str, Any]) -> dict[str, Any]:
    """A constructor's arguments, JSON-able, from its ``locals()`` before any other is set."""
    kept = {name: value for name, value in scope.items() if name not in ("self", "__class__")}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in kept.items()}


def check_whole(observed: Tensor | None, family: str) -> None:
    """Refuse a mask with blanks where a family cannot integrate cells out."""
    if observed is not None and not bool(observed.all()):
        raise ValueError(f"{family} has no exact energy of a row with blanks; complete the row first")


def log_density(energy: Energy, x: Tensor, beta: float | Tensor = 1.0, base: Base | None = None) -> Tensor:
    """−β E(x) + log b(x) of each row, nats, (..., D) -> (...): log p(x) + log Z."""
    value = -beta * energy.energy(x)
    return value if base is None else value + base.log_prob(x)


def softplus_sum(u: Tensor) -> Tensor:
    """Σ_j log(1 + e^{u_j}) over the last axis: what binary hidden units add to −E."""
    return torch.nn.functional.softplus(u).sum(-1)
