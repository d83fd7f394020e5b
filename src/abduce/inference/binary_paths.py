"""Paths for tempered SMC and AIS that Gibbs sampling moves along: of Boltzmann machines, and of any binary density.

From a base b of independent cells, normalised over the cells that are not known, to an unnormalised f:

    BlockGibbsPath        log f_t(v) = t A(v) + Σ_j softplus(t u_j) + (1 − t) (log b(v) − hidden · log 2),
                          with −E(v) = A(v) + Σ_j softplus(u_j): a restricted machine at every t, moved by block Gibbs
    BinaryPath            log f_t(x) = (1 − t) log b(x) + t log f(x), moved by Gibbs with gradients

Source: Salakhutdinov & Murray 2008 (AIS from the base rates).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from abduce.distributions.bases import NormalBase, RatesBase
from abduce.distributions.cells import LOG_2PI
from abduce.inference.energy import Bipartite, softplus_sum
from abduce.inference.gibbs import bernoulli, flip
from abduce.inference.kernels import LogDensity, normal, start


@dataclass(frozen=True, eq=False)
class ClampedPath:
    """What both paths share: a ``base`` of independent cells, and cells that may be known.

    Populations may stand for rows with cells that are known: ``x`` and ``observed`` ``(populations, D)``; then ∫ f_1 runs
    over the blank cells.  ``field`` ``(D,)`` or ``(populations, D)`` adds aᵀx to log f_1.  With ``shared`` all populations use
    the same random numbers.
    """

    target: Any
    base: RatesBase | NormalBase
    x: Tensor | None = None
    observed: Tensor | None = None
    field: Tensor | None = None
    shared: bool = False

    def __post_init__(self) -> None:
        if (self.x is None) != (self.observed is None):
            raise ValueError("x and observed: give both or neither")

    def draw(self, particles: int, populations: int, generator: Generator) -> Tensor:
        if self.x is not None and len(self.x) != populations:
            raise ValueError(f"populations must be the {len(self.x)} rows of x, got {populations}")
        rows = 1 if self.shared else populations
        new = self.base.sample(particles * rows, generator).unflatten(0, (particles, rows))
        return self.clamped(new.expand(particles, populations, -1), self.x)

    def log_base(self, x: Tensor) -> Tensor:
        """log b of the blank cells, (...)."""
        base = self.base
        if isinstance(base, RatesBase):
            cells = x * base.logits - torch.nn.functional.softplus(base.logits)
        else:
            cells = -0.5 * ((x - base.mean) / base.scale).square() - base.scale.log() - 0.5 * LOG_2PI
        return (cells if self.observed is None else cells.masked_fill(self.observed, 0.0)).sum(-1)

    def pull(self, x: Tensor) -> Tensor | float:
        """aᵀx."""
        return 0.0 if self.field is None else (x * self.field).sum(-1)

    def clamped(self, new: Tensor, old: Tensor | None) -> Tensor:
        """``new`` cells, the known ones as they were."""
        return new if old is None or self.observed is None else torch.where(self.observed, old, new)


@dataclass(frozen=True, eq=False)
class BlockGibbsPath(ClampedPath):
    """The path of restricted machines whose weights grow with t, from ``base`` to the machine ``target`` (β = 1).

    ``base`` is a :class:`RatesBase` for binary cells and a :class:`NormalBase` with a diagonal covariance for real ones.
    """

    target: Bipartite

    def __post_init__(self) -> None:
        super().__post_init__()
        base, model = self.base, self.target
        if base.support != model.support:
            raise ValueError(f"base: needs {model.support} cells like the model, got {base.support} ones")
        if isinstance(base, NormalBase) and bool(base.root.tril(-1).any()):
            raise ValueError(
                "base: needs a diagonal covariance, so that cells are independent given the hidden units"
            )

    def statistic(self, x: Tensor) -> Tensor:
        """A(x) − log b(x) + hidden · log 2, then the inputs u of the hidden units; (particles, populations, 1 + hidden)."""
        u = self.target.hidden_logits(x)
        visible = -self.target.energy(x) - softplus_sum(u) + self.pull(x)
        rest = visible - self.log_base(x) + u.shape[-1] * math.log(2)
        return torch.cat([rest.unsqueeze(-1), u], -1).double()

    def increment(self, statistic: Tensor, t: Tensor, new: Tensor) -> Tensor:
        rest, u = statistic[..., 0], statistic[..., 1:]
        hidden = softplus_sum(new.unsqueeze(-1) * u) - softplus_sum(t.unsqueeze(-1) * u)
        return (new - t) * rest + hidden

    def move(self, x: Tensor, t: Tensor, size: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        """Draw the hidden units at t, then the blank cells; ``size`` does not matter."""
        model, base, t = self.target, self.base, t.unsqueeze(-1)
        h = bernoulli(t * model.hidden_logits(x), generator, self.shared)
        field = 0.0 if self.field is None else self.field
        if isinstance(base, RatesBase):
            logits = torch.lerp(base.logits, model.visible(h) + field, t)
            new = bernoulli(logits, generator, self.shared)
        else:
            first, last = base.scale.square().reciprocal(), model.visible_scale().square().reciprocal()
            precision = torch.lerp(first, last, t)
            pull = torch.lerp(first * base.mean, last * model.visible(h) + field, t)
            new = pull / precision + normal(x, generator, self.shared) / precision.sqrt()
        return self.clamped(new, x), x.new_ones(x.shape[:-1])


@dataclass(frozen=True, eq=False)
class BinaryPath(ClampedPath):
    """The geometric path from ``base`` to the ``target`` of binary rows, moved by ``flips`` steps of Gibbs with gradients."""

    target: LogDensity
    base: RatesBase
    flips: int = 8

    def statistic(self, x: Tensor) -> Tensor:
        """log f_1 − log f_0."""
        return (self.target(x) + self.pull(x) - self.log_base(x)).double()

    def increment(self, statistic: Tensor, t: Tensor, new: Tensor) -> Tensor:
        return (new - t) * statistic

    def move(self, x: Tensor, t: Tensor, size: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        """Propose ``flips`` flips, one after the other; ``size`` does not matter."""

        def log_density(x: Tensor) -> Tensor:
            base = self.log_base(x)
            return torch.lerp(base, self.target(x) + self.pull(x), t.expand_as(base))

        state = start(x, log_density)
        state, acceptance = flip(log_density, state, self.observed, generator, self.flips, self.shared)
        return state.x, acceptance
