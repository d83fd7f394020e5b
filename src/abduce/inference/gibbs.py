"""Gibbs sampling and its kin for binary cells and for Boltzmann machines, on many chains at once.

Each kernel leaves f(x) ∝ exp(−E(x)) as it is.

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

from abduce.inference.energy import Bipartite, Energy, Pairwise
from abduce.inference.flips import check_binary
from abduce.inference.kernels import LogDensity, State, choose, normal, start, uniform


class CellStates(NamedTuple):
    """Where the chains are: x ``(n, D)``."""

    x: Tensor


@dataclass(frozen=True, eq=False)
class BlockGibbs:
    """Draw all hidden units given the cells, then all cells given the hidden units."""

    model: Bipartite

    def init(self, x: Tensor) -> CellStates:
        return CellStates(x)

    @torch.no_grad()
    def step(self, state: CellStates, generator: Generator | None = None) -> tuple[CellStates, Tensor]:
        model = self.model
        visible = model.visible(bernoulli(model.hidden_logits(state.x), generator))
        if model.support == "binary":
            x = bernoulli(visible, generator)
        else:
            x = visible + model.visible_scale() * normal(visible, generator)
        return CellStates(x), x.new_ones(len(x))


@dataclass(frozen=True, eq=False)
class Gibbs:
    """Sweep over the cells in order, each drawn from its conditional given the others.

    An Ising energy costs O(D) a cell and chain, its log-odds being kept up to date; any other binary energy costs one
    evaluation a cell.
    """

    model: Energy

    def __post_init__(self) -> None:
        check_binary(self.model)

    def init(self, x: Tensor) -> CellStates:
        return CellStates(x)

    @torch.no_grad()
    def step(self, state: CellStates, generator: Generator | None = None) -> tuple[CellStates, Tensor]:
        x = state.x.clone()
        _sweep(self.model, x, uniform(x, generator))
        return CellStates(x), x.new_ones(len(x))


def _sweep(model: Energy, x: Tensor, level: Tensor) -> None:
    """Draw one cell after the other, each given those before it."""
    if isinstance(model, Pairwise):
        coupling, fields = model.coupling, model.local_fields(x)
        for i in range(x.shape[1]):
            change = (level[:, i] < torch.sigmoid(fields[:, i])).to(x) - x[:, i]
            x[:, i] += change
            fields.addcmul_(change.unsqueeze(1), coupling[i])
        return
    energy = model.energy(x)
    for i in range(x.shape[1]):
        flipped = x.clone()
        flipped[:, i] = 1 - x[:, i]
        other = model.energy(flipped)
        gain = energy - other  # of log f by the flip
        # one uniform number decides what the cell becomes, whatever it was
        up = torch.where(x[:, i] > 0.5, -gain, gain)
        new = (level[:, i] < torch.sigmoid(up)).to(x)
        energy = torch.where(new != x[:, i], other, energy)
        x[:, i] = new


@dataclass(frozen=True, eq=False)
class GibbsWithGradients:
    """Propose ``flips`` times to flip the cell that the gradient says gains most, and accept by Metropolis-Hastings.

    For any binary energy whose formula extends to values between 0 and 1.  One evaluation and gradient a flip, whatever D is.
    """

    model: Energy
    flips: int = 1

    def __post_init__(self) -> None:
        check_binary(self.model)
        if self.flips < 1:
            raise ValueError(f"flips must be at least 1, got {self.flips}")

    def _log_density(self, x: Tensor) -> Tensor:
        return -self.model.energy(x)

    def init(self, x: Tensor) -> State:
        return start(x, self._log_density)

    def step(self, state: State, generator: Generator | None = None) -> tuple[State, Tensor]:
        return flip(self._log_density, state, None, generator, self.flips)


def flip(
    log_density: LogDensity,
    state: State,
    clamp: Tensor | None,
    generator: Generator | None,
    flips: int,
    shared: bool = False,
) -> tuple[State, Tensor]:
    """``flips`` proposals of Gibbs with gradients for chains of any leading axes; cells that ``clamp`` marks never change."""

    def log_q(state: State) -> Tensor:
        gain = (1 - 2 * state.x) * state.gradient
        if clamp is not None:
            gain = gain.masked_fill(clamp, -torch.inf)
        return torch.log_softmax(gain / 2, -1)

    acceptance = torch.zeros_like(state.log_density)
    for _ in range(flips):
        x, value = state.x, state.log_density
        forward = log_q(state)
        cumulative = forward.exp().cumsum(-1)
        point = uniform(value.unsqueeze(-1), generator, shared) * cumulative[..., -1:]
        cell = torch.searchsorted(cumulative, point.expand(*value.shape, 1), right=True)
        cell = cell.clamp_max(x.shape[-1] - 1)
        proposal = start(x.scatter(-1, cell, 1 - x.gather(-1, cell)), log_density)
        back = (log_q(proposal).gather(-1, cell) - forward.gather(-1, cell)).squeeze(-1)
        gain = proposal.log_density - value + back  # NaN: a chain with no cell to flip
        state, rate = choose(state, proposal, gain, generator, shared)
        acceptance += rate / flips
    return state, acceptance


def bernoulli(logits: Tensor, generator: Generator | None, shared: bool = False) -> Tensor:
    """Draw zeros and ones with these log-odds, at least in single precision: uniform numbers in bfloat16 are 1/256 apart."""
    p = torch.sigmoid(logits.float() if logits.dtype.itemsize < 4 else logits)
    drawn = uniform(p, generator, shared)
    return (drawn < p).to(p.dtype) if shared else drawn.lt_(p)
