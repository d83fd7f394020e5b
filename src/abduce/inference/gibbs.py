"""Gibbs sampling and its kin for binary cells and for Boltzmann machines, on many chains at once.

Each kernel leaves a target f(x) ∝ exp(−β E(x) + aᵀx) b(x) as it is, with a unary ``field`` a (what noisy observations say of
single cells), a base b of independent rates, and ``clamp`` the cells that never change: then it is f given those cells.

    BlockGibbs            h ~ P(h | v), v ~ P(v | h) of a restricted machine: all cells at once
    Gibbs                 each cell in turn from its conditional, x_i = 1 with probability σ(log-odds of cell i)
    GibbsWithGradients    proposes to flip the cell i ~ softmax(d/2), with d_i = (1 − 2x_i) ∂log f/∂x_i what the flip is
                          expected to gain, and accepts with probability min(1, f(x') q(i | x') / (f(x) q(i | x)))

Sources: Geman & Geman 1984; Grathwohl et al. 2021 (arXiv:2102.04509).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from abduce.distributions.bases import RatesBase
from abduce.inference.energy import Bipartite, Energy, Pairwise
from abduce.inference.kernels import Info, LogDensity, State, choose, normal, start, uniform


class CellStates(NamedTuple):
    """Where the chains are: x ``(n, D)``."""

    x: Tensor


@dataclass(frozen=True, eq=False)
class BlockGibbs:
    """Draw all hidden units given the cells, then all cells given the hidden units; β = 1 and no base.

    (exp(−β E(v)) is a restricted machine only for β = 1.)  ``field`` and ``clamp`` are ``(D,)`` or ``(n, D)``.
    """

    model: Bipartite
    clamp: Tensor | None = None
    field: Tensor | None = None

    def init(self, x: Tensor) -> CellStates:
        """Start the chains at x."""
        return CellStates(x)

    @torch.no_grad()
    def step(self, state: CellStates, generator: Generator | None = None) -> tuple[CellStates, Info]:
        """Move every chain once."""
        (old,) = state
        h = bernoulli(self.model.hidden_logits(old), generator)
        if self.model.support == "binary":
            logits = self.model.visible(h)
            x = bernoulli(logits if self.field is None else logits + self.field, generator)
        else:
            mean, scale = self.model.visible(h), self.model.visible_scale()
            if self.field is not None:
                mean = mean + scale.square() * self.field
            x = mean + scale * normal(mean, generator)
        if self.clamp is not None:
            x = torch.where(self.clamp, old, x)
        return CellStates(x), Info(old.new_ones(len(old)))


@dataclass(frozen=True, eq=False)
class Gibbs:
    """Sweep over the cells in order, each drawn from its conditional given the others.

    An Ising energy costs O(D) a cell and chain, its log-odds being kept up to date; any other binary energy costs one
    evaluation a cell.  ``field`` and ``clamp`` are ``(D,)`` or ``(n, D)``.
    """

    model: Energy
    beta: float = 1.0
    base: RatesBase | None = None
    clamp: Tensor | None = None
    field: Tensor | None = None

    def __post_init__(self) -> None:
        _check_binary(self.model)

    def init(self, x: Tensor) -> CellStates:
        """Start the chains at x."""
        return CellStates(x)

    @torch.no_grad()
    def step(self, state: CellStates, generator: Generator | None = None) -> tuple[CellStates, Info]:
        """Move every chain once: one sweep."""
        x = state.x.clone()
        level = uniform(x, generator)
        free = torch.ones_like(x) if self.clamp is None else 1 - self.clamp.to(x).expand_as(x)
        linear = _linear(self.base, self.field)
        sweep = self._sweep_ising if isinstance(self.model, Pairwise) else self._sweep
        return CellStates(sweep(x, level, free, linear)), Info(x.new_ones(len(x)))

    def _sweep_ising(self, x: Tensor, level: Tensor, free: Tensor, linear: Tensor | float) -> Tensor:
        assert isinstance(self.model, Pairwise)
        coupling = self.beta * self.model.coupling
        fields = self.beta * self.model.local_fields(x) + linear
        for i in range(x.shape[1]):  # a sweep is a sequence: each cell is drawn given those before it
            new = (level[:, i] < torch.sigmoid(fields[:, i])).to(x)
            change = free[:, i] * (new - x[:, i])
            x[:, i] += change
            fields.addcmul_(change.unsqueeze(1), coupling[i])
        return x

    def _sweep(self, x: Tensor, level: Tensor, free: Tensor, linear: Tensor | float) -> Tensor:
        energy = self.model.energy(x)
        linear = (x.new_zeros(()) + linear).expand_as(x)
        for i in range(x.shape[1]):
            flipped = x.clone()
            flipped[:, i] = 1 - x[:, i]
            other = self.model.energy(flipped)
            gain = self.beta * (energy - other) + (flipped - x)[:, i] * linear[:, i]  # of log f by the flip
            # one uniform number decides what the cell becomes, whatever it was
            up = torch.where(x[:, i] > 0.5, -gain, gain)
            new = torch.where(free[:, i] > 0, (level[:, i] < torch.sigmoid(up)).to(x), x[:, i])
            moved = new != x[:, i]
            energy = torch.where(moved, other, energy)
            x[:, i] = new
        return x


@dataclass(frozen=True, eq=False)
class GibbsWithGradients:
    """Propose ``flips`` times to flip the cell that the gradient says gains most, and accept by Metropolis-Hastings.

    For any binary energy whose formula extends to values between 0 and 1.  One evaluation and gradient a flip, whatever D is.
    ``field`` and ``clamp`` are ``(D,)`` or ``(n, D)``.
    """

    model: Energy
    beta: float = 1.0
    base: RatesBase | None = None
    clamp: Tensor | None = None
    field: Tensor | None = None
    flips: int = 1

    def __post_init__(self) -> None:
        _check_binary(self.model)
        if self.flips < 1:
            raise ValueError(f"flips must be at least 1, got {self.flips}")

    def _log_density(self, x: Tensor) -> Tensor:
        return (x * _linear(self.base, self.field)).sum(-1) - self.beta * self.model.energy(x)

    def init(self, x: Tensor) -> State:
        """Start the chains at x."""
        return start(x, self._log_density)

    def step(self, state: State, generator: Generator | None = None) -> tuple[State, Info]:
        """Move every chain once: ``flips`` proposals."""
        acceptance = torch.zeros_like(state.log_density)
        for _ in range(self.flips):
            state, info = flip(self._log_density, state, self.clamp, generator)
            acceptance += info.acceptance / self.flips
        return state, Info(acceptance)


def flip(
    log_density: LogDensity,
    state: State,
    clamp: Tensor | None,
    generator: Generator | None,
    shared: bool = False,
) -> tuple[State, Info]:
    """One proposal of Gibbs with gradients for chains of any leading axes."""

    def log_q(state: State) -> Tensor:
        gain = (1 - 2 * state.x) * state.gradient
        if clamp is not None:
            gain = gain.masked_fill(clamp, -torch.inf)
        return torch.log_softmax(gain / 2, -1)

    x, value = state.x, state.log_density
    forward = log_q(state)
    cumulative = forward.exp().cumsum(-1)
    point = uniform(value.unsqueeze(-1), generator, shared) * cumulative[..., -1:]
    cell = torch.searchsorted(cumulative, point.expand(*value.shape, 1), right=True)
    cell = cell.clamp_max(x.shape[-1] - 1)
    proposal = start(x.scatter(-1, cell, 1 - x.gather(-1, cell)), log_density)
    back = (log_q(proposal).gather(-1, cell) - forward.gather(-1, cell)).squeeze(-1)
    # NaN: a chain with no cell to flip
    return choose(state, proposal, proposal.log_density - value + back, generator, shared)


def bernoulli(logits: Tensor, generator: Generator | None, shared: bool = False) -> Tensor:
    """Draw zeros and ones with these log-odds, at least in single precision: uniform numbers in bfloat16 are 1/256 apart."""
    p = torch.sigmoid(logits.float() if logits.dtype.itemsize < 4 else logits)
    drawn = uniform(p, generator, shared)
    return (drawn < p).to(p.dtype) if shared else drawn.lt_(p)


def _linear(base: RatesBase | None, field: Tensor | None) -> Tensor | float:
    """What multiplies x in log f besides the energy, (D,) or (n, D)."""
    return (0.0 if base is None else base.logits) + (0.0 if field is None else field)


def _check_binary(model: Energy) -> None:
    if model.support != "binary":
        raise ValueError(f"model: needs binary cells, but {type(model).__name__} has {model.support} cells")
