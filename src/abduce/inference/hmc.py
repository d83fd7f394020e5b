"""Hamiltonian Monte Carlo on many independent chains at once.

Momentum m ~ N(0, I); ``leapfrog`` integrates the dynamics of H(z, m) = −log p(z) + ½‖m‖²; a proposal is accepted with
probability min(1, exp(H_old − H_new)).  ``init`` and ``step`` are pure: state in, ``(state, info)`` out.

Source: Neal 2011 (arXiv:1206.1901).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

LogDensity = Callable[[Tensor], Tensor]  # (chains, batch, dim) -> (chains, batch)


class State(NamedTuple):
    """Where the chains are: x ``(chains, batch, dim)``, log p(x) and its gradient there."""

    x: Tensor
    log_density: Tensor
    gradient: Tensor


class Info(NamedTuple):
    """What a step did: acceptance probability ``(chains, batch)``."""

    acceptance: Tensor


def value_and_gradient(log_density: LogDensity, z: Tensor) -> tuple[Tensor, Tensor]:
    """log p(z) and its gradient, both detached."""
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        value = log_density(z)
        (gradient,) = torch.autograd.grad(value.sum(), z)
    return value.detach(), gradient


def init(z: Tensor, log_density: LogDensity) -> State:
    """Start the chains at z."""
    return State(z, *value_and_gradient(log_density, z))


def step(
    state: State,
    log_density: LogDensity,
    step_size: Tensor,
    generator: torch.Generator,
    leapfrogs: int = 5,
    shared: bool = False,
) -> tuple[State, Info]:
    """Move every chain once; ``step_size`` broadcasts against ``(chains, batch, 1)``.

    With ``shared`` all rows of the batch use the same random numbers (each row's chain is still right, and does not
    depend on which rows come along).
    """
    chains, batch, dim = state.x.shape
    rows = 1 if shared else batch
    factory = {"generator": generator, "dtype": state.x.dtype, "device": state.x.device}
    momentum = torch.randn(chains, rows, dim, **factory).expand_as(state.x)
    uniform = torch.rand(chains, rows, **factory)
    start = -state.log_density + 0.5 * momentum.square().sum(-1)
    z, value, gradient = state
    for _ in range(leapfrogs):
        momentum = momentum + 0.5 * step_size * gradient
        z = z + step_size * momentum
        value, gradient = value_and_gradient(log_density, z)
        momentum = momentum + 0.5 * step_size * gradient
    energy = -value + 0.5 * momentum.square().sum(-1)
    acceptance = torch.exp((start - energy).nan_to_num(nan=-torch.inf).clamp_max(0.0))
    accept = uniform < acceptance
    moved = State(
        torch.where(accept.unsqueeze(-1), z, state.x),
        torch.where(accept, value, state.log_density),
        torch.where(accept.unsqueeze(-1), gradient, state.gradient),
    )
    return moved, Info(acceptance)


def run(
    z: Tensor,
    log_density: LogDensity,
    steps: int,
    seed: int,
    step_size: float = 0.1,
    leapfrogs: int = 5,
    target: float = 0.75,
    shared: bool = True,
) -> tuple[State, Tensor]:
    """Run chains for ``steps`` steps, adapting each row's step size over the first two thirds (Robbins-Monro on acceptance).

    Returns the last state and the mean acceptance of each row over the last third, ``(batch,)``.
    """
    generator = torch.Generator(device=z.device).manual_seed(seed)
    state = init(z, log_density)
    log_size = z.new_full((1, z.shape[1], 1), step_size).log()
    warmup = max(1, 2 * steps // 3)
    kept = []
    for i in range(steps):
        state, info = step(state, log_density, log_size.exp(), generator, leapfrogs, shared)
        rate = info.acceptance.mean(0)
        if i < warmup:
            log_size = log_size + (rate - target).view(1, -1, 1) / (1 + i) ** 0.5
        else:
            kept.append(rate)
    return state, torch.stack(kept or [rate]).mean(0)
