"""What Markov kernels share: the interface, the chains' state, random numbers, and Metropolis' choice.

A kernel is ``init`` and ``step``, both pure: state in, the new state and the acceptance probability of each chain out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Generator, Tensor

from abduce.together import of_rows

LogDensity = Callable[[Tensor], Tensor]  # (..., D) -> (...), nats, up to a constant


class Kernel(Protocol):
    """A Markov chain that leaves exp(−E) of the model it is bound to as it is."""

    def init(self, x: Tensor) -> Any:
        """Start chains at x (n, D); the state has a field ``x``."""
        ...

    def step(self, state: Any, generator: Generator | None) -> tuple[Any, Tensor]:
        """Move every chain once: (state, acceptance)."""
        ...


class State(NamedTuple):
    """Where chains are: x ``(..., D)``, log p(x) ``(...,)`` up to a constant, and its gradient there."""

    x: Tensor
    log_density: Tensor
    gradient: Tensor


def start(x: Tensor, log_density: LogDensity) -> State:
    """Start chains at x: log p(x) and its gradient, both detached."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        value = log_density(leaf)
        (gradient,) = torch.autograd.grad(value.sum(), leaf)
    return State(x, value.detach(), gradient)


def choose(
    old: State, new: State, log_ratio: Tensor, generator: Generator | None, shared: bool = False
) -> tuple[State, Tensor]:
    """Take the new state with probability min(1, exp(log_ratio)), the old one else; a ratio that is NaN is a refusal."""
    acceptance = log_ratio.nan_to_num(nan=-torch.inf).clamp_max(0.0).exp()
    accept = uniform(log_ratio, generator, shared) < acceptance
    wide = accept.unsqueeze(-1)
    taken = State(
        torch.where(wide, new.x, old.x),
        torch.where(accept, new.log_density, old.log_density),
        torch.where(wide, new.gradient, old.gradient),
    )
    return taken, acceptance


def uniform(like: Tensor, generator: Generator | None, shared: bool = False) -> Tensor:
    """Uniform numbers in [0, 1) in the shape of ``like``; with ``shared`` the same ones along its second axis."""
    return _drawn(torch.rand, like, generator, shared)


def normal(like: Tensor, generator: Generator | None, shared: bool = False) -> Tensor:
    """Standard normal numbers, likewise."""
    return _drawn(torch.randn, like, generator, shared)


def _drawn(draw: Callable[..., Tensor], like: Tensor, generator: Generator | None, shared: bool) -> Tensor:
    """Random numbers in the shape of ``like``; where populations (axis 1) share them, they have one."""
    shape = (like.shape[0], 1, *like.shape[2:]) if shared else like.shape
    return of_rows(draw, shape, 0, generator=generator, dtype=like.dtype, device=like.device)
