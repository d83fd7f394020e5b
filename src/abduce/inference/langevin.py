"""Langevin dynamics on many independent chains at once.

    x' = x + (ε²/2) ∇log p(x) + ε · N(0, I)

Unadjusted (ULA) every move is taken, and chains settle a little off p; Metropolis-adjusted (MALA) a move is accepted with
probability min(1, p(x') q(x|x') / (p(x) q(x'|x))), which leaves p exactly invariant.

Source: Roberts & Tweedie 1996, Exponential convergence of Langevin distributions and their discrete approximations.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Generator, Tensor

from abduce.inference.energy import Energy, log_density
from abduce.inference.kernels import State, choose, normal, start


@dataclass(frozen=True)
class Langevin:
    """Langevin dynamics on exp(−E).

    >>> from abduce.models.gaussian import PrincipalComponentsEnergy
    >>> model = PrincipalComponentsEnergy(2, 1).double()
    >>> kernel = Langevin(model, step_size=0.5)
    >>> g = Generator().manual_seed(0)
    >>> state = kernel.init(torch.zeros(1000, 2, dtype=torch.float64))
    >>> for _ in range(50):
    ...     state, acceptance = kernel.step(state, g)
    >>> state.x.shape, bool(acceptance.mean() > 0.8)
    (torch.Size([1000, 2]), True)
    """

    model: Energy
    step_size: float = 0.1
    metropolis: bool = True

    def init(self, x: Tensor) -> State:
        return start(x, partial(log_density, self.model))

    def step(self, state: State, generator: Generator) -> tuple[State, Tensor]:
        """Move every chain once; without ``metropolis`` the acceptance is one."""
        eps = self.step_size
        noise = normal(state.x, generator)
        moved = self.init(state.x + 0.5 * eps**2 * state.gradient + eps * noise)
        if not self.metropolis:
            return moved, torch.ones_like(moved.log_density)
        back = (state.x - moved.x - 0.5 * eps**2 * moved.gradient) / eps
        log_ratio = moved.log_density - state.log_density + 0.5 * (noise.square() - back.square()).sum(-1)
        return choose(state, moved, log_ratio, generator)
