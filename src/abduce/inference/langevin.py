"""Langevin dynamics on many independent chains at once.

    x' = x + (ε²/2) ∇log p(x) + ε · N(0, I)

Unadjusted (ULA) every move is taken, and chains settle a little off p; Metropolis-adjusted (MALA) a move is accepted with
probability min(1, p(x') q(x|x') / (p(x) q(x'|x))), which leaves p exactly invariant.  A Langevin move is a Hamiltonian one
of a single leapfrog step.

Source: Roberts & Tweedie 1996, Exponential convergence of Langevin distributions and their discrete approximations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from abduce.inference import hmc
from abduce.inference.energy import Base, Energy


class State(NamedTuple):
    """Where the chains are: x ``(n, D)``, log p(x) ``(n,)`` up to a constant, and its gradient there."""

    x: Tensor
    log_density: Tensor
    gradient: Tensor


class Info(NamedTuple):
    """What a step did: acceptance probability ``(n,)``, one where nothing is adjusted."""

    acceptance: Tensor


def tempered(model: Energy, beta: float = 1.0, base: Base | None = None) -> hmc.LogDensity:
    """x -> −β E(x) + log b(x)."""
    if base is None:
        return lambda x: -beta * model.energy(x)
    return lambda x: base.log_prob(x) - beta * model.energy(x)


@dataclass(frozen=True)
class Langevin:
    """Langevin dynamics on exp(−β E) b.

    >>> from abduce.models.gaussian import PrincipalComponents
    >>> model = PrincipalComponents(2, 1).double()
    >>> kernel = Langevin(model, step_size=0.5)
    >>> g = torch.Generator().manual_seed(0)
    >>> state = kernel.init(torch.zeros(1000, 2, dtype=torch.float64))
    >>> for _ in range(50):
    ...     state, info = kernel.step(state, g)
    >>> state.x.shape, bool(info.acceptance.mean() > 0.8)
    (torch.Size([1000, 2]), True)
    """

    model: Energy
    step_size: float = 0.1
    metropolis: bool = True
    beta: float = 1.0
    base: Base | None = None

    def init(self, x: Tensor) -> State:
        """Start the chains at x ``(n, D)``."""
        return State(x, *hmc.value_and_gradient(tempered(self.model, self.beta, self.base), x))

    def step(self, state: State, generator: torch.Generator) -> tuple[State, Info]:
        """Move every chain once."""
        eps = self.step_size
        noise = torch.randn(state.x.shape, generator=generator, dtype=state.x.dtype, device=state.x.device)
        moved = self.init(state.x + 0.5 * eps**2 * state.gradient + eps * noise)
        if not self.metropolis:
            return moved, Info(torch.ones_like(moved.log_density))
        back = (state.x - moved.x - 0.5 * eps**2 * moved.gradient) / eps
        log_ratio = moved.log_density - state.log_density + 0.5 * (noise.square() - back.square()).sum(-1)
        acceptance = torch.exp(log_ratio.nan_to_num(nan=-torch.inf).clamp_max(0.0))
        uniform = torch.rand(
            acceptance.shape, generator=generator, dtype=acceptance.dtype, device=acceptance.device
        )
        accept = uniform < acceptance
        kept = State(
            torch.where(accept.unsqueeze(-1), moved.x, state.x),
            torch.where(accept, moved.log_density, state.log_density),
            torch.where(accept.unsqueeze(-1), moved.gradient, state.gradient),
        )
        return kept, Info(acceptance)


@dataclass(frozen=True)
class Hamiltonian:
    """Hamiltonian Monte Carlo on exp(−β E) b, in the form of the other kernels: x ``(n, D)``."""

    model: Energy
    step_size: float = 0.1
    leapfrogs: int = 5
    beta: float = 1.0
    base: Base | None = None

    def init(self, x: Tensor) -> hmc.State:
        """Start the chains at x ``(n, D)``."""
        return hmc.State(x, *hmc.value_and_gradient(tempered(self.model, self.beta, self.base), x))

    def step(self, state: hmc.State, generator: torch.Generator) -> tuple[hmc.State, Info]:
        """Move every chain once."""
        size = state.x.new_full((1, 1, 1), self.step_size)
        one = hmc.State(*(t.unsqueeze(0) for t in state))
        density = tempered(self.model, self.beta, self.base)
        moved, info = hmc.step(one, density, size, generator, self.leapfrogs)
        return hmc.State(*(t.squeeze(0) for t in moved)), Info(info.acceptance.squeeze(0))
