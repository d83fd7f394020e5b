"""Hamiltonian Monte Carlo on many independent chains at once.

Momentum m ~ N(0, I); ``leapfrogs`` steps integrate the dynamics of H(z, m) = −log p(z) + ½‖m‖²; a proposal is accepted with
probability min(1, exp(H_old − H_new)).

Source: Neal 2011 (arXiv:1206.1901).
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from abduce.inference.kernels import LogDensity, State, choose, normal, start

TARGET = 0.75  # acceptance that step sizes aim at


def step(
    state: State,
    log_density: LogDensity,
    step_size: Tensor | float,
    generator: Generator,
    leapfrogs: int = 5,
    shared: bool = False,
) -> tuple[State, Tensor]:
    """Move every chain once; x is ``(chains, batch, dim)`` or ``(chains, dim)``, ``step_size`` broadcasts against it.

    With ``shared`` all rows of the batch use the same random numbers (each row's chain is still right, and does not
    depend on which rows come along).
    """
    momentum = normal(state.x, generator, shared).expand_as(state.x)
    before = -state.log_density + 0.5 * momentum.square().sum(-1)
    moved = state
    for _ in range(leapfrogs):
        momentum = momentum + 0.5 * step_size * moved.gradient
        moved = start(moved.x + step_size * momentum, log_density)
        momentum = momentum + 0.5 * step_size * moved.gradient
    after = -moved.log_density + 0.5 * momentum.square().sum(-1)
    return choose(state, moved, before - after, generator, shared)


def run(
    z: Tensor,
    log_density: LogDensity,
    steps: int,
    seed: int,
    step_size: float = 0.1,
    leapfrogs: int = 5,
    shared: bool = True,
) -> tuple[State, Tensor]:
    """Run chains for ``steps`` steps, adapting each row's step size over the first two thirds (Robbins-Monro on acceptance).

    Returns the last state and the mean acceptance of each row over the last third, ``(batch,)``.
    """
    generator = Generator(device=z.device).manual_seed(seed)
    state = start(z, log_density)
    log_size = z.new_full((1, z.shape[1], 1), step_size).log()
    warmup = max(1, 2 * steps // 3)
    kept = []
    for i in range(steps):
        state, acceptance = step(state, log_density, log_size.exp(), generator, leapfrogs, shared)
        rate = acceptance.mean(0)
        if i < warmup:
            log_size = log_size + (rate - TARGET).view(1, -1, 1) / (1 + i) ** 0.5
        else:
            kept.append(rate)
    return state, torch.stack(kept or [rate]).mean(0)
